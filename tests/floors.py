"""The lowest versions that pyproject.toml allows, as constraints for pip.

python tests/floors.py > floors.txt             # torch at its floor too
python tests/floors.py 2.13.0 > floors.txt      # another torch

What users install counts: the dependencies and the extras, not what develops the package.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

OUT = ("dev", "inspect")  # extras that the suite does not install, or not as a floor
PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def floors() -> dict[str, str]:
    """Lowest version of every package that an installation may need."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = {
        k: v for k, v in project["optional-dependencies"].items() if k not in ("dev", "inspect")
    }
    wanted = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    return dict(re.fullmatch(r"([\w-]+)>=([\w.]+)", line).groups() for line in wanted)


if __name__ == "__main__":
    lowest = floors() | ({"torch": sys.argv[1]} if sys.argv[1:] else {})
    print("\n".join(f"{name}=={version}" for name, version in lowest.items()))

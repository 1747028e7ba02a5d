"""The licences of what `make setup` installs, as a page.

python docs/licences.py             # is the page true, every licence allowed? exit code 1 if not
python docs/licences.py --write     # make it so
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

PAGE = Path(__file__).parent / "reference" / "licences.md"
LOCK = Path(__file__).parents[1] / "requirements.lock"
HEAD = """\
# Licences of dependencies

Made by `python docs/licences.py --write` from what the packages themselves declare; `make lint`
refuses a package without a licence, and one that is not on the list in that file. A **run**
dependency comes with `pip install basinscope`, one of an **extra** with that extra alone; the
others are for **development**. basinscope itself is under Apache-2.0 and ships none of them.
PyTorch's CUDA builds bring NVIDIA's libraries under licences of NVIDIA's: they are not in this
table.

| package | licence | for |
|---|---|---|
"""
EXTRAS = ("html", "lm-eval", "optim", "peft")
ALLOWED = {
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CNRI-Python", "ISC", "LGPL", "LLVM-exception", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF",
    "Zlib",
}  # fmt: skip
"""Names of licences under which a package may be a dependency: permissive, or copyleft by file or
library (MPL, LGPL), since none of them is shipped or changed."""

NAMES = (
    (r"Apache\b.*", "Apache-2.0"), (r"(BSD 3-Clause|3-Clause BSD).*", "BSD-3-Clause"),
    (r"(BSD 2-Clause|2-clause BSD).*", "BSD-2-Clause"), (r"BSD License|BSD", "BSD"),
    (r"(The )?MIT\b( License.*)?", "MIT"), (r"ISC\b.*", "ISC"), (r".*\bMPL[ -]2\.0.*", "MPL-2.0"),
    (r"(GNU Lesser|LGPL).*", "LGPL"), (r"(Python Software Foundation|PSF).*", "PSF"),
)  # fmt: skip
"""What packages call a licence, and its name here; the first that fits counts."""


def key(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(package: Distribution) -> str:
    """What a package declares: an expression, else classifiers, else a line; empty for nothing."""
    about = package.metadata
    classifiers = about.get_all("Classifier") or []
    osi = [c.split(" :: ")[-1] for c in classifiers if c.startswith("License :: OSI")]
    line = (about.get("License") or "").partition("\n")[0]
    declared = [about["License-Expression"]] if about["License-Expression"] else osi or [line]
    parts = [part for text in declared for part in re.split(r" (?:AND|OR|WITH) ", text)]
    return ", ".join(sorted({_name(part.strip("() ")) for part in parts}))


def _name(words: str) -> str:
    return next((name for form, name in NAMES if re.fullmatch(form, words)), words)


def installed() -> dict[str, Distribution]:
    """Packages of the lock file that this machine has, and torch."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    names = {line.partition("==")[0] for line in lines if line[:1].isalnum()} | {"torch"}
    return {k: d for d in distributions() if (k := key(d.metadata["Name"])) in names}


def needed(extra: str, packages: dict[str, Distribution]) -> set[str]:
    """Packages that an installation with an extra brings; "" for none."""
    seen, waiting = set(), [("basinscope", extra)]
    packages = packages | {"basinscope": distribution("basinscope")}
    while waiting:
        if (place := waiting.pop()) in seen or place[0] not in packages:
            continue
        seen.add(place)
        for wanted in map(Requirement, packages[place[0]].requires or ()):
            if wanted.marker is None or wanted.marker.evaluate({"extra": place[1]}):
                waiting += [(key(wanted.name), more) for more in ("", *wanted.extras)]
    return {name for name, _ in seen}


def page() -> str:
    """The whole page, from the packages that are installed."""
    packages = installed()
    extras = {extra: needed(extra, packages) for extra in ("", *EXTRAS)}
    rows = []
    for name in sorted(packages):
        by = [extra for extra in EXTRAS if name in extras[extra]]
        use = "run" if name in extras[""] else ", ".join(by) or "development"
        rows.append(f"| {name} | {licence(packages[name])} | {use} |\n")
    return HEAD + "".join(rows)


def faults() -> list[str]:
    """What is wrong with the page or with a licence, a line each."""
    rows = (line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines())
    listed = {cells[0].strip("| "): cells[1] for cells in rows if len(cells) == 3}
    lines = []
    for name, package in installed().items():
        declared = licence(package)
        if refused := sorted(set(declared.split(", ")) - ALLOWED):
            lines.append(f"{name}: {', '.join(refused) or 'no licence'!r} is not allowed")
        if listed.get(name) != declared:
            lines.append(f"{name}: {declared}, and {PAGE.name} says {listed.get(name, 'nothing')}")
    return lines


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    if lines := faults():
        sys.exit("\n".join([*lines, f"try: python {__file__} --write, or another package"]))

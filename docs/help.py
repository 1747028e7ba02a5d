"""The reference of the command line: what `basinscope COMMAND --help` prints, as a page.

python docs/help.py             # is the page what the commands say? exit code 1 if not
python docs/help.py --write     # make it so
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console

from basinscope.cli import app

PAGE = Path(__file__).parent / "reference" / "commands.md"
HEAD = """\
# Commands

Made from the commands themselves by `python docs/help.py --write`.
"""
WIDTH = 100


def help_text(*command: str) -> str:
    """What ``basinscope COMMAND --help`` prints on a terminal of `WIDTH` columns."""
    screen = io.StringIO()
    console = Console(file=screen, width=WIDTH, color_system=None, legacy_windows=False)
    app.help_print(command, console=console)
    return "\n".join(line.rstrip() for line in screen.getvalue().strip().splitlines())


def page() -> str:
    """The whole page: the list of commands, then each of them."""
    commands = [(), *((name,) for name in sorted(app) if not name.startswith("-"))]
    parts = (
        f"## {' '.join(('basinscope', *command))}\n\n```text\n{help_text(*command)}\n```\n"
        for command in commands
    )
    return "\n".join((HEAD, *parts))


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE} is not what the commands say; try: python {__file__} --write")

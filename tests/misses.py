"""How many misses of an interval are allowed, and a table of all that were counted.

    python -m tests.misses docs/reference/coverage.md

runs `tests/statistics` and writes what every interval, band, width, stopping rule and verdict came
to beside what it claims, and beside it the named bug that the same count must see.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scipy.stats import binom

FALSE_ALARM = 1e-6
TABLE = "BASINSCOPE_MISSES"  # names the file that counts are appended to
HEAD = """# Coverage

What `python -m tests.misses docs/reference/coverage.md` found: every interval, band, width,
stopping rule and verdict of the package against what it claims, by simulation through the functions
that the program itself calls. *Misses* are the runs in which the truth lay outside, or a verdict
was wrong; *allowed* is the number that an interval with just the claimed error exceeds once in a
million times; *a bug missed* is how often a named mistake misses in the same simulation, which the
test must see. It is to be run after every change of statistics.

| test | case | runs | error claimed | misses | share | allowed | a bug missed |
|---|---|---|---|---|---|---|---|
"""


class Limit(int):
    """Most misses allowed; ``misses <= limit`` and ``bug > limit`` are noted for the table."""

    __array_ufunc__ = None  # numpy leaves comparisons to it
    runs: int
    error: float

    def __ge__(self, misses: object) -> bool:  # asked by `misses <= limit`
        self._note("misses", misses)
        return int(self) >= int(misses)  # type: ignore[call-overload]

    def __lt__(self, bug: object) -> bool:  # asked by `bug > limit`
        self._note("bug", bug)
        return int(self) < int(bug)  # type: ignore[call-overload]

    __hash__ = int.__hash__

    def _note(self, kind: str, count: object) -> None:
        if path := os.environ.get(TABLE):
            test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
            row = (test, kind, self.runs, self.error, int(count), int(self))  # type: ignore[call-overload]
            with Path(path).open("a", encoding="utf-8") as table:
                table.write("\t".join(map(str, row)) + "\n")


def limit(runs: int, error: float) -> Limit:
    """Most misses of a correct interval, exceeded with probability at most 1e-6."""
    most = Limit(binom.isf(FALSE_ALARM, runs, error))
    most.runs, most.error = runs, error
    return most


def table(lines: Sequence[str]) -> str:
    """Rows of the page, a bug beside the count before it."""
    rows: list[list[str]] = []
    for line in lines:
        test, kind, runs, error, count, allowed = line.split("\t")
        name, _, case = test.rpartition("/")[2].partition("[")
        own = [name.removeprefix("test_").replace(".py::", ": ").replace("::", ", "),
               case.removesuffix("]"), runs, f"{float(error):g}"]  # fmt: skip
        # what a passing test counts beyond the limit is a mistake that it was to see
        if kind == "misses" and int(count) <= int(allowed):
            share = f"{int(count) / int(runs):.4f}"
            rows.append([*own, count, share, allowed, ""])
        elif rows and rows[-1][:4] == own and not rows[-1][-1]:
            rows[-1][-1] = f"{int(count) / int(runs):.4f}"
        else:
            rows.append([*own, "", "", allowed, f"{int(count) / int(runs):.4f}"])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    """Run the simulations and write the page."""
    (page,) = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts"
        counts.touch()
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "tests/statistics"]
        done = subprocess.run(command, env={**os.environ, TABLE: str(counts)}, check=False)
        page.write_text(HEAD + table(counts.read_text().splitlines()), encoding="utf-8")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()

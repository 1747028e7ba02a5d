"""Kill, starve and mislead every kind of command line, and see that nothing is lost.

    python -m tests.crash --seed 1 --kills 200     # signal 9 at random moments
    python -m tests.crash --disk                   # the disk fails at every write in turn
    python -m tests.crash --clock                  # the clock goes back while and between runs

``PYTHONPATH=src`` makes the package this tree's. Each prints a table; the exit code is 1 if
anything was lost, changed or not said.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from crash import start


def main() -> int:
    """Do what the line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=0, help="over all lines")
    parser.add_argument("--disk", action="store_true")
    parser.add_argument("--every", type=int, default=1, help="of the writes, only each so-maniest")
    parser.add_argument("--clock", action="store_true")
    parser.add_argument("--only", action="append", help="name of a line; repeats")
    options = parser.parse_args()
    os.environ |= start.ENVIRONMENT
    start.warm()
    from crash import disk, kills
    from crash.lines import LINES, SMALL

    import basinscope

    print(f"basinscope of {Path(basinscope.__file__).parent}", flush=True)
    chosen = options.only or list(LINES)
    rng, began, wrong = random.Random(options.seed), time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        world = kills.World(Path(folder) / "lines")
        if options.kills:
            wrong += kills.tables(world, chosen, options.kills, rng)
        if options.clock:
            wrong += kills.clock_table(world, chosen, rng)
        if options.disk:
            small = kills.World(Path(folder) / "small", SMALL)
            wrong += disk.table(small, [line for line in chosen if line in SMALL], options.every)
    print(f"{time.monotonic() - began:.0f} s; {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

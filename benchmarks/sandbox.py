"""What the sandbox adds to a program: trivial programs, one after another.

Every program defines one function that one test calls, so nearly all of the time is that of two
interpreters that start behind their walls. Prints median, 95th percentile and worst.

Run: python -m benchmarks.sandbox [--programs N]
"""

from __future__ import annotations

import argparse
import statistics
import time

from basinscope.tasks.sandbox import run_program

PROGRAM = "def add(a, b):\n    return a + b\n"
TESTS = "assert program.add(1, 2) == 3"


def main() -> None:
    """Print the seconds that a program takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=200)
    options = parser.parse_args()
    seconds = []
    for _ in range(options.programs):
        start = time.perf_counter()
        verdict = run_program(PROGRAM, tests=TESTS, allow=True)
        seconds.append(time.perf_counter() - start)
        assert verdict.passed, verdict
    seconds.sort()
    high = seconds[int(0.95 * (len(seconds) - 1))]
    print(
        f"{len(seconds)} programs: median {statistics.median(seconds):.3f} s, "
        f"95% {high:.3f} s, worst {seconds[-1]:.3f} s"
    )


if __name__ == "__main__":
    main()

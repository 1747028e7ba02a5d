"""Perturb every weight of SmolLM2-135M from the pristine copy, against torch's own loop.

The loop (`benchmarks.baselines.reseeded`) seeds the generator, draws normals tensor by tensor and
adds them; then the same again to subtract, since it keeps no pristine copy. Both sides are timed
per weight *set and restored*, alternating; the medians and their ratio are printed.

    python -m benchmarks.perturb [--dtype auto] [--threads N] [--repeats N]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import basinscope as bs
from benchmarks.baselines.reseeded import add_and_subtract
from benchmarks.meter import machine


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print millions of weights a second for both, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="auto", help="of the weights")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    engine = bs.load("smollm2", dtype=options.dtype)
    direction = bs.Random(seed=0)

    def set_and_restore() -> None:
        with engine.at(direction, step=0.01, draw=0):
            pass

    copies = [p.detach().clone() for p in engine.module.parameters()]
    ours, theirs = [], []
    set_and_restore()  # compiles
    with torch.inference_mode():
        add_and_subtract(copies, 0.01)
        for _ in range(options.repeats):
            ours.append(timed(set_and_restore))
            theirs.append(timed(lambda: add_and_subtract(copies, 0.01)))
    mine, other = statistics.median(ours), statistics.median(theirs)
    print(*(f"{word}: {value}" for word, value in machine().items()), sep="\n")
    print(
        f"{engine.d:,} {engine.dtype} weights, {options.threads} threads, {options.repeats} repeats"
    )
    print(f"basinscope, set and restore:       {mine:6.3f} s  {engine.d / mine / 1e6:6.0f} M/s")
    print(f"torch, generate-add-subtract:      {other:6.3f} s  {engine.d / other / 1e6:6.0f} M/s")
    print(f"ratio: {other / mine:.1f}")


if __name__ == "__main__":
    main()

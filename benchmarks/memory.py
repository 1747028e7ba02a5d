"""Peak memory of a measurement over the number of items: it should not grow with them.

    python -m benchmarks.memory [--model smollm2] [--task mmlu] [--items 16,64,256]

Each number of items is measured in a process of its own, at one step, on one thread.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch

import basinscope as bs
from basinscope.runs.bench import score
from benchmarks.meter import Meter, memory_bytes


def one(model: str, task: str, items: int) -> None:
    """Print the memory before and at the peak."""
    torch.set_num_threads(1)
    engine = bs.load(model)
    (chosen,) = bs.tasks(task, limit=items)
    before = memory_bytes()
    with Meter() as meter, engine.at(bs.Random(0), step=0.005):
        score(engine, chosen)
    print(
        f"{task}, {len(chosen.items)} items: {before / 1e9:.2f} GB before, "
        f"{meter.peak_bytes / 1e9:.2f} GB at the peak, {meter.wall_s:.1f} s",
        flush=True,
    )


def main() -> None:
    """Run every number of items."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--task", default="mmlu")
    parser.add_argument("--items", default="16,64,256")
    options = parser.parse_args()
    numbers = [int(n) for n in options.items.split(",")]
    if len(numbers) == 1:
        one(options.model, options.task, numbers[0])
        return
    for n in numbers:
        command = [sys.executable, "-m", "benchmarks.memory", "--model", options.model]
        subprocess.run([*command, "--task", options.task, "--items", str(n)], check=True)


if __name__ == "__main__":
    main()

"""How far the time that ``--dry-run`` foretells is from the time that the plan then takes.

Each plan is foretold by the command and then run by the API, from the start of the workers to the
last record; loading the model is in neither.

    python -m benchmarks.forecast [--model smollm2] [--cores 2]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import basinscope as bs

PLANS = {
    "choices": ("mmlu:abstract_algebra,mmlu:econometrics", 24, 7),
    "texts": ("advbench", 24, 5),
    "both": ("mini,overrefusal", 12, 5),
}
REACH = 0.03


def foretold(model: str, words: str, limit: int, steps: int, workers: int) -> dict[str, float]:
    """What the command says."""
    command = [
        str(Path(sys.executable).with_name("basinscope")), "landscape", model,
        "-t", words, "--limit", str(limit),
        f"--steps=-{REACH}:{REACH}:{steps}", "--workers", str(workers), "--run", "unused",
        "--dry-run", "--json",
    ]  # fmt: skip
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)  # type: ignore[no-any-return]


def taken(model: str, words: str, limit: int, steps: int, workers: int) -> float:
    """Seconds of the run."""
    engine, tasks = bs.load(model), bs.tasks(words, limit=limit)
    values = [round(-REACH + 2 * REACH * k / (steps - 1), 6) for k in range(steps)]
    with tempfile.TemporaryDirectory() as run:
        start = time.perf_counter()
        bs.landscape(engine, tasks, steps=values, run=run, workers=workers)
        return time.perf_counter() - start


def main() -> None:
    """Print a line for each plan and number of workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name, (words, limit, steps) in PLANS.items():
        for workers in (1, options.cores):
            forecast = foretold(options.model, words, limit, steps, workers)
            seconds = taken(options.model, words, limit, steps, workers)
            print(
                f"{name}, {forecast['evaluations']:g} evaluations, {workers} workers: foretold "
                f"{forecast['seconds']:.0f} s, took {seconds:.0f} s, "
                f"{forecast['seconds'] / seconds - 1:+.0%} (gate 30%)",
                flush=True,
            )


if __name__ == "__main__":
    main()

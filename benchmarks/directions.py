"""What a slice towards another model costs: setting and restoring weights, against a random one.

The other model is this one with noise added, saved as safetensors: `to:` streams it and `saved:`
reads the displacement. Each is timed by turns with `random`; medians and ratios are printed.

    python -m benchmarks.directions [--model smollm2] [--rounds 5]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

import basinscope as bs
from basinscope.directions import save_direction


def other_model(engine: Any, folder: Path) -> Path:
    """A checkpoint whose weights lie a little off."""
    for file in Path(engine.checkpoint).iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copy(file, folder)
    with engine.at(bs.Random(1), step=0.002):
        live = {n: p.detach().clone() for n, p in engine.module.named_parameters()}
    save_file(live, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def main() -> None:
    """Print a line for each kind of direction."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    engine: Any = bs.load(options.model)
    with tempfile.TemporaryDirectory() as root:
        toward = bs.Toward(str(other_model(engine, Path(root))))
        deltas = {name: toward.delta(engine, name) for name in engine.shapes}
        file = Path(root) / "direction.safetensors"
        save_direction(file, deltas, {})
        kinds = {"random": bs.Random(0), "to:": toward, "saved:": bs.Saved(file)}
        taken: dict[str, list[float]] = {kind: [] for kind in kinds}
        for k in range(options.rounds + 1):
            for kind, direction in kinds.items():
                start = time.perf_counter()
                with engine.at(direction, step=0.01):
                    pass
                if k:  # the first compiles, and measures the displacement
                    taken[kind].append(time.perf_counter() - start)
    medians = {kind: statistics.median(values) for kind, values in taken.items()}
    for kind, median in medians.items():
        least, most = min(taken[kind]), max(taken[kind])
        print(
            f"{kind:8}{median:8.3f} s [{least:.3f}, {most:.3f}] to set and restore "
            f"{engine.d:,} weights; {median / medians['random']:.1f} times random"
        )


if __name__ == "__main__":
    main()

"""Training noise in a subspace, to enlarge the certificates of that subspace.

A pilot run teaches SmolLM2 to refuse; the leading directions of where it went span a subspace,
fixed from then on. The model is then trained further on harmless answers, once plainly and once
under Gaussian noise in that subspace alone, and the certificates of its general knowledge (*basic*)
there are compared: the model it was, the plainly trained one, and the one trained under noise.

Draws of training are numbered from 2^32 on, those of certificates from 0: none is asked about a
direction that the weights have been fitted to.

    python examples/widened_certificate.py --data-dir DATA --output runs/widened-certificate

DATA is laid out as the README says of ``--data-dir`` (advbench, instruct). Everything is resumable:
run the line again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from subspace_noise import SubspaceAugmented

import basinscope as bs
from basinscope.geometries import subspace_from_trajectory
from basinscope.tasks.base import limited

MAX_TOKENS = 160  # of an example: a few long ones would cost most of the time


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run the experiment; returns the folder with its table."""
    options = _parser().parse_args(arguments)
    out: Path = options.output
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"[{(time.monotonic() - began) / 60:5.1f} min] {text}\n")

    engine = bs.load(options.model)
    old = limited(bs.tasks("basic")[0], options.limit)

    # 1. the subspace
    say("pilot")
    pilot = bs.finetune(
        engine, recipe="safety", run=out / "pilot", seed=1, data_dir=options.data_dir,
        limit=options.examples, max_tokens=MAX_TOKENS,
    )  # fmt: skip
    basis = out / "basis.safetensors"
    subspace_from_trajectory(engine, [*pilot.checkpoints, pilot.folder], options.k, basis)

    # 2. the same further training, without noise and with it
    models: dict[str, str | Path] = {"before": options.model}
    for sigma in (0.0, *options.noise):
        name = f"trained-{sigma:g}"
        say(name)
        noise = {"base": torch.optim.AdamW, "basis": str(basis), "sigma": sigma, "seed": 0}
        models[name] = bs.finetune(
            options.model, options.data, recipe=options.recipe, run=out / name, seed=0,
            optimizer=(SubspaceAugmented, noise), data_dir=options.data_dir,
            limit=options.examples, max_tokens=MAX_TOKENS,
        ).folder  # fmt: skip

    # 3. certificates of all of them, at the same levels of the score that the model began with
    rows = []
    score = None
    for name, model in models.items():
        centre = bs.load(model, dtype="bfloat16")
        for sigma in options.sigmas:
            say(f"certificate: {name}, sigma = {sigma:g}")
            cert = bs.certify(
                centre, old, sigma=sigma, draws=options.draws, per_item=True, seed=0,
                geometry=bs.geometry(f"subspace:{basis}", centre),
                confidence=1 - (1 - options.confidence) / (len(models) * len(options.sigmas)),
                run=out / f"cert-{name}-{sigma:g}",
            )  # fmt: skip
            score = cert.score if score is None else score
            rows.append(
                {"model": name, "sigma": sigma, "score": cert.score, "p_lower": cert.p_lower}
                | {f"R at {share:g}": cert.radius(share * score) for share in options.shares}
            )
    table = pd.DataFrame(rows)
    table.to_csv(out / "radii.csv", index=False)
    print(f"R: radius that keeps a share of the score before, {score:.3g}, certified for the mean "
          f"under noise, all of them together at confidence {options.confidence:g}")  # fmt: skip
    print(table.to_string(index=False, float_format="%.4g"))
    say("done")
    return out


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    numbers = lambda text: [float(x) for x in text.split(",")]  # noqa: E731
    parser.add_argument("--output", type=Path, default=Path("runs/widened-certificate"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--data", help="of the further training; default the recipe's own")
    parser.add_argument("--recipe", default="normal", help="of the further training")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--limit", type=int, default=50, help="items of the old capability")
    parser.add_argument("--examples", type=int, default=300, help="of each fine-tune")
    parser.add_argument("--k", type=int, default=1, help="dimension of the subspace")
    parser.add_argument("--noise", type=numbers, default=[3.0], help="sigmas of the training")
    parser.add_argument("--sigmas", type=numbers, default=[3.0, 6.0], help="of the certificates")
    parser.add_argument("--shares", type=numbers, default=[0.8, 0.9])
    parser.add_argument("--draws", type=int, default=150)
    parser.add_argument("--confidence", type=float, default=0.99)
    return parser


if __name__ == "__main__":
    main()

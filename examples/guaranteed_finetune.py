"""A real fine-tune under a certificate that bites.

A pilot run teaches SmolLM2 to refuse. The leading directions of where it went span a subspace,
fixed from then on. Noise in that subspace certifies general knowledge (*basic*), item by item. A
second fine-tune, with other examples in another order, is then kept inside the certified ball, and
judged: does it refuse more (held-out requests, paired), and how much of the old capability is
certified? Other geometries judge the pilot, which nothing kept back, for comparison.

    python examples/guaranteed_finetune.py --data-dir DATA --output runs/guaranteed

DATA is laid out as the README says of ``--data-dir`` (advbench, instruct). Everything is resumable:
run the line again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import basinscope as bs
from basinscope.finetuning import FineTune, held_out
from basinscope.geometries import subspace_from_trajectory
from basinscope.report.certificates import plot_bounds, plot_measured
from basinscope.stats import paired_difference
from basinscope.tasks.base import limited

MAX_TOKENS = 160  # of an example: a few long ones would cost most of the time


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run the experiment; returns the folder with its tables and figures."""
    options = _parser().parse_args(arguments)
    out: Path = options.output
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"[{(time.monotonic() - began) / 60:5.1f} min] {text}\n")

    def tune(name: str, seed: int, **within: Any) -> FineTune:
        say(f"fine-tuning: {name}")
        return bs.finetune(
            engine, recipe="safety", run=out / name, seed=seed, data_dir=options.data_dir,
            limit=options.examples, max_tokens=MAX_TOKENS, **within,
        )  # fmt: skip

    engine = bs.load(options.model)
    old = limited(bs.tasks("basic")[0], options.limit)

    # 1. the subspace: leading directions of a pilot run
    pilot = tune("pilot", seed=1)
    basis = subspace_from_trajectory(
        engine, [*pilot.checkpoints, pilot.folder], options.k, out / "basis.safetensors"
    )

    # 2. certificates in it; the sigmas share the error
    confidence = 1 - (1 - options.confidence) / len(options.sigmas)
    certificates = []
    for sigma in options.sigmas:
        say(f"certificate at sigma = {sigma:g}")
        certificates.append(
            bs.certify(
                engine, old, sigma=sigma, draws=options.draws, per_item=True, geometry=basis,
                confidence=confidence, run=out / f"cert-{sigma:g}",
            )
        )  # fmt: skip
    score = certificates[0].score

    # 3. fine-tunes kept in the ball of each target, in the widest ball of all sigmas
    tunes, verdicts = {}, {}
    for share in options.shares:
        target = share * score
        best = max(certificates, key=lambda c: c.radius(target) if c.radius(target) > 0 else 0.0)
        if not best.radius(target) > 0:
            say(f"{share:.0%} of the base score is certified nowhere")
            continue
        name = f"within-{share:g}"
        tunes[name] = tune(name, seed=0, stay_within=best, target=target)
        say(f"verdict: {name}")
        verdicts[name] = best.verdict(
            tunes[name].folder, task=old, target=target, draws=options.check_draws
        )

    # 4. the new capability, paired by item, on requests that no run was trained on
    every = bs.tasks("advbench", data_dir=options.data_dir)[0]
    new = limited(
        held_out(every, pilot.folder, *(t.folder for t in tunes.values())), options.new_limit
    )
    models = {"base": options.model, "pilot": pilot.folder}
    models |= {name: run.folder for name, run in tunes.items()}
    refused = {}
    for name, source in models.items():
        say(f"refusals: {name}")
        run = bs.landscape(
            bs.load(source, dtype="bfloat16"), new, steps=[0.0], run=out / f"new-{name}"
        )
        refused[name] = run.items()["outcome"].tolist()

    rows = []
    for name in models:
        gain = paired_difference(refused["base"], refused[name], 0.95)
        verdict = verdicts.get(name)
        row = {
            "model": name, "refused": sum(refused[name]) / len(refused[name]),
            "gain": gain.difference.estimate, "gain_low": gain.difference.low,
            "gain_high": gain.difference.high, "p_value": gain.p_value,
            "old_score_base": score,
        }  # fmt: skip
        if verdict is not None:
            row |= {
                "sigma": tunes[name].guarantee.sigma, "r": verdict.r, "R": verdict.radius,
                "certified": verdict.bound, "share_kept": verdict.bound / score,
                "word": verdict.word, "p_measured": verdict.smoothed.estimate,
                "p_low": verdict.smoothed.low, "old_score": verdict.score.estimate,
            }  # fmt: skip
        rows.append(row)
    table = pd.DataFrame(rows)
    table.to_csv(out / "trade.csv", index=False)

    # 5. the pilot, which no ball kept, in other geometries
    rows = []
    controls = [("isotropic", 0.005), ("rms", 0.005), ("params:norm|ln_|bias", 0.05),
                (f"random-subspace:{options.k}", options.sigmas[0])]  # fmt: skip
    for word, sigma in controls:
        say(f"other geometry: {word}")
        cert = bs.certify(
            engine, old, sigma=sigma, draws=options.control_draws, items_per_draw=8,
            confidence=options.confidence, geometry=word,
            run=out / f"cert-{word.partition(':')[0]}",
        )  # fmt: skip
        of_pilot = cert.verdict(pilot.folder)
        rows.append({"geometry": word, "sigma": sigma, "p_lower": cert.p_lower, "r": of_pilot.r,
                     "R": of_pilot.radius, "r/R": of_pilot.ratio, "bound": of_pilot.bound,
                     "outside": of_pilot.outside, "word": of_pilot.word})  # fmt: skip
    others = pd.DataFrame(rows)
    others.to_csv(out / "geometries.csv", index=False)

    if verdicts:
        plot_bounds(out / "bounds.png", certificates, list(verdicts.values()))
        plot_measured(out / "measured.png", list(verdicts.values()))
    with pd.option_context("display.width", 200, "display.max_columns", 30):
        print(f"\nbasis of {options.k}: shares of the pilot's displacements {basis.shares}")
        for title, rows_of in (("trade", table), ("other geometries", others)):
            print(f"\n{title}\n{rows_of.to_string(index=False, float_format='%.4g')}")
    for cert in certificates:
        print(f"\n{cert}")
    say("done")
    return out


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    numbers = lambda text: [float(x) for x in text.split(",")]  # noqa: E731
    parser.add_argument("--output", type=Path, default=Path("runs/guaranteed"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--limit", type=int, default=50, help="items of the old capability")
    parser.add_argument("--new-limit", type=int, default=60, help="held-out requests")
    parser.add_argument("--examples", type=int, default=300, help="of each fine-tune")
    parser.add_argument("--k", type=int, default=1, help="dimension of the subspace")
    parser.add_argument("--sigmas", type=numbers, default=[3.0, 6.0])
    parser.add_argument("--shares", type=numbers, default=[0.8, 0.9])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--check-draws", type=int, default=20)
    parser.add_argument("--control-draws", type=int, default=60)
    parser.add_argument("--confidence", type=float, default=0.99)
    return parser


if __name__ == "__main__":
    main()

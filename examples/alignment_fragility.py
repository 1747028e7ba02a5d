"""How alignment digs a basin of its own, and which fine-tunes leave it.

SmolLM2 is taught to refuse; then the aligned model is tuned further on data like its own
(*benign*), on other authors' instructions (*normal*) and on answers to harmful requests
(*adversarial*, ten steps). Each of these is a direction, and along each of them, and along random
ones, the scores of a safety task, of one for over-refusal and of general knowledge are measured. An
attack looks for the worst direction of all; its cosines with the fine-tunes say how near they come.

    python examples/alignment_fragility.py --data-dir DATA --output runs/fragility

DATA is laid out as the README says of ``--data-dir`` (advbench, xstest, instruct). Everything is
resumable: run the line again. Two cores take about half an hour.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

import basinscope as bs
from basinscope.finetuning import FineTune, held_out
from basinscope.landscape import cosines
from basinscope.tasks.base import limited

TUNES = ("benign", "normal", "adversarial")
MAX_TOKENS = 160  # of an example: a few long ones would cost most of the time


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run the story; returns the folder with its figures and tables."""
    options = _parser().parse_args(arguments)
    out: Path = options.output
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"[{(time.monotonic() - began) / 60:5.1f} min] {text}\n")

    def tuned(name: str, start: str | Path) -> FineTune:
        say(f"fine-tuning: {name}")
        return bs.finetune(
            start, options.benign_data if name == "benign" else None, recipe=name,
            run=out / name, data_dir=options.data_dir, seed=options.seed,
            limit=options.examples if name == "safety" else options.tune_examples,
            max_tokens=MAX_TOKENS,
        )  # fmt: skip

    # 1. a safety basin is dug into the basic one
    safe = tuned("safety", options.model)
    tasks = [
        held_out(bs.tasks("advbench", data_dir=options.data_dir)[0], safe.folder),
        *bs.tasks("xstest,basic", data_dir=options.data_dir),
    ]
    tasks = [limited(task, options.limit) for task in tasks]
    random = [bs.Random(options.seed)]
    plain = bs.load(options.model)
    say("the model it came from, along random directions")
    before = bs.landscape(
        plain, tasks, directions=random, steps=options.steps, draws=options.draws,
        run=out / "before", workers=options.workers,
    )  # fmt: skip
    engine = bs.load(safe.folder, dtype="float32")  # as stored: fine-tunes move less than rounding
    say("the aligned model, along random directions")
    bs.landscape(
        engine, tasks, directions=random, steps=options.steps, draws=options.draws,
        run=out / "aligned", workers=options.workers,
    )  # fmt: skip

    # 2. further fine-tunes, and slices along them: the edges are searched, since no grid fits
    # directions whose widths differ
    tunes = {name: tuned(name, safe.folder) for name in TUNES}
    lines = {name: tune.direction for name, tune in tunes.items()}
    say("the aligned model, along its fine-tunes")
    along = bs.landscape(
        engine, [tasks[0], tasks[-1]], directions=[*lines.values()], run=out / "aligned",
        workers=options.workers,
    )  # fmt: skip

    # 3. the worst direction of general knowledge
    say("attack on the basic task")
    worst = bs.attack(
        engine, limited(bs.tasks("basic")[0], options.limit), steps=options.attack_steps, starts=1,
        seed=options.seed, run=out / "worst",
    )  # fmt: skip
    every = lines | {"worst": worst.direction}
    angles = cosines(engine, [*every.values()])

    # 4. the fine-tuned models themselves
    rows = []
    models = {"before": options.model, "aligned": safe.folder}
    models |= {name: tune.folder for name, tune in tunes.items()}
    for name, folder in models.items():
        say(f"scores of the model itself: {name}")
        scored = bs.landscape(
            bs.load(folder, dtype="bfloat16"), tasks, steps=[0.0], run=out / f"scores-{name}"
        )
        score = scored.widths()[["task", "score", "score_low", "score_high"]]
        rows.append(score.assign(model=name, displacement=_norm(name, tunes, safe)))
    scores = pd.concat(rows)

    say("tables and figures")
    labels = {direction.label: name for name, direction in every.items()}
    widths = pd.concat(
        [before.widths().assign(model="before"), along.widths().assign(model="aligned")]
    )
    widths["direction"] = widths["direction"].map(lambda label: labels.get(label, label))
    widths.to_csv(out / "widths.csv", index=False)
    scores.to_csv(out / "scores.csv", index=False)
    radii = pd.DataFrame([vars(radius) for radius in worst.collapse])
    radii.to_csv(out / "worst.csv", index=False)
    angles.rename(index=labels, columns=labels).to_csv(out / "cosines.csv")
    draw_slices(out / "slices.png", along, labels)
    before.plot(out / "before_and_after.png", bs.load_run(out / "aligned"),
                names=["before", "aligned"])  # fmt: skip
    minutes = (time.monotonic() - began) / 60
    (out / "story.json").write_text(
        json.dumps({"minutes_of_this_call": round(minutes, 1), "model": str(options.model)}) + "\n"
    )
    with pd.option_context("display.width", 160, "display.max_columns", 20):
        for title, table in (
            ("widths", widths), ("scores", scores), ("worst direction", radii),
            ("cosines", angles.rename(index=labels, columns=labels).reset_index()),
        ):  # fmt: skip
            print(f"\n{title}\n{table.to_string(index=False, float_format='%.4g')}")
    say("done")
    return out


def draw_slices(path: Path, land: bs.Landscape, labels: dict[str, str]) -> None:
    """Scores along every direction on one axis, linear near zero and logarithmic beyond.

    Bars: 95% intervals, exact over items for one draw, over draws for the random directions.
    """
    from matplotlib.figure import Figure

    means = land.means()
    tasks = [task for task in means["task"].unique() if len(land.directions(task)) > 1]
    figure = Figure(figsize=(9, 3.4 * len(tasks)), layout="constrained")
    for axis, task in zip(figure.subplots(len(tasks), squeeze=False)[:, 0], tasks, strict=True):
        for place, (direction, curve) in enumerate(
            means[means["task"] == task].groupby("direction")
        ):
            ordered = curve.sort_values("step")
            colour = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")[place % 4]
            axis.errorbar(
                ordered["step"], ordered["score"], marker="o", markersize=3, color=colour,
                yerr=[ordered["score"] - ordered["low"], ordered["high"] - ordered["score"]],
                elinewidth=0.4, label=labels.get(direction, direction),
            )  # fmt: skip
            place_of_model = land.sits_at(direction)
            if place_of_model is not None:
                axis.axvline(place_of_model, color=colour, linewidth=0.9, linestyle=":")
        axis.set_xscale("symlog", linthresh=1e-4)
        axis.set(ylim=(-0.03, 1.03), ylabel="score (mean of 0-1)", title=task)
        axis.grid(alpha=0.25)
    axis.set_xlabel("step along the direction (dotted: where the fine-tuned model sits)")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _norm(name: str, tunes: dict[str, FineTune], safe: FineTune) -> float:
    """Norm of the displacement by the last stage of training alone."""
    if name == "before":
        return 0.0
    return safe.displacement if name == "aligned" else tunes[name].displacement


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/fragility"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=24, help="items of each task")
    parser.add_argument("--examples", type=int, default=600, help="of the safety fine-tune")
    parser.add_argument("--tune-examples", type=int, default=400, help="of the later ones")
    parser.add_argument(
        "--benign-data", help="data of the original training; default the model's own answers"
    )
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--attack-steps", type=int, default=60)
    parser.add_argument(
        "--steps", type=lambda text: [float(x) for x in text.split(",")],
        default=[-0.04, -0.02, -0.01, 0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04],
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    main()

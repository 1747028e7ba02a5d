"""Landscapes as figures: the raw score with its band and chance line, beside the loss T."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from basinscope.errors import BasinscopeError
from basinscope.runs.store import disk_error

if TYPE_CHECKING:
    from basinscope.landscape import Landscape

# Okabe and Ito's colours, which the colour-blind can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00")
STYLES: tuple[Any, ...] = ("-", "--", ":", "-.")


def plot_landscapes(path: Path, runs: Sequence[Landscape], names: Sequence[str] = ()) -> Path:
    """Draw landscapes over each other and write the figure with the CSV that it was drawn from.

    One colour for each task, one line style for each (run, direction). The band is the interval of
    `Landscape.means` (the draw as the unit; over items for one draw), thin lines are
    single draws, the dotted line is chance, a diamond marks where the model that a direction was
    made from sits itself. T on the right hides the level, so it never stands alone.
    Nothing is mirrored or padded beyond what was measured.

    Args:
        path: ``.png``, ``.pdf`` or ``.svg``.
        runs: landscapes; only one model's RMS(theta0) can have the upper axis.
        names: one for each run, for the legend.

    Returns:
        The path of the figure; the CSV lies beside it.
    """
    from matplotlib.figure import Figure

    if path.suffix not in (".png", ".pdf", ".svg"):
        raise BasinscopeError(f"figure {str(path)!r}", "allowed: a name in .png, .pdf or .svg")
    labels = list(names) or [f"run {i + 1}" if len(runs) > 1 else "" for i in range(len(runs))]
    if len(labels) != len(runs) or len(set(labels)) != len(labels):
        raise BasinscopeError(
            f"names {labels} for {len(runs)} runs", "one name for each run, all different"
        )
    tables = [run.means() for run in runs]
    table = pd.concat([t.assign(run=n) for t, n in zip(tables, labels, strict=True)])
    if table.empty:
        raise BasinscopeError("nothing to draw: no point was measured", "resume the run first")
    tasks = list(dict.fromkeys(table["task"]))
    colour = {task: COLOURS[i % len(COLOURS)] for i, task in enumerate(tasks)}
    lines = list(dict.fromkeys(zip(table["run"], table["direction"], strict=True)))
    style = {line: STYLES[i % len(STYLES)] for i, line in enumerate(lines)}

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    raw, loss = figure.subplots(1, 2)
    for (run_name, task, direction), own in table.groupby(["run", "task", "direction"], sort=False):
        run = runs[labels.index(run_name)]
        look: dict[str, Any] = {"color": colour[task], "linestyle": style[run_name, direction]}
        own = own.sort_values("step")
        raw.plot(own["step"], own["score"], marker="o", markersize=3, linewidth=1.8, **look)
        raw.fill_between(own["step"], own["low"], own["high"], color=colour[task], alpha=0.12,
                         linewidth=0)  # fmt: skip
        _thin(raw, run, task, direction, look)
        if run.task(task).chance > 0:
            raw.axhline(run.task(task).chance, color=colour[task], linestyle=(0, (1, 3)), lw=1)
        loss.plot(own["step"], own["T"], marker="o", markersize=3, linewidth=1.8, **look)
    marks = _others(raw, runs, labels, style)
    raw.set(ylim=(-0.03, 1.03), ylabel="score (mean of 0-1 outcomes)",
            xlabel=r"step $\alpha$ along $\delta$")  # fmt: skip
    loss.set(ylim=(-0.05, 1.05), ylabel="T (0 = best, 1 = worst of each curve)",
             xlabel=r"step $\alpha$ along $\delta$")  # fmt: skip
    raw.set_title("score with 95% band; dotted: chance", fontsize=10)
    loss.set_title("loss normalised over each curve (hides the level)", fontsize=10)
    rms = runs[0].spec.model.rms
    for axis in (raw, loss):
        axis.axvline(0, color="#999999", linewidth=0.6)
        axis.grid(alpha=0.25)
        if rms > 0 and all(run.spec.model.rms == rms for run in runs):
            upper = axis.secondary_xaxis("top", (lambda a: a / rms, lambda a: a * rms))
            upper.set_xlabel(r"$\alpha$ / RMS($\theta_0$)", fontsize=9)
    _legend(raw, colour, style, table, marks)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
        table.to_csv(path.with_suffix(".csv"), index=False)
    except OSError as error:
        raise disk_error(path, error) from error
    return path


def _thin(axis: Any, run: Landscape, task: str, direction: str, look: dict[str, Any]) -> None:
    """One thin line for each draw."""
    draws = run.draws(task, direction)
    for trials in draws.values() if len(draws) > 1 else ():
        axis.plot([t.step for t in trials], [t.score for t in trials],
                  linewidth=0.5, alpha=0.35, color=look["color"])  # fmt: skip


def _others(
    axis: Any, runs: Sequence[Landscape], labels: Sequence[str], style: dict[Any, Any]
) -> bool:
    """A line and a diamond where the model that a direction was made from sits itself."""
    marks = [
        (step, style[name, line])
        for run, name in zip(runs, labels, strict=True)
        for line in run.directions()
        if (step := run.sits_at(line)) is not None
    ]
    for step, look in marks:
        axis.axvline(step, color="#444444", linestyle=look, linewidth=0.8, alpha=0.6)
        axis.plot([step], [0.0], marker="D", markersize=6, color="#444444", clip_on=False)
    return bool(marks)


def _legend(
    axis: Any, colour: dict[str, str], style: dict[Any, Any], table: pd.DataFrame, marks: bool
) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=c, lw=2, label=task) for task, c in colour.items()]
    if len(style) > 1:
        handles += [
            Line2D([], [], color="#444444", linestyle=s, label=" ".join(filter(None, (run, line))))
            for (run, line), s in style.items()
        ]
    else:
        draws = int(table["draws"].max())
        handles.append(Line2D([], [], color="#444444", lw=0.5, label=f"single draws ({draws})"))
    if marks:
        handles.append(Line2D([], [], color="#444444", marker="D", ls="", label="the other model"))
    legend = axis.legend(handles=handles, fontsize=8, framealpha=0.9)
    for text in legend.get_texts():
        text.set_parse_math(False)  # names of tasks and folders are no formulas

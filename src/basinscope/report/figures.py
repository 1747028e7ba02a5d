"""Landscapes as figures: the raw score with its band and chance line, beside the loss T."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from basinscope import files
from basinscope.errors import BasinscopeError

if TYPE_CHECKING:
    from basinscope.landscape import Landscape

# Okabe and Ito's colours, which the colour-blind can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00")
STYLES: tuple[Any, ...] = ("-", "--", ":", "-.")


def plot_landscapes(
    path: Path, runs: Sequence[Landscape], names: Sequence[str] = (), *, per_rms: bool = False
) -> Path:
    """Draw landscapes over each other and write the figure with the CSV that it was drawn from.

    Along one direction all tasks share a pair of panels, a colour for each. Several directions or
    runs have a pair of panels for each task, a colour and line style for each (run, direction),
    and a diamond where the model that a direction was made from really sits. The
    shaded band (whiskers, where there are several lines) is the interval of `Landscape.means` at
    each step, the draw as the unit; over items for one draw. The dashed one is the band of
    `Landscape.bands` that holds at all steps at once, drawn where the steps were fixed beforehand.
    Thin lines are single draws, the dotted line is chance. T on the right hides the level, so it
    never stands alone. Nothing is mirrored or padded beyond what was measured.

    Args:
        path: ``.png``, ``.pdf`` or ``.svg``.
        runs: landscapes.
        names: one for each run, for the legend.
        per_rms: the axis is alpha / RMS(theta0) of each run's own model, which makes models of
            different scale comparable; else alpha, with that as upper axis where all runs agree.

    Returns:
        The path of the figure; the CSV lies beside it.
    """
    from matplotlib.figure import Figure

    check_name(path)
    labels = list(names) or [f"run {i + 1}" if len(runs) > 1 else "" for i in range(len(runs))]
    if len(labels) != len(runs) or len(set(labels)) != len(labels):
        raise BasinscopeError(
            f"names {labels} for {len(runs)} runs",
            "a name for each, all different",
            "leave names out",
        )
    if per_rms and not all(run.spec.model.rms > 0 for run in runs):
        raise BasinscopeError("a model with RMS(theta0) = 0", "alpha as axis", "leave --rms out")
    named = dict(zip(labels, runs, strict=True))
    table = pd.concat([_table(run).assign(run=name) for name, run in named.items()])
    if table.empty:
        raise BasinscopeError(
            "nothing to draw: no point was measured", "a measured point", "run the same line again"
        )
    table["x"] = table["step_rms"] if per_rms else table["step"]
    tasks = list(dict.fromkeys(table["task"]))
    lines = list(dict.fromkeys(zip(table["run"], table["direction"], strict=True)))
    alone = len(lines) == 1
    rows = [tasks] if alone else [[task] for task in tasks]
    look: dict[Any, dict[str, Any]] = {
        key: {"color": COLOURS[i % len(COLOURS)], "linestyle": "-" if alone else _style(i)}
        for i, key in enumerate(tasks if alone else lines)
    }
    figure = Figure(figsize=(11, 4.6 if len(rows) == 1 else 3.6 * len(rows)), layout="constrained")
    rms = None if per_rms else _common_rms(runs)
    for (raw, loss), panel_tasks in zip(
        figure.subplots(len(rows), 2, squeeze=False), rows, strict=True
    ):
        shown = table[table["task"].isin(panel_tasks)]
        for i, ((name, task, direction), curve) in enumerate(
            shown.groupby(["run", "task", "direction"], sort=False)
        ):
            style = look[task] if alone else look[name, direction]
            place = None if alone else 0.004 * (i - (len(lines) - 1) / 2)
            _curve(raw, loss, named[name], curve, style, per_rms, place)
        marks = [_mark(raw, named[key[0]], key[1], look.get(key), per_rms) for key in lines]
        _finish(raw, loss, panel_tasks, alone, rms, per_rms)
    _legend(figure, look, int(table["draws"].max()), any(marks))
    save(figure, path, table.drop(columns="x"))
    return path


def check_name(path: Path) -> None:
    """Refuse a figure that matplotlib would not write, before anything is drawn."""
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise BasinscopeError(f"figure {str(path)!r}", "a .png, .pdf or .svg", f"{path}.png")


def save(figure: Any, path: Path, table: pd.DataFrame, dpi: int = 150) -> None:
    """Write a figure, and beside it the CSV that it was drawn from."""
    with files.whole(path) as draft:
        figure.savefig(draft, dpi=dpi, format=path.suffix[1:])
    files.write(path.with_suffix(".csv"), table.to_csv(index=False))


def plain(texts: Sequence[Any]) -> None:
    """Have names of tasks, directions and folders drawn as they are: they are no formulas."""
    for text in texts:
        text.set_parse_math(False)


def short(label: str, most: int = 60) -> str:
    """A label that fits: of a long one (a path) its end, which tells it from others."""
    return label if len(label) <= most else "…" + label[1 - most :]


def _table(run: Landscape) -> pd.DataFrame:
    """Means with the simultaneous band and alpha / RMS(theta0) beside them."""
    means = run.means()
    bands = [
        run.bands(task, direction).assign(task=task, direction=direction)
        for task in run.tasks
        for direction in run.directions(task)
    ]
    if bands:
        of_step = pd.concat(bands)[["task", "direction", "step", "band_low", "band_high"]]
        means = means.merge(of_step, how="left", on=["task", "direction", "step"])
    else:
        means = means.assign(band_low=means["low"], band_high=means["high"])
    return means.assign(step_rms=means["step"] / (run.spec.model.rms or float("nan")))


def _curve(
    raw: Any, loss: Any, run: Landscape, curve: pd.DataFrame, look: dict[str, Any], per_rms: bool,
    place: float | None,
) -> None:  # fmt: skip
    """One curve in both panels, its intervals as bands or as whiskers shifted by ``place``."""
    curve = curve.sort_values("step")
    task, direction = curve["task"].iloc[0], curve["direction"].iloc[0]
    for axis, column in ((raw, "score"), (loss, "T")):
        axis.plot(curve["x"], curve[column], marker="o", markersize=3, linewidth=1.8, **look)
    if place is None:
        raw.fill_between(curve["x"], curve["low"], curve["high"], color=look["color"], alpha=0.14,
                         linewidth=0)  # fmt: skip
        if run.spec.steps is not None:  # a search chose its steps in the light of the results
            for end in ("band_low", "band_high"):
                raw.plot(curve["x"], curve[end], color=look["color"], linewidth=0.9,
                         linestyle=(0, (5, 4)), alpha=0.7)  # fmt: skip
    else:  # whiskers side by side: bands would hide each other
        x = curve["x"] + place * (curve["x"].max() - curve["x"].min())
        raw.vlines(x, curve["low"], curve["high"], color=look["color"], linewidth=0.9, alpha=0.8)
    scale = run.spec.model.rms if per_rms else 1.0
    draws = run.draws(task, direction)
    for trials in draws.values() if len(draws) > 1 else ():
        raw.plot([t.step / scale for t in trials], [t.score for t in trials],
                 linewidth=0.5, alpha=0.35, color=look["color"])  # fmt: skip
    if run.task(task).chance > 0:
        raw.axhline(run.task(task).chance, color=look["color"] if place is None else "#666666",
                    linestyle=(0, (1, 3)), lw=1)  # fmt: skip


def _mark(
    axis: Any, run: Landscape, direction: str, look: dict[str, Any] | None, per_rms: bool
) -> bool:
    """A diamond where the model that a direction was made from sits itself.

    One that sits beyond what was measured is left to the notes: it would squeeze the curves.
    """
    step = run.sits_at(direction)
    if step is None or step > max(trial.step for trial in run.trials):
        return False
    x = step / run.spec.model.rms if per_rms else step
    colour = look["color"] if look else "#444444"
    axis.axvline(x, color=colour, linewidth=0.8, alpha=0.5)
    axis.plot([x], [0.0], marker="D", markersize=6, color=colour, clip_on=False)
    return True


def _finish(
    raw: Any, loss: Any, tasks: list[str], alone: bool, rms: float | None, per_rms: bool
) -> None:
    """Axes, titles, and alpha / RMS(theta0) on top."""
    relative = r"$\alpha$ / RMS($\theta_0$)"
    x = relative if per_rms else r"step $\alpha$ along $\delta$"
    raw.set(ylim=(-0.03, 1.03), ylabel="score (mean of 0-1)", xlabel=x)
    loss.set(ylim=(-0.05, 1.05), ylabel="T (0 best, 1 worst)", xlabel=x)
    of = "" if alone else f"{tasks[0]}: "
    band = "95% at each step (shaded), at all steps (dashed)" if alone else "95% at each step"
    titles = [
        raw.set_title(f"{of}score, {band}", fontsize=10),
        loss.set_title(f"{of}loss normalised over each curve (hides the level)", fontsize=10),
    ]
    plain(titles)
    for axis in (raw, loss):
        axis.axvline(0, color="#999999", linewidth=0.6)
        axis.grid(alpha=0.25)
        if rms:
            upper = axis.secondary_xaxis("top", (lambda a: a / rms, lambda a: a * rms))
            upper.set_xlabel(relative, fontsize=9)


def _legend(figure: Any, look: dict[Any, dict[str, Any]], draws: int, marked: bool) -> None:
    """One for all panels, below them, where it hides nothing."""
    from matplotlib.lines import Line2D

    words = {key: [key] if isinstance(key, str) else filter(None, key) for key in look}
    handles = [
        Line2D([], [], lw=2, label=" ".join(map(short, words[key])), **style)
        for key, style in look.items()
    ]
    if draws > 1:
        handles.append(Line2D([], [], color="#444444", lw=0.5, label=f"single draws ({draws})"))
    if marked:
        handles.append(Line2D([], [], color="#444444", marker="D", ls="", label="the other model"))
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(6, 160 // (longest + 10)))  # as many as the figure is wide for
    legend = figure.legend(handles=handles, fontsize=8, loc="outside lower center", ncols=columns)
    plain(legend.get_texts())


def _style(i: int) -> Any:
    """Another line style for each line, and other pairs of colour and style on each round."""
    return STYLES[(i + i // len(COLOURS)) % len(STYLES)]


def _common_rms(runs: Sequence[Landscape]) -> float | None:
    """RMS(theta0) of the one model of all runs."""
    scales = {run.spec.model.rms for run in runs}
    return scales.pop() or None if len(scales) == 1 else None

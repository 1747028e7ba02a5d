"""Landscapes as figures: a small panel for each task, with its band and half-width."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from basinscope import files
from basinscope.errors import BasinscopeError, printable

if TYPE_CHECKING:
    from basinscope.landscape import Landscape

# Okabe and Ito's colours, which the colour-blind can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00")
STYLES: tuple[Any, ...] = ("-", "--", ":", "-.")
MARKERS = "os^vPX*ph"  # no diamond, which is another model
INK = "#333333"
DOT: dict[str, Any] = {"color": INK, "marker": "o"}
ABREAST, WIDE = 4, (6.0, 9.0, 11.0, 11.0)  # panels in a row, and inches of so many


def plot_landscapes(
    path: Path,
    runs: Sequence[Landscape],
    names: Sequence[str] = (),
    *,
    level: float = 0.5,
    per_rms: bool = False,
    draws: bool = False,
    loss: bool = False,
) -> Path:
    """Draw landscapes, a panel for each task, and write the figure with the CSV of what it shows.

    One direction of one run has the interval of `Landscape.means` at each step as a band, and
    around it, where the steps were fixed beforehand, that of `Landscape.bands`, which holds at all
    of them at once. Several (runs, directions) have a colour, line style and marker each, and
    whiskers side by side, which do not hide each other; a diamond where the model that a direction
    was made from sits, unless beyond what was measured. The half-width on each side is a dot with
    its interval at the height of its threshold, chance + (1 - level) (S(0) - chance) (several side
    by side around it); an arrow has no end. Nothing is mirrored or padded beyond what was measured.

    Args:
        path: ``.png``, ``.pdf`` or ``.svg``.
        runs: landscapes.
        names: one for each run, for the legend.
        level: of the half-widths.
        per_rms: the axis is alpha / RMS(theta0) of each run's own model, which makes models of
            different scale comparable; else alpha, with that as upper axis where all runs agree.
        draws: single draws as well, thin; their scores go to ``NAME.draws.csv``.
        loss: T in a row of its own below; it hides the level.

    Returns:
        The path of the figure; the CSV lies beside it.
    """
    from matplotlib.lines import Line2D

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
    table = pd.concat([_table(run, level).assign(run=name) for name, run in named.items()])
    if table.empty:
        raise BasinscopeError(
            "nothing to draw: no point was measured", "a measured point", "run the same line again"
        )
    scale = {name: run.spec.model.rms if per_rms else 1.0 for name, run in named.items()}
    table["x"] = table["step"] / table["run"].map(scale)
    figure, of_task = panels(list(dict.fromkeys(table["task"])), 1 + loss, table["x"], 3.1)
    pairs = list(zip(table["run"], table["direction"], strict=True))
    # a task of which step 0 alone was measured has no direction, and the look of the first line
    look = looks([pair for pair in pairs if pair[1]] or pairs)
    marked, single = False, []
    for (task, *pair), line in table.groupby(["task", "run", "direction"], sort=False):
        (name, direction), (raw, *below) = pair, of_task[task]
        key = (name, direction) if (name, direction) in look else next(iter(look))
        for axis, column in zip((raw, *below), ("score", "T"), strict=False):
            curve(axis, line, column, look[key], slot(look, key))
        marked |= _marks(raw, named[name], line, look, key, scale[name])
        for draw, trials in named[name].draws(task, direction).items() if draws else ():
            steps, scores = zip(*((t.step, named[name].score(t)) for t in trials), strict=True)
            raw.plot(np.divide(steps, scale[name]), scores, lw=0.6, alpha=0.4,
                     color=look[key]["color"], zorder=1)  # fmt: skip
            single.append(pd.DataFrame({"run": name, "task": task, "direction": direction,
                                        "draw": draw, "step": steps, "score": scores}))  # fmt: skip
    rms = {run.spec.model.rms for run in runs}
    for task, (raw, *below) in of_task.items():
        shown = table[table["task"] == task]
        no_width = (shown["sign"] != 0).any() and shown["width_low"].isna().all()
        titled(raw, task, "no half-width" if no_width else "")
        _levels(raw, shown)
        dress(raw, "score", (-0.03, 1.03))
        for axis in below:
            dress(axis, "T (0 best, 1 worst)", (-0.05, 1.05))
        relative = r"$\alpha$ / RMS($\theta_0$)"
        (raw, *below)[-1].set_xlabel(relative if per_rms else r"step $\alpha$", fontsize=9)
        if len(rms) == 1 and not per_rms and (unit := max(rms)) > 0:
            upper = raw.secondary_xaxis("top", (lambda a, u=unit: a / u, lambda a, u=unit: a * u))
            upper.set_xlabel(relative, fontsize=9)
            _ticks(upper)
    over = "mean over draws" if table["draws"].max() > 1 else "score"
    words = {key: " ".join(map(short, filter(None, key))) for key in look}
    handles = keys(look, words, over, bands=1 + int(table["band_low"].notna().any()))
    if table["width_low"].notna().any():
        arrow = ", → no end" if np.isinf(table["width_high"]).any() else ""
        handles.append(Line2D([], [], color=INK, lw=2, marker="o", ms=5,
                              label=f"half-width (level {level:g}, 95%{arrow})"))  # fmt: skip
    if single:
        handles.append(Line2D([], [], color=INK, lw=0.5, label="single draws"))
        files.write(path.with_suffix(".draws.csv"), csv_of(pd.concat(single)))
    if marked:
        handles.append(Line2D([], [], color=INK, marker="D", ls="", label="the other model"))
    legend(figure, handles)
    save(figure, path, table.drop(columns=["x", "sign"]))
    return path


def panels(
    tasks: Sequence[str], rows: int, x: Iterable[float], height: float
) -> tuple[Any, dict[str, list[Any]]]:
    """A figure of small panels: for each task so many, one below the other; all share the x axis.

    Args:
        tasks: in the order of reading.
        rows: panels of a task.
        x: what will be drawn; the axis ends a little beyond it, and holds 0.
        height: inches of a task's first panel; of the others four fifths of it.
    """
    from matplotlib.figure import Figure

    deep = math.ceil(len(tasks) / ABREAST)
    across = math.ceil(len(tasks) / deep)
    ratios = [height] + [0.8 * height] * (rows - 1)
    figure = Figure((WIDE[across - 1], deep * sum(ratios) + 0.5), layout="constrained")
    grid = figure.subplots(
        deep * rows, across, squeeze=False, sharex=True, height_ratios=ratios * deep
    )
    least, most = min(0.0, *x), max(0.0, *x)
    pad = 0.04 * (most - least) or 1.0
    grid[0, 0].set_xlim(least - pad, most + pad)
    blocks = grid.reshape(deep, rows, across).swapaxes(1, 2).reshape(-1, rows)
    for axis in blocks[len(tasks) :].flat:
        axis.remove()
    for axes in blocks[: len(tasks)]:
        axes[-1].tick_params(labelbottom=True)
    return figure, {task: list(axes) for task, axes in zip(tasks, blocks, strict=False)}


def looks(keys: Iterable[Hashable]) -> dict[Any, dict[str, Any]]:
    """A look for each of several lines of a panel; colours alone are not enough in grey."""
    return {
        key: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)],
              # other pairs of colour and style on each round
              "linestyle": STYLES[(i + i // len(COLOURS)) % len(STYLES)]}
        for i, key in enumerate(dict.fromkeys(keys))
    }  # fmt: skip


def slot(look: dict[Any, Any], key: Hashable) -> float | None:
    """Place of one of several lines beside their middle; None for one alone."""
    return None if len(look) == 1 else list(look).index(key) - (len(look) - 1) / 2


def curve(
    axis: Any, line: pd.DataFrame, column: str, look: dict[str, Any], place: float | None
) -> None:
    """Means with their intervals: bands for a line alone, whiskers side by side for several.

    Args:
        axis: panel.
        line: x, the column, and where it has an interval its ends: NAME_low and NAME_high, of
            ``score`` low and high, and band_low and band_high that hold at all steps at once.
        column: what is drawn.
        look: of the line.
        place: by which whiskers of one of several lines are shifted, see `slot`.
    """
    line, colour = line.sort_values("x"), look["color"]
    names = ("band_", "") if column == "score" else (f"{column}_",)
    ends = [(line[f"{name}low"], line[f"{name}high"]) for name in names if f"{name}low" in line]
    if place is None:
        axis.plot(line["x"], line[column], ms=3.5, lw=2, zorder=3, **look)
        for low, high in ends if line[column].notna().any() else ():
            if low.notna().any():
                axis.fill_between(line["x"], low, high, color=colour, alpha=0.18, lw=0)
            if len(line) == 1:  # no band has an area
                axis.vlines(line["x"], low, high, color=colour, alpha=0.18, lw=10)
    else:
        axis.plot(line["x"], line[column], ms=4, lw=1.6, **look)
        x = line["x"] + 0.008 * place * float(np.ptp(axis.get_xlim()))
        for low, high in ends[-1:]:
            axis.vlines(x, low, high, color=colour, lw=0.9, alpha=0.7)


def bar(axis: Any, ends: Iterable[float], y: float, look: Mapping[str, Any]) -> None:
    """An interval (near end, estimate, far end, seen from zero) with caps; an arrow has no end."""
    from matplotlib.patheffects import withStroke

    near, middle, far = ends
    if math.isnan(near):
        return
    style = {"color": look["color"], "clip_on": False, "zorder": 5}
    right = int(far > 0)
    edge = axis.get_xlim()[right]
    axis.plot([near, far if math.isfinite(far) else edge], [y, y], color=look["color"], lw=2,
              zorder=2.5, path_effects=[withStroke(linewidth=4, foreground="white")])  # fmt: skip
    for x in (near, far):
        if math.isfinite(x):
            axis.plot([x], [y], marker="|", ms=9, mew=2, **style)
        elif x == far:
            axis.plot([edge], [y], marker="<>"[right], ms=7, **style)
    if math.isfinite(middle):
        axis.plot([middle], [y], marker=look["marker"], ms=7, mec="white", mew=0.8, **style)


def titled(axis: Any, task: str, note: str = "") -> None:
    """The name of a task over its panel, in two lines where it is long, and a note below."""
    of_width = int(13 * axis.figure.get_figwidth() / axis.get_gridspec().ncols / 1.5)
    name = textwrap.fill(short(task, 2 * of_width), of_width)
    plain([axis.set_title(f"{name}\n{note}".strip(), fontsize=10)])


def dress(axis: Any, label: str, ends: tuple[float, float] | None = None) -> None:
    """Ticks and label of y, on the left panel alone where all have the same ``ends``."""
    first = axis.get_subplotspec().is_first_col()
    if ends:
        axis.set_ylim(ends)
        axis.tick_params(labelleft=first)
    if first or not ends:
        axis.set_ylabel(label, fontsize=9)
    axis.axvline(0, color="#BBBBBB", lw=0.6, zorder=0)
    axis.spines[["right", "top"]].set_visible(False)
    _ticks(axis)


def keys(
    look: dict[Any, dict[str, Any]], words: dict[Any, str], over: str, *, bands: int = 1
) -> list[Any]:
    """What lines and their bands (inner and outer) or whiskers are, for the legend."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if len(look) > 1:
        lines = [Line2D([], [], lw=1.6, ms=5, label=words[key], **look[key]) for key in look]
        return [*lines, Line2D([], [], color=INK, ls="", marker="|", ms=12,
                               label="95% at each step")]  # fmt: skip
    ((key, style),) = look.items()
    name = ": ".join(filter(None, (words[key], over)))
    shades = [Patch(color=style["color"], alpha=alpha, lw=0, label=f"95% at {steps}")
              for alpha, steps in ((0.33, "each step"), (0.18, "all steps"))]  # fmt: skip
    shades[0].set_alpha(0.33 if bands > 1 else 0.18)
    return [Line2D([], [], lw=2, ms=4, label=name, **style), *shades[:bands]]


def legend(figure: Any, handles: Sequence[Any]) -> None:
    """One for all panels, below them, where it hides nothing."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    room = 16 * figure.get_figwidth()  # letters
    columns = max(1, int(room / (longest + 8)))
    if sum(len(str(handle.get_label())) + 8 for handle in handles) < room:
        columns = len(handles)
    below = figure.legend(handles=handles, fontsize=9, loc="outside lower center", ncols=columns,
                          frameon=False)  # fmt: skip
    plain(below.get_texts())


def check_name(path: Path) -> None:
    """Refuse a figure that matplotlib would not write, before anything is drawn."""
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise BasinscopeError(f"figure {str(path)!r}", "a .png, .pdf or .svg", f"{path}.png")


def save(figure: Any, path: Path, table: pd.DataFrame, dpi: int = 150) -> None:
    """Write a figure, and beside it the CSV that it was drawn from."""
    with files.whole(path) as draft:
        figure.savefig(draft, dpi=dpi, format=path.suffix[1:])
    files.write(path.with_suffix(".csv"), csv_of(table))


def csv_of(table: pd.DataFrame, **options: Any) -> str:
    """A table as CSV; options are those of `pandas.DataFrame.to_csv`."""
    # a carriage return in a cell is quoted only where lines end with one
    text: str = table.to_csv(index=False, lineterminator="\r\n", **options)
    return text.replace("\r\n", "\n")


def plain(texts: Sequence[Any]) -> None:
    """Have names of tasks, directions and folders drawn as they are: they are no formulas."""
    for text in texts:
        text.set_parse_math(False)


def short(label: str, most: int = 60) -> str:
    """A label that fits and can be drawn: of a long one (a path) its end, which tells it apart."""
    label = " ".join(printable(label[-4 * most :]).split())
    return label if len(label) <= most else "…" + label[1 - most :]


def _table(run: Landscape, level: float) -> pd.DataFrame:
    """Means, and beside them what else is drawn: bands, lines, and the half-width of each side."""
    means = run.means()
    bands = [means[["task", "direction", "step"]].assign(band_low=math.nan, band_high=math.nan)]
    if run.spec.steps is not None:  # a search chose its steps in the light of the results
        bands = [
            run.bands(task, direction).assign(task=task, direction=direction)
            for task in run.tasks
            for direction in run.directions(task)
        ] or bands
    of_step = pd.concat(bands)[["task", "direction", "step", "band_low", "band_high"]]
    table = means.merge(of_step, how="left", on=["task", "direction", "step"])
    table["step_rms"] = table["step"] / (run.spec.model.rms or math.nan)
    table["chance"] = table["task"].map({task.name: task.chance for task in run.spec.tasks})
    zero = means[means["step"] == 0].drop_duplicates("task").set_index("task")["score"]
    table["score_at_zero"] = table["task"].map(zero)
    table["threshold"] = table["chance"] + (1 - level) * (table["score_at_zero"] - table["chance"])
    table["sign"] = np.sign(table["step"])
    widths = run.widths(level=level)[["task", "direction", "sign", "width", "low", "high"]]
    widths = widths.rename(columns={"low": "width_low", "high": "width_high"})
    return table.merge(widths, how="left", on=["task", "direction", "sign"])


def _marks(
    axis: Any, run: Landscape, line: pd.DataFrame, look: dict[Any, Any], key: Any, scale: float
) -> bool:
    """Half-widths of a line, and a diamond where its model sits; whether there is one.

    One that sits beyond what was measured is left to the notes: it would squeeze the curves.
    """
    style, place = look[key], slot(look, key)
    for sign, side in line[line["sign"] != 0].groupby("sign"):
        ends = side[["width_low", "width", "width_high"]].iloc[0] * sign / scale
        height = side["threshold"].iloc[0] + 0.045 * (place or 0)
        bar(axis, ends, height, DOT if place is None else style)
    step = run.sits_at(key[1])
    if step is None or step > line["step"].max():
        return False
    axis.axvline(step / scale, color=style["color"], lw=0.8, alpha=0.5)
    axis.plot([step / scale], [0], marker="D", ms=6, color=style["color"], clip_on=False)
    return True


def _levels(axis: Any, shown: pd.DataFrame) -> None:
    """Chance and the score at zero as thin lines, named in the margin, where nothing is hidden."""
    at_zero, chance = (sorted(shown[c].dropna().unique()) for c in ("score_at_zero", "chance"))
    apart = max(at_zero, default=1.0) - chance[0]
    for values, word, dash, up in ((at_zero, "S(0)", "-", apart >= 0),
                                   (chance, "chance", (0, (1, 2)), apart < 0)):  # fmt: skip
        for y in values:
            axis.axhline(y, color="#777777", lw=0.9, ls=dash, zorder=1)
        if values:
            text = f"{word}\n{values[0]:.2f}" if len(values) == 1 else word
            va = "center" if abs(apart) > 0.3 else "bottom" if up else "top"
            axis.text(1.015, values[-1 if up else 0], text, transform=axis.get_yaxis_transform(),
                      va=va, fontsize=8.5, color="#444444", linespacing=1.0)  # fmt: skip


def _ticks(axis: Any) -> None:
    """Few and short, so that they do not touch in a small panel."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:.6g}".replace("-", "\N{MINUS SIGN}"))
    axis.tick_params(labelsize=8.5)

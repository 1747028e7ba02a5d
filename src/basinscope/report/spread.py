"""How much the half-widths of single directions differ, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from basinscope.report import figures

if TYPE_CHECKING:
    from basinscope.landscape import Landscape


def plot_spread(path: Path, run: Landscape, level: float = 0.5) -> Path | None:
    """Draw the half-width of every draw, and above them their median; the CSV lies beside it.

    A panel for each task, a row for each direction; an arrow for what has no end: draws that stay
    above the threshold to the outermost step, and intervals that reach beyond it. None where no
    direction has widths of several draws.
    """
    from matplotlib.lines import Line2D

    spread = run.spread(level=level)
    spread = spread[(spread["draws"] > 1) & spread["median"].notna()]
    if spread.empty:
        return None
    each = [
        run.draw_widths(task, level, direction=direction).assign(task=task, direction=direction)
        for (task, direction), _ in spread.groupby(["task", "direction"], sort=False)
    ]
    medians = spread[["task", "direction", "sign", "median", "median_low", "median_high"]]
    table = pd.concat(each)[["task", "direction", "sign", "draw", "width"]].merge(medians)
    measured = [trial.step for trial in run.trials if trial.task in set(table["task"])]
    look = figures.looks(table["direction"])
    tasks = list(table["task"].unique())
    figure, of_task = figures.panels(tasks, 1, measured, 1.5 + 0.5 * len(look))
    for (task, direction, sign), draws in table.groupby(["task", "direction", "sign"], sort=False):
        (axis,), style, y = of_task[task], look[direction], -list(look).index(direction)
        ends = draws[["median_low", "median", "median_high"]].iloc[0] * sign
        figures.bar(axis, ends, y + 0.2, figures.DOT if len(look) == 1 else style)
        heights = y - 0.05 * (draws["draw"] % 8)
        axis.plot(draws["width"] * sign, heights, ms=4, mfc="none", **style | {"linestyle": ""})
        edge = axis.get_xlim()[int(sign > 0)]
        for height in heights[draws["width"].isna()]:
            axis.plot([edge], [height], "<>"[int(sign > 0)], ms=5, clip_on=False,
                      color=style["color"])  # fmt: skip
    for task, (axis,) in of_task.items():
        figures.titled(axis, task)
        figures.dress(axis, "", (-len(look) + 0.45, 0.45))
        axis.set(yticks=[])
        axis.set_xlabel(r"half-width $\alpha$ on each side", fontsize=9)
    handles = [
        Line2D([], [], mfc="none", label=figures.short(direction), **style | {"linestyle": ""})
        for direction, style in look.items()
    ]
    of_draws = Line2D([], [], ls="", label=f"hollow: one draw (level {level:g}, → no end)")
    median = Line2D([], [], lw=2, ms=5, label="median, 95%", **figures.DOT)
    figures.legend(figure, [*handles, of_draws, median])
    figures.save(figure, path, table)
    return path

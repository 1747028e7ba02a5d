"""Pictures of the likelihood landscape beside the 0-1 landscape."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from basinscope.landscape.likelihood import likelihood_table
from basinscope.report.figures import COLOURS, STYLES, plain, save

if TYPE_CHECKING:
    from basinscope.landscape import Landscape


def plot_likelihood(path: Path, run: Landscape) -> Path | None:
    """Draw score, T, mean NLL and mean margin over the same steps; the CSV lies beside the figure.

    Colours, styles and bands as in `basinscope.report.figures.plot_landscapes`; the bands of NLL
    and margin are those of `likelihood_table`. None where no task has likelihoods.
    """
    from matplotlib.figure import Figure

    table = likelihood_table(run)
    if table.empty:
        return None
    ours = run.means()[["task", "direction", "step", "low", "high", "T"]]
    table = table.merge(ours, on=["task", "direction", "step"])
    # there are more colours than line styles: of tasks and directions, the more numerous get them
    few, many = sorted(("direction", "task"), key=lambda name: table[name].nunique())
    colour = {key: COLOURS[i % len(COLOURS)] for i, key in enumerate(table[many].unique())}
    style = {key: STYLES[i % len(STYLES)] for i, key in enumerate(table[few].unique())}
    panels = (
        ("score", ("low", "high"), "score (mean of 0-1 outcomes)"),
        ("T", None, "T (0 = best, 1 = worst of each curve)"),
        ("nll", ("nll_low", "nll_high"), "mean NLL (nats a token or answer)"),
        ("margin", ("margin_low", "margin_high"), "mean margin (nats)"),
    )
    figure = Figure(figsize=(11, 7.6), layout="constrained")
    for axis, (name, band, label) in zip(figure.subplots(2, 2, sharex=True).flat, panels,
                                         strict=True):  # fmt: skip
        for (hue, dash), curve in table.sort_values("step").groupby([many, few], sort=False):
            axis.plot(curve["step"], curve[name], color=colour[hue], linestyle=style[dash],
                      marker="o", markersize=3, linewidth=1.8)  # fmt: skip
            if band is not None:
                axis.fill_between(curve["step"], curve[band[0]], curve[band[1]],
                                  color=colour[hue], alpha=0.12, linewidth=0)  # fmt: skip
        axis.set_ylabel(label)
        axis.axvline(0, color="#999999", linewidth=0.6)
        axis.grid(alpha=0.25)
    _legend(figure.axes[0], table, colour, style)
    for axis in figure.axes[2:]:
        axis.set_xlabel(r"step $\alpha$ along $\delta$")
    save(figure, path, table)
    return path


def _legend(axis: Any, table: pd.DataFrame, colour: dict[str, str], style: dict[str, Any]) -> None:
    from matplotlib.lines import Line2D

    units = dict(zip(table["task"], table["unit"], strict=True))
    names = {task: f"{task} (NLL of one {unit})" for task, unit in units.items()}
    handles = [
        Line2D([], [], color=c, lw=2, label=names.get(key, key)) for key, c in colour.items()
    ]
    if len(style) > 1 or set(style) == set(names):
        handles += [
            Line2D([], [], color="#444444", linestyle=s, label=names.get(key, key))
            for key, s in style.items()
        ]
    plain(axis.legend(handles=handles, fontsize=8, framealpha=0.9).get_texts())

"""The likelihood landscape beside the 0-1 landscape, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from basinscope.landscape.likelihood import likelihood_table
from basinscope.report.figures import (
    curve,
    dress,
    keys,
    legend,
    looks,
    panels,
    save,
    short,
    slot,
    titled,
)

if TYPE_CHECKING:
    from basinscope.landscape import Landscape


def plot_likelihood(path: Path, run: Landscape) -> Path | None:
    """Draw score, mean NLL and mean margin over the same steps; the CSV lies beside the figure.

    A column for each task; lines, bands and whiskers as in
    `basinscope.report.figures.plot_landscapes`; those of NLL and margin are `likelihood_table`'s.
    None where no task has likelihoods.
    """
    table = likelihood_table(run)
    if table.empty:
        return None
    scores = run.means()[["task", "direction", "step", "low", "high"]]
    table = table.merge(scores, on=["task", "direction", "step"])
    shown = table.assign(x=table["step"])
    figure, of_task = panels(list(table["task"].unique()), 3, shown["x"], 2.2)
    look = looks(table["direction"])
    for task, (score, nll, margin) in of_task.items():
        of_panel = shown[shown["task"] == task]
        for direction, line in of_panel.groupby("direction", sort=False):
            for axis, column in ((score, "score"), (nll, "nll"), (margin, "margin")):
                curve(axis, line, column, look[direction], slot(look, direction))
        titled(score, task)
        dress(score, "score", (-0.03, 1.03))
        dress(nll, f"NLL (nats / {of_panel['unit'].iloc[0]})")
        dress(margin, "margin (nats)")
        margin.set_xlabel(r"step $\alpha$", fontsize=9)
    over = "mean over draws" if table["draws"].max() > 1 else "one draw"
    legend(figure, keys(look, {key: short(key) for key in look}, over))
    save(figure, path, table)
    return path

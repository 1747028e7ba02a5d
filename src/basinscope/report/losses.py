"""The loss of a training run, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from basinscope.report.figures import COLOURS, save

if TYPE_CHECKING:
    import pandas as pd


def plot_losses(path: Path, losses: pd.DataFrame) -> Path:
    """Draw the loss (nats a token) at each step; the CSV lies beside it."""
    from matplotlib.figure import Figure

    figure = Figure((6.4, 3.4), layout="constrained")
    axis = figure.subplots()
    marker = "o" if len(losses) < 60 else ""
    axis.plot(losses["step"], losses["loss"], color=COLOURS[0], marker=marker, ms=3)
    axis.set(xlabel="step", ylabel="loss (nats a token)")
    axis.spines[["right", "top"]].set_visible(False)
    save(figure, path, losses)
    return path

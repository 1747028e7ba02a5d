"""Cosines between directions as a heat map with its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from basinscope.report.figures import check_name, plain, save

if TYPE_CHECKING:
    import pandas as pd


def plot_cosines(path: Path, table: pd.DataFrame) -> Path:
    """Heat map of a table of `basinscope.cosines`, with every number in its cell.

    The title gives what independent random directions would have: 0 within 1/sqrt(d).

    Args:
        path: ``.png``, ``.pdf`` or ``.svg``.
        table: symmetric, labels on both sides.

    Returns:
        The path of the figure; the CSV lies beside it.
    """
    from matplotlib.figure import Figure

    check_name(path)
    n, labels = len(table), list(table.index)
    side = 2.2 + 0.75 * n + 0.05 * max(map(len, labels))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    panel = figure.subplots()
    shown = panel.imshow(table.to_numpy(), cmap="PuOr", vmin=-1, vmax=1)
    for i in range(n):
        for j in range(n):
            cosine = float(table.iloc[i, j])
            ink = "white" if abs(cosine) > 0.6 else "black"
            panel.text(j, i, f"{cosine:.2g}", ha="center", va="center", color=ink, fontsize=8)
    panel.set_xticks(range(n), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    panel.set_yticks(range(n), labels, fontsize=8)
    plain([*panel.get_xticklabels(), *panel.get_yticklabels()])
    reference = table.attrs["reference"]
    panel.set_title(f"cosines; independent random: 0 ± {reference:.1g}", fontsize=10)
    figure.colorbar(shown, ax=panel, shrink=0.8)
    save(figure, path, table.rename_axis("direction").reset_index())
    return path

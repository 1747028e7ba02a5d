"""Figures of a comparison of training methods; each has the CSV that it was drawn from.

Thin lines and small dots are single seeds, thick lines and large marks their means. A method looks
the same in every figure of one comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from basinscope.report.figures import COLOURS, STYLES, plain, save, short

MARKERS = "osD^vP*X<>hpd8H"
DPI = 100
LINE = 0.17  # inches of one line of a legend
NLL_WORSE = 1.03
"""The share of the reference's NLL within which a wider basin is looked for."""


def plot_frontier(path: Path, table: pd.DataFrame) -> Path | None:
    """Width in alpha/RMS against validation NLL, a panel for each size; None without widths.

    Grey lines join one method over its sigmas. Dotted: the reference's width, and 3% above its
    NLL; upper left is where one wants to be.
    """
    if table.empty:
        return None
    figure, panels, looks = _start(table, "panel", 1, 5.0)
    for (name, of_panel), axis in zip(
        table.groupby("panel", sort=False), panels[:, 0], strict=True
    ):
        means = of_panel.groupby(["tokens", "label"], sort=False).agg(
            nll=("nll", "mean"), width_rms=("width_rms", "mean"), family=("family", "first"),
            sigma=("sigma", "first"), reference=("reference", "first"),
        ).reset_index()  # fmt: skip
        for _, family in means.dropna(subset="sigma").groupby(["tokens", "family"]):
            line = family.sort_values("sigma")
            axis.plot(line["nll"], line["width_rms"], color="#AAAAAA", lw=1, zorder=1)
        for label, line in means.sort_values("tokens").groupby("label", sort=False):
            look = looks[label]
            seeds = of_panel[of_panel["label"] == label]
            axis.scatter(seeds["nll"], seeds["width_rms"], s=9, color=look["color"], alpha=0.55)
            axis.plot(line["nll"], line["width_rms"], **look | {"markersize": 8}, alpha=0.9)
            if line["tokens"].nunique() > 1:
                for _, one in line.iterrows():
                    axis.annotate(_count(one["tokens"]), (one["nll"], one["width_rms"]),
                                  xytext=(5, 4), textcoords="offset points",
                                  fontsize=7)  # fmt: skip
        for _, base in means[means["reference"]].iterrows():
            axis.axhline(base["width_rms"], color="#444444", ls=(0, (1, 3)), lw=1)
            axis.axvline(NLL_WORSE * base["nll"], color="#444444", ls=(0, (1, 3)), lw=1)
        axis.set(xlabel="validation NLL (nats a token)", ylim=(0, None),
                 ylabel=r"half-width of the 0-1 score, $\alpha$ / RMS($\theta$)")  # fmt: skip
        _title(axis, str(name))
    return _finish(figure, looks, path, table)


def plot_curves(path: Path, table: pd.DataFrame) -> Path | None:
    """Next-token score and NLL against alpha/RMS, means over draws; None without curves."""
    if table.empty or not (table["alpha_rms"] > 0).any():
        return None
    figure, panels, looks = _start(table, "group", 2)
    for (name, of_panel), row in zip(table.groupby("group", sort=False), panels, strict=True):
        for axis, column, caption in zip(
            row, ("score", "nll"), ("next-token score", "NLL (nats a token)"), strict=True
        ):
            _lines(axis, of_panel, "alpha_rms", column, looks)
            axis.set(xlabel=r"$\alpha$ / RMS($\theta$)", ylabel=caption)
            _title(axis, str(name))
    return _finish(figure, looks, path, table)


def plot_over_training(path: Path, table: pd.DataFrame) -> Path | None:
    """Width along training, in alpha and in alpha/RMS; None where only the end was measured."""
    if table.empty:
        return None
    figure, panels, looks = _start(table, "group", 3)
    for (name, of_panel), row in zip(table.groupby("group", sort=False), panels, strict=True):
        for axis, column, caption in zip(
            row,
            ("width", "width_rms", "nll"),
            (r"half-width, $\alpha$", r"half-width, $\alpha$ / RMS($\theta$)", "validation NLL"),
            strict=True,
        ):
            _lines(axis, of_panel.assign(x=of_panel["at_tokens"] / 1e6), "x", column, looks)
            axis.set(xlabel="tokens trained on, millions", ylabel=caption)
            if column != "nll":
                axis.set_ylim(0, None)
            _title(axis, str(name))
    return _finish(figure, looks, path, table)


def plot_scale(path: Path, table: pd.DataFrame) -> Path | None:
    """Width over size at equal tokens, else at equal tokens a parameter, and over tokens.

    Bars: the intervals over seeds of the comparison's numbers. None where no method has two places.
    """
    digits = "{:.2g}".format
    marked = table.assign(
        same=table["tokens"].map(digits), per=(table["tokens"] / table["size"]).map(digits)
    )

    def varies(x: str, other: str) -> bool:
        return bool((marked.groupby(["label", "equal", other])[x].nunique() > 1).any())

    ways = [("size", other, "parameters") for other in ("same", "per") if varies("size", other)][:1]
    ways += [("tokens", "size", "tokens")] if varies("tokens", "size") else []
    if not ways:
        return None
    figure, panels, looks = _start(marked, "", 2, rows=len(ways))
    for (x, other, caption), row in zip(ways, panels, strict=True):
        for axis, quantity, unit in zip(
            row, ("width", "width_rms"), (r"$\alpha$", r"$\alpha$ / RMS($\theta$)"), strict=True
        ):
            points = marked[marked["quantity"] == quantity].dropna(subset="estimate")
            for (label, _, _), line in points.groupby(["label", "equal", other], sort=False):
                if line[x].nunique() < 2:
                    continue
                line = line.sort_values(x)
                ends = [line["estimate"] - line["low"], line["high"] - line["estimate"]]
                axis.errorbar(line[x], line["estimate"], yerr=ends, capsize=2, elinewidth=0.8,
                              **looks[label] | {"markersize": 5})  # fmt: skip
            axis.set(xscale="log", xlabel=caption, ylabel=f"half-width of the 0-1 score, {unit}",
                     ylim=(0, None))  # fmt: skip
            places = sorted(marked[x].unique())
            axis.set_xticks(places, [_count(place) for place in places])
            axis.minorticks_off()
            axis.grid(alpha=0.25)
    drawn = {
        label for label, points in marked.groupby("label") if points["size"].nunique() > 1
        or points["tokens"].nunique() > 1
    }  # fmt: skip
    legend = {label: look for label, look in looks.items() if label in drawn}
    return _finish(figure, legend, path, table)


def plot_forgetting(path: Path, table: pd.DataFrame) -> Path | None:
    """Forgetting and old NLL against the new-task NLL along fine-tuning; None without it.

    Time runs to the left of each curve's start. Dotted: the targets at which methods are compared.
    """
    if table.empty:
        return None
    figure, panels, looks = _start(table, "group", 2)
    for (name, of_panel), row in zip(table.groupby("group", sort=False), panels, strict=True):
        for axis, column, caption in zip(
            row,
            ("forgetting", "old_nll"),
            ("forgetting: old NLL minus that before", "old NLL (nats a token)"),
            strict=True,
        ):
            for (label, _), line in of_panel.groupby(["label", "seed"], sort=False):
                look = looks[label] | {"markersize": 3, "linewidth": 0.9}
                axis.plot(line["new_nll"], line[column], **look, alpha=0.8)
            for share, target in table.attrs["targets"].get(name, {}).items():
                axis.axvline(target, color="#444444", ls=(0, (1, 3)), lw=1)
                axis.annotate(f"{share:.0%}", (target, 1), xycoords=("data", "axes fraction"),
                              xytext=(2, -9), textcoords="offset points", fontsize=7)  # fmt: skip
            axis.set(xlabel="new-task NLL (nats a token)", ylabel=caption)
            axis.invert_xaxis()
            _title(axis, str(name))
    return _finish(figure, looks, path, table)


def _start(
    table: pd.DataFrame, by: str, columns: int, height: float = 4.0, rows: int = 0
) -> tuple[Any, Any, dict[str, dict[str, Any]]]:
    """A figure with a row of panels for each value of a column, and the look of every label."""
    from matplotlib.figure import Figure

    count = rows or table[by].nunique()
    wide = {1: 8.0, 2: 11.0, 3: 14.0}[columns]
    figure = Figure(figsize=(wide, height * count + 1.0), layout="constrained")
    looks = {
        label: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": STYLES[(i // len(COLOURS)) % len(STYLES)],
        }
        for i, label in enumerate(dict.fromkeys(table["label"]))
    }
    return figure, figure.subplots(count, columns, squeeze=False), looks


def _lines(
    axis: Any, table: pd.DataFrame, x: str, y: str, looks: dict[str, dict[str, Any]]
) -> None:
    """Thin lines for seeds, a thick one for their mean where every seed has a point."""
    for label, of_label in table.groupby("label", sort=False):
        look = looks[str(label)]
        seeds = of_label["seed"].nunique()
        if seeds > 1:
            for _, line in of_label.groupby("seed"):
                axis.plot(line[x], line[y], color=look["color"], lw=0.5, alpha=0.5)
        mean = of_label.dropna(subset=y).groupby(x)[y].agg(["mean", "size"])
        mean = mean[mean["size"] == seeds]
        axis.plot(mean.index, mean["mean"], **look | {"markersize": 4}, lw=1.7)


def _count(tokens: float) -> str:
    """Tokens in few letters.

    >>> _count(4_400_000), _count(830_000)
    ('4.4M', '830k')
    """
    return f"{tokens / 1e6:.3g}M" if tokens >= 1e6 else f"{tokens / 1e3:.3g}k"


def _title(axis: Any, text: str) -> None:
    plain([axis.set_title(text, fontsize=10)])
    axis.grid(alpha=0.25)


def _finish(figure: Any, looks: dict[str, dict[str, Any]], path: Path, table: pd.DataFrame) -> Path:
    """One legend below all panels; the figure as PNG and PDF with its CSV."""
    from matplotlib.lines import Line2D

    handles: Sequence[Any] = [
        Line2D([], [], label=short(label), **look) for label, look in looks.items()
    ]
    longest = max(len(str(handle.get_label())) for handle in handles)
    width = float(figure.get_figwidth())
    columns = max(1, int(width * 12 / (longest + 8)))
    # room of its own: many methods would squeeze the panels
    lines = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + max(0, lines - 4) * LINE)
    legend = figure.legend(handles=handles, fontsize=8, loc="outside lower center", ncols=columns)
    plain(legend.get_texts())
    rounded = table.round({c: 6 for c in table.select_dtypes("number").columns})
    for name in (path, path.with_suffix(".pdf")):
        save(figure, name, rounded, DPI)
    return path

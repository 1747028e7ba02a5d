"""Surfaces as pictures: heat map with contours, and a page that can be turned about."""

from __future__ import annotations

import html
import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from basinscope import files
from basinscope.errors import BasinscopeError
from basinscope.report.figures import check_name, csv_of, plain, save, short

if TYPE_CHECKING:
    import pandas as pd

    from basinscope.runs.spec import PlaneSpec

COLOURS = "cividis"  # lightness alone tells the score, so it serves the colour-blind and in print
LEVELS = np.linspace(0.1, 0.9, 9)
ACROSS = 3  # panels in a row


def plot_surface(
    path: Path,
    table: pd.DataFrame,
    plane: PlaneSpec,
    *,
    trajectory: pd.DataFrame | None = None,
) -> Path:
    """Heat map of the scores with contours at every tenth, one panel for each task.

    Every measured point is a cell, without smoothing; what was not measured stays blank. The
    cross is theta0. The title gives the half-width of the widest cell's interval: contours finer
    than that are noise.

    Args:
        path: ``.png``, ``.pdf`` or ``.svg``.
        table: columns of `Surface.to_pandas`.
        plane: what the axes are.
        trajectory: from `basinscope.trajectory`; drawn as a path.

    Returns:
        The path of the figure; the CSV lies beside it, and that of the trajectory.
    """
    from matplotlib.figure import Figure

    check_name(path)
    tasks = _tasks(table)
    across = min(len(tasks), ACROSS)
    down = math.ceil(len(tasks) / across)
    figure = Figure(figsize=(0.9 + 4.6 * across, 4.3 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for panel in panels[len(tasks) :]:
        panel.set_axis_off()
    for panel, task in zip(panels, tasks, strict=False):
        points = table[table["task"] == task]
        xs, ys, score = _grid(points, plane)
        cells = panel.pcolormesh(_edges(xs), _edges(ys), score, cmap=COLOURS, vmin=0, vmax=1)
        if min(score.shape) > 1 and np.ptp(points["score"]) > 0.1:
            inks = ["white" if level < 0.45 else "black" for level in LEVELS]
            lines = panel.contour(xs, ys, score, levels=LEVELS, colors=inks, linewidths=0.8)
            panel.clabel(lines, fmt="%.1f", fontsize=7)
        for ink, width in (("black", 3.5), ("white", 1.5)):
            panel.plot(0, 0, marker="+", color=ink, markersize=12, markeredgewidth=width)
        panel.locator_params(axis="x", nbins=5)  # labels side by side
        if trajectory is not None:
            _path(panel, trajectory)
        half = float((points["high"] - points["low"]).max() / 2)
        title = panel.set_title(f"{short(task)}: score, each cell ±{half:.2f} or less", fontsize=10)
        x, y = _axes(plane)
        plain([title, panel.set_xlabel(x), panel.set_ylabel(y)])
    bar = figure.colorbar(cells, ax=panels.tolist(), shrink=0.9, pad=0.02)
    bar.set_label(
        f"score (mean of 0-1), one plane, axes at cosine {round(plane.cosine, 3) + 0.0:g}"
    )
    if trajectory is not None:
        figure.legend(handles=panels[0].lines[-1:], fontsize=8, loc="outside lower center")
    save(figure, path, table)
    if trajectory is not None:
        trajectory.to_csv(path.with_suffix(".trajectory.csv"), index=False)
    return path


def plot_surface_3d(
    path: Path,
    table: pd.DataFrame,
    plane: PlaneSpec,
    *,
    trajectory: pd.DataFrame | None = None,
) -> Path:
    """Write an HTML page with the surface to turn about, which needs no network.

    Height and colour are the score; pointing at a cell shows its interval. Arguments as
    `plot_surface`, the path ending in ``.html``.

    Raises:
        BasinscopeError: for another name, or without the extra ``html``.
    """
    if path.suffix != ".html":
        raise BasinscopeError(f"page {str(path)!r}", "a name in .html", f"{path}.html")
    if find_spec("plotly") is None:
        raise BasinscopeError(
            "a surface in 3-D without plotly", "the extra html", 'pip install "basinscope[html]"'
        )
    figure = _figure_3d(table, plane, trajectory)
    files.write(path, figure.to_html(include_plotlyjs=True, full_html=True))
    files.write(path.with_suffix(".csv"), csv_of(table))
    return path


def surface_figures(
    table: pd.DataFrame, plane: PlaneSpec, trajectory: pd.DataFrame | None = None
) -> tuple[dict[str, Any], ...]:
    """The surface to turn about as a figure for a page; none without the extra ``html``."""
    if find_spec("plotly") is None:
        return ()
    return (json.loads(_figure_3d(table, plane, trajectory).to_json()),)


def _figure_3d(table: pd.DataFrame, plane: PlaneSpec, trajectory: pd.DataFrame | None) -> Any:
    """A surface for each task."""
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    tasks = _tasks(table)
    figure = make_subplots(
        rows=1,
        cols=len(tasks),
        specs=[[{"type": "surface"}] * len(tasks)],
        subplot_titles=[html.escape(task) for task in tasks],
        horizontal_spacing=0.02,
    )
    for n, task in enumerate(tasks, start=1):
        points = table[table["task"] == task]
        xs, ys, score = _grid(points, plane)
        ends = zip(*(_grid(points, plane, end)[2] for end in ("low", "high")), strict=True)
        hover = [[f"[{low:.3f}, {high:.3f}]" for low, high in zip(*row, strict=True)]
                 for row in ends]  # fmt: skip
        figure.add_trace(
            graph_objects.Surface(
                x=xs, y=ys, z=score, text=hover, cmin=0, cmax=1, colorscale="Cividis",
                showscale=n == len(tasks), colorbar={"title": "score"},
                hovertemplate="x %{x:.4g}<br>y %{y:.4g}<br>score %{z:.3f} %{text}"
                "<extra></extra>",
            ),
            row=1,
            col=n,
        )  # fmt: skip
        if trajectory is not None:
            marks = {"size": 4, "color": "#D55E00"}
            figure.add_trace(
                graph_objects.Scatter3d(
                    x=trajectory["x"], y=trajectory["y"], z=[1.02] * len(trajectory),
                    mode="lines+markers", marker=marks, line={"color": "#D55E00", "width": 4},
                    text=[html.escape(str(label)) for label in trajectory["label"]],
                    customdata=trajectory["residual"], showlegend=False,
                    hovertemplate="%{text}<br>x %{x:.4g}<br>y %{y:.4g}<br>"
                    "%{customdata:.0%} of its distance lies out of the plane<extra></extra>",
                ),
                row=1,
                col=n,
            )  # fmt: skip
        figure.update_scenes(
            xaxis_title=html.escape(_axes(plane)[0]),
            yaxis_title=html.escape(_axes(plane)[1]),
            zaxis={"title": "score", "range": [0, 1.05]},
            row=1,
            col=n,
        )
    figure.update_layout(title="Scores over one plane of weights", template="plotly_white")
    return figure


def _tasks(table: pd.DataFrame) -> list[str]:
    """Tasks in their order; an error if nothing was measured."""
    if table.empty:
        raise BasinscopeError(
            "nothing to draw: no point was measured", "a measured point", "run the same line again"
        )
    return list(dict.fromkeys(table["task"]))


def _grid(points: pd.DataFrame, plane: PlaneSpec, column: str = "score") -> tuple[Any, Any, Any]:
    """Axes and matrix (a row for each y) of one task; NaN where nothing was measured yet."""
    xs, ys = sorted({*points["x"], *plane.xs}), sorted({*points["y"], *plane.ys})
    wide = points.pivot(index="y", columns="x", values=column).reindex(index=ys, columns=xs)
    return np.array(xs), np.array(ys), wide.to_numpy(dtype=float)


def _edges(centres: Any) -> Any:
    """Borders of cells about their centres; a single cell has width 1."""
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middles = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([2 * centres[:1] - middles[:1], middles, 2 * centres[-1:] - middles[-1:]])


def _axes(plane: PlaneSpec) -> tuple[str, str]:
    """What to write along x and y."""
    b, perpendicular, a = plane.y.partition("_|_")
    y = f"{short(b, 24)} ⊥ {short(a, 24)}" if perpendicular else short(b, 48)
    return f"x along {short(plane.x, 48)}", f"y along {y}"


def _path(panel: Any, trajectory: pd.DataFrame) -> None:
    """Checkpoints in order, with how far out of the plane they lie."""
    out = trajectory["residual"].dropna()
    share = f"; up to {out.max():.0%} of their distance out of the plane" if len(out) else ""
    at = (trajectory["x"], trajectory["y"])
    panel.plot(*at, color="black", linewidth=3.2, zorder=3)
    panel.plot(*at, color="#D55E00", linewidth=1.6, marker="o", markersize=4,
               markeredgecolor="black", zorder=4, label=f"checkpoints{share}")  # fmt: skip

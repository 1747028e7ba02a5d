"""The run as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Hashable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from basinscope.report.figures import plot_landscapes
from basinscope.report.likelihood import plot_likelihood, thresholding_tables
from basinscope.report.text import notes, side
from basinscope.runs.store import disk_error

if TYPE_CHECKING:
    import pandas as pd

    from basinscope.landscape import Landscape


def write_report(run: Landscape, folder: Path, level: float = 0.5) -> Path:
    """Write ``report.html``, and in ``figures`` what it shows, each picture with its CSV.

    Everything that comes from a model or a file is escaped by the template.

    Returns:
        Path of the page.
    """
    from jinja2 import Environment

    figure = plot_landscapes(folder / "figures" / "landscape.png", [run])
    plot_landscapes(folder / "figures" / "landscape.pdf", [run])
    likelihood = plot_likelihood(folder / "figures" / "likelihood.png", run)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    environment.filters["side"] = side
    source = files("basinscope.report").joinpath("page.html").read_text(encoding="utf-8")
    page = environment.from_string(source).render(
        spec=run.spec,
        widths=run.widths(level=level).to_dict(orient="records"),
        means=run.means().to_dict(orient="records"),
        compare=run.compare().to_dict(orient="records"),
        labels=_labels(run),
        spread=run.spread(level=level).to_dict(orient="records"),
        bands=_each(run, run.bands),
        variance=_each(run, run.variance),
        thresholding=thresholding_tables(run).to_dict(orient="records"),
        cosines=_picture(folder / "figures" / "cosines.png"),
        level=level,
        notes=notes(run, level),
        figure=_picture(figure),
        likelihood=_picture(likelihood) if likelihood else "",
        trials=len(run.trials),
    )
    path = folder / "report.html"
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise disk_error(path, error) from error
    return path


def _each(
    run: Landscape, table: Callable[[str, str], pd.DataFrame]
) -> list[dict[Hashable, object]]:
    """Rows of a table of the draws, where they are several at a step."""
    return [
        {"task": task, "direction": direction, **row}
        for task in run.tasks
        for direction in run.directions(task)
        if any(len(scores) > 1 for scores in run.curve(task, direction).values())
        for row in table(task, direction).to_dict(orient="records")
    ]


def _picture(path: Path) -> str:
    """A PNG as text for the page; empty if there is none."""
    return base64.b64encode(path.read_bytes()).decode() if path.exists() else ""


def _labels(run: Landscape) -> list[dict[str, object]]:
    """How often each label was given at each step, for tasks that have few labels (safety)."""
    tables: list[dict[str, object]] = []
    for task, own in run.items().groupby("task", sort=False):
        names = sorted(own["label"].unique())
        if len(names) > 4 or all(name.isdigit() for name in names):
            continue
        counts = own.groupby(["direction", "step"])["label"].value_counts(normalize=True)
        shares = counts.unstack(fill_value=0.0)[names]
        rows = [
            (*place, *share)
            for place, share in zip(shares.index, shares.to_numpy().tolist(), strict=True)
        ]
        tables.append({"task": task, "names": names, "rows": rows})
    return tables


def _number(x: float) -> str:
    if isinstance(x, float) and math.isnan(x):
        return "–"
    return "not reached" if isinstance(x, float) and math.isinf(x) else f"{x:.3g}"

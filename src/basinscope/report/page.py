"""The run as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Hashable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from basinscope.files import write
from basinscope.landscape.likelihood import thresholding_tables
from basinscope.report.figures import plot_landscapes
from basinscope.report.likelihood import plot_likelihood
from basinscope.report.sections import attempt
from basinscope.report.spread import plot_spread
from basinscope.report.text import notes, side

if TYPE_CHECKING:
    import pandas as pd

    from basinscope.landscape import Landscape


def write_report(run: Landscape, folder: Path, level: float = 0.5) -> Path:
    """Write ``report.html``, and in ``figures`` what it shows, each picture with its CSV.

    Every section stands alone: one that cannot be made is listed on the page with its reason.
    Everything that comes from a model or a file is escaped by the template.

    Returns:
        Path of the page.

    Raises:
        BasinscopeError: the page itself cannot be written.
    """
    from jinja2 import Environment

    missing: list[str] = []
    figures = folder / "figures"

    def table(name: str, make: Callable[[], pd.DataFrame]) -> list[dict[Hashable, object]]:
        return attempt(name, lambda: make().to_dict(orient="records"), missing) or []

    def draw(kind: str) -> Path:
        return plot_landscapes(figures / f"landscape.{kind}", [run], level=level)

    def picture(name: str, draw: Callable[[], Path | None]) -> str:
        path = attempt(name, draw, missing)
        return _picture(path) if path else ""

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    environment.filters["side"] = side
    source = files("basinscope.report").joinpath("page.html").read_text(encoding="utf-8")
    sections = {
        "figure": picture("the picture", lambda: draw("png")),
        "widths": table("the table of widths", lambda: run.widths(level=level)),
        "means": table("the table of scores", run.means),
        "compare": table("the paired comparison", run.compare),
        "labels": attempt("the kinds of answers", lambda: _labels(run), missing),
        "spread": table("the spread of widths", lambda: run.spread(level=level)),
        "bands": _each(run, "the bands", run.bands, missing),
        "variance": _each(
            run, "the variance between directions", run.variance, missing, crossed=False
        ),
        "thresholding": table("the thresholding of margins", lambda: thresholding_tables(run)),
        "cosines": _picture(figures / "cosines.png"),
        "draws": picture(
            "the picture of single draws", lambda: plot_spread(figures / "spread.png", run, level)
        ),
        "likelihood": picture(
            "the likelihood", lambda: plot_likelihood(figures / "likelihood.png", run)
        ),
        "notes": attempt("the notes", lambda: notes(run, level), missing),
    }
    attempt("the PDF", lambda: draw("pdf"), missing)
    page = environment.from_string(source).render(
        **sections, spec=run.spec, level=level, trials=len(run.trials), missing=missing
    )
    path = folder / "report.html"
    write(path, page)
    return path


def _each(
    run: Landscape,
    name: str,
    table: Callable[[str, str], pd.DataFrame],
    missing: list[str],
    *,
    crossed: bool = True,
) -> list[dict[Hashable, object]]:
    """Rows of a table of the draws, where they are several at a step, or answered all items."""
    rows: list[dict[Hashable, object]] = []
    for task in run.tasks:
        for direction in run.directions(task):
            if run.crossed(task, direction) and not crossed:
                continue
            if any(len(scores) > 1 for scores in run.curve(task, direction).values()):
                of_curve = attempt(
                    f"{name} of {task} along {direction}", partial(table, task, direction), missing
                )
                records = [] if of_curve is None else of_curve.to_dict(orient="records")
                rows += [{"task": task, "direction": direction, **row} for row in records]
    return rows


def _picture(path: Path) -> str:
    """A PNG as text for the page; empty if there is none."""
    return base64.b64encode(path.read_bytes()).decode() if path.exists() else ""


def _labels(run: Landscape) -> list[dict[str, object]]:
    """How often each label was given at each step, for tasks that have few labels (safety)."""
    tables: list[dict[str, object]] = []
    rows = run.items()
    weights = [w for trial, *_ in run.placed() for w in run.weights(trial)]
    for task, items in rows.assign(weight=weights).groupby("task", sort=False):
        names = sorted(items["label"].unique())
        if len(names) > 4 or all(name.isdigit() for name in names):
            continue
        weighed = items.groupby(["direction", "step", "label"])["weight"].sum()
        counts = weighed / weighed.groupby(["direction", "step"]).transform("sum")
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

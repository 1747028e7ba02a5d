"""A run of any kind as one HTML page that needs nothing beside it: no network, and no scripts.

Pictures are there twice: as a PNG, which is what a reader without scripts sees, and as a figure of
Plotly that takes its place. Plotly comes with the extra ``html``; without it the PNG stays.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basinscope.errors import printable
from basinscope.files import write
from basinscope.report.figures import COLOURS, STYLES

if TYPE_CHECKING:
    import pandas as pd

PAGE = "report.html"
SHOWN = 200  # items of a task that are listed, at most
LONGEST = 300  # characters of a text in a table, such as an answer
DASHES = dict(zip(STYLES, ("solid", "dash", "dot", "dashdot"), strict=True))


@dataclass(frozen=True)
class Sheet:
    """A table; see `sheet` for one of a data frame."""

    header: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG file, what it shows in words, and figures of Plotly that take its place."""

    path: Path | None
    alt: str
    figures: tuple[dict[str, Any], ...] = ()

    @property
    def png(self) -> str:
        """The file as text for the page; empty if there is none."""
        if self.path is None or not self.path.exists():
            return ""
        return base64.b64encode(self.path.read_bytes()).decode()


@dataclass(frozen=True)
class Section:
    """A heading, what it says in words, and what is shown there; ``folded`` until it is asked."""

    heading: str
    about: str = ""
    pictures: tuple[Picture, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    notes: Sequence[str] = ()
    folded: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        shown = any(picture.png or picture.figures for picture in self.pictures)
        return not (shown or any(sheet.rows for sheet in self.sheets) or self.notes)


@dataclass(frozen=True)
class Page:
    """What was asked and what came out, in a sentence each, and the sections below.

    ``facts`` say what was measured and of which weights; ``missing``, which sections could not be
    made and why; ``again``, how the run goes on, and how it is read.
    """

    title: str
    asked: str
    outcome: str
    facts: str = ""
    sections: Sequence[Section] = ()
    missing: Sequence[str] = ()
    again: Sequence[str] = ()

    def write(self, path: Path) -> Path:
        """Write the page; whatever comes from a model or a file is escaped.

        Raises:
            BasinscopeError: it cannot be written.
        """
        from jinja2 import Environment

        environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        environment.filters["cell"] = cell
        room = files("basinscope.report")
        template = environment.from_string(room.joinpath("page.html").read_text(encoding="utf-8"))
        sections = [section for section in self.sections if not section.empty]
        figures = [f for s in sections for p in s.pictures for f in p.figures]
        scripts = [room.joinpath("page.js").read_text(encoding="utf-8")]
        if figures and find_spec("plotly") is not None:
            from plotly.offline import get_plotlyjs

            scripts.insert(0, get_plotlyjs())
        else:
            figures = []
        # no other script runs here, whatever a model has written
        hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
        # read by no HTML parser: it would end at the first tag that closes a script
        data = json.dumps(figures, allow_nan=False).replace("<", "\\u003c")
        write(path, template.render(
            page=self, sections=sections, scripts=scripts, hashes=hashes, figures=data,
            live=bool(figures),
        ))  # fmt: skip
        return path


def sheet(table: pd.DataFrame | None, columns: dict[str, str], caption: str = "") -> Sheet:
    """A table of some columns of a data frame.

    Args:
        table: None for no rows.
        columns: header of each, and what stands below it: a column's name, with an interval where
            the names of its ends follow (``width[low,high]``), or the interval alone.
        caption: name of the table.
    """
    records = [] if table is None else table.to_dict(orient="records")
    rows = [[_entry(row, names) for names in columns.values()] for row in records]
    return Sheet(tuple(columns), rows, caption)


def _entry(row: dict[Any, Any], names: str) -> Any:
    """One cell: a value, a value with an interval (``v[low,high]``), or an interval."""
    value, bracket, ends = names.partition("[")
    if not bracket:
        return row[value]
    low, high = (cell(row[name]) for name in ends.rstrip("]").split(","))
    return f"{cell(row[value])} [{low}, {high}]" if value else f"[{low}, {high}]"


def cell(x: Any) -> str:
    """A value as a table shows it: three figures, a dash for what is missing, a long text's start.

    >>> cell(0.12345), cell(None), len(cell("x" * 9000))
    ('0.123', '–', 324)
    """
    if (isinstance(x, float) and math.isnan(x)) or x is None:
        return "–"
    if isinstance(x, float) and math.isinf(x):
        return "not reached"
    if isinstance(x, float):
        return f"{x:.3g}"
    text = str(x)
    rest = len(text) - LONGEST
    return printable(text if rest <= 0 else f"{text[:LONGEST]}... and {rest:,} characters")


def curves(
    title: str,
    lines: Iterable[tuple[str, pd.DataFrame]],
    *,
    x: str,
    y: str,
    ends: tuple[str, str] | None = None,
    axes: tuple[str, str],
    levels: dict[str, float] | None = None,
    marks: Iterable[tuple[str, float, float, float, float]] = (),
) -> dict[str, Any]:
    """Lines with bands as a figure of Plotly.

    Args:
        title: of the figure.
        lines: name and points of each.
        x: column of the horizontal axis.
        y: column of the vertical one.
        ends: columns of the band.
        axes: what is written along them.
        levels: horizontal lines by name.
        marks: intervals along x: name, x, its left and right end, y.
    """
    data: list[dict[str, Any]] = []
    for n, (name, table) in enumerate(lines):
        points, colour = table.sort_values(x), COLOURS[n % len(COLOURS)]
        xs = _numbers(points[x])
        if ends and points[list(ends)].notna().all(axis=None):
            low, high = (_numbers(points[end]) for end in ends)
            data.append({
                "x": xs + xs[::-1], "y": high + low[::-1], "fill": "toself", "mode": "lines",
                "line": {"width": 0}, "fillcolor": f"{colour}2E", "hoverinfo": "skip",
                "showlegend": False, "type": "scatter",
            })  # fmt: skip
            hover = [f"[{a}, {b}]" for a, b in zip(
                *([cell(v) for v in points[end]] for end in ends), strict=True)]  # fmt: skip
        else:
            hover = [""] * len(xs)
        data.append({
            "x": xs, "y": _numbers(points[y]), "text": hover, "name": html.escape(cell(name)),
            "mode": "lines+markers", "type": "scatter", "marker": {"size": 6},
            "line": {"color": colour, "width": 2, "dash": DASHES[STYLES[n % len(STYLES)]]},
            "hovertemplate": "%{x:.4g}: %{y:.3f} %{text}",
        })  # fmt: skip
    for name, middle, left, right, height in marks:
        data.append({
            "x": [middle], "y": [height], "name": html.escape(cell(name)), "type": "scatter",
            "mode": "markers", "showlegend": False,
            "marker": {"size": 9, "color": "#333333", "symbol": "line-ns-open"},
            "error_x": {
                "type": "data", "symmetric": False, "color": "#333333",
                "array": [max(0.0, right - middle)], "arrayminus": [max(0.0, middle - left)],
            },
            "hovertemplate": f"{middle:.4g} [{left:.4g}, {right:.4g}]",
        })  # fmt: skip
    shapes = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value,
         "line": {"color": "#777777", "width": 1, "dash": "dot"}}
        for value in (levels or {}).values()
    ]  # fmt: skip
    notes = [
        {"xref": "paper", "x": 1, "y": value, "text": html.escape(name), "showarrow": False,
         "xanchor": "right", "yanchor": "bottom", "font": {"size": 11, "color": "#555555"}}
        for name, value in (levels or {}).items()
    ]  # fmt: skip
    return {"data": data, "layout": {
        "title": {"text": html.escape(title), "font": {"size": 15}}, "shapes": shapes,
        "annotations": notes, "height": 380, "margin": {"l": 55, "r": 15, "t": 45, "b": 50},
        "xaxis": {"title": {"text": axes[0]}, "zeroline": True},
        "yaxis": {"title": {"text": axes[1]}},
        "legend": {"orientation": "h", "y": -0.22}, "plot_bgcolor": "white",
        "hoverlabel": {"namelength": -1},
    }}  # fmt: skip


def facts(spec: Any, trials: int) -> str:
    """Which weights, and how much was measured."""
    model = spec.model
    return (
        f"{model.d:,} perturbed parameters in {model.dtype}, RMS(θ₀) = {model.rms:.3g}; {trials:,} "
        f"trials. Weights {model.fingerprint}."
    )


def again(folder: Path) -> tuple[str, ...]:
    """How a run goes on, and how it is read."""
    return (
        f"The same line with --run {folder} goes on where it stopped, and measures nothing twice.",
        f"In Python: basinscope.load_run({str(folder)!r}). Its specification, with the hashes of "
        "weights and items, stands in the folder's header; basinscope verify checks every record.",
    )


def listed(words: Iterable[str]) -> str:
    """Words as a sentence lists them."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _numbers(column: Iterable[Any]) -> list[float | None]:
    """A column as JSON takes it."""
    return [float(x) if math.isfinite(x) else None for x in column]

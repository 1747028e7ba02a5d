"""Methods side by side: tables with intervals over seeds, forgetting at matched new-task loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from basinscope.comparison.groups import Group, read_groups
from basinscope.comparison.matched import MAIN
from basinscope.comparison.numbers import Number, numbers
from basinscope.errors import BasinscopeError, nearest, typed
from basinscope.files import write
from basinscope.stats.intervals import check_confidence

_MAIN = f"{100 * MAIN:.0f}"

COLUMNS = {
    "NLL": "nll",
    "NLL / reference": "nll_ratio",
    "width": "width",
    "width / RMS": "width_rms",
    "width / RMS, times": "width_rms_ratio",
    "NLL width / RMS, times": "nll_width_rms_ratio",
    "step cost": "step_cost",
    "passes": "passes",
    "new NLL before": "new_nll_before",
    "new NLL, best": "new_nll_best",
    f"forgetting at {_MAIN}%": f"forgetting_{_MAIN}",
    "less forgetting": f"reduction_{_MAIN}",
    f"old NLL at {_MAIN}%": f"old_nll_{_MAIN}",
}
"""Columns of the table for readers, and the quantities that they show."""

BRIEF = ("NLL / reference", "width / RMS", "width / RMS, times", "step cost", "less forgetting")
"""Those that fit a terminal."""

FIGURES = ("frontier", "curves", "over_training", "scale", "forgetting")
"""Figures of a comparison, by name."""


@dataclass(frozen=True)
class Comparison:
    """Rows of studies, compared.

    Attributes:
        groups: rows that may be compared: of one model, text, length and recipe.
        confidence: of every interval, each alone.
    """

    groups: tuple[Group, ...]
    confidence: float = 0.95

    def numbers(self) -> pd.DataFrame:
        """Every number, one a line.

        Columns: size, tokens, equal, label, quantity, n, estimate, low, high, reason. ``n`` seeds
        are behind it. Where estimate or ends are missing (NaN), ``reason`` says why.
        """
        rows = [
            (group.size, group.tokens, group.equal, one.label, one.quantity, one.n,
             one.interval.estimate, one.interval.low, one.interval.high, one.interval.reason)
            for group, every in self._each() for one in every
        ]  # fmt: skip
        names = "size tokens equal label quantity n estimate low high reason".split()
        return pd.DataFrame(rows, columns=names)

    def table(self) -> pd.DataFrame:
        """One line a method and group, with a column for each quantity and its two ends.

        A quantity ``q`` has the columns ``q``, ``q_low`` and ``q_high``; ``reasons`` says why any
        of them is missing. Quantities: docs/how-to/comparison.md.
        """
        rows = []
        for group, every in self._each():
            for label, seeds in group.rows.items():
                own = [one for one in every if one.label == label]
                row: dict[str, Any] = {
                    "size": group.size, "group_tokens": group.tokens, "equal": group.equal,
                    "label": label, "seeds": len(seeds),
                }  # fmt: skip
                for one in own:
                    row[one.quantity] = one.interval.estimate
                    row[f"{one.quantity}_low"] = one.interval.low
                    row[f"{one.quantity}_high"] = one.interval.high
                rows.append(row | {"reasons": _reasons(own)})
        return pd.DataFrame(rows)

    def summary(self) -> dict[str, Any]:
        """Everything as JSON takes it: None for what is missing, with its reason."""
        return {
            "confidence": self.confidence,
            "groups": [
                {
                    "title": group.title, "size": group.size, "tokens": group.tokens,
                    "equal": group.equal, "reference": group.reference or None,
                    "targets": {f"{share:g}": new for share, new in group.targets.items()},
                    "methods": [
                        {"label": label, "seeds": list(seeds),
                         "numbers": {o.quantity: _json(o) for o in every if o.label == label}}
                        for label, seeds in group.rows.items()
                    ],
                }
                for group, every in self._each()
            ],
        }  # fmt: skip

    def text(self, *, brief: bool = False) -> str:
        """Tables for reading, in Markdown, each with the reasons for what it lacks.

        Args:
            brief: only the columns that fit a terminal.
        """
        columns = BRIEF if brief else tuple(COLUMNS)
        parts = []
        for group, every in self._each():
            cells = {(one.label, one.quantity): _cell(one) for one in every}
            rows = [["method", "seeds", *columns]]
            for label, seeds in group.rows.items():
                own = [cells[label, COLUMNS[column]] for column in columns]
                rows.append([label.replace("|", "/"), str(len(seeds)), *own])
            shown = {COLUMNS[column] for column in columns}
            lines = [f"### {group.title}", "", *_aligned(rows), ""]
            parts.append("\n".join(lines + _notes(group, every, shown, self.confidence)))
        return "\n\n".join(parts)

    def save(self, folder: str | Path, figures: Collection[str] = FIGURES) -> list[Path]:
        """Write table.md and numbers.csv, and figures with their CSVs.

        Args:
            folder: made where it is missing.
            figures: some of `FIGURES`.

        Returns:
            The paths that were written.
        """
        from basinscope.report.figures import csv_of

        out = Path(folder)
        _check_figures(figures)
        texts = {
            "table.md": self.text() + "\n",
            "numbers.csv": csv_of(self.numbers(), float_format="%.6g"),
        }
        for name, content in texts.items():
            write(out / name, content)
        return [*(out / name for name in texts), *self.plot(out, figures)]

    def plot(self, folder: str | Path, figures: Collection[str] = FIGURES) -> list[Path]:
        """Draw figures as PNG and PDF, each with its CSV, where these rows have something for them.

        Args:
            folder: made where it is missing.
            figures: some of `FIGURES`.

        Returns:
            The paths of the PNGs.
        """
        from basinscope.comparison import frames
        from basinscope.report import widening as draw

        _check_figures(figures)
        ways: dict[str, Callable[[Path], Path | None]] = {
            "frontier": lambda path: draw.plot_frontier(path, frames.frontier(self.groups)),
            "curves": lambda path: draw.plot_curves(path, frames.curves(self.groups)),
            "over_training": lambda path: draw.plot_over_training(
                path, frames.over_training(self.groups)
            ),
            "scale": lambda path: draw.plot_scale(path, frames.scale(self.numbers())),
            "forgetting": lambda path: draw.plot_forgetting(path, frames.forgetting(self.groups)),
        }
        drawn = [ways[name](Path(folder) / f"{name}.png") for name in FIGURES if name in figures]
        return [path for path in drawn if path is not None]

    def _each(self) -> Iterator[tuple[Group, list[Number]]]:
        for group in self.groups:
            yield group, numbers(group, self.confidence)


@typed
def compare(
    *runs: str | Path, confidence: float = 0.95, reference: str | None = None
) -> Comparison:
    """Compare the methods of one or more studies.

    Rows are compared where their studies agree in all but methods and seeds; others (another size,
    length, text, or equal wall clock instead of equal tokens) form groups of their own, each with
    its own reference: plain ``adamw`` as the recipe sets it, unless another is named.

    Args:
        runs: run folders of `basinscope.widen`, finished or not.
        confidence: of the intervals over seeds, two-sided, in (0, 1).
        reference: label of the method that the others are compared with.

    Returns:
        The comparison: ``table()``, ``numbers()``, ``text()``, ``summary()``, ``plot(folder)``,
        ``save(folder)``.

    Raises:
        BasinscopeError: a folder without a study, or without rows; one label for two methods; a
            reference that is not there.

    Guarantee: means over seeds have Student's interval, ratios to the reference Fieller's, paired
        by seed: exact if the numbers are normal over seeds. The targets of forgetting are means
        over the same seeds and count as given. Each interval holds alone: of many methods the best
        one looks better than it is, and should be confirmed with seeds that chose nothing.
    """
    try:
        check_confidence(confidence)
    except ValueError as error:
        raise BasinscopeError(f"confidence={confidence!r}", "between 0 and 1", "0.95") from error
    return Comparison(read_groups([Path(run) for run in runs], reference), confidence)


def _check_figures(names: Collection[str]) -> None:
    for name in names:
        if name not in FIGURES:
            raise BasinscopeError(f"figure {name!r}", ", ".join(FIGURES), nearest(name, FIGURES))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown whose columns line up."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]


def _notes(
    group: Group, every: Sequence[Number], shown: Collection[str], confidence: float
) -> list[str]:
    """What stands below a table: its reference and target, and why numbers are missing."""
    notes = [f"- brackets: {100 * confidence:g}% over seeds, each interval alone"]
    if group.reference:
        notes.append(f"- reference: {group.reference}; ratios are paired by seed")
    if MAIN in group.targets:
        notes.append(
            f"- forgetting: old NLL minus that before tuning, where the new-task NLL first falls "
            f"to {group.targets[MAIN]:.4f}, {_MAIN}% of the reference's gain"
        )
    lacking: dict[tuple[str, str], list[str]] = {}
    for one in every:
        if one.quantity in shown and one.interval.reason:
            lacking.setdefault((one.quantity, one.interval.reason), []).append(one.label)
    by_reason: dict[tuple[str, str], list[str]] = {}
    for (quantity, reason), labels in lacking.items():
        by_reason.setdefault((", ".join(labels), reason), []).append(quantity)
    return notes + [
        f"- {', '.join(names)} of {labels}: {reason}"
        for (labels, reason), names in by_reason.items()
    ]


def _cell(one: Number) -> str:
    interval = one.interval
    if math.isnan(interval.estimate):
        return "–"
    percent = one.quantity.startswith("reduction")

    def show(value: float) -> str:
        return f"{100 * value:.1f}%" if percent else f"{value:.4g}"

    if math.isnan(interval.low) or interval.low == interval.high:
        return show(interval.estimate)
    return f"{show(interval.estimate)} [{show(interval.low)}, {show(interval.high)}]"


def _json(one: Number) -> dict[str, Any]:
    interval = one.interval
    ends = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    kept = {k: v if math.isfinite(v) else None for k, v in ends.items()}
    return {"n": one.n} | kept | ({"reason": interval.reason} if interval.reason else {})


def _reasons(own: Sequence[Number]) -> str:
    by_reason: dict[str, list[str]] = {}
    for one in own:
        if one.interval.reason:
            by_reason.setdefault(one.interval.reason, []).append(one.quantity)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())

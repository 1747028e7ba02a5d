"""The page of a landscape or a search, with everything that its records tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basinscope.landscape.likelihood import thresholding_tables
from basinscope.report.figures import plot_landscapes
from basinscope.report.likelihood import plot_likelihood
from basinscope.report.page import (
    SHOWN,
    Page,
    Picture,
    Section,
    Sheet,
    again,
    cell,
    curves,
    facts,
    listed,
    sheet,
)
from basinscope.report.sections import attempt
from basinscope.report.spread import plot_spread
from basinscope.report.text import notes, side

if TYPE_CHECKING:
    import pandas as pd

    from basinscope.landscape import Landscape

STEP = "step α"
LANDSCAPE = (
    "The step at which the mean score has fallen {:g}% of the way from its value at zero down to "
    "chance. With several draws the draw is the unit and the interval holds for the mean over all "
    "directions of the family on these items; with one draw the items are the unit and it holds "
    "for that direction."
)
SPREAD = (
    "Widths of single draws on these items. With 95% confidence at least the stated share of all "
    "directions has a width between the least and the greatest; relative spread is the standard "
    "deviation of log width, its interval assumes log-normal widths."
)
VARIANCE = (
    "Unbiased estimates, which may fall below zero by chance. To plan with: draws needed for the "
    "mean over directions, items for the score over all items, to be known to ±0.05 at 95%."
)
LIKELIHOOD = (
    "From the same trials: mean negative log-likelihood of the reference answers (of every token "
    "for a text), and the mean margin by which items are right or wrong. Their bands are Student's "
    "t over draws (over items for one draw), and approximate: these quantities have no bounds."
)
THRESHOLDS = (
    "The score if every margin had moved by the mean shift, and if by a normal number of its own "
    "besides (spread); AUC: whether the items that are lost are those with the smallest margins at "
    "zero (1: yes; 0.5: the margins say nothing). The intervals hold the mean over draws on these "
    "items (betting bounds, wide for few draws)."
)
KINDS = "Shares of all answers, every draw together: a description, without an interval."
CHANGED = (
    "What the model answered at zero and what it mostly answers there now, as the task read it; "
    "the items that most draws lost come first."
)


def landscape_page(run: Landscape, folder: Path, level: float = 0.5) -> Page:
    """Page of a landscape or a search; its figures, with their CSVs, go to ``folder/figures``."""
    missing: list[str] = []
    figures, spec = folder / "figures", run.spec

    def table(name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame | None:
        return attempt(name, make, missing)

    def draw(kind: str) -> Path:
        return plot_landscapes(figures / f"landscape.{kind}", [run], level=level)

    widths = table("the table of widths", lambda: _lined(run.widths(level=level)))
    means = table("the table of scores", run.means)
    spread = table("the spread of widths", lambda: _several(_lined(run.spread(level=level))))
    bands = _each(run, "the bands", run.bands, missing)
    variance = _each(run, "the variance between directions", run.variance, missing, crossed=False)
    spreads = attempt(
        "the picture of single draws", lambda: plot_spread(figures / "spread.png", run, level),
        missing,
    )  # fmt: skip
    live = None if means is None else attempt(
        "the figures", lambda: panels(run, means, widths, level), missing
    )  # fmt: skip
    png = attempt("the picture", lambda: draw("png"), missing)
    attempt("the PDF", lambda: draw("pdf"), missing)
    likelihood = attempt(
        "the likelihood", lambda: plot_likelihood(figures / "likelihood.png", run), missing
    )
    cosines, end = Picture(figures / "cosines.png", "Cosines between directions"), "[low,high]"
    differ = bool(spread is not None and len(spread)) or bool(bands.rows or variance.rows)
    sections = [
        Section("", pictures=(Picture(png, "Scores and half-widths at each step", live or ()),)),
        Section(
            f"Half-width of each basin at level {level:g}", LANDSCAPE.format(100 * level),
            sheets=(sheet(widths, {
                "task": "task", "chance": "chance", "score at zero": "score[score_low,score_high]",
                "direction": "line", "draws": "draws", "width α": "width", "interval": end,
                "α/RMS(θ₀)": "width_rms", "its interval": "[low_rms,high_rms]",
            }),), notes=attempt("the notes", lambda: notes(run, level), missing) or (),
        ),
        *([Section(
            "How much directions differ", SPREAD,
            (Picture(spreads, "Half-widths of single draws"),),
            (sheet(spread, {
                "task": "task", "direction": "line", "draws": "draws", "crossed": "crossed",
                "least": "least", "median": "median", "interval": "[median_low,median_high]",
                "greatest": "greatest", "share between": "share", "relative spread": "relative",
                "its interval": "[relative_low,relative_high]",
            }),),
        )] if differ else []),
        Section("Variance of an outcome, split into directions and items", VARIANCE,
                sheets=(variance,), folded=True),
        Section("Bands that hold at all steps at once", sheets=(bands,), folded=True),
        Section("Cosines between directions", pictures=(cosines,)),
        Section("Kinds of answers", KINDS, sheets=tuple(
            attempt("the kinds of answers", lambda: _labels(run), missing) or ())),
        Section("Items that were lost", CHANGED, sheets=tuple(
            attempt("the items that were lost", lambda: _lost(run), missing) or ()), folded=True),
        Section("Likelihood beside the 0-1 score", LIKELIHOOD,
                (Picture(likelihood, "Score, likelihood and margin against the step"),)),
        Section("Mean score at every step", sheets=(sheet(means, {
            "task": "task", "direction": "direction", "α": "step", "draws": "draws",
            "score": "score", "interval": end, "T": "T",
        }),), folded=True),
        Section("Difference from the score at zero, paired by item", sheets=(sheet(
            table("the paired comparison", run.compare), {
                "task": "task", "direction": "direction", "α": "step", "draws": "draws",
                "difference": "difference", "interval": end, "gained": "gained", "lost": "lost",
                "p": "p_value",
            }),), folded=True),
        Section("Does the score follow from the margins?", THRESHOLDS, sheets=(sheet(
            table("the thresholding of margins", lambda: thresholding_tables(run)), {
                "task": "task", "direction": "direction", "α": "step", "draws": "draws",
                "score": "score", "by shift": "shift",
                "minus score": "shift_error[shift_low,shift_high]",
                "by shift and spread": "spread",
                "its difference": "spread_error[spread_low,spread_high]",
                "AUC": "auc[auc_low,auc_high]",
            }),), folded=True),
    ]  # fmt: skip
    return Page(
        f"Capability basins of {spec.model.source}",
        f"How far can these weights move along {', '.join(spec.directions)} before "
        f"{listed(run.tasks)} {'is' if len(run.tasks) == 1 else 'are'} lost?",
        _said(widths), facts(spec, len(run.trials)), sections, missing, again(folder),
    )  # fmt: skip


def _lined(table: pd.DataFrame) -> pd.DataFrame:
    """A table of widths with the direction and its side in one column."""
    lines = [f"{row.direction} {side(row.sign)}" for row in table.itertuples()]
    return table.assign(line=lines)


def _several(spread: pd.DataFrame) -> pd.DataFrame:
    return spread[spread["draws"] > 1]


def _said(widths: pd.DataFrame | None) -> str:
    """The half-widths in words."""
    if (
        widths is None
        or widths.empty
        or not (rows := list(widths[widths["sign"] != 0].itertuples()))
    ):
        return "No half-width was found: the notes say why."
    return "Half-width: " + "; ".join(
        f"{row.task} {row.line} {cell(row.width)} [{cell(row.low)}, {cell(row.high)}]"
        for row in rows
    ) + "."  # fmt: skip


def panels(
    run: Landscape, means: pd.DataFrame, widths: pd.DataFrame | None, level: float
) -> tuple[dict[str, Any], ...]:
    """A figure for each task: mean scores with their intervals, half-widths at their level."""
    figures = []
    for task, points in means.groupby("task", sort=False):
        zero = points[points["step"] == 0]["score"]
        chance = {t.name: t.chance for t in run.spec.tasks}[str(task)]
        levels = {"chance": chance}
        if len(zero):
            levels["S(0)"] = float(zero.iloc[0])
        height = chance + (1 - level) * (levels.get("S(0)", 1.0) - chance)
        sides = () if widths is None else widths[widths["task"] == task].itertuples()
        marks = [
            (f"half-width {row.line}", row.sign * row.width, row.sign * (
                row.low if row.sign > 0 else row.high), row.sign * (
                row.high if row.sign > 0 else row.low), height)
            for row in sides
            if row.sign and all(map(math.isfinite, (row.width, row.low, row.high)))
        ]  # fmt: skip
        lines = list(points.groupby("direction", sort=False))
        figures.append(curves(
            str(task), [(str(name), line) for name, line in lines], x="step", y="score",
            ends=("low", "high"), axes=(STEP, "score"), levels=levels, marks=marks,
        ))  # fmt: skip
    return tuple(figures)


def _each(
    run: Landscape,
    name: str,
    table: Callable[[str, str], pd.DataFrame],
    missing: list[str],
    *,
    crossed: bool = True,
) -> Sheet:
    """A table of the draws, where they are several at a step, or answered all items."""
    import pandas as pd

    tables: list[pd.DataFrame] = []
    for task in run.tasks:
        for direction in run.directions(task):
            if run.crossed(task, direction) and not crossed:
                continue
            if any(len(scores) > 1 for scores in run.curve(task, direction).values()):
                of_curve = attempt(
                    f"{name} of {task} along {direction}", partial(table, task, direction), missing
                )
                if of_curve is not None:
                    tables.append(of_curve.assign(task=task, direction=direction))
    columns = {"task": "task", "direction": "direction", "α": "step", "draws": "draws"}
    if crossed:
        columns |= {"score": "score", "at this step": "[low,high]",
                    "at all steps": "[band_low,band_high]"}  # fmt: skip
    else:
        columns |= {
            "items": "items", "score": "score", "total": "total",
            "between directions": "between_directions", "between items": "between_items",
            "rest": "residual", "draws needed": "draws_needed", "items needed": "items_needed",
        }  # fmt: skip
    return sheet(pd.concat(tables) if tables else None, columns)


def _labels(run: Landscape) -> list[Sheet]:
    """How often each label was given at each step, for tasks that have few labels (safety)."""
    sheets = []
    rows = run.items()
    weights = [w for trial, *_ in run.placed() for w in run.weights(trial)]
    for task, items in rows.assign(weight=weights).groupby("task", sort=False):
        names = sorted(items["label"].unique())
        if len(names) > 4 or all(name.isdigit() for name in names):
            continue
        weighed = items.groupby(["direction", "step", "label"])["weight"].sum()
        counts = weighed / weighed.groupby(["direction", "step"]).transform("sum")
        shares = counts.unstack(fill_value=0.0)[names]
        sheets.append(Sheet(
            ("direction", "α", *names),
            [(*place, *share) for place, share in zip(
                shares.index, shares.to_numpy().tolist(), strict=True)], str(task),
        ))  # fmt: skip
    return sheets


def _lost(run: Landscape) -> list[Sheet]:
    """Items right at zero that draws lost: at each step in how many, and what they answer there."""
    rows = run.items()
    at_zero = rows[rows["step"] == 0].drop_duplicates(["task", "item"])
    right = at_zero[at_zero["outcome"] == 1][["task", "item", "label"]]
    moved = rows[rows["step"] != 0].merge(right, on=["task", "item"], suffixes=("", "_zero"))
    sheets = []
    for task, items in moved.groupby("task", sort=False):
        places = items.groupby(["direction", "step", "item"], sort=False)
        table = places.agg(
            draws=("outcome", "size"), right=("outcome", "sum"), before=("label_zero", "first")
        )
        table["lost"] = table["draws"] - table["right"]
        wrong = items[items["outcome"] == 0]
        table = table[table["lost"] > 0].join(
            wrong.groupby(["direction", "step", "item"])["label"].agg(
                lambda labels: labels.mode().iloc[0]).rename("now")
        ).reset_index()  # fmt: skip
        order = [-table["lost"] / table["draws"], table["step"].abs()]
        table = table.assign(a=order[0], b=order[1]).sort_values(["a", "b"], kind="stable")
        more = (
            f"; {len(table) - SHOWN:,} more in load_run(...).items()" if len(table) > SHOWN else ""
        )
        sheets.append(sheet(table.head(SHOWN), {
            "item": "item", "direction": "direction", "α": "step", "draws": "draws",
            "lost in": "lost", "answer at zero": "before", "answer there": "now",
        }, f"{task}{more}"))  # fmt: skip
    return sheets

"""The page of each kind of run: what was asked, what came out, and the sections below."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basinscope.landscape.likelihood import thresholding_tables
from basinscope.report.figures import plot_landscapes
from basinscope.report.likelihood import plot_likelihood
from basinscope.report.page import Page, Picture, Section, Sheet, cell, curves, sheet
from basinscope.report.sections import attempt
from basinscope.report.spread import plot_spread
from basinscope.report.text import notes, side
from basinscope.stats.rounded import at_least, radius_text

if TYPE_CHECKING:
    import pandas as pd

    from basinscope.attack import Attack
    from basinscope.certify import Certificate
    from basinscope.check import Check
    from basinscope.comparison import Comparison
    from basinscope.finetuning import FineTune
    from basinscope.landscape import Landscape, Surface

PAGE = "report.html"
SHOWN = 200  # items of a task that are listed, at most
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
CHECKED = (
    "For items like these: with confidence {0:g} no row says lost that is not, and with the same "
    "none says kept that is not. Each end of a change holds by itself. McNemar's test is of any "
    "change, for items asked in one look."
)
STOOD = (
    "None of it decides the verdict; each interval holds by itself. What was not asked for is not "
    "there."
)
STANDS = {
    "margin": "half is lost at, in its own displacements",
    "random": "displacement over the random half-width",
    "kl": "KL from the base, nats a token",
    "certificate": "certified mean score under noise",
}
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
        "the figures", lambda: _panels(run, means, widths, level), missing
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
        f"{_and(run.tasks)} {'is' if len(run.tasks) == 1 else 'are'} lost?",
        _said(widths), _facts(spec, len(run.trials)), sections, missing, _again(folder),
    )  # fmt: skip


def surface_page(surface: Surface, folder: Path, trajectory: pd.DataFrame | None = None) -> Page:
    """Page of a surface.

    Args:
        surface: its records.
        folder: of the run; the picture goes to its ``figures``.
        trajectory: from `basinscope.trajectory`, to be drawn over it.
    """
    from basinscope.report.surfaces import surface_figures

    missing: list[str] = []
    points, plane = surface.to_pandas(), surface.plane
    picture = attempt("the picture", lambda: surface.plot(
        folder / "figures" / "surface.png", trajectory=trajectory), missing)  # fmt: skip
    live = attempt("the figure to turn about", lambda: surface_figures(
        points, plane, trajectory), missing) or ()  # fmt: skip
    lowest = points.loc[points.groupby("task", sort=False)["score"].idxmin()]
    return Page(
        f"A surface of {surface.spec.model.source}",
        f"What do the weights score over the plane of {plane.x} and {plane.y}?",
        "Lowest in it: " + "; ".join(
            f"{row.task} {row.score:.3g} [{row.low:.3g}, {row.high:.3g}] at ({row.x:.3g}, "
            f"{row.y:.3g})" for row in lowest.itertuples()) + ".",
        _facts(surface.spec, len(surface.trials)),
        [
            Section("", pictures=(Picture(picture, "Scores over the plane", live),)),
            Section("Every point", "Each interval holds for its own point of this plane.",
                    sheets=(sheet(points, {
                        "task": "task", "x": "x", "y": "y", "items": "n", "right": "correct",
                        "score": "score", "interval": "[low,high]"}),), folded=True),
        ], missing, _again(folder),
    )  # fmt: skip


def certificate_page(cert: Certificate, folder: Path) -> Page:
    """Page of a certificate."""
    import numpy as np
    import pandas as pd

    from basinscope.report.certificates import plot_bounds

    missing: list[str] = []
    picture = attempt("the picture", lambda: plot_bounds(
        folder / "figures" / "certificate.png", [cert]), missing)  # fmt: skip
    far = 1.5 * cert.radius(cert.task.chance) if cert.p_lower > cert.task.chance else cert.sigma
    far = far if math.isfinite(far) and far > 0 else 3 * cert.sigma
    r = np.linspace(0, far, 60)
    bound = pd.DataFrame({"r": r, "bound": np.asarray(cert.lower_bound(r))})
    live = curves(
        f"{cert.task.name}, σ = {cert.sigma:g}", [("certified lower bound", bound)],
        x="r", y="bound", axes=("distance r", "smoothed score"),
        levels={"chance": cert.task.chance, "target": cert.target},
    )  # fmt: skip
    return Page(
        f"A certificate of {cert.model.source}",
        f"How much of {cert.task.name!r} is surely left under noise of σ = {cert.sigma:g}, and of "
        "how large a displacement does that hold?",
        f"At least {at_least(cert.p_lower, 3)} with confidence {cert.confidence:g} ({cert.draws} "
        f"draws); for a displacement up to {radius_text(cert.radius())} still {cert.target:.3g}.",
        f"Weights {cert.fingerprint}.",
        [
            Section("", cert.covers, (Picture(picture, "Bound against the distance", (live,)),)),
            Section("What it does not cover", notes=cert.does_not_cover),
            Section("The bound", sheets=(Sheet(
                ("distance r", "smoothed score at least"),
                [(float(x), at_least(y, 3)) for x, y in bound.iloc[::3].to_numpy()]),),
                folded=True),
        ], missing, _again(folder),
    )  # fmt: skip


def check_page(gate: Check, folder: Path) -> Page:
    """Page of a gate."""
    from basinscope.check.formats import headline, standing

    table = gate.to_pandas()
    items = [
        (c.tuned, c.task, kind, item)
        for c in gate.changes
        for kind, ids in (("lost", c.lost), ("gained", c.gained))
        for item in ids[:SHOWN]
    ]
    tuned = _and(dict.fromkeys(c.tuned for c in gate.changes))
    return Page(
        f"A check of {gate.base}",
        f"Did {tuned} lose more than is allowed of {_and(dict.fromkeys(table.task))}?",
        f"{headline(gate)}.",
        "The same items before and after, in a random order, until each verdict was decided.",
        [
            Section("Before and after", CHECKED.format(gate.confidence), sheets=(sheet(table, {
                "model": "tuned", "task": "task", "before": "before", "after": "after",
                "change": "difference", "low": "low", "high": "high", "allowed loss": "allow",
                "verdict": "verdict", "items asked": "n", "of": "whole",
                "items that would decide (an estimate)": "needed", "McNemar's p": "p_value",
            }),)),
            Section("Where the models stand", STOOD, notes=standing(gate), sheets=(Sheet(
                ("model", "of", "what", "low", "estimate", "high", "confidence"),
                [(row.tuned, row.of, STANDS[row.kind], *map(cell, (row.low, row.estimate, row.high,
                  row.confidence))) for row in gate.stands]),)),
            Section("Items lost and gained", sheets=(
                Sheet(("model", "task", "", "item"), items),), folded=True),
        ], (), _again(folder),
    )  # fmt: skip


def attack_page(worst: Attack, folder: Path, measured: Landscape | None) -> Page:
    """Page of an attack: along what it found, how far each task holds.

    Args:
        worst: the attack.
        folder: of the run.
        measured: the points that its radii are read off, where there are any.
    """
    missing: list[str] = []
    edges = worst.summary()["collapse"]
    picture = live = None
    if measured is not None:
        picture = attempt(
            "the picture",
            lambda: plot_landscapes(
                folder / "figures" / "worst.png", [measured], level=worst.level
            ),
            missing,
        )
        live = attempt("the figures", lambda: _panels(
            measured, measured.means(), None, worst.level), missing)  # fmt: skip
    starts = [(s.start, s.loss, s.radius, s.ended or "–") for s in worst.starts]
    return Page(
        f"An attack on {worst.objective}",
        f"Along which direction is {worst.objective} lost soonest ({worst.method})?",
        f"Its loss rose from {worst.loss_at_zero:.4g} to {cell(worst.loss)} at norm "
        f"{worst.radius:.4g}. A local maximum: the worst direction may be worse, so the radii are "
        "upper bounds.",
        sections=[
            Section("", pictures=(Picture(picture, "Scores along the direction", live or ()),)),
            Section(f"Collapse radius at level {worst.level:g}", sheets=(Sheet(
                ("task", "side", "score at zero", "items", "α", "norm", "α/RMS(θ₀)"),
                [(e["task"], side(e["sign"]), e["score"], e["n_items"],
                  *(f"[{cell(e[f'{u}_low'])}, {cell(e[f'{u}_high'])}]"
                    for u in ("alpha", "norm", "rms"))) for e in edges]),),
                notes=[f"{row.task} {row.sign:+d}: {row.reason}"
                       for row in worst.collapse if row.reason]),
            Section("Starts", sheets=(Sheet(("start", "loss", "norm", "ended"), starts),)),
        ], missing=missing, again=_again(folder),
    )  # fmt: skip


def finetune_page(tuned: FineTune, folder: Path) -> Page:
    """Page of a fine-tune: its loss, its displacement, and a guarantee where there is one."""
    import pandas as pd

    from basinscope.report.losses import plot_losses

    missing: list[str] = []
    losses = pd.DataFrame({"step": range(1, len(tuned.losses) + 1), "loss": tuned.losses})
    live = curves("Training loss", [("loss", losses)], x="step", y="loss",
                  axes=("step", "loss (nats a token)"))  # fmt: skip
    picture = attempt("the picture", lambda: plot_losses(
        folder / "figures" / "loss.png", losses), missing)  # fmt: skip
    held = tuned.guarantee
    promised = [] if held is None else [Section(
        "Guarantee", f"{held.task} {held.word}: {held.reason} (confidence {held.confidence:g}, "
        f"sigma {held.sigma:g}, {held.geometry})", notes=held.does_not_cover)]  # fmt: skip
    return Page(
        f"A fine-tune of {tuned.model}",
        f"What does {tuned.method} training on these rows do to the weights?",
        f"In {tuned.steps} steps the loss went from {tuned.losses[0]:.3f} to "
        f"{tuned.losses[-1]:.3f}, and the weights moved by {tuned.displacement:.4g} (norm).",
        ", ".join(f"{n:,} {name}" for name, n in tuned.counts.items() if n),
        [
            Section("", pictures=(Picture(picture, "Training loss at each step", (live,)),)),
            *promised,
            Section("Notes", notes=tuned.notes),
            Section("Loss at each step", sheets=(sheet(losses, {"step": "step", "loss": "loss"}),),
                    folded=True),
        ], missing, _again(folder),
    )  # fmt: skip


def study_page(made: Comparison, folder: Path, files: Iterable[Path]) -> Page:
    """Page of a study of training methods, from the files that `Comparison.save` wrote."""
    table = made.table()
    shown = [c for c in table if f"{c}_low" in table and table[c].notna().any()]
    ends = {c: f"{c}[{c}_low,{c}_high]" for c in shown}
    return Page(
        "A study of training methods",
        "Which way of training leaves wider basins, and forgets less?",
        "Means over seeds with 95% intervals, below; missing numbers are dashes, with the reason "
        "in the last column.",
        sections=[
            *(Section(path.stem.replace("_", " ").capitalize(),
                      pictures=(Picture(path, path.stem),))
              for path in files if path.suffix == ".png"),
            Section("Every number", sheets=(sheet(table, {
                "method": "label", "size": "size", "tokens": "group_tokens", "seeds": "seeds",
                **ends, "reasons": "reasons"}),)),
        ], again=_again(folder),
    )  # fmt: skip


def _lined(table: pd.DataFrame) -> pd.DataFrame:
    """A table of widths with the direction and its side in one column."""
    lines = [f"{row.direction} {side(row.sign)}" for row in table.itertuples()]
    return table.assign(line=lines)


def _several(spread: pd.DataFrame) -> pd.DataFrame:
    return spread[spread["draws"] > 1]


def _facts(spec: Any, trials: int) -> str:
    """Which weights, and how much was measured."""
    model = spec.model
    return (
        f"{model.d:,} perturbed parameters in {model.dtype}, RMS(θ₀) = {model.rms:.3g}; {trials:,} "
        f"trials. Weights {model.fingerprint}."
    )


def _again(folder: Path) -> tuple[str, ...]:
    """How a run goes on, and how it is read."""
    return (
        f"The same line with --run {folder} goes on where it stopped, and measures nothing twice.",
        f"In Python: basinscope.load_run({str(folder)!r}). Its specification, with the hashes of "
        "weights and items, stands in the folder's header; basinscope verify checks every record.",
    )


def _and(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


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


def _panels(
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

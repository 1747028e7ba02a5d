"""The page of each kind of run: what was asked, what came out, and the sections below."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from basinscope.report.figures import plot_landscapes
from basinscope.report.landscapes import panels
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
from basinscope.report.text import side
from basinscope.stats.rounded import at_least, radius_text

if TYPE_CHECKING:
    import pandas as pd

    from basinscope.attack import Attack
    from basinscope.certify import Certificate
    from basinscope.check import Check
    from basinscope.comparison import Comparison
    from basinscope.finetuning import FineTune
    from basinscope.landscape import Landscape, Surface

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
        facts(surface.spec, len(surface.trials)),
        [
            Section("", pictures=(Picture(picture, "Scores over the plane", live),)),
            Section("Every point", "Each interval holds for its own point of this plane.",
                    sheets=(sheet(points, {
                        "task": "task", "x": "x", "y": "y", "items": "n", "right": "correct",
                        "score": "score", "interval": "[low,high]"}),), folded=True),
        ], missing, again(folder),
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
        ], missing, again(folder),
    )  # fmt: skip


def check_page(gate: Check, folder: Path) -> Page:
    """Page of a gate."""
    from basinscope.check.formats import headline, standing
    from basinscope.check.run import read_answers

    table, missing = gate.to_pandas(), list[str]()
    labels = attempt("the models' answers", lambda: read_answers(folder), missing) or {}
    items = [
        (c.tuned, c.task, kind, item, *(
            labels.get((c.task, model), {}).get(item, "–") for model in (None, c.tuned)))
        for c in gate.changes
        for kind, ids in (("lost", c.lost), ("gained", c.gained))
        for item in ids[:SHOWN]
    ]  # fmt: skip
    tuned = listed(dict.fromkeys(c.tuned for c in gate.changes))
    return Page(
        f"A check of {gate.base}",
        f"Did {tuned} lose more than is allowed of {listed(dict.fromkeys(table.task))}?",
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
            Section("Items lost and gained", "The answers as the task read them.", sheets=(
                Sheet(("model", "task", "", "item", "before", "after"), items),), folded=True),
        ], missing, again(folder),
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
        live = attempt("the figures", lambda: panels(
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
        ], missing=missing, again=again(folder),
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
        ], missing, again(folder),
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
        ], again=again(folder),
    )  # fmt: skip

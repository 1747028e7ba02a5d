"""Certificates as figures: the bound against the displacement, certified against measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from basinscope.errors import BasinscopeError
from basinscope.report.figures import COLOURS, check_name, plain, save, short
from basinscope.stats import smoothing as formulas
from basinscope.stats.rounded import at_least

if TYPE_CHECKING:
    from basinscope.certify import Certificate, Verdict

REFERENCE = (0.7, 0.9, 0.99, 0.999)
"""Values of p whose curves are drawn thin beside the certified one."""


def plot_bounds(
    path: Path, certificates: Sequence[Certificate], verdicts: Sequence[Verdict] = ()
) -> Path:
    """Draw the lower bound of the smoothed score against the distance r.

    One colour for each certificate (sigma, task), thin lines for what other values of p would
    give, hatched where no bound says more than chance, and a line for every model judged, with its
    measured smoothed score where there is one.

    Args:
        path: ``.png``, ``.pdf`` or ``.svg``.
        certificates: at least one, all in the same geometry: r has its unit.
        verdicts: models to mark; those outside the geometry have no r and are left out.

    Returns:
        The path of the figure; the CSV lies beside it.

    Raises:
        BasinscopeError: no certificate, or several geometries.
    """
    kinds = {cert.plan.covariance for cert in certificates}
    if len(kinds) != 1:
        raise BasinscopeError(
            f"{len(certificates)} certificates in {len(kinds)} geometries",
            "one geometry, whose unit r has",
            "a figure for each geometry",
        )
    marks = [v for v in verdicts if math.isfinite(v.r) and v.r > 0]
    smallest = min(cert.sigma for cert in certificates)
    far = max([6 * max(cert.sigma for cert in certificates), *(2 * v.r for v in marks)])
    r = np.concatenate(([0.0], np.geomspace(smallest / 100, far, 400)))
    figure, axis = _figure(path)
    rows: list[tuple[object, ...]] = []
    for n, cert in enumerate(certificates):
        colour, name = COLOURS[n % len(COLOURS)], f"{cert.task.name}, σ = {cert.sigma:g}"
        for p in REFERENCE:
            curve = formulas.lower_bound(p, r, cert.sigma)
            thin = f"thin: p = {', '.join(map(str, REFERENCE))}" if not rows else None
            axis.plot(r, curve, color=colour, linewidth=0.6, alpha=0.5, label=thin)
            rows += [(name, f"p = {p:g}", *pair) for pair in zip(r, curve, strict=True)]
        curve = np.asarray(cert.lower_bound(r))
        axis.plot(
            r,
            curve,
            color=colour,
            linewidth=2,
            label=f"{short(name)}, p ≥ {at_least(cert.p_lower, 3)}",
        )
        rows += [(name, "certified", *pair) for pair in zip(r, curve, strict=True)]
    chance = max(cert.task.chance for cert in certificates)
    axis.axhspan(-0.03, max(chance, 0.005), facecolor="none", edgecolor="#999999", hatch="///",
                 linewidth=0, label="vacuous: no more than chance")  # fmt: skip
    for v in marks:
        axis.axvline(v.r, color="#444444", linewidth=0.8, linestyle="--")
        axis.annotate(
            short(v.label, 28), (v.r, 1.02), rotation=90, fontsize=6, va="top", ha="right"
        )
        rows.append((v.label, "bound", v.r, v.bound))
        for kind, interval, marker in (("p", v.smoothed, "D"), ("S", v.score, "o")):
            if interval is not None:
                axis.errorbar([v.r], [interval.estimate],
                              [[interval.estimate - interval.low],
                               [interval.high - interval.estimate]],
                              fmt=marker, markersize=5, color="#444444", capsize=2)  # fmt: skip
                rows.append((v.label, f"measured {kind}(theta')", v.r, interval.estimate))
    axis.set_xscale("symlog", linthresh=smallest / 10)
    axis.set(xlim=(0, far), ylim=(-0.03, 1.03), ylabel="smoothed score",
             xlabel=f"distance r in the geometry {certificates[0].plan.geometry}")  # fmt: skip
    table = pd.DataFrame(rows, columns=["what", "curve", "r", "value"])
    return _write(path, figure, axis, table)


def plot_measured(path: Path, verdicts: Sequence[Verdict]) -> Path:
    """Draw what was certified against what was measured of the same models.

    A diamond is the smoothed score p(theta'), which the bound is on: with the certificate's
    confidence it lies on or above the diagonal. A circle is the score of the single model, which
    the bound says nothing of.

    Raises:
        BasinscopeError: nothing was measured.
    """
    rows = [
        (v.label, kind, v.bound, i.low, i.estimate, i.high)
        for v in verdicts
        for kind, i in (("p(theta')", v.smoothed), ("S(theta')", v.score))
        if i is not None
    ]
    if not rows:
        raise BasinscopeError(
            "no verdict was measured", "verdicts with a score", "cert.verdict(other, task=task)"
        )
    table = pd.DataFrame(rows, columns=["model", "kind", "bound", "low", "measured", "high"])
    figure, axis = _figure(path)
    axis.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, label="certified = measured")
    for kind, marker, colour in (("p(theta')", "D", COLOURS[0]), ("S(theta')", "o", COLOURS[1])):
        of_kind = table[table["kind"] == kind]
        if not of_kind.empty:
            ends = [of_kind["measured"] - of_kind["low"], of_kind["high"] - of_kind["measured"]]
            axis.errorbar(of_kind["bound"], of_kind["measured"], ends, fmt=marker, color=colour,
                          capsize=2, label=f"measured {kind}")  # fmt: skip
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="certified lower bound",
             ylabel="measured")  # fmt: skip
    return _write(path, figure, axis, table)


def _figure(path: Path) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    check_name(path)
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axis = figure.subplots()
    axis.grid(alpha=0.25)
    return figure, axis


def _write(path: Path, figure: Any, axis: Any, table: pd.DataFrame) -> Path:
    legend = axis.legend(fontsize=8, framealpha=0.9)
    plain([*legend.get_texts(), *axis.texts])
    save(figure, path, table)
    return path

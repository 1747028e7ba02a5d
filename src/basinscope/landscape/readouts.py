r"""Numbers that others report of a landscape, each with an interval over draws.

*VISAGE* (Peng et al., "Navigating the Safety Landscape", NeurIPS 2024, arXiv 2405.17374): the mean
safety margin of the models in the basin,

.. math:: E_{\alpha \sim U(-a, a)} [S_{\max} - S(\alpha) \mid S(\alpha) < S_{\max}],

where their S is the share of attacks that succeed and :math:`S_{\max}` is all of them: the mean
score, here, of the points where any item is right. Theirs is in percent, over three directions,
:math:`a = 0.5` and 21 points; their directions are those of `basinscope.directions.Layerwise`.

*Sigma of the likelihood*: the standard deviation of weight noise at which the NLL has risen by a
share for half of the draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from basinscope import stats
from basinscope.stats import Interval

if TYPE_CHECKING:
    import pandas as pd

    from basinscope.landscape.record import Landscape
    from basinscope.runs.store import Trial

FEW = "no draw answered all items at every step: measure with --draws 12 --steps=-0.02:0.02:21"


def visage(land: Landscape, task: str, direction: str, confidence: float) -> Interval:
    """What `Landscape.visage` gives."""
    points = land.at_steps(task, direction)
    steps = np.array(list(points))
    even = np.linspace(-steps.max(), steps.max(), steps.size)
    if steps.size < 3 or np.abs(steps - even).max() > 0.01 * steps.max():
        return _nothing("steps are not spread evenly from -a to a", confidence)
    means = []
    for trials in land.draws(task, direction).values():
        if len(trials) == steps.size and all(t.whole for t in trials):
            scores = [t.score for t in trials if t.score > 0]
            means.append(sum(scores) / len(scores) if scores else 0.0)
    return stats.mean_over_draws(means, confidence) if means else _nothing(FEW, confidence)


def nll_sigma(
    land: Landscape, task: str, direction: str, sign: int, rise: float, confidence: float
) -> Interval:
    """What `Landscape.nll_sigma` gives."""
    zero = land.at_steps(task, "").get(0.0, [None])[0]
    places = [] if zero is None else [n for n, nll in enumerate(zero.nlls) if nll is not None]
    if zero is None or not places:
        return _nothing("the task has no likelihoods", confidence)
    limit = (1 + rise) * _nll(zero, places)
    crossings = []
    for trials in land.draws(task, direction).values():
        side = [t for t in trials if t.step * sign > 0 and t.whole]
        if side:
            curve = [(abs(t.step), _nll(t, places)) for t in side]
            crossings.append(_crossing([(0.0, _nll(zero, places)), *sorted(curve)], limit))
    if not crossings:
        return _nothing(FEW, confidence)
    inner, between, outer = zip(*crossings, strict=True)
    median = stats.median_interval(between, confidence).estimate
    low = max(stats.median_interval(inner, confidence).low, 0.0)
    high = stats.median_interval(outer, confidence).high
    reason = ""
    if math.isinf(median):
        reason = f"half of the {len(crossings)} draws rise less than that: measure further out"
    elif math.isinf(high):
        reason = f"{len(crossings)} draws, some of which rise less, have no upper end: measure more"
    return Interval(low, median, high, confidence, reason)


def visages(land: Landscape) -> pd.DataFrame:
    """One row for each task and direction: task, direction, a, visage, low, high, reason."""
    return _table(land, "a", "visage", lambda task, direction: [
        (max(land.at_steps(task, direction)), land.visage(task, direction))
    ])  # fmt: skip


def nll_sigmas(land: Landscape) -> pd.DataFrame:
    """One row for each task, direction and sign: .., sign, sigma, low, high, reason."""
    return _table(land, "sign", "sigma", lambda task, direction: [
        (sign, land.nll_sigma(task, direction, sign=sign))
        for sign in (1, -1)
        if any(step * sign > 0 for step in land.at_steps(task, direction))
    ])  # fmt: skip


def _table(
    land: Landscape, at: str, name: str, make: Callable[[str, str], list[tuple[float, Interval]]]
) -> pd.DataFrame:
    import pandas as pd

    rows = [
        (task, direction, where, value.estimate, value.low, value.high, value.reason)
        for task in land.tasks
        for direction in land.directions(task)
        for where, value in make(task, direction)
    ]
    return pd.DataFrame(rows, columns=["task", "direction", at, name, "low", "high", "reason"])


def _nll(trial: Trial, places: Sequence[int]) -> float:
    """Mean NLL of items, of a token where they say how many they hold; infinite if one is lost."""
    nlls = [trial.nlls[place] for place in places]
    if any(nll is None for nll in nlls):
        return math.inf
    sizes = [(trial.tokens[place] or 0) if trial.tokens else 1 for place in places]
    return sum(nll for nll in nlls if nll is not None) / max(sum(sizes), 1)


def _crossing(curve: Sequence[tuple[float, float]], limit: float) -> tuple[float, float, float]:
    """Last step before a curve reaches a limit, where it does by interpolation, first step after.

    >>> _crossing([(0.0, 1.0), (1.0, 1.25), (2.0, 1.75)], 1.5)
    (1.0, 1.5, 2.0)
    """
    for (a, before), (b, after) in pairwise(curve):
        if after >= limit:
            share = 1.0 if math.isinf(after) else (limit - before) / (after - before)
            return a, a + share * (b - a), b
    return curve[-1][0], math.inf, math.inf


def _nothing(reason: str, confidence: float) -> Interval:
    return Interval(math.nan, math.nan, math.nan, confidence, reason)

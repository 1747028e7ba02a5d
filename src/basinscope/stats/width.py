r"""Width of a basin along one sign of the step, with a confidence interval.

Definition. Let :math:`p(a)` be the mean score at distance ``a >= 0`` from theta0 and

.. math:: s^* = \text{chance} + (1 - \text{level}) (S(0) - \text{chance}),

for level 0.5 the score half of the way from the score at zero down to chance (T = level, where
the curve's minimum is the chance level). The width is the first crossing,
:math:`w = \inf\{a : p(a) < s^*\}`. It is estimated by linear interpolation on the measured grid,
and never beyond it: a curve that does not cross where it was measured has no width.

Interval. Two walks over the measured steps :math:`0 < a_1 < \dots < a_n`, each stopping at its
first failure, with error e = (1 - confidence)/2 each and ``L_i``, ``U_i`` one-sided bounds for
:math:`p(a_i)` that err with probability e:

* outward from 0 while ``L_i > s*``; ``low`` is the last step reached (0 if none);
* inward from :math:`a_n` while ``U_i < s*``; ``high`` is the last step reached (infinite if none).

Fixed-sequence testing (Maurer, Hothorn and Lehmacher 1995) needs no correction for the number of
steps. To go too far, the outward walk must pass the *first* step with :math:`p(a_k) \le s^*`, one
fixed step, where the test errs with probability at most e; likewise the inward walk and the
*last* step with :math:`p(a_k) \ge s^*`. The tests may depend on each other in any way.

Guarantee, the steps being fixed before sampling:

* P(every measured step up to ``low`` has p > s*) >= 1 - e. Hence ``low <= w`` if the curve does
  not dip below s* *between* neighbouring steps that both lie above it; of such a dip nothing was
  seen.
* P(every measured step from ``high`` on has p < s*) >= 1 - e. Hence ``w <= high`` for any curve
  whatever. If it recovers beyond its first crossing, ``high`` bounds the last one and is merely
  late; if it has recovered at the outermost step, ``high`` is infinite.
* Together: [low, high] covers w with probability at least ``confidence``; if the curve crosses
  several times, it covers the first and the last measured crossing.
* Steps chosen in the light of the results (bisection) keep this if besides each unit's own curve
  is non-increasing in ``a``: the bounds increase with the scores, so no step beyond w can pass
  where w itself would not. Otherwise it is not guaranteed.
* So does the number of items of a point, if they are taken in a random order that is the same at
  every step. Along one direction the items are the units and the bounds hold for every number of
  them at once. Over draws a point is decided after one of ``looks`` batches, each of which gives
  the draw, as a unit, another curve, with its share of the error: e / looks.

``low <= estimate <= high`` needs no clipping: a bound above s* implies a mean above it, so the
first mean below s* comes after ``low``; every mean from ``high`` on is below s*, so the first
one comes no later.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from basinscope.stats.bounds import lower_mean, upper_mean
from basinscope.stats.intervals import check_binary, check_confidence, lower_proportion
from basinscope.stats.verdicts import paired


@dataclass(frozen=True, slots=True)
class Width:
    """Width of the basin along one sign of the step, in units of step.

    Args:
        low: Lower end, a measured step or 0; NaN if there is no basin.
        estimate: First crossing of the measured curve; NaN if it does not cross, or no basin.
        high: Upper end, a measured step; infinite if not bracketed; NaN if there is no basin.
        level: Share of the way from the score at zero down to chance, in (0, 1).
        confidence: Two-sided, in (0, 1).
        sign: +1 or -1, the side of zero that was measured.
        unit: What was sampled independently: "draws" or "items".
        n_units: Number of draws, or of items.
        reason: In words, why ``estimate`` or ``high`` is not finite; else empty.

    Raises:
        ValueError: A number is not finite without a reason, or low <= estimate <= high fails.
    """

    low: float
    estimate: float
    high: float
    level: float
    confidence: float
    sign: int
    unit: Literal["draws", "items"]
    n_units: int
    reason: str = ""

    def __post_init__(self) -> None:
        """Check what the class promises."""
        numbers = (self.low, self.estimate, self.high)
        if not all(math.isfinite(number) for number in numbers) and not self.reason:
            raise ValueError(f"{numbers} was given without a reason; try reason='...'")
        if self.low > self.estimate or self.estimate > self.high:  # false for NaN
            raise ValueError(f"{numbers} was given; allowed: low <= estimate <= high")

    @property
    def unresolved(self) -> bool:
        """Whether no crossing was measured: the estimate is not finite."""
        return not math.isfinite(self.estimate)


def threshold(score_at_zero: float, chance: float, level: float) -> float:
    """Score whose first crossing is the width: chance + (1 - level)(S(0) - chance).

    Example:
        >>> threshold(0.85, chance=0.25, level=0.5)
        0.55
    """
    return chance + (1.0 - level) * (score_at_zero - chance)


def width_over_draws(
    steps: ArrayLike,
    scores: Sequence[ArrayLike] | NDArray[np.float64],
    *,
    score_at_zero: float,
    n_items: int,
    chance: float,
    level: float = 0.5,
    confidence: float = 0.95,
    sign: int = 1,
    looks: int = 1,
    matched: ArrayLike | None = None,
) -> Width:
    r"""Width of the basin of fixed items, from the scores of several independent draws.

    The curve is :math:`p(a) = E_\delta S(\theta_0 + a\delta)` for these items. Their score at
    zero has no error, so neither has the threshold; each draw's score is one unit, bounded by
    :func:`~basinscope.stats.bounds.lower_mean` and ``upper_mean``. Definition, interval and
    guarantee: see the module.

    Args:
        steps: Distances from zero, shape (n_steps,), > 0 and increasing (absolute values; zero
            itself enters through ``score_at_zero``).
        scores: In [0, 1], shape (n_steps, n_draws): a row for each step. Rows may differ in length
            where draws were added until a point was decided.
        score_at_zero: Score of the same items at theta0, a multiple of 1/n_items.
        n_items: Items behind every score; used to tell the score at zero from chance.
        chance: Score of a model that knows nothing, 0 <= chance < 1.
        level: Share of the way down to chance, in (0, 1).
        confidence: Two-sided, in (0, 1).
        sign: +1 or -1: the side that was measured. Each side is measured, none mirrored.
        looks: Where each draw answered its items in batches until a point was decided: how many
            batches there could have been. They share the error, as each has a curve of its own.
        matched: Where draws answered different items: the scores of those at theta0, shape
            (n_steps, n_draws). What the choice of items explains is taken out of the estimate (not
            out of the interval).

    Returns:
        The width. NaN with a reason if the score at zero is not above chance: the exact one-sided
        lower bound over items (:func:`~basinscope.stats.intervals.lower_proportion`) at
        ``confidence`` is not. Infinite ``high``, with a reason, if the outermost step is not
        below the threshold with confidence.

    Raises:
        ValueError: An argument of the wrong shape or out of range.

    Guarantee:
        Over the draws, for these items; see the module. Holds for every number of draws at once.
        With 95% confidence no ``high`` below infinity is possible from fewer than 7 draws when
        the threshold is half of the scale: so few draws may all have been lucky.

    Example:
        Twenty draws that agree: right up to 0.01, nothing from 0.02 on.

        >>> width = width_over_draws(
        ...     [0.005, 0.01, 0.02, 0.03], [[1.0] * 20, [1.0] * 20, [0.0] * 20, [0.0] * 20],
        ...     score_at_zero=1.0, n_items=50, chance=0.0)
        >>> width.low, round(width.estimate, 6), width.high, width.unresolved
        (0.01, 0.015, 0.02, False)
    """
    grid = _checked_steps(steps)
    _check_settings(chance, level, confidence, sign)
    x = [np.asarray(row, dtype=np.float64) for row in scores]
    if len(x) != grid.size or any(row.ndim != 1 or row.size == 0 for row in x):
        raise ValueError(
            f"scores of shapes {sorted({row.shape for row in x})} were given with {grid.size} "
            f"steps; allowed: ({grid.size}, n_draws) with at least one draw; try a row for each "
            "step"
        )
    if not all(bool(np.all((row >= 0.0) & (row <= 1.0))) for row in x):
        raise ValueError(
            "scores outside [0, 1] or NaN were given; allowed: 0 <= score <= 1; "
            "try counting a failed evaluation as wrong, and leaving out steps not measured"
        )
    if looks < 1:
        raise ValueError(f"looks={looks!r} was given; allowed: 1 or more")
    correct = _count(score_at_zero, n_items)
    s_star = threshold(score_at_zero, chance, level)
    error = (1.0 - confidence) / (2.0 * looks)
    n_draws = max(row.size for row in x)
    chosen = 0.0 if matched is None else np.asarray(matched).mean(axis=1) - score_at_zero
    return _width(
        grid,
        margins=np.array([row.mean() for row in x]) - s_star - (1.0 - level) * chosen,
        margin_at_zero=score_at_zero - s_star,
        surely_above=lambda i: lower_mean(x[i], error) > s_star,
        surely_below=lambda i: upper_mean(x[i], error) < s_star,
        no_basin=no_basin(correct, n_items, chance, confidence),
        unit="draws",
        form=lambda low, estimate, high, reason: Width(
            low, estimate, high, level, confidence, sign, "draws", n_draws, reason
        ),
    )


def width_over_items(
    steps: ArrayLike,
    correct: Sequence[ArrayLike] | NDArray[np.float64],
    *,
    correct_at_zero: ArrayLike,
    chance: float,
    level: float = 0.5,
    confidence: float = 0.95,
    sign: int = 1,
    asked: Sequence[ArrayLike] | None = None,
) -> Width:
    r"""Width of the basin along one fixed direction, from the outcomes of its items.

    The curve is :math:`p(a) = E_x z_x(\theta_0 + a\delta)` over the population of items, for this
    one draw. The score at zero comes from the same items, so the test is paired: item by item

    .. math:: W_x = z_x(a) - (1 - \text{level})\, z_x(0) - \text{level} \cdot \text{chance}, \qquad
              E\,W_x = p(a) - s^*,

    which lies in an interval of length 2 - level, is scaled to [0, 1] and bounded by
    :func:`~basinscope.stats.bounds.lower_mean` and ``upper_mean``, then compared with the image
    of 0. This accounts for the error of S(0) and gains from the correlation of the two outcomes.
    Definition, interval and guarantee: see the module.

    Args:
        steps: Distances from zero, shape (n_steps,), > 0 and increasing (absolute values).
        correct: 0 or 1 (or bool), shape (n_steps, n_items): a row for each step. Rows may be
            shorter with ``asked``.
        correct_at_zero: 0 or 1 for the same items at theta0, shape (n_items,).
        chance: Score of a model that knows nothing, 0 <= chance < 1.
        level: Share of the way down to chance, in (0, 1).
        confidence: Two-sided, in (0, 1).
        sign: +1 or -1: the side that was measured. Each side is measured, none mirrored.
        asked: For each step the places, in ``correct_at_zero``, of the items that were answered
            there, in the order of its row; None if every step has all of them. How many were asked
            may depend on their outcomes; which ones may not: a random order settles it.

    Returns:
        The width, as :func:`width_over_draws`.

    Raises:
        ValueError: An argument of the wrong shape or out of range.

    Guarantee:
        Over the items, for this direction; see the module. It says nothing about other draws.

    Example:
        >>> right, wrong = [1] * 40, [0] * 40
        >>> width = width_over_items(
        ...     [0.01, 0.02], [right, wrong], correct_at_zero=right, chance=0.0, sign=-1)
        >>> width.low, round(width.estimate, 6), width.high, width.sign
        (0.01, 0.015, 0.02, -1)
    """
    grid = _checked_steps(steps)
    _check_settings(chance, level, confidence, sign)
    z_zero = check_binary(correct_at_zero, "correct_at_zero")
    rows = [check_binary(row, "correct") for row in correct]
    places = (
        [np.arange(z_zero.size)] * len(rows) if asked is None else [np.asarray(p) for p in asked]
    )
    if (
        z_zero.ndim != 1
        or z_zero.size == 0
        or len(rows) != grid.size
        or [row.shape for row in rows] != [p.shape for p in places]
        or any(row.ndim != 1 or row.size == 0 for row in rows)
    ):
        shapes = sorted({row.shape for row in rows})
        raise ValueError(
            f"correct with rows of shape {shapes} and correct_at_zero of shape {z_zero.shape} were "
            f"given with {grid.size} steps; allowed: ({grid.size}, n_items) and (n_items,) with at "
            "least one item; try a row for each step"
        )
    units = [paired(row, z_zero[p], chance, level)[0] for row, p in zip(rows, places, strict=True)]
    zero = paired([], [], chance, level)[1]
    error = (1.0 - confidence) / 2.0
    return _width(
        grid,
        margins=np.array(
            [
                float((row - (1.0 - level) * z_zero[p]).mean()) - level * chance
                for row, p in zip(rows, places, strict=True)
            ]
        ),
        margin_at_zero=level * (float(z_zero.mean()) - chance),
        surely_above=lambda i: lower_mean(units[i], error) > zero,
        surely_below=lambda i: upper_mean(units[i], error) < zero,
        no_basin=no_basin(int(z_zero.sum()), z_zero.size, chance, confidence),
        unit="items",
        form=lambda low, estimate, high, reason: Width(
            low, estimate, high, level, confidence, sign, "items", z_zero.size, reason
        ),
    )


def _width(
    steps: NDArray[np.float64],
    *,
    margins: NDArray[np.float64],
    margin_at_zero: float,
    surely_above: Callable[[int], bool],
    surely_below: Callable[[int], bool],
    no_basin: str,
    unit: str,
    form: Callable[[float, float, float, str], Width],
) -> Width:
    """Walk outward for low, inward for high, and interpolate between them; margins are p - s*."""
    if no_basin:
        return form(math.nan, math.nan, math.nan, no_basin)
    low = _last_reached(steps, range(steps.size), surely_above, start=0.0)
    high = _last_reached(steps, range(steps.size - 1, -1, -1), surely_below, start=math.inf)
    outermost = float(steps[-1])
    below = np.flatnonzero(margins < 0.0)
    if below.size == 0:
        reason = f"score still above the threshold at the outermost step {outermost:g}: "
        return form(low, math.nan, high, reason + "measure further out")
    first = int(below[0])
    inner = float(steps[first - 1]) if first else 0.0
    above = float(margins[first - 1]) if first else margin_at_zero
    share = above / (above - float(margins[first]))
    estimate = inner + share * (float(steps[first]) - inner)
    reason = ""
    if math.isinf(high):
        reason = (
            f"score not below the threshold with confidence at the outermost step {outermost:g}: "
            f"no upper end; measure more {unit}, or further out"
        )
    # between the ends already, but for rounding and for margins that are not what was tested
    return form(low, min(max(estimate, low), float(steps[first]), high), high, reason)


def _last_reached(
    steps: NDArray[np.float64], order: Sequence[int], passes: Callable[[int], bool], start: float
) -> float:
    """Walk the steps in order until one fails; return the last that passed, or the start."""
    reached = start
    for i in order:
        if not passes(i):
            break
        reached = float(steps[i])
    return reached


def no_basin(correct: int, n_items: int, chance: float, confidence: float) -> str:
    """Say why there is nothing to measure; empty where a score at zero is above chance.

    >>> no_basin(18, 20, 0.25, 0.95)
    ''
    """
    if n_items == 1:
        return (
            "a task of one item is right or wrong and has no score that falls: there is no basin "
            "to measure; take more items"
        )
    at_zero = lower_proportion(correct, n_items, confidence)
    if at_zero.low > chance:
        return ""
    return (
        f"score at zero ({at_zero.estimate:.2f} on {n_items} items) is not above chance "
        f"({chance:.2f}) at {100 * confidence:g}% confidence: there is no basin to measure"
    )


def _count(score: float, n_items: int) -> int:
    """Return the number of correct items behind a score."""
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"score_at_zero={score!r} was given; allowed: 0 to 1")
    if n_items < 1:
        raise ValueError(f"n_items={n_items!r} was given; allowed: 1 or more")
    correct = round(score * n_items)
    if abs(score * n_items - correct) > 1e-6 * n_items:
        raise ValueError(
            f"score_at_zero={score!r} of n_items={n_items} was given; allowed: multiples of "
            f"1/{n_items}; try the mean of the 0-1 outcomes, not rounded"
        )
    return correct


def _checked_steps(steps: ArrayLike) -> NDArray[np.float64]:
    grid = np.asarray(steps, dtype=np.float64)
    if grid.ndim != 1 or grid.size == 0 or not bool(np.all(np.isfinite(grid))):
        raise ValueError(f"steps={steps!r} was given; allowed: (n_steps,), finite, at least one")
    if grid[0] <= 0.0 or bool(np.any(np.diff(grid) <= 0.0)):
        raise ValueError(
            f"steps={grid.tolist()} was given; allowed: greater than 0 and increasing; try the "
            "absolute values of one side, sorted, without 0"
        )
    return grid


def _check_settings(chance: float, level: float, confidence: float, sign: int) -> None:
    check_confidence(confidence)
    if not 0.0 <= chance < 1.0:
        raise ValueError(
            f"chance={chance!r} was given; allowed: 0 <= chance < 1; "
            "try 1 / (number of choices), or 0 for free answers"
        )
    if not 0.0 < level < 1.0:
        raise ValueError(
            f"level={level!r} was given; allowed: 0 < level < 1; "
            "try 0.5, half of the way from the score at zero down to chance"
        )
    if sign not in (-1, 1):
        raise ValueError(f"sign={sign!r} was given; allowed: +1 or -1")

r"""Simultaneous bands: intervals that hold at every step of a curve at once.

Pointwise 95% intervals at twenty steps leave a curve inside all of them with less than 95%: what
is read off the curve as a whole (where it leaves a floor, whether it dips) needs a band. Here each
of J steps gets the interval of error (1 - confidence)/J (Bonferroni), so that

.. math:: P(\exists j: p_j \notin [L_j, U_j]) \le \sum_j P(p_j \notin [L_j, U_j])
          \le 1 - \text{confidence},

however the steps depend on each other. The price in width is small, since the bounds shrink like
:math:`\sqrt{\log(J/\text{error})}`. No less conservative band is offered: the bootstrap of the
studentised maximum (sup-t; Montiel Olea and Plagborg-Møller 2019), which does without the union
bound, covered 82 to 87% at 8 draws and 56 to 63% at 4 in a simulation of half-space scores at a
nominal 95%, and where all draws agree its band has no width at all.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike

from basinscope.stats.intervals import Interval, check_confidence, clopper_pearson, mean_over_draws


def band_over_draws(scores: Sequence[ArrayLike], confidence: float = 0.95) -> list[Interval]:
    r"""Band for the mean curve over directions, the draw as the unit.

    Args:
        scores: One row for each step, with the score in [0, 1] of every draw there; rows may
            differ in length.
        confidence: Of all steps together, in (0, 1).

    Returns:
        An interval for each step (:func:`mean_over_draws` at confidence
        ``1 - (1 - confidence) / n_steps``), whose own ``confidence`` is that of the band; NaN
        with a reason for a step without draws.

    Raises:
        ValueError: A score is NaN or outside [0, 1], or ``confidence`` is out of range.

    Guarantee:
        P(the mean score over all directions lies in the band at every step) >= confidence, over
        the draws, for these items, whatever the distribution; the steps are fixed beforehand.

    Example:
        >>> band = band_over_draws([[1.0] * 20, [0.9] * 20])
        >>> pointwise = mean_over_draws([1.0] * 20)
        >>> band[0].low < pointwise.low, band[0].confidence
        (True, 0.95)
    """
    each = _each(len(scores), confidence)
    return [_restated(mean_over_draws(row, each), confidence) for row in scores]


def band_over_items(
    correct: Sequence[int], n: Sequence[int], confidence: float = 0.95
) -> list[Interval]:
    r"""Band for the curve along one fixed direction, the items as the unit.

    Args:
        correct: Right answers at each step.
        n: Items at each step.
        confidence: Of all steps together, in (0, 1).

    Returns:
        An exact interval for each step (:func:`clopper_pearson` at the shared error).

    Raises:
        ValueError: As :func:`clopper_pearson`.

    Guarantee:
        P(the score in the population of items lies in the band at every step) >= confidence,
        over the items, for this direction alone.

    Example:
        >>> band = band_over_items([10, 0], [10, 10])
        >>> round(band[0].low, 4) == round(0.0125 ** (1 / 10), 4)
        True
    """
    each = _each(len(correct), confidence)
    return [
        _restated(clopper_pearson(k, m, each), confidence) for k, m in zip(correct, n, strict=True)
    ]


def _each(n_steps: int, confidence: float) -> float:
    check_confidence(confidence)
    return 1.0 - (1.0 - confidence) / max(n_steps, 1)


def _restated(interval: Interval, confidence: float) -> Interval:
    return Interval(interval.low, interval.estimate, interval.high, confidence, interval.reason)

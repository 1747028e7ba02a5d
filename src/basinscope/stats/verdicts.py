r"""Is a point of a curve above or below the threshold? Asked after every batch of items.

Legend: D draws; each answers the items of the task in a random order of its own; ``n`` of the N
items so far; z the 0-1 outcomes; s* the threshold of `basinscope.stats.width`. Item by item

.. math:: W = z(a) - (1 - \text{level})\, z(0) - \text{level} \cdot \text{chance}

has the mean S(a) - s* over the task's items, and lies in an interval of length 2 - level.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from basinscope.stats.bounds import log_capital, log_capital_without_replacement
from basinscope.stats.intervals import check_binary

UNITS = 8  # draws from which on they are the units; fewer can hardly ever decide


def paired(correct: ArrayLike, correct_at_zero: ArrayLike, chance: float, level: float) -> (
    tuple[NDArray[np.float64], float]
):  # fmt: skip
    """W of the module, scaled to [0, 1], and the image of 0 under that scaling.

    >>> [x.tolist() if i == 0 else x for i, x in enumerate(paired([1, 0], [1, 1], 0.0, 0.5))]
    [[0.6666666666666666, 0.0], 0.3333333333333333]
    """
    z, z_zero = (np.asarray(x, dtype=np.float64) for x in (correct, correct_at_zero))
    least, span = -(1.0 - level) - level * chance, 2.0 - level
    w = z - (1.0 - level) * z_zero - level * chance
    return np.clip((w - least) / span, 0.0, 1.0), -least / span  # clipped: rounding only


def verdict(
    correct: ArrayLike,
    correct_at_zero: ArrayLike,
    *,
    n_items: int,
    threshold: float,
    chance: float,
    level: float,
    error: float,
    looks: int = 1,
) -> int:
    r"""Say whether the score of the draws is above or below the threshold; 0 while it is open.

    What is tested depends on the number of draws.

    * *Up to seven: these draws, on all items of the task.* The i-th items of all draws together
      are one unit, :math:`\bar W_i = \frac1D \sum_d W_{d,i}`, drawn without replacement within
      every draw: :func:`~basinscope.stats.bounds.log_capital_without_replacement`.
    * *Eight or more: all directions, on the task's items.* The draws are the units, each with its
      mean over the n items so far (:func:`~basinscope.stats.bounds.log_capital`); the looks share
      the error.

    Args:
        correct: 0 or 1, shape (D, n): a row for each draw, in the order of that draw.
        correct_at_zero: of the same items at theta0, shape (D, n).
        n_items: N, items of the task.
        threshold: s* of the task's items.
        chance: score of a model that knows nothing.
        level: share of the way down to chance.
        error: probability of a wrong verdict.
        looks: how often the draws are looked at, at most.

    Returns:
        1 above, -1 below, 0 open.

    Guarantee:
        P(a verdict is given and is wrong) <= error, however often one looks (at most ``looks``
        times with eight draws or more), over the order of the items and, with eight draws or more,
        over the draws.

    Example:
        >>> right, wrong = [[1] * 16], [[0] * 16]
        >>> task = dict(n_items=200, threshold=0.5, chance=0.0, level=0.5, error=0.02)
        >>> [verdict(z, right, **task) for z in (right, wrong, [[1, 0, 0, 1] * 4])]
        [1, -1, 0]
    """
    z, z_zero = check_binary(correct, "correct"), check_binary(correct_at_zero, "correct_at_zero")
    if z.ndim != 2 or z.shape != z_zero.shape:
        raise ValueError(
            f"correct of shape {z.shape} and correct_at_zero of shape {z_zero.shape} were given; "
            "allowed: the same shape (n_draws, n_items)"
        )
    if z.shape[0] < UNITS:
        scaled, zero = paired(z, z_zero, chance, level)
        units, needed = scaled.mean(axis=0), -math.log(error)
        if log_capital_without_replacement(units, zero, n_items) >= needed:
            return 1
        return -int(log_capital_without_replacement(1 - units, 1 - zero, n_items) >= needed)
    return verdict_of_draws(z.mean(axis=1), threshold, error / looks)


def verdict_of_draws(scores: ArrayLike, threshold: float, error: float) -> int:
    """Say on which side of the threshold the mean over directions lies; 0 while it is open.

    Args:
        scores: of the draws, in [0, 1], shape (n_draws,): each with the mean over directions as its
            own mean (a crossed design, or all items).
        threshold: between 0 and 1.
        error: probability of a wrong verdict.

    Returns:
        1 above, -1 below, 0 open.

    Guarantee:
        P(a verdict is ever given and is wrong) <= error, looking after each draw.

    Example:
        >>> verdict_of_draws([0.9] * 8, 0.5, 0.02), verdict_of_draws([0.9] * 4, 0.5, 0.02)
        (1, 0)
    """
    x, needed = np.asarray(scores, dtype=np.float64), -math.log(error)
    if log_capital(x, threshold) >= needed:
        return 1
    return -int(log_capital(1 - x, 1 - threshold) >= needed)

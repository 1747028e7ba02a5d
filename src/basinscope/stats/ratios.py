"""The ratio of two means whose values come in pairs: one training method against another."""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import ArrayLike

from basinscope.stats.intervals import Interval, check_confidence


def paired_ratio(values: ArrayLike, baseline: ArrayLike, confidence: float = 0.95) -> Interval:
    r"""Fieller's interval for the ratio of two means, from pairs.

    :math:`\rho = \mu_y / \mu_x` is kept if Student's t test of the paired
    :math:`y_i - \rho x_i` does not reject mean 0 (Fieller 1954, J. R. Stat. Soc. B 16:175):

    .. math:: n (\bar y - \rho \bar x)^2 \le t_{n-1}^2 (s_{yy} - 2 \rho s_{xy} + \rho^2 s_{xx})

    So it excludes 1 exactly when the paired t test tells the two means apart, it needs no logarithm
    (values may be negative), and a baseline near zero widens it until it has no ends.

    Args:
        values: Shape (n,): y, one for each unit (a seed).
        baseline: Shape (n,): x, of the same units in the same order.
        confidence: Two-sided, in (0, 1).

    Returns:
        The interval around mean(values) / mean(baseline). NaN with a reason for fewer than two
        pairs, a value that is not finite, or a baseline whose mean is not told from zero.

    Raises:
        ValueError: Shapes that differ, or ``confidence`` out of range.

    Guarantee:
        Exact for pairs that are jointly normal, for every n >= 2; approximate for many of any kind.
        What moves both of a pair alike cancels. With three pairs the quantile of t is 4.3: wide,
        and rightly so.

    Example:
        >>> ratio = paired_ratio([1.0, 1.2, 1.1], [2.0, 2.2, 2.1])
        >>> round(ratio.low, 3), round(ratio.estimate, 3), round(ratio.high, 3)
        (0.46, 0.524, 0.574)
    """
    check_confidence(confidence)
    y, x = np.asarray(values, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if y.ndim != 1 or y.shape != x.shape:
        raise ValueError(
            f"values of shape {y.shape} and a baseline of shape {x.shape} were given; "
            "allowed: (n,) and (n,), pair by pair"
        )
    n = y.size

    def nothing(reason: str, estimate: float = math.nan) -> Interval:
        return Interval(math.nan, estimate, math.nan, confidence, reason)

    if n == 0 or not (np.isfinite(y).all() and np.isfinite(x).all()):
        return nothing("no pairs" if n == 0 else "a value is not finite")
    mean_y, mean_x = float(y.mean()), float(x.mean())
    if mean_x == 0.0:
        return nothing("the mean of the baseline is 0")
    estimate = mean_y / mean_x
    if n < 2:
        return nothing(f"{n} pair: the spread is unknown", estimate)
    # centred by hand: np.cov of equal values leaves rounding that is not zero
    dy, dx = y - mean_y, x - mean_x
    g = float(scipy.stats.t.ppf((1.0 + confidence) / 2.0, n - 1)) ** 2 / (n * (n - 1))
    a = mean_x**2 - g * float(dx @ dx)
    b = mean_x * mean_y - g * float(dx @ dy)
    c = mean_y**2 - g * float(dy @ dy)
    if a <= 0.0:
        return nothing(
            f"the mean of the baseline over {n} pairs is not told from zero: no ends", estimate
        )
    half = math.sqrt(max(b * b - a * c, 0.0))
    low, high = (b - half) / a, (b + half) / a
    return Interval(min(low, estimate), estimate, max(high, estimate), confidence)

"""Student's t intervals, for means of what has no bounds: the likelihood landscape."""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import ArrayLike

from basinscope.stats.intervals import Interval, check_confidence


def student(values: ArrayLike, confidence: float = 0.95) -> Interval:
    r"""Student's t interval for the mean of independent values.

    :math:`\bar x \pm t_{n-1} s / \sqrt n`.

    Args:
        values: Shape (n,): one value for each independent unit (a draw, or an item).
        confidence: Two-sided, in (0, 1).

    Returns:
        The interval around the mean; NaN with a reason for fewer than two values, or where one is
        not finite.

    Guarantee:
        Exact for normal values and approximate for many of any kind. No bound holds for the mean
        of unbounded values whatever their distribution (Bahadur and Savage 1956), so for few draws
        with heavy tails the interval can be too narrow.

    Example:
        >>> interval = student([1.0, 2.0, 3.0])
        >>> round(interval.low, 3), interval.estimate, round(interval.high, 3)
        (-0.484, 2.0, 4.484)
    """
    check_confidence(confidence)
    x = np.asarray(values, dtype=np.float64)
    return _around(float(x.mean()) if x.size else math.nan, x, confidence)


def student_ratio(totals: ArrayLike, sizes: ArrayLike, confidence: float = 0.95) -> Interval:
    r"""Student's t interval for a ratio of sums, such as nats a token over blocks of text.

    :math:`r = \sum_i y_i / \sum_i m_i`, with the linearised residuals
    :math:`(y_i - r m_i) / \bar m` in place of values (Cochran, Sampling Techniques, section 2.11).

    Args:
        totals: Shape (n,): y, one for each independent unit.
        sizes: Shape (n,): m, positive.
        confidence: Two-sided, in (0, 1).

    Returns:
        The interval around r, as `student` gives it.

    Guarantee:
        As `student`, to first order in :math:`1/\sqrt n`.

    Example:
        >>> student_ratio([2.0, 6.0], [1.0, 3.0]).estimate
        2.0
    """
    check_confidence(confidence)
    y, m = np.asarray(totals, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    if y.shape != m.shape or not (m > 0).all():
        raise ValueError(
            f"totals of shape {y.shape} over sizes of shape {m.shape} were given; "
            "allowed: one positive size for each total"
        )
    if not y.size:
        return _around(math.nan, y, confidence)
    ratio = float(y.sum() / m.sum())
    return _around(ratio, (y - ratio * m) / m.mean(), confidence)


def _around(estimate: float, x: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
            confidence: float) -> Interval:  # fmt: skip
    if not np.isfinite(x).all():
        return Interval(math.nan, estimate, math.nan, confidence, "a value is not finite")
    if x.size < 2:
        reason = f"{x.size} values: their spread is unknown"
        return Interval(math.nan, estimate, math.nan, confidence, reason)
    half = float(
        scipy.stats.t.ppf((1 + confidence) / 2, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size)
    )
    return Interval(estimate - half, estimate, estimate + half, confidence)

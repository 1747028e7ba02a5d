r"""How much directions differ: what a sample of them says of all the others.

A sample of independent directions, one number each (a width, a score). Order statistics give exact
statements for any continuous distribution, also where some numbers are only known to be large
(a width beyond the last step is infinite); a standard deviation needs a model.
"""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from basinscope.stats.intervals import Interval, check_confidence


def share_between_extremes(n: int, confidence: float = 0.95) -> float:
    r"""Share of all directions that lie between the least and the greatest of a sample.

    The share is Beta(n - 1, 2) distributed whatever the distribution of the numbers, so its lower
    bound is that law's ``1 - confidence`` quantile (Wilks, Ann. Math. Statist. 12, 1941: tolerance
    limits).

    Args:
        n: Size of the sample.
        confidence: One-sided, in (0, 1).

    Returns:
        The bound, in [0, 1); 0 for fewer than two.

    Raises:
        ValueError: ``n`` is negative or ``confidence`` out of range.

    Guarantee:
        P(the share of directions within [least, greatest] >= bound) >= confidence, over the
        sample; with equality for a continuous distribution.

    Example:
        >>> [round(share_between_extremes(n), 2) for n in (4, 14, 93)]
        [0.25, 0.7, 0.95]
    """
    check_confidence(confidence)
    if n < 0:
        raise ValueError(f"n={n!r} was given; allowed: 0 or more")
    return float(scipy.stats.beta.ppf(1.0 - confidence, n - 1, 2)) if n > 1 else 0.0


def median_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    r"""Exact interval for the median over all directions, between two order statistics.

    The ends are the r-th least and the r-th greatest number, r the largest with
    :math:`P(\mathrm{Bin}(n, 1/2) < r) \le (1 - \text{confidence})/2` (Thompson, Ann. Math.
    Statist. 7, 1936).

    Args:
        values: One number for each direction, shape (n,); infinite ones are allowed, NaN is not.
        confidence: Two-sided, in (0, 1).

    Returns:
        The interval about the sample's median; infinite ends where the sample is too small (fewer
        than 6 at 95%); NaN with a reason for no values.

    Raises:
        ValueError: NaN, another shape, or ``confidence`` out of range.

    Guarantee:
        Covers the median with probability at least ``confidence``, whatever the distribution.

    Example:
        >>> median_interval([1, 2, 3, 4, 5, 6, 7]).low, median_interval([1, 2, 3]).high
        (1.0, inf)
    """
    check_confidence(confidence)
    x = _checked(values)
    if x.size == 0:
        return Interval(math.nan, math.nan, math.nan, confidence, "no values were given")
    r = int(scipy.stats.binom.ppf((1.0 - confidence) / 2.0, x.size, 0.5))
    if scipy.stats.binom.cdf(r, x.size, 0.5) <= (1.0 - confidence) / 2.0:
        r += 1
    low, high = (float(x[r - 1]), float(x[-r])) if r else (-math.inf, math.inf)
    middle = (float(x[(x.size - 1) // 2]), float(x[x.size // 2]))
    return Interval(low, middle[0] / 2 + middle[1] / 2, high, confidence)


def relative_spread(values: ArrayLike, confidence: float = 0.95) -> Interval:
    r"""Standard deviation of the natural logarithm: 0.1 means that directions differ by 10%.

    .. math:: s^2 = \frac{1}{n-1} \sum_k (\log w_k - \overline{\log w})^2, \qquad
              \frac{(n - 1) s^2}{\chi^2_{n-1}} \text{ for the ends}

    Args:
        values: One positive number for each direction, shape (n,).
        confidence: Two-sided, in (0, 1).

    Returns:
        The interval; NaN with a reason for fewer than two values, or if one is infinite (not
        reached where it was measured) or zero: leaving it out would understate the spread.

    Raises:
        ValueError: NaN or a negative number, another shape, or ``confidence`` out of range.

    Guarantee:
        Exact if the logarithms are normal; that is an assumption, and with heavier tails the
        interval is too short.

    Example:
        >>> relative_spread([1.0, 1.0, 1.0]).estimate, relative_spread([1.0, float("inf")]).reason
        (0.0, '1 of 2 are infinite or zero')
    """
    check_confidence(confidence)
    x = _checked(values)
    if x.size and x[0] < 0.0:
        raise ValueError(f"{float(x[0])!r} was given; allowed: positive numbers")
    nothing = (math.nan, math.nan, math.nan, confidence)
    if x.size < 2:
        return Interval(*nothing, f"{x.size} directions: a spread needs two")
    if odd := int(np.sum(~np.isfinite(x) | (x == 0.0))):
        return Interval(*nothing, f"{odd} of {x.size} are infinite or zero")
    n = x.size
    squares = float(np.square(np.log(x) - np.log(x).mean()).sum())
    low, high = (
        math.sqrt(squares / float(scipy.stats.chi2.ppf((1.0 + side * confidence) / 2.0, n - 1)))
        for side in (1, -1)
    )
    s = math.sqrt(squares / (n - 1))
    return Interval(min(low, s), s, max(high, s), confidence)


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    """Sorted; no NaN."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or bool(np.isnan(x).any()):
        raise ValueError(
            f"values of shape {x.shape}, {int(np.isnan(x).sum())} of them NaN, were given; "
            "allowed: (n,), infinite where a number is only known to be large, no NaN"
        )
    return np.sort(x)

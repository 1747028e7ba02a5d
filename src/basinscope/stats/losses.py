r"""Did a 0-1 score lose more than is allowed? An exact test on pairs, and many of them at once.

Legend: n items answered before and after a change of the weights; u of them went up, d went down
(the others stay as they were); :math:`p_u, p_d` the chances of that for an item like these.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import scipy
from numpy.typing import NDArray

from basinscope.stats.intervals import check_confidence

# Error that is spent on the range of the nuisance parameter (Berger and Boos 1994), on the tails
# that are not summed, and on what a grid may miss of the maximum.
_RANGE, _TAIL = 1e-5, 1e-9
_GRID = 33


@functools.lru_cache(maxsize=1 << 16)
def exceeds(up: int, down: int, n: int, margin: float) -> float:
    r"""P-value against :math:`p_u - p_d \le` margin, for pairs of 0-1 outcomes.

    The statistic is the score of Tango (Stat. Med. 17, 1998),

    .. math:: T = \frac{u - d - n \delta}{\sqrt{n (2 \tilde q + \delta (1 - \delta))}},

    with :math:`\delta` the margin and :math:`\tilde q` the likeliest :math:`p_d` where
    :math:`p_u = p_d + \delta`. Its distribution is not approximated: the p-value is the largest
    probability of a T as large as the one seen,

    .. math:: \max_{q \in C} P(T \ge t \mid p_d = q, p_u = q + \delta) + 10^{-5},

    over the interval C in which :math:`p_d` lies with error 1e-5, given d (Berger and Boos, JASA
    89, 1994; exact unconditional tests of pairs: Lloyd and Moldovan, Stat. Med. 27, 2008). For
    margin 0 it is as a rule a little sharper than McNemar's exact test.

    Args:
        up: Items that went up.
        down: Items that went down.
        n: Items, fixed beforehand.
        margin: What is to be exceeded, in (-1, 1).

    Returns:
        The p-value, in (0, 1].

    Raises:
        ValueError: Counts that do not fit, or a margin out of range.

    Guarantee:
        P(p <= x) <= x for every x, n and :math:`(p_u, p_d)` with a difference of at most the
        margin; the maximum is taken on a grid of 66 values, the second half around the first one's
        best.

    Cost:
        Some milliseconds; a result is remembered.

    Example:
        >>> exceeds(24, 0, 200, 0.02) < 1e-4 < exceeds(8, 2, 200, 0.02) < exceeds(4, 2, 200, 0.02)
        True
    """
    if not (n > 0 and min(up, down) >= 0 and up + down <= n):
        raise ValueError(f"up={up}, down={down}, n={n} was given; allowed: up + down <= n, n >= 1")
    if not -1.0 < margin < 1.0:
        raise ValueError(f"margin={margin!r} was given; allowed: -1 < margin < 1")
    least = _boundary(float(_score(np.array(up), np.array(down), n, margin)), n, margin)
    ends = (
        float(scipy.stats.beta.ppf(_RANGE / 2, down, n - down + 1)) if down else 0.0,
        float(scipy.stats.beta.ppf(1 - _RANGE / 2, down + 1, n - down)) if down < n else 1.0,
    )
    low, high = (min(max(end, 0.0, -margin), (1.0 - margin) / 2) for end in ends)
    grid = np.linspace(low, high, _GRID)
    chances = _chances(grid, least, n, margin)
    best, gap = grid[int(np.argmax(chances))], grid[1] - grid[0]
    near = np.linspace(max(low, best - gap), min(high, best + gap), _GRID)
    largest = max(chances.max(), _chances(near, least, n, margin).max())
    return min(1.0, float(largest) + 2 * _TAIL + _RANGE)


def loss_bounds(gained: int, lost: int, n: int, error: float) -> tuple[float, float]:
    """Bounds for the change of a score, after - before, by the test of `exceeds`.

    Args:
        gained: Items right after and wrong before.
        lost: Items wrong after and right before.
        n: Items, fixed beforehand.
        error: Of each end by itself.

    Returns:
        Low and high: the changes that the test does not refute.

    Guarantee:
        Each end is on its side of the change with probability at least 1 - error.

    Cost:
        Some forty p-values.

    Example:
        >>> low, high = loss_bounds(0, 0, 300, 0.05)
        >>> -0.01 < low < 0 < high < 0.01
        True
    """
    up = _root(gained, lost, n, error)
    return min(up, (gained - lost) / n), max(-_root(lost, gained, n, error), (gained - lost) / n)


def hochberg(p_values: Sequence[float], error: float) -> list[bool]:
    r"""Which of several hypotheses are refuted, so that any false refutal has at most this error.

    With :math:`p_{(1)} \le \dots \le p_{(m)}`: those up to the largest i for which
    :math:`p_{(i)} \le \text{error} / (m - i + 1)` (Hochberg, Biometrika 75, 1988). Where all are at
    most the error, all are refuted.

    Guarantee:
        P(a true hypothesis is refuted) <= error for independent p-values, and for those that
        depend positively (Sarkar, Ann. Stat. 26, 1998).

    Example:
        >>> hochberg([0.04, 0.05], 0.05), hochberg([0.03, 0.06], 0.05)
        ([True, True], [False, False])
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    passed = [r for r, i in enumerate(order) if p_values[i] <= error / (len(order) - r)]
    refuted = set(order[: max(passed, default=-1) + 1])
    return [i in refuted for i in range(len(order))]


def items_to_decide(
    gained: int, lost: int, n: int, allow: float, error: float, power: float = 0.8
) -> float:
    r"""About how many items would tell a loss from what is allowed: an estimate, no bound.

    .. math:: n^* = (z_{1 - \text{error}} + z_{\text{power}})^2 \, s^2 / (\hat\ell - \text{allow})^2

    with the loss :math:`\hat\ell` and the variance :math:`s^2` of an item's as seen (one more
    item lost counted in :math:`s^2`, so that it is not 0).

    Args:
        gained: Items that went up.
        lost: Items that went down.
        n: Items.
        allow: The loss that is allowed.
        error: Of the test.
        power: Chance that so many items do decide.

    Returns:
        Items, more than n; infinite where the loss seen is the one allowed.

    Example:
        >>> items_to_decide(0, 0, 100, 0.02, 0.05)
        155
    """
    check_confidence(1 - error)
    loss = (lost - gained) / n
    if math.isclose(loss, allow):
        return math.inf
    square = (gained + lost + 1) / n - loss**2
    z = scipy.special.ndtri(1 - error) + scipy.special.ndtri(power)
    return max(n + 1.0, math.ceil(float(z) ** 2 * square / (loss - allow) ** 2))


def _root(up: int, down: int, n: int, error: float) -> float:
    """Largest margin that up - down exceeds with this error."""
    low, high = -1.0 + 1e-9, min(1.0 - 1e-9, (up - down) / n)
    if exceeds(up, down, n, low) > error:
        return -1.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if exceeds(up, down, n, middle) <= error else (low, middle)
    return low


def _score(
    u: NDArray[np.int64], d: NDArray[np.int64], n: int, margin: float
) -> NDArray[np.float64]:
    """T, of which the sign decides where nothing varies."""
    b = margin * (2 * n - u + d) - (u + d)
    root = np.sqrt(np.maximum(b * b + 8 * n * d * margin * (1 - margin), 0.0))
    q = np.maximum((root - b) / (4 * n), max(0.0, -margin))
    variance = np.maximum(n * (2 * q + margin * (1 - margin)), 1e-12)
    return np.asarray((u - d - n * margin) / np.sqrt(variance))


def _boundary(t: float, n: int, margin: float) -> NDArray[np.int64]:
    """For every d the least u at which T reaches t; n + 1 where none does."""
    d = np.arange(n + 1)
    low, high = np.zeros(n + 1, dtype=np.int64), n - d + 1
    while bool(np.any(low < high)):
        middle = (low + high) // 2
        reached = _score(np.minimum(middle, n - d), d, n, margin) >= t - 1e-9
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
    low = np.where(low > n - d, n + 1, low)
    # what lies above a point in the order counts with it: a larger set is on the safe side
    return np.minimum.accumulate(low[::-1])[::-1]


def _chances(
    q: NDArray[np.float64], least: NDArray[np.int64], n: int, margin: float
) -> NDArray[np.float64]:
    """P(u >= least[d]) where an item goes down with chance q and up with q + margin, for each q.

    What lies in the tails of d, 2e-9 at most, is left out.
    """
    first = scipy.special.bdtrik(_TAIL, n, q[0]) if 0.0 < q[0] < 1.0 else n * q[0]
    last = scipy.special.bdtrik(1.0 - _TAIL, n, q[-1]) if 0.0 < q[-1] < 1.0 else n * q[-1]
    d = np.arange(max(0, math.floor(first) - 1), min(n, math.ceil(last) + 1) + 1)
    ways = scipy.special.gammaln(n + 1) - scipy.special.gammaln([d + 1, n - d + 1]).sum(axis=0)
    column, k = q[:, None], least[d]
    log_pmf = ways + scipy.special.xlogy(d, column) + scipy.special.xlog1py(n - d, -column)
    share = np.clip((column + margin) / np.maximum(1.0 - column, 1e-300), 0.0, 1.0)
    # P(u >= k) of the n - d others; k is 0 for certain, and n + 1 where it cannot be
    tail = scipy.special.betainc(np.maximum(k, 1), np.maximum(n - d - k + 1, 1), share)
    tail = np.where(k <= 0, 1.0, np.where(k > n - d, 0.0, tail))
    return np.asarray((np.exp(log_pmf) * tail).sum(axis=1))

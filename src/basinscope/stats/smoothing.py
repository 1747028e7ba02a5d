r"""What a smoothed score guarantees about displaced weights: bounds and radius.

The smoothed score of weights :math:`\theta` is :math:`p(\theta) = E\,S(\theta + \epsilon)` with
:math:`\epsilon \sim N(0, \sigma^2 I)` and a measurable score S in [0, 1]. Nothing else is assumed
of S. For another covariance :math:`\sigma^2 \Sigma` the same formulas hold with
:math:`r = \lVert \Sigma^{-1/2} (\theta' - \theta_0) \rVert_2`.

All functions take scalars or arrays and broadcast. They bound the *smoothed* score of
:math:`\theta'`, never the score of that single model.

Legend: ``p`` a lower bound (or the value) of p(theta0), in [0, 1]; ``r`` a displacement, >= 0,
infinite if it leaves the geometry; ``sigma`` > 0, in the unit of ``r``; ``error`` the probability
of a miss.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtr, ndtri

from basinscope.stats.bounds import PRIOR, STAKES, log_capitals
from basinscope.stats.intervals import check_confidence

Array = NDArray[np.float64]


def weak_bound(p: ArrayLike, r: ArrayLike, sigma: ArrayLike) -> Array:
    r"""Lower bound that falls linearly: :math:`p - r / (\sqrt{2\pi}\,\sigma)`, at least 0.

    The smoothed score is Lipschitz with constant :math:`1/(\sqrt{2\pi}\,\sigma)`, the largest
    slope of :math:`\Phi(z - r/\sigma)` (arXiv 2505.17646, theorem on the weak bound). Never above
    `lower_bound`; equal to first order at p = 1/2.

    Raises:
        ValueError: p outside [0, 1], r negative, sigma not positive, or any of them NaN.

    >>> round(float(weak_bound(0.9, 0.01, 0.01)), 4)
    0.5011
    """
    p_, t = _checked(p, r, sigma)
    return np.maximum(0.0, p_ - t / math.sqrt(2 * math.pi))


def lower_bound(p: ArrayLike, r: ArrayLike, sigma: ArrayLike) -> Array:
    r"""Lower bound on the smoothed score at distance r: :math:`\Phi(\Phi^{-1}(p) - r/\sigma)`.

    By the lemma of Neyman and Pearson, no score in [0, 1] with smoothed score p at theta0 has a
    smaller one at theta'; a half-space whose normal points along the displacement attains it
    (Cohen, Rosenfeld and Kolter, ICML 2019; Salman et al., NeurIPS 2019, appendix A;
    arXiv 2505.17646, theorem on the strong bound).

    Returns:
        Values in [0, p]. At p = 0, or at an infinite r, it is 0; at p = 1 it is 1 for every
        finite r; at r = 0 it is p itself.

    Raises:
        ValueError: p outside [0, 1], r negative, sigma not positive, or any of them NaN.

    Guarantee: if ``p`` is a lower bound of p(theta0) with some confidence, the values for all
    ``r`` hold together with that confidence: the bound rises with p.

    >>> [round(float(b), 4) for b in lower_bound(0.9, [0.0, 0.01, 0.02], sigma=0.01)]
    [0.9, 0.6109, 0.2362]
    >>> [float(lower_bound(p, 1.0, 0.1)) for p in (0.0, 1.0)]
    [0.0, 1.0]
    """
    p_, t = _checked(p, r, sigma)
    return np.asarray(np.where(np.isinf(t), 0.0, np.minimum(_moved(p_, -t), p_)))


def upper_bound(p: ArrayLike, r: ArrayLike, sigma: ArrayLike) -> Array:
    r"""Upper bound on the smoothed score at distance r: :math:`\Phi(\Phi^{-1}(p) + r/\sigma)`.

    `lower_bound` of the score 1 - S. ``p`` is an upper bound of p(theta0) here.

    >>> round(float(upper_bound(0.1, 0.01, sigma=0.01)), 4)
    0.3891
    """
    p_, t = _checked(p, r, sigma)
    return np.asarray(np.where(np.isinf(t), 1.0, np.maximum(_moved(p_, t), p_)))


def radius(p: ArrayLike, target: ArrayLike, sigma: ArrayLike) -> Array:
    r"""Largest r at which `lower_bound` is at least the target.

    .. math:: R = \sigma \bigl(\Phi^{-1}(p) - \Phi^{-1}(\text{target})\bigr)

    Returns:
        R >= 0; infinite where the target is 0 or p is 1; NaN where p < target: there not even the
        undisplaced weights keep the target, and no r, 0 included, is small enough.

    Raises:
        ValueError: p or target outside [0, 1], sigma not positive, or any of them NaN.

    >>> round(float(radius(0.9, 0.5, sigma=0.01)), 5)
    0.01282
    """
    p_, q = np.broadcast_arrays(_probability(p), _probability(target, "target"))
    with np.errstate(invalid="ignore"):
        distance = _positive(sigma) * (ndtri(p_) - ndtri(q))
    distance = np.where((q == 0.0) | (p_ == 1.0), np.inf, distance)
    return np.asarray(np.where(p_ < q, np.nan, np.maximum(distance, 0.0)))


def mean_lower_bound(p_items: ArrayLike, r: ArrayLike, sigma: float) -> Array:
    r"""Bound items one by one, then average.

    .. math:: \frac1m \sum_i \Phi\bigl(\Phi^{-1}(p_i) - r/\sigma\bigr)

    :math:`g(p) = \Phi(\Phi^{-1}(p) - t)` is convex for :math:`t \ge 0`, so by Jensen's inequality
    this is never below g of the mean: a score is rarely the half-space that spoils all items.

    Args:
        p_items: bound of every item's smoothed score, shape (m,); simultaneous if the result shall
            hold with their confidence (`item_lower_bounds`).
        r: one distance or several.
        sigma: standard deviation of the noise.

    Returns:
        Array of the shape of ``r``.

    >>> items = [0.99, 0.99, 0.5]
    >>> bool(mean_lower_bound(items, 0.01, 0.01) > lower_bound(sum(items) / 3, 0.01, 0.01))
    True
    """
    p_m = np.atleast_1d(_probability(p_items))
    r_ = np.asarray(r, dtype=np.float64)
    return np.asarray(lower_bound(p_m, r_[..., None], sigma).mean(axis=-1))


def item_lower_bounds(correct: ArrayLike, n: int, confidence: float) -> Array:
    r"""Lower bounds for many proportions, all true together with at least the confidence.

    Clopper and Pearson's bound at error (1 - confidence)/m for each of the m items (Bonferroni):
    nothing is assumed of how the items hang together, so they may share their draws.

    Args:
        correct: how often each item was right, shape (m,).
        n: draws, fixed beforehand, the same for all items.
        confidence: simultaneous, in (0, 1).

    Returns:
        Shape (m,); 0 where an item was never right.

    Raises:
        ValueError: counts outside 0..n, no item or draw, or ``confidence`` out of range.

    >>> item_lower_bounds([100, 90, 0], 100, confidence=0.99).round(3).tolist()
    [0.945, 0.792, 0.0]
    """
    check_confidence(confidence)
    k = np.asarray(correct, dtype=np.float64)
    if k.ndim != 1 or not k.size or n < 1 or not ((k >= 0) & (k <= n) & (k % 1 == 0)).all():
        raise ValueError(
            f"counts of shape {k.shape} with n={n} were given; "
            "allowed: shape (m,), whole numbers from 0 to n, n at least 1"
        )
    bounds = betaincinv(np.maximum(k, 1.0), n - k + 1.0, (1.0 - confidence) / k.size)
    return np.asarray(np.where(k == 0, 0.0, bounds))


def decide(x: ArrayLike, claim: float, error: float) -> tuple[int, bool | None]:
    r"""Decide whether a mean is at least ``claim``, looking after every score.

    Two gamblers bet, one against *mean* :math:`\le` *claim*, one against *mean* :math:`\ge`
    *claim* (`log_capitals`); the first to hold 1/error decides. At most one of the two can be
    wrong, so the error is not shared between them.

    Args:
        x: scores in [0, 1] in the order of sampling, shape (n,).
        claim: in (0, 1).
        error: probability of a wrong decision, in (0, 1).

    Returns:
        How many scores were needed, and True (the mean is at least the claim), False (it is at
        most the claim); (n, None) while it is open.

    Guarantee: P(a decision is made and is wrong) <= error, whatever the number of scores, for
    independent scores of one mean.

    >>> decide([1] * 20, claim=0.5, error=1e-3)
    (11, True)
    >>> decide([1, 0] * 10, claim=0.5, error=1e-3)
    (20, None)
    """
    scores, needed = np.asarray(x, dtype=np.float64), -math.log(error)
    above = log_capitals(scores, claim) >= needed
    below = log_capitals(1.0 - scores, 1.0 - claim) >= needed
    decided = np.flatnonzero(above | below)
    if not decided.size:
        return int(scores.size), None
    return int(decided[0]) + 1, bool(above[decided[0]])


def draws_to_certify(level: float, confidence: float, *, exact: bool) -> int:
    """Fewest draws after which p >= level can be certified at all: when every answer is right.

    Args:
        level: what shall be certified, in [0, 1).
        confidence: one-sided, in (0, 1).
        exact: with Clopper and Pearson's bound; otherwise with the betting bound.

    >>> draws_to_certify(0.9, 0.99, exact=True)
    44
    """
    return directions_needed(level, confidence) if exact else _betting_draws(level, confidence)


def directions_needed(share: float, confidence: float, failures: int = 0) -> int:
    r"""Fewest draws whose Clopper-Pearson bound reaches ``share`` with so many failures among them.

    The smallest n with :math:`P(X \ge n - \text{failures}) \le 1 - \text{confidence}` for
    :math:`X \sim \mathrm{Bin}(n, \text{share})`.

    Args:
        share: proportion to be certified, in [0, 1).
        confidence: one-sided, in (0, 1).
        failures: how many draws may fail.

    Raises:
        ValueError: an argument out of its range.

    >>> [directions_needed(0.9, 0.99, failures) for failures in range(4)]
    [44, 64, 81, 97]
    """
    check_confidence(confidence)
    if not 0.0 <= share < 1.0 or failures < 0:
        raise ValueError(
            f"share={share!r}, failures={failures!r} was given; "
            "allowed: 0 <= share < 1 and failures >= 0; try 0.9 and 0"
        )

    def enough(n: int) -> bool:
        bound = betaincinv(float(n - failures), failures + 1.0, 1.0 - confidence)
        return bool(bound >= share)

    return _fewest(enough, failures + 1)


def _betting_draws(level: float, confidence: float) -> int:
    check_confidence(confidence)
    if not 0.0 <= level < 1.0:
        raise ValueError(f"level={level!r} was given; allowed: 0 <= level < 1")
    if level == 0.0:
        return 1
    growth = np.log1p(STAKES * (1.0 / level - 1.0))  # of each account with every right answer

    def enough(n: int) -> bool:
        return bool(PRIOR @ np.exp(np.minimum(n * growth, 700.0)) >= 1.0 / (1.0 - confidence))

    return _fewest(enough, 1)


def _fewest(enough: Callable[[int], bool], least: int) -> int:
    """Smallest n >= least that is enough, where more is never less."""
    high = least
    while not enough(high):
        high *= 2
    low = max(least, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high


def _moved(p: Array, t: Array) -> Array:
    """Phi(z + t); p itself at t = 0, without the rounding of there and back."""
    with np.errstate(invalid="ignore"):  # infinity minus infinity, which the callers replace
        return np.asarray(np.where(t == 0.0, p, ndtr(ndtri(p) + t)))


def _checked(p: ArrayLike, r: ArrayLike, sigma: ArrayLike) -> tuple[Array, Array]:
    """Probability and displacement in units of sigma, both valid."""
    r_ = np.asarray(r, dtype=np.float64)
    if not (r_ >= 0.0).all():
        raise ValueError(f"r={r!r} was given; allowed: a distance of at least 0, or infinity")
    with np.errstate(over="ignore"):
        return _probability(p), r_ / _positive(sigma)


def _probability(p: ArrayLike, name: str = "p") -> Array:
    p_ = np.asarray(p, dtype=np.float64)
    if not ((p_ >= 0.0) & (p_ <= 1.0)).all():
        raise ValueError(f"{name}={p!r} was given; allowed: 0 to 1")
    return p_


def _positive(sigma: ArrayLike) -> Array:
    s = np.asarray(sigma, dtype=np.float64)
    if not ((s > 0.0) & np.isfinite(s)).all():
        raise ValueError(f"sigma={sigma!r} was given; allowed: positive and finite")
    return s

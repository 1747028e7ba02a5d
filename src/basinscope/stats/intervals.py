"""Confidence intervals for scores: over items, over noise draws, and for paired differences.

Which one to use is decided by what was sampled independently, the *unit*:

* items under one fixed set of weights, or one fresh item for each draw: `clopper_pearson`;
* several items under each noise draw: `mean_over_draws` (the draw is the unit);
* the same items before and after a change of the weights: `paired_difference`, or
  `paired_difference_over_draws` when the change was drawn several times.
"""

import math
import operator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from basinscope.stats.bounds import lower_mean, upper_mean


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval with its point estimate; NaN only with a reason in words.

    Args:
        low: Lower end; low <= estimate.
        estimate: Point estimate.
        high: Upper end; estimate <= high.
        confidence: Probability, in (0, 1), with which [low, high] covers the truth.
        reason: Why the numbers are NaN; empty when they are not.

    Raises:
        ValueError: NaN without a reason, ends out of order, or ``confidence`` out of range.
    """

    low: float
    estimate: float
    high: float
    confidence: float
    reason: str = ""

    def __post_init__(self) -> None:
        """Check what the class promises."""
        check_confidence(self.confidence)
        numbers = (self.low, self.estimate, self.high)
        if any(math.isnan(number) for number in numbers):
            if not self.reason:
                raise ValueError(f"{numbers} was given without a reason; try reason='...'")
        elif not self.low <= self.estimate <= self.high:
            raise ValueError(f"{numbers} was given; allowed: low <= estimate <= high")


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Change of a 0-1 score over the same items, after minus before.

    Args:
        difference: Interval for the mean of after - before, in [-1, 1].
        gained: Items wrong before and right after.
        lost: Items right before and wrong after.
        n_items: Items compared.
        p_value: Exact two-sided McNemar p-value of "no change"; 1 without discordant items.
    """

    difference: Interval
    gained: int
    lost: int
    n_items: int
    p_value: float


def clopper_pearson(correct: int, n: int, confidence: float = 0.95) -> Interval:
    r"""Exact two-sided interval for a proportion.

    The ends solve :math:`P(X \ge k \mid p) = e` and :math:`P(X \le k \mid p) = e` with
    :math:`X \sim \mathrm{Bin}(n, p)` and :math:`e = (1 - \text{confidence})/2` (Clopper and
    Pearson, Biometrika 26, 1934).

    Args:
        correct: Successes ``k``, 0 <= correct <= n.
        n: Independent trials: i.i.d. (noise, item) pairs, items under one set of weights, or one
            indicator for each draw. Never items pooled over draws: those that share a draw are
            not independent (see :func:`mean_over_draws`).
        confidence: Two-sided, in (0, 1).

    Returns:
        The interval; NaN with a reason if ``n`` is 0.

    Raises:
        ValueError: Counts that are not integers with 0 <= correct <= n, or ``confidence`` out
            of range.

    Guarantee:
        Covers the proportion with probability at least ``confidence``, for every proportion, and
        misses it on either side with probability at most (1 - confidence)/2; ``n`` is fixed
        beforehand.

    Example:
        >>> interval = clopper_pearson(10, 10, confidence=0.95)
        >>> round(interval.low, 4) == round(0.025 ** (1 / 10), 4), interval.high
        (True, 1.0)
    """
    return _proportion(correct, n, confidence, "two-sided")


def lower_proportion(correct: int, n: int, confidence: float = 0.95) -> Interval:
    r"""Exact one-sided lower bound for a proportion: ``.low``, with ``.high`` = 1.

    The bound solves :math:`P(X \ge k \mid p) = 1 - \text{confidence}`. Use it when only "at
    least" is claimed: the whole error is spent on that side.

    Args:
        correct: Successes, 0 <= correct <= n.
        n: Independent trials.
        confidence: One-sided, in (0, 1).

    Returns:
        The interval [low, 1]; NaN with a reason if ``n`` is 0.

    Raises:
        ValueError: As :func:`clopper_pearson`.

    Guarantee:
        P(low <= proportion) >= confidence, for every proportion and an ``n`` fixed beforehand.

    Example:
        That at least 90% of the directions are clean takes 44 clean draws at 99% confidence.

        >>> [lower_proportion(n, n, confidence=0.99).low >= 0.9 for n in (43, 44)]
        [False, True]
    """
    return _proportion(correct, n, confidence, "greater")


def upper_proportion(correct: int, n: int, confidence: float = 0.95) -> Interval:
    r"""Exact one-sided upper bound for a proportion: ``.high``, with ``.low`` = 0.

    The bound solves :math:`P(X \le k \mid p) = 1 - \text{confidence}`.

    Args:
        correct: Successes, 0 <= correct <= n.
        n: Independent trials.
        confidence: One-sided, in (0, 1).

    Returns:
        The interval [0, high]; NaN with a reason if ``n`` is 0.

    Raises:
        ValueError: As :func:`clopper_pearson`.

    Guarantee:
        P(proportion <= high) >= confidence, for every proportion and an ``n`` fixed beforehand.

    Example:
        >>> round(upper_proportion(0, 100, confidence=0.95).high, 4)  # the rule of three
        0.0295
    """
    return _proportion(correct, n, confidence, "less")


def mean_over_draws(scores: ArrayLike, confidence: float = 0.95) -> Interval:
    r"""Interval for the smoothed score :math:`E_\epsilon S(\theta + \epsilon)` from draws of it.

    One score for each independent draw; its items share the draw's noise, so the draw is the
    unit, and all that is used is that scores lie in [0, 1]. The ends are the betting bounds of
    :mod:`basinscope.stats.bounds` with error (1 - confidence)/2 on each side.

    Args:
        scores: Shape (n_draws,), in [0, 1]: the mean over the items of each draw. A failed
            evaluation counts as a wrong answer before it gets here.
        confidence: Two-sided, in (0, 1).

    Returns:
        The interval around the mean of the scores; wide for few draws (one draw is valid, and
        says next to nothing); NaN with a reason for none.

    Raises:
        ValueError: A score is NaN or outside [0, 1], or ``confidence`` is out of range.

    Guarantee:
        Covers the mean over draws (for these items, if every draw saw the same ones; for their
        population, if every draw saw fresh ones) with probability at least ``confidence``, for
        every number of draws at once: looking after each draw and stopping is allowed.

    Example:
        >>> interval = mean_over_draws([0.7] * 16, confidence=0.95)
        >>> round(interval.low, 3), round(interval.estimate, 3), round(interval.high, 3)
        (0.536, 0.7, 0.77)
    """
    check_confidence(confidence)
    x = np.asarray(scores, dtype=np.float64)
    if x.size == 0:
        return _nothing(confidence, "no draws were given: nothing is known about their mean")
    error = (1.0 - confidence) / 2.0
    low, high = lower_mean(x, error), upper_mean(x, error)
    return Interval(low, float(np.clip(x.mean(), low, high)), high, confidence)


def paired_difference(
    before: ArrayLike, after: ArrayLike, confidence: float = 0.95
) -> PairedDifference:
    r"""Change of a 0-1 score over the same items under one change of the weights.

    The mean of after - before is :math:`p_g - p_l`, the probability that an item is gained less
    that it is lost. Each is a proportion over items; bounding both sides of each exactly
    (Clopper-Pearson) with error (1 - confidence)/4 gives, by Bonferroni,

    .. math:: [\, L(p_g) - U(p_l), \; U(p_g) - L(p_l) \,].

    The other valid choice, a betting bound on (after - before + 1)/2, was wider in nearly every
    case tried (50 to 1000 items, none to 90% of them discordant): by an eighth with 5 gained and
    20 lost of 100, by half with 700 lost of 1000. It was narrower, by 2%, only where no item or
    almost every item was discordant. Taking the narrower of the two after the fact is not valid.

    The p-value is McNemar's in its exact form (Psychometrika 12, 1947): without a change, a
    discordant item is gained or lost with probability 1/2 each.

    Args:
        before: 0 or 1 (or bool) for each item at theta0, shape (n_items,).
        after: The same for the same items in the same order under the changed weights.
        confidence: Two-sided, in (0, 1).

    Returns:
        The difference with its interval, the discordant counts and the p-value. For no items the
        interval is NaN with a reason, and the p-value 1.

    Raises:
        ValueError: Shapes differ, a value is neither 0 nor 1, or ``confidence`` out of range.

    Guarantee:
        Covers the difference in the population from which the items were drawn, for this one
        change of the weights, with probability at least ``confidence``. It says nothing about
        other draws: see :func:`paired_difference_over_draws`.

    Example:
        >>> change = paired_difference([1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 1])
        >>> round(change.difference.estimate, 4), change.gained, change.lost, change.p_value
        (-0.3333, 1, 3, 0.625)
    """
    check_confidence(confidence)
    old, new = check_binary(before, "before"), check_binary(after, "after")
    if old.ndim != 1 or old.shape != new.shape:
        raise ValueError(
            f"before of shape {old.shape} and after of shape {new.shape} were given; allowed: the "
            "same shape (n_items,); try the same items in the same order on both sides"
        )
    n = int(old.size)
    gained, lost = int(np.sum(~old & new)), int(np.sum(old & ~new))
    if n == 0:
        difference = _nothing(confidence, "no items were given: there is nothing to compare")
        return PairedDifference(difference, gained, lost, n, 1.0)
    each = (1.0 + confidence) / 2.0  # two-sided, so that each of the four bounds errs with a fourth
    gain, loss = clopper_pearson(gained, n, each), clopper_pearson(lost, n, each)
    estimate = (gained - lost) / n
    difference = Interval(
        min(gain.low - loss.high, estimate),  # rounding only
        estimate,
        max(gain.high - loss.low, estimate),
        confidence,
    )
    p_value = (
        float(scipy.stats.binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    )
    return PairedDifference(difference, gained, lost, n, p_value)


def paired_difference_over_draws(
    before_score: float, after_scores: ArrayLike, confidence: float = 0.95
) -> Interval:
    """Mean change of the score of fixed items over independent draws of the weights' change.

    The items are fixed, so their score at theta0 is a number without error, and the difference
    of each draw, ``after_scores[i] - before_score``, is one unit: the interval is that of
    :func:`mean_over_draws`, shifted. The pairing is by item, through the fixed items.

    Args:
        before_score: Score of the items at theta0, in [0, 1].
        after_scores: Score of the same items under each draw, shape (n_draws,), in [0, 1].
        confidence: Two-sided, in (0, 1).

    Returns:
        Interval for the mean of after - before, in [-1, 1]; NaN with a reason for no draws.

    Raises:
        ValueError: A score is NaN or outside [0, 1], or ``confidence`` is out of range.

    Guarantee:
        Covers the mean over draws, for these items, with probability at least ``confidence``,
        for every number of draws at once. It does not extend to other items.

    Example:
        >>> change = paired_difference_over_draws(0.75, [0.5] * 20)
        >>> round(change.estimate, 3), change.high < 0
        (-0.25, True)
    """
    if not 0.0 <= before_score <= 1.0:
        raise ValueError(f"before_score={before_score!r} was given; allowed: 0 to 1")
    after = mean_over_draws(after_scores, confidence)
    return Interval(
        after.low - before_score,
        after.estimate - before_score,
        after.high - before_score,
        confidence,
        after.reason,
    )


def check_confidence(confidence: float) -> None:
    """Raise ValueError unless 0 < confidence < 1."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(
            f"confidence={confidence!r} was given; allowed: 0 < confidence < 1; "
            "try 0.95 (a fraction, not a percentage)"
        )


def check_binary(outcomes: ArrayLike, name: str) -> NDArray[np.bool_]:
    """Return 0-1 outcomes as booleans; raise ValueError naming the first other value."""
    values = np.asarray(outcomes, dtype=np.float64)
    wrong = ~((values == 0.0) | (values == 1.0))
    if wrong.any():
        raise ValueError(
            f"{name} holds {float(values[wrong][0])!r}; allowed: 0 and 1; "
            "try counting a failed evaluation as wrong (0)"
        )
    return np.asarray(values == 1.0, dtype=np.bool_)


def _proportion(
    correct: int, n: int, confidence: float, side: Literal["two-sided", "greater", "less"]
) -> Interval:
    check_confidence(confidence)
    try:
        k, trials = operator.index(correct), operator.index(n)
    except TypeError as error:
        raise ValueError(
            f"correct={correct!r}, n={n!r} was given; allowed: integers; try counts, not scores"
        ) from error
    if not 0 <= k <= trials:
        raise ValueError(f"correct={k}, n={trials} was given; allowed: 0 <= correct <= n")
    if trials == 0:
        return _nothing(confidence, "n = 0: nothing was observed")
    test = scipy.stats.binomtest(k, trials, alternative=side)
    ends = test.proportion_ci(confidence_level=confidence, method="exact")
    # A one-sided bound at a confidence below one half may pass the estimate: widening is valid.
    estimate = k / trials
    return Interval(
        min(float(ends.low), estimate), estimate, max(float(ends.high), estimate), confidence
    )


def _nothing(confidence: float, reason: str) -> Interval:
    return Interval(math.nan, math.nan, math.nan, confidence, reason)

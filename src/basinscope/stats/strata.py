"""Mean of the scores of several groups of items, each group weighing alike."""

import math
from collections.abc import Sequence

from basinscope.stats.intervals import Interval, check_confidence


def mean_over_strata(
    correct: Sequence[int], n: Sequence[int], confidence: float = 0.95
) -> Interval:
    r"""Two-sided interval for the mean over strata of their scores (the *macro* mean).

    .. math:: \frac1K \sum_k \frac{c_k}{n_k} \pm
              \sqrt{\tfrac12 \log\tfrac2e \cdot \tfrac1{K^2} \sum_k \tfrac1{n_k}},
              \qquad e = 1 - \text{confidence},

    which is Hoeffding's inequality (JASA 58, 1963, theorem 2) for a sum of independent outcomes of
    0 or 1, each weighing :math:`1/(K n_k)`; cut to [0, 1].

    Args:
        correct: Right answers :math:`c_k` of each stratum.
        n: Items :math:`n_k` of each stratum, at least 1.
        confidence: Two-sided, in (0, 1).

    Returns:
        The interval; NaN with a reason if there is no stratum.

    Raises:
        ValueError: A stratum without items, or with more right answers than items.

    Guarantee:
        P(low <= mean of the strata's true scores <= high) >= confidence, over items drawn
        independently, or without replacement, within each of the strata given. Nothing is assumed
        of the scores, so it is wider than it need be where they are near 0 or 1. It says nothing
        of strata from which no item was drawn.

    Example:
        >>> mean = mean_over_strata([1, 50], [2, 100])
        >>> mean.estimate, round(mean.high - mean.low, 3)
        (0.5, 0.97)
    """
    check_confidence(confidence)
    for right, size in zip(correct, n, strict=True):
        if not (size >= 1 and 0 <= right <= size):
            raise ValueError(f"{right} of {size} was given; allowed: 0 <= correct <= n, n >= 1")
    strata = len(n)
    if not strata:
        nan = math.nan
        return Interval(nan, nan, nan, confidence, reason="no strata")
    mean = math.fsum(c / size for c, size in zip(correct, n, strict=True)) / strata
    squares = math.fsum(1 / size for size in n) / strata**2
    half = math.sqrt(math.log(2 / (1 - confidence)) / 2 * squares)
    return Interval(max(0.0, mean - half), mean, min(1.0, mean + half), confidence)

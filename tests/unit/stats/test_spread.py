"""Order statistics and the spread of logarithms, by hand."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from basinscope.stats import median_interval, relative_spread, share_between_extremes


def test_93_directions_cover_95_percent_of_all():
    """Wilks's table: the least n for 95% of the population at 95% confidence."""
    assert share_between_extremes(93) >= 0.95 > share_between_extremes(92)
    assert [share_between_extremes(n) for n in (0, 1)] == [0.0, 0.0]
    n, share = 20, share_between_extremes(20, 0.9)
    assert n * share ** (n - 1) - (n - 1) * share**n == pytest.approx(0.1)


@pytest.mark.parametrize("n", [1, 5, 6, 9, 14, 50])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
def test_median_between_order_statistics(n, confidence):
    x = np.random.default_rng(0).permutation(n) + 1.0
    found = median_interval(x, confidence)
    assert found.estimate == np.median(x)
    error = (1 - confidence) / 2
    if math.isinf(found.low):
        assert binom.cdf(0, n, 0.5) > error
        assert found.high == math.inf
    else:
        r = int(found.low)
        assert found.high == n + 1 - r
        assert binom.cdf(r - 1, n, 0.5) <= error < binom.cdf(r, n, 0.5)


def test_an_error_that_is_met_exactly_is_used():
    """P(Bin(2, 1/2) < 1) = 1/4: at 50% confidence the two numbers themselves are the ends."""
    found = median_interval([3.0, 1.0], 0.5)
    assert (found.low, found.high) == (1.0, 3.0)


def test_infinite_values_are_large_and_not_missing():
    found = median_interval([1.0, 2.0, math.inf, math.inf, math.inf])
    assert found.estimate == math.inf
    assert median_interval([1.0, math.inf]).estimate == math.inf
    assert median_interval([1.0, 2.0, math.inf]).estimate == 2.0
    assert "no values" in median_interval([]).reason


def test_relative_spread_is_the_deviation_of_logarithms():
    x = [0.01, 0.02, 0.04]
    found = relative_spread(x)
    assert found.estimate == pytest.approx(math.log(2))
    assert found.low < found.estimate < found.high
    again = relative_spread([50 * w for w in x])
    assert again.estimate == pytest.approx(found.estimate), "of any unit"
    assert "needs two" in relative_spread([1.0]).reason
    for odd in (0.0, math.inf):
        assert relative_spread([1.0, odd, 2.0]).reason == "1 of 3 are infinite or zero"


@pytest.mark.parametrize("call", [median_interval, relative_spread])
def test_bad_values(call):
    for values in ([1.0, math.nan], [[1.0]]):
        with pytest.raises(ValueError, match="no NaN"):
            call(values)
    with pytest.raises(ValueError, match="allowed: 0 < confidence < 1"):
        call([1.0, 2.0], 95)


def test_bad_sizes():
    with pytest.raises(ValueError, match="positive numbers"):
        relative_spread([-1.0, 2.0])
    with pytest.raises(ValueError, match="0 or more"):
        share_between_extremes(-1)
    with pytest.raises(ValueError, match="allowed: 0 < confidence < 1"):
        share_between_extremes(5, 1.0)

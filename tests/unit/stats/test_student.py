"""Student's t against scipy's own, and against what is known of ratios."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from basinscope import stats


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("n", [2, 3, 17])
def test_equals_the_interval_of_scipy(n, confidence):
    x = np.random.default_rng(n).normal(3, 2, n)
    found = stats.student(x, confidence)
    expected = scipy_stats.ttest_1samp(x, 0).confidence_interval(confidence)
    assert found.estimate == pytest.approx(x.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.confidence == confidence


def test_a_ratio_with_equal_sizes_is_a_mean():
    x = np.random.default_rng(0).normal(3, 2, 9)
    found, mean = stats.student_ratio(4 * x, np.full(9, 4.0)), stats.student(x)
    assert (found.low, found.estimate, found.high) == pytest.approx(
        (mean.low, mean.estimate, mean.high)
    )


def test_a_ratio_weighs_units_by_their_size():
    # one unit of 3 tokens at 2 nats, one of 1 token at 6: 12 nats over 4 tokens
    assert stats.student_ratio([6.0, 6.0], [3.0, 1.0]).estimate == 3.0


def test_a_ratio_that_every_unit_shares_is_known():
    found = stats.student_ratio([2.0, 4.0, 10.0], [1.0, 2.0, 5.0])
    assert (found.low, found.estimate, found.high) == (2.0, 2.0, 2.0)


def test_a_ratio_covers_like_the_delta_method_says():
    # null hypothesis: coverage at 95% is at most 0.90 (sizes ignored, or a sum in place of a mean);
    # 2000 samples of 50 blocks: the share's deviation is .005, so .93 lies 6 of them above
    generator = np.random.default_rng(1)
    sizes = generator.integers(50, 150, (2000, 50)).astype(float)
    totals = sizes * (3 + 0.01 * (sizes - 100)) + generator.normal(0, 20, sizes.shape)
    truth = float((np.arange(50, 150) * (3 + 0.01 * (np.arange(50, 150) - 100))).mean() / 99.5)
    inside = [
        found.low <= truth <= found.high
        for found in (stats.student_ratio(y, m) for y, m in zip(totals, sizes, strict=True))
    ]
    assert 0.93 < np.mean(inside) < 0.97


@pytest.mark.parametrize("values", [[], [1.0]])
def test_of_fewer_than_two_values_has_no_ends_and_says_why(values):
    for found in (stats.student(values), stats.student_ratio(values, [1.0] * len(values))):
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert found.reason == f"{len(values)} values: their spread is unknown"


def test_of_a_value_that_is_not_finite_has_no_ends_and_says_why():
    found = stats.student([1.0, math.inf])
    assert math.isnan(found.low)
    assert found.reason == "a value is not finite"


@pytest.mark.parametrize("sizes", [[1.0], [1.0, 0.0], [1.0, -1.0]])
def test_a_ratio_refuses_sizes_that_are_none(sizes):
    with pytest.raises(ValueError, match=r"totals of shape .* one positive size for each"):
        stats.student_ratio([1.0, 2.0], sizes)


def test_confidence_out_of_range_is_refused():
    with pytest.raises(ValueError, match="confidence=95"):
        stats.student([1.0, 2.0], 95)

"""Fieller's interval: known numbers, its tie to the paired t test, and what has no interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from basinscope.stats import paired_ratio


def test_ends_are_where_the_paired_test_is_on_the_edge():
    y, x = np.array([1.0, 1.3, 1.1, 0.9]), np.array([2.0, 2.2, 2.1, 2.3])
    found = paired_ratio(y, x, 0.9)
    assert found.estimate == pytest.approx(y.mean() / x.mean())
    for end in (found.low, found.high):
        assert ttest_rel(y, end * x).pvalue == pytest.approx(0.1, abs=1e-9)


@pytest.mark.parametrize("shift", [0.3, 1.0])
def test_excludes_one_exactly_when_the_t_test_does(shift):
    x = np.array([2.0, 2.4, 1.7])
    y = x - shift * np.array([0.2, 0.5, 0.1])
    found = paired_ratio(y, x)
    assert (found.high < 1) == (ttest_rel(y, x).pvalue < 0.05)


def test_what_moves_both_alike_cancels():
    x = np.array([1.0, 1.5, 1.25])
    found = paired_ratio(0.5 * x, x)
    assert (found.low, found.high) == pytest.approx((0.5, 0.5), abs=1e-9)


def test_a_baseline_without_spread_gives_the_interval_of_the_mean():
    y = np.array([1.0, 2.0, 3.0])
    half = t.ppf(0.975, 2) * y.std(ddof=1) / math.sqrt(3) / 4
    found = paired_ratio(y, [4.0, 4.0, 4.0])
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))


@pytest.mark.parametrize(
    ("y", "x", "reason"),
    [
        ([], [], "no pairs"),
        ([1.0], [2.0], "1 pair: the spread is unknown"),
        ([1.0, math.nan], [1.0, 2.0], "not finite"),
        ([1.0, 2.0], [-1.0, 1.0], "the mean of the baseline is 0"),
        ([1.0, 2.0, 1.5], [-1.0, 1.0, 0.5], "not told from zero"),
    ],
)
def test_no_ends_without_a_reason(y, x, reason):
    found = paired_ratio(y, x)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert reason in found.reason


def test_one_pair_still_has_its_ratio():
    assert paired_ratio([1.0], [2.0]).estimate == 0.5


@pytest.mark.parametrize("x", [[1.0], [[1.0, 2.0]]])
def test_shapes_must_agree(x):
    with pytest.raises(ValueError, match=r"allowed: \(n,\) and \(n,\), pair by pair"):
        paired_ratio([1.0, 2.0], x)


def test_confidence_is_checked():
    with pytest.raises(ValueError, match="confidence"):
        paired_ratio([1.0, 2.0], [1.0, 2.0], 1.5)

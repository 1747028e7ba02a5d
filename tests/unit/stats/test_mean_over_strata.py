"""The mean over strata: known values, bad input, and coverage where it is tightest."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binom

from basinscope.stats import mean_over_strata


def test_equal_strata_are_hoeffdings_bound_for_all_items():
    found = mean_over_strata([30, 10], [50, 50], 0.95)
    half = math.sqrt(math.log(2 / 0.05) / 2 / 100)
    assert found.estimate == pytest.approx(0.4)
    assert found.high - found.estimate == pytest.approx(half)
    assert found.estimate - found.low == pytest.approx(half)


def test_a_small_stratum_weighs_like_a_large_one():
    found = mean_over_strata([0, 1000], [1, 1000])
    assert (found.low, found.estimate, found.high) == (0.0, 0.5, 1.0)


def test_no_strata_are_no_number():
    assert mean_over_strata([], []).reason == "no strata"


@pytest.mark.parametrize(("correct", "n"), [([1], [0]), ([3], [2]), ([-1], [2])])
def test_impossible_counts_are_refused(correct, n):
    with pytest.raises(ValueError, match="allowed: 0 <= correct <= n"):
        mean_over_strata(correct, n)
    with pytest.raises(ValueError, match="longer"):
        mean_over_strata([1], [2, 3])


@pytest.mark.parametrize("p", [(0.5, 0.5), (0.9, 0.1), (0.02, 0.5)])
def test_it_covers(p):
    """Exactly, by summing the binomial probabilities of all counts of two strata."""
    n = (4, 25)
    truth, covered = sum(p) / 2, 0.0
    for a in range(n[0] + 1):
        for b in range(n[1] + 1):
            found = mean_over_strata([a, b], n, 0.9)
            if found.low <= truth <= found.high:
                covered += binom.pmf(a, n[0], p[0]) * binom.pmf(b, n[1], p[1])
    assert covered >= 0.9

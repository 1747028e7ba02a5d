"""Above or below? Known answers, exact expectations, and what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from basinscope.stats import log_capital, log_capital_without_replacement, threshold, verdict
from basinscope.stats.verdicts import UNITS, paired


@pytest.mark.parametrize("values", [[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0], [0.2, 0.9, 0.4, 0, 1]])
def test_without_replacement_the_expected_capital_is_never_above_one(values):
    """Exactly, over all orders: at the mean itself every account is a martingale."""
    n, mean = len(values), sum(values) / len(values)
    for drawn in range(1, n):
        for m, limit in ((mean, 1 + 1e-9), (min(1.0, mean * 1.2), 1.0)):
            orders = itertools.permutations(values, drawn)
            capital = [math.exp(log_capital_without_replacement(o, m, n)) for o in orders]
            assert np.mean(capital) <= limit
            if m == mean:
                assert np.mean(capital) == pytest.approx(1.0)


def test_an_infinite_set_is_sampled_as_with_replacement():
    x = [1, 0, 1, 1, 0.5]
    assert log_capital_without_replacement(x, 0.4, 10**9) == pytest.approx(
        log_capital(x, 0.4), abs=1e-6
    )


def test_what_is_seen_of_a_finite_set_settles_it():
    assert log_capital_without_replacement([1, 1, 1], 0.5, 5) == math.inf
    assert log_capital_without_replacement([1, 1], 0.5, 4) < math.inf, "2 of 4 is not above 1/2"
    assert log_capital_without_replacement([], 0.5, 4) == 0.0


@pytest.mark.parametrize(
    ("x", "mean", "population", "message"),
    [
        ([1, 1], 0.5, 1, "2 values of a set of 1"),
        ([1], 0.0, 1, "mean=0.0"),
        ([2.0], 0.5, 1, r"outside \[0, 1\]"),
        ([math.nan], 0.5, 1, "NaN"),
    ],
)
def test_bad_values_without_replacement(x, mean, population, message):
    with pytest.raises(ValueError, match=message):
        log_capital_without_replacement(x, mean, population)


@pytest.mark.parametrize("chance", [0.0, 0.25])
@pytest.mark.parametrize("level", [0.2, 0.5, 0.8])
def test_the_mean_of_the_pairs_is_the_margin(chance, level):
    rng = np.random.default_rng(0)
    z, z_zero = rng.random((2, 50)) < 0.6
    scaled, zero = paired(z, z_zero, chance, level)
    margin = z.mean() - threshold(z_zero.mean(), chance, level)
    assert (2 - level) * (scaled.mean() - zero) == pytest.approx(margin)
    assert scaled.min() >= 0.0
    assert scaled.max() <= 1.0


@pytest.mark.parametrize("draws", [1, 4, UNITS, 30])
def test_clear_points_are_decided_and_those_at_the_threshold_are_not(draws):
    task = {"n_items": 200, "threshold": 0.5, "chance": 0.0, "level": 0.5, "error": 0.02}
    right = np.ones((draws, 16), dtype=int)
    half = right.copy()
    half[:, ::2] = 0
    assert [verdict(z, right, **task) for z in (right, 0 * right, half)] == [1, -1, 0]


def test_all_items_of_few_draws_always_decide():
    right = [[1] * 9]
    task = {"n_items": 9, "threshold": 0.5, "chance": 0.0, "level": 0.5, "error": 1e-9}
    assert verdict([[1, 0] * 4 + [1]], right, **task) == 1
    assert verdict([[0, 1] * 4 + [0]], right, **task) == -1


def test_draws_that_differ_are_not_pooled():
    """Eight draws, half of them lost on all of a hundred items: nothing is known of the mean."""
    z = np.repeat([[1], [1], [1], [1], [1], [0], [0], [0]], 100, axis=1)
    task = {"n_items": 1000, "threshold": 0.5, "chance": 0.0, "level": 0.5, "error": 0.02}
    assert verdict(z, np.ones_like(z), **task) == 0


def test_bad_shapes():
    task = {"n_items": 9, "threshold": 0.5, "chance": 0.0, "level": 0.5, "error": 0.1}
    with pytest.raises(ValueError, match=r"correct of shape \(2,\) and .* the same shape"):
        verdict([1, 0], [1, 0], **task)
    with pytest.raises(ValueError, match=r"correct holds 2\.0"):
        verdict([[2]], [[1]], **task)

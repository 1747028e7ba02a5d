"""The split against the textbook's two-way layout."""

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.anova import anova_lm

from basinscope.stats import VarianceSplit, split_variance


def outcomes(n_draws=5, n_items=8, seed=0):
    return np.random.default_rng(seed).integers(0, 2, (n_draws, n_items))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_mean_squares_are_those_of_an_analysis_of_variance():
    y = outcomes()
    draw, item = np.indices(y.shape)
    table = pd.DataFrame({"y": y.ravel(), "draw": draw.ravel(), "item": item.ravel()})
    anova = anova_lm(smf.ols("y ~ C(draw) + C(item)", table).fit())
    of_draw, of_item, rest = anova["sum_sq"] / anova["df"]
    split = split_variance(y)
    assert split.residual == pytest.approx(rest)
    assert split.direction == pytest.approx((of_draw - rest) / 8)
    assert split.item == pytest.approx((of_item - rest) / 5)
    assert split.mean == pytest.approx(y.mean())
    assert split.total == pytest.approx(split.direction + split.item + split.residual)


@pytest.mark.parametrize(
    ("y", "direction", "item", "residual"),
    [
        ([[1, 1], [1, 1]], 0, 0, 0),
        ([[0, 1, 1], [0, 1, 1]], 0, 1 / 3, 0),
        ([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], 1 / 3, 0, 0),
        ([[1, 0], [0, 1]], -0.5, -0.5, 1),
    ],
)
def test_known_splits(y, direction, item, residual):
    """The last: each direction hurts another item; unbiased estimates fall below zero."""
    split = split_variance(y)
    assert (split.direction, split.item, split.residual) == pytest.approx(
        (direction, item, residual)
    )


def test_standard_error_is_that_of_fresh_draws_and_items():
    split = VarianceSplit(0.5, 0.04, 0.09, 0.12, n_draws=4, n_items=30)
    assert split.standard_error() == pytest.approx(math.sqrt(0.01 + 0.003 + 0.001))
    assert split.standard_error(draws=1, items=1) == pytest.approx(0.5)
    below = VarianceSplit(0.5, -0.04, -0.09, 0.12, n_draws=4, n_items=30)
    assert below.standard_error() == pytest.approx(math.sqrt(0.001))


def test_planning_reaches_the_half_width_and_no_more():
    split = VarianceSplit(0.5, 0.04, 0.09, 0.12, n_draws=4, n_items=30)
    for needed, own, over in (
        (split.draws_needed(0.05), 0.04, 30),
        (split.items_needed(0.05), 0.09, 4),
    ):
        half = 1.959964 * math.sqrt((own + 0.12 / over) / needed)
        assert half <= 0.05 < half * math.sqrt(needed / (needed - 1))
    assert VarianceSplit(1.0, 0.0, 0.0, 0.0, 4, 30).draws_needed(0.01) == 1
    assert split.draws_needed(0.05, 0.99) > split.draws_needed(0.05, 0.95)


@pytest.mark.parametrize("y", [[[1, 0, 1]], [[1], [0]]])
def test_too_few_of_either(y):
    split = split_variance(y)
    assert "a split needs two of each" in split.reason
    assert math.isnan(split.direction)
    assert math.isnan(split.standard_error())
    assert math.isnan(split.draws_needed(0.1))


@pytest.mark.parametrize("y", [[], [1, 0], [[[1]]], [[], []]])
def test_wrong_shapes(y):
    with pytest.raises(ValueError, match=r"allowed: \(n_draws, n_items\)"):
        split_variance(y)


def test_other_values():
    with pytest.raises(ValueError, match=r"correct holds 0\.5; allowed: 0 and 1"):
        split_variance([[1, 0.5], [0, 1]])
    split = split_variance(outcomes())
    for half_width in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="greater than 0"):
            split.draws_needed(half_width)
    with pytest.raises(ValueError, match="allowed: 0 < confidence < 1"):
        split.items_needed(0.1, 95)

"""Known answers for the betting bounds."""

import itertools
import math

import numpy as np
import pytest

from basinscope.stats import log_capital, lower_mean, upper_mean
from basinscope.stats.bounds import PRIOR, STAKES

ERRORS = [0.05, 0.025, 0.005, 1e-6]


def capital_by_definition(x, mean):
    """Sum over accounts of the product over scores, as the formula is printed."""
    return sum(
        w * math.prod(1.0 + c * (score / mean - 1.0) for score in x)
        for c, w in zip(STAKES, PRIOR, strict=True)
    )


def lower_by_bisection(x, error):
    """Find the root by bisection in the mean, without logarithms or derivatives."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if capital_by_definition(x, middle) >= 1.0 / error:
            low = middle
        else:
            high = middle
    return low


def test_prior_is_a_probability_on_stakes_in_0_1() -> None:
    assert PRIOR.sum() == pytest.approx(1.0, abs=1e-15)
    assert PRIOR.min() > 0.0
    assert STAKES.min() > 0.0
    assert STAKES.max() == 1.0


@pytest.mark.parametrize("x", [0.001, 0.3, 1.0])
@pytest.mark.parametrize("error", ERRORS)
def test_one_score_has_a_closed_form(x, error) -> None:
    # K = sum_j w_j (1 - c_j + c_j x/m) = 1 - C + C x/m, with C the mean stake.
    c = float(PRIOR @ STAKES)
    assert lower_mean([x], error) == pytest.approx(c * x / (1.0 / error - 1.0 + c), rel=1e-9)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(
    "x",
    [
        [1.0] * 5,
        [0.7] * 12,
        [0.7, 0.73, 0.68, 0.71],
        [1.0, 0.0],
        [0.0] * 9 + [1.0],
        [1.0] * 9 + [0.0],
        [0.02, 0.0, 0.04, 0.0, 0.0, 0.3],
        list(np.linspace(0.0, 1.0, 41)),
    ],
)
def test_bound_is_the_root_of_the_printed_formula(x, error) -> None:
    root = lower_by_bisection(x, error)
    assert lower_mean(x, error) == pytest.approx(root, rel=1e-8)
    assert upper_mean([1.0 - score for score in x], error) == pytest.approx(1.0 - root, rel=1e-8)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("n", [1, 7, 100, 5000])
@pytest.mark.parametrize("p", [0.0, 0.01, 0.5, 0.97, 1.0])
def test_bound_lies_on_the_safe_side_of_the_root(p, n, error) -> None:
    x = (np.arange(n) < round(p * n)).astype(float)
    low = lower_mean(x, error)
    if low > 0.0:
        assert log_capital(x, low) >= -math.log(error)
        assert log_capital(x, low * (1 + 1e-8)) < -math.log(error)
    else:
        assert x.sum() == 0.0


def test_log_capital_is_the_logarithm_of_the_printed_formula() -> None:
    x = [0.2, 0.9, 0.0, 1.0, 0.55]
    for mean in (0.05, 0.4, 1.0):
        expected = math.log(capital_by_definition(x, mean))
        assert log_capital(x, mean) == pytest.approx(expected, abs=1e-12)
    assert log_capital([], 0.5) == 0.0


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize(
    ("values", "probabilities"),
    [((0.0, 1.0), (0.9, 0.1)), ((0.0, 1.0), (0.01, 0.99)), ((0.1, 0.5, 0.8), (0.2, 0.7, 0.1))],
)
def test_expected_capital_is_exactly_one_at_the_true_mean(values, probabilities, n) -> None:
    """The martingale property itself, by enumeration: a wrong weight or factor moves it from 1."""
    mean = float(np.dot(values, probabilities))
    expected = sum(
        math.prod(probabilities[i] for i in outcome)
        * math.exp(log_capital([values[i] for i in outcome], mean))
        for outcome in itertools.product(range(len(values)), repeat=n)
    )
    assert expected == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16, 32])
def test_all_ones_cost_at_most_the_prior_on_the_full_stake(n) -> None:
    # error^(1/n) is the exact binomial bound, which no valid bound passes; the prior of 1/2 on
    # c = 1 alone gives (error/2)^(1/n).
    low = lower_mean([1.0] * n, 0.025)
    assert 0.0125 ** (1 / n) * (1 - 1e-9) <= low < 0.025 ** (1 / n)


def test_nothing_observed_gives_the_trivial_bound() -> None:
    assert lower_mean([], 0.05) == 0.0
    assert upper_mean([], 0.05) == 1.0
    assert lower_mean([0.0] * 50, 0.05) == 0.0
    assert upper_mean([1.0] * 50, 0.05) == 1.0


def test_tiny_scores_do_not_overflow() -> None:
    assert lower_mean([5e-324, 1e-310], 0.05) == 0.0
    assert 0.0 < lower_mean([1e-200] * 30, 0.05) < 1e-200
    assert 0.0 < lower_mean([1.0] + [0.0] * 100_000, 1e-9) < 1e-5


def test_more_agreeing_scores_narrow_the_bound() -> None:
    lows = [lower_mean([0.7] * n, 0.025) for n in (1, 2, 4, 8, 16, 32, 1000)]
    assert lows == sorted(lows)
    assert lows[-1] > 0.695


def test_ints_and_bools_are_scores() -> None:
    assert lower_mean([True, True, False], 0.05) == lower_mean([1, 1, 0], 0.05)


@pytest.mark.parametrize("bad", [1.0000001, -1e-9, math.nan, math.inf])
@pytest.mark.parametrize("bound", [lower_mean, upper_mean])
def test_scores_outside_0_1_raise(bound, bad) -> None:
    with pytest.raises(ValueError, match=r"1 of 2 scores lie outside \[0, 1\] or are NaN.*try"):
        bound([0.5, bad], 0.05)
    with pytest.raises(ValueError, match="1 of 2 scores lie outside"):
        log_capital([0.5, bad], 0.5)


@pytest.mark.parametrize("error", [0.0, 1.0, -0.1, 95.0, math.nan])
def test_error_out_of_range_raises(error) -> None:
    with pytest.raises(ValueError, match=r"error=.*allowed: 0 < error < 1"):
        lower_mean([0.5], error)


def test_a_matrix_raises() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\).*one call for each step"):
        lower_mean(np.zeros((2, 3)), 0.05)


@pytest.mark.parametrize("mean", [0.0, 1.1, math.nan])
def test_mean_out_of_range_raises(mean) -> None:
    with pytest.raises(ValueError, match=r"mean=.*allowed: 0 < mean <= 1"):
        log_capital([0.5], mean)

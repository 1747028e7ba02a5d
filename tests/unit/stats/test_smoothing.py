"""Formulas of certificates: known values, limits, order, and what is refused."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from scipy.stats import binom, norm

from basinscope.stats import smoothing as formulas


class TestBounds:
    def test_strong_bound_is_the_formula(self):
        p, r, sigma = 0.83, 0.7, 0.4
        expected = norm.cdf(norm.ppf(p) - r / sigma)
        assert float(formulas.lower_bound(p, r, sigma)) == pytest.approx(expected, rel=1e-12)
        upper = norm.cdf(norm.ppf(p) + r / sigma)
        assert float(formulas.upper_bound(p, r, sigma)) == pytest.approx(upper, rel=1e-12)

    def test_weak_bound_is_the_tangent_at_one_half(self):
        r = 1e-6
        strong = float(formulas.lower_bound(0.5, r, 1.0))
        assert float(formulas.weak_bound(0.5, r, 1.0)) == pytest.approx(strong, abs=1e-15)
        assert float(formulas.weak_bound(0.7, 0.3, 0.5)) == pytest.approx(
            0.7 - 0.3 / (math.sqrt(2 * math.pi) * 0.5)
        )

    @pytest.mark.parametrize("p", [0.0, 1e-300, 0.3, 0.999999, 1.0])
    def test_at_no_distance_both_are_p_itself(self, p):
        assert float(formulas.lower_bound(p, 0.0, 1e-300)) == p
        assert float(formulas.upper_bound(p, 0.0, 1e-300)) == p
        assert float(formulas.weak_bound(p, 0.0, 1e-300)) == p

    def test_limits(self):
        assert float(formulas.lower_bound(0.0, 3.0, 1.0)) == 0.0
        assert float(formulas.lower_bound(1.0, 3.0, 1.0)) == 1.0
        assert float(formulas.upper_bound(0.0, 3.0, 1.0)) == 0.0
        assert float(formulas.upper_bound(1.0, 3.0, 1.0)) == 1.0
        # nothing is known of what left the geometry, even of a certain score
        for p in (0.0, 0.5, 1.0):
            assert float(formulas.lower_bound(p, math.inf, 1.0)) == 0.0
            assert float(formulas.upper_bound(p, math.inf, 1.0)) == 1.0
            assert float(formulas.weak_bound(p, math.inf, 1.0)) == 0.0
        # sigma towards zero: the smallest displacement spoils everything
        assert float(formulas.lower_bound(0.99, 1e-3, 1e-300)) == 0.0
        assert float(formulas.upper_bound(0.01, 1e-3, 1e-300)) == 1.0

    def test_arrays_broadcast(self):
        p, r = np.array([[0.6], [0.9]]), np.array([0.0, 0.5, 1.0])
        found = formulas.lower_bound(p, r, 1.0)
        assert found.shape == (2, 3)
        for i in range(2):
            for j in range(3):
                assert found[i, j] == float(formulas.lower_bound(p[i, 0], r[j], 1.0))

    @pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
    def test_refuses_what_is_no_probability(self, bad):
        with pytest.raises(ValueError, match="allowed: 0 to 1"):
            formulas.lower_bound(bad, 0.1, 1.0)
        with pytest.raises(ValueError, match=r"target=.* was given; allowed: 0 to 1"):
            formulas.radius(0.5, bad, 1.0)

    @pytest.mark.parametrize("bad", [-0.1, math.nan])
    def test_refuses_what_is_no_distance(self, bad):
        with pytest.raises(ValueError, match="allowed: a distance of at least 0"):
            formulas.lower_bound(0.5, [0.1, bad], 1.0)

    @pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
    def test_refuses_what_is_no_sigma(self, bad):
        with pytest.raises(ValueError, match="allowed: positive and finite"):
            formulas.radius(0.5, 0.4, bad)


class TestRadius:
    def test_is_where_the_bound_meets_the_target(self):
        radius = float(formulas.radius(0.95, 0.6, 0.02))
        assert float(formulas.lower_bound(0.95, radius, 0.02)) == pytest.approx(0.6, rel=1e-12)
        assert radius == pytest.approx(0.02 * (norm.ppf(0.95) - norm.ppf(0.6)))

    def test_limits(self):
        assert float(formulas.radius(0.7, 0.7, 1.0)) == 0.0
        assert math.isnan(float(formulas.radius(0.7, 0.71, 1.0))), "not even r = 0 is covered"
        assert math.isinf(float(formulas.radius(1.0, 0.5, 1.0)))
        assert math.isinf(float(formulas.radius(0.3, 0.0, 1.0)))
        assert math.isinf(float(formulas.radius(1.0, 1.0, 1.0)))
        assert math.isnan(float(formulas.radius(0.99, 1.0, 1.0)))


class TestItems:
    def test_each_bound_is_clopper_and_pearsons_at_its_share_of_the_error(self):
        counts, n, confidence = [0, 3, 50, 99, 100], 100, 0.95
        found = formulas.item_lower_bounds(counts, n, confidence)
        for k, bound in zip(counts, found, strict=True):
            exact = scipy_stats.binomtest(k, n, alternative="greater").proportion_ci(
                1 - 0.05 / 5, method="exact"
            )
            assert bound == pytest.approx(exact.low, abs=1e-9)

    def test_one_item_is_the_plain_bound(self):
        assert formulas.item_lower_bounds([44], 44, 0.99)[0] == pytest.approx(0.01 ** (1 / 44))

    def test_mean_of_bounds_is_above_the_bound_of_the_mean(self):
        p = np.array([0.999, 0.98, 0.7, 0.2])
        for r in (0.01, 0.5, 1.0, 3.0):
            assert formulas.mean_lower_bound(p, r, 1.0) > formulas.lower_bound(p.mean(), r, 1.0)
        assert float(formulas.mean_lower_bound(p, 0.0, 1.0)) == pytest.approx(p.mean())
        assert formulas.mean_lower_bound(p, [0.0, 1.0], 1.0).shape == (2,)

    @pytest.mark.parametrize(
        ("counts", "n"),
        [([5], 4), ([-1], 4), ([0.5], 4), ([], 4), ([0], 0), ([[1]], 4)],
        ids=["above", "below", "fraction", "none", "no draws", "table"],
    )
    def test_refuses_what_are_no_counts(self, counts, n):
        with pytest.raises(ValueError, match="allowed: shape"):
            formulas.item_lower_bounds(counts, n, 0.9)


class TestPlans:
    def test_golden_draws_for_ninety_percent_at_ninety_nine(self):
        assert [formulas.directions_needed(0.9, 0.99, f) for f in range(4)] == [44, 64, 81, 97]

    @pytest.mark.parametrize("failures", [0, 1, 2, 5])
    @pytest.mark.parametrize(("share", "confidence"), [(0.9, 0.99), (0.5, 0.9), (0.99, 0.95)])
    def test_are_the_fewest_whose_error_is_no_larger(self, share, confidence, failures):
        n = formulas.directions_needed(share, confidence, failures)
        error = 1 - confidence
        # P(at most so many failures) if the share is just not reached
        assert binom.cdf(failures, n, 1 - share) <= error * (1 + 1e-9)
        assert binom.cdf(failures, n - 1, 1 - share) > error

    def test_betting_needs_a_few_more(self):
        exact = formulas.draws_to_certify(0.9, 0.99, exact=True)
        betting = formulas.draws_to_certify(0.9, 0.99, exact=False)
        assert exact == 44
        assert exact < betting <= 52

    @pytest.mark.parametrize("bad", [(1.0, 0.9, 0), (-0.1, 0.9, 0), (0.5, 0.9, -1)])
    def test_refuses_a_share_out_of_range(self, bad):
        with pytest.raises(ValueError, match="allowed: 0 <= share < 1"):
            formulas.directions_needed(*bad)

    @pytest.mark.parametrize("confidence", [0.0, 1.0, 99.0])
    def test_refuses_a_confidence_out_of_range(self, confidence):
        with pytest.raises(ValueError, match="allowed: 0 < confidence < 1"):
            formulas.directions_needed(0.9, confidence)


class TestDecide:
    def test_says_when(self):
        assert formulas.decide([1.0] * 20, 0.5, 1e-3) == (11, True)
        assert formulas.decide([0.0] * 20, 0.5, 1e-3) == (11, False)
        assert formulas.decide([1.0] * 10, 0.5, 1e-3) == (10, None)
        assert formulas.decide([], 0.5, 1e-3) == (0, None)

    def test_what_comes_later_changes_nothing(self):
        rng = np.random.default_rng(0)
        x = (rng.random(300) < 0.8).astype(float)
        n, verdict = formulas.decide(x, 0.5, 1e-2)
        assert verdict is True
        assert formulas.decide(x[:n], 0.5, 1e-2) == (n, True)
        assert formulas.decide(x[: n - 1], 0.5, 1e-2) == (n - 1, None)

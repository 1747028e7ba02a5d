"""Known answers and edge cases for the intervals."""

import dataclasses
import math

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from basinscope.stats import (
    Interval,
    clopper_pearson,
    lower_mean,
    lower_proportion,
    mean_over_draws,
    paired_difference,
    paired_difference_over_draws,
    upper_mean,
    upper_proportion,
)


class TestInterval:
    def test_is_frozen(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError, match="low"):
            Interval(0.1, 0.2, 0.3, 0.95).low = 0.0  # type: ignore[misc]

    def test_nan_needs_a_reason(self) -> None:
        with pytest.raises(ValueError, match="without a reason"):
            Interval(math.nan, 0.5, 1.0, 0.95)
        assert Interval(math.nan, math.nan, math.nan, 0.95, "no draws").reason == "no draws"

    def test_ends_in_order(self) -> None:
        with pytest.raises(ValueError, match="allowed: low <= estimate <= high"):
            Interval(0.3, 0.2, 0.4, 0.95)

    @pytest.mark.parametrize("confidence", [0.0, 1.0, 95, math.nan])
    def test_confidence_is_a_fraction(self, confidence) -> None:
        with pytest.raises(ValueError, match=r"allowed: 0 < confidence < 1.*not a percentage"):
            Interval(0.1, 0.2, 0.3, confidence)


class TestProportion:
    @pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
    @pytest.mark.parametrize("n", [1, 2, 10, 100, 2000])
    @pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.97, 1.0])
    def test_agrees_with_statsmodels(self, share, n, confidence) -> None:
        k = round(share * n)
        ours = clopper_pearson(k, n, confidence)
        low, high = proportion_confint(k, n, alpha=1 - confidence, method="beta")
        assert (ours.low, ours.high) == pytest.approx((low, high), abs=1e-9)
        assert ours.estimate == k / n
        one_sided = 2 * confidence - 1
        if one_sided > 0:
            twice = clopper_pearson(k, n, one_sided)
            assert lower_proportion(k, n, confidence).low == pytest.approx(twice.low, abs=1e-9)
            assert upper_proportion(k, n, confidence).high == pytest.approx(twice.high, abs=1e-9)

    def test_one_sided_leaves_the_other_side_open(self) -> None:
        assert lower_proportion(5, 10).high == 1.0
        assert upper_proportion(5, 10).low == 0.0

    @pytest.mark.parametrize(("failures", "n"), [(0, 44), (1, 64), (2, 81), (3, 97)])
    def test_clean_draws_for_ninety_percent_at_ninety_nine(self, failures, n) -> None:
        assert lower_proportion(n - failures, n, 0.99).low >= 0.9
        assert lower_proportion(n - 1 - failures, n - 1, 0.99).low < 0.9

    def test_clean_draws_two_sided(self) -> None:
        assert clopper_pearson(51, 51, 0.99).low >= 0.9
        assert clopper_pearson(50, 50, 0.99).low < 0.9

    @pytest.mark.parametrize("bound", [clopper_pearson, lower_proportion, upper_proportion])
    def test_no_trials_is_nan_with_a_reason(self, bound) -> None:
        nothing = bound(0, 0)
        assert math.isnan(nothing.low)
        assert math.isnan(nothing.estimate)
        assert math.isnan(nothing.high)
        assert "nothing was observed" in nothing.reason

    def test_low_confidence_never_passes_the_estimate(self) -> None:
        assert lower_proportion(5, 10, 0.1).low == 0.5
        assert upper_proportion(5, 10, 0.1).high == 0.5

    def test_numpy_integers_are_counts(self) -> None:
        assert clopper_pearson(np.int64(3), np.int32(9)) == clopper_pearson(3, 9)

    @pytest.mark.parametrize(("correct", "n"), [(-1, 3), (4, 3), (0, -1)])
    def test_impossible_counts_raise(self, correct, n) -> None:
        with pytest.raises(ValueError, match="allowed: 0 <= correct <= n"):
            clopper_pearson(correct, n)

    def test_a_score_is_not_a_count(self) -> None:
        with pytest.raises(ValueError, match="allowed: integers; try counts"):
            clopper_pearson(0.5, 10)  # type: ignore[arg-type]


class TestMeanOverDraws:
    def test_spends_half_of_the_error_on_each_side(self) -> None:
        scores = [0.7, 0.72, 0.69, 0.66]
        interval = mean_over_draws(scores, confidence=0.9)
        assert interval.low == lower_mean(scores, (1 - 0.9) / 2)
        assert interval.high == upper_mean(scores, (1 - 0.9) / 2)
        assert interval.estimate == pytest.approx(0.6925)

    def test_one_draw_is_valid_and_wide(self) -> None:
        interval = mean_over_draws([0.7])
        assert 0.0 < interval.low < 0.05
        assert 0.95 < interval.high < 1.0
        assert interval.estimate == 0.7

    def test_no_draws_is_nan_with_a_reason(self) -> None:
        nothing = mean_over_draws([])
        assert math.isnan(nothing.estimate)
        assert "no draws" in nothing.reason

    @pytest.mark.parametrize("n", [1, 3, 50])
    @pytest.mark.parametrize("score", [0.0, 0.1, 1.0])
    def test_equal_scores(self, score, n) -> None:
        interval = mean_over_draws([score] * n)
        assert interval.low <= score <= interval.high
        assert interval.estimate == pytest.approx(score)

    def test_a_failed_evaluation_must_have_been_counted(self) -> None:
        with pytest.raises(ValueError, match=r"NaN.*counting a failed evaluation as wrong \(0\)"):
            mean_over_draws([0.7, math.nan])

    def test_confidence_out_of_range_raises_before_anything_else(self) -> None:
        with pytest.raises(ValueError, match="confidence=95"):
            mean_over_draws([], confidence=95)


class TestPairedDifference:
    def test_counts_estimate_and_interval(self) -> None:
        before = np.r_[np.ones(60), np.zeros(40)]
        after = np.r_[np.ones(40), np.zeros(20), np.ones(5), np.zeros(35)]
        change = paired_difference(before, after, confidence=0.95)
        assert (change.gained, change.lost, change.n_items) == (5, 20, 100)
        assert change.difference.estimate == pytest.approx(-0.15)
        # Bonferroni: four exact one-sided bounds at 1 - 0.05/4 each.
        low = lower_proportion(5, 100, 0.9875).low - upper_proportion(20, 100, 0.9875).high
        high = upper_proportion(5, 100, 0.9875).high - lower_proportion(20, 100, 0.9875).low
        assert (change.difference.low, change.difference.high) == pytest.approx((low, high))

    @pytest.mark.parametrize(("gained", "lost"), [(0, 1), (1, 5), (7, 7), (30, 12)])
    def test_p_value_agrees_with_statsmodels(self, gained, lost) -> None:
        before = np.r_[np.zeros(gained), np.ones(lost), np.ones(10)]
        after = np.r_[np.ones(gained), np.zeros(lost), np.ones(10)]
        oracle = mcnemar([[10, lost], [gained, 0]], exact=True).pvalue
        assert paired_difference(before, after).p_value == pytest.approx(min(oracle, 1.0))

    def test_no_discordant_items(self) -> None:
        change = paired_difference([1, 0, 1], [1, 0, 1])
        assert change.p_value == 1.0
        assert change.difference.estimate == 0.0
        assert change.difference.low < 0.0 < change.difference.high

    def test_no_items_is_nan_with_a_reason(self) -> None:
        change = paired_difference([], [])
        assert change.p_value == 1.0
        assert math.isnan(change.difference.estimate)
        assert "no items" in change.difference.reason

    def test_stays_within_minus_one_and_one(self) -> None:
        for before, after in ([1] * 3, [0] * 3), ([0] * 3, [1] * 3):
            interval = paired_difference(before, after).difference
            assert -1.0 <= interval.low <= interval.high <= 1.0

    def test_shapes_must_agree(self) -> None:
        with pytest.raises(ValueError, match=r"shape \(2,\) and after of shape \(3,\).*same items"):
            paired_difference([1, 0], [1, 0, 1])

    @pytest.mark.parametrize("bad", [0.5, math.nan, 2])
    def test_only_zeros_and_ones(self, bad) -> None:
        with pytest.raises(ValueError, match=r"after holds .*allowed: 0 and 1"):
            paired_difference([1, 0], [1, bad])


class TestPairedDifferenceOverDraws:
    def test_is_the_interval_over_draws_shifted(self) -> None:
        after = [0.5, 0.55, 0.6]
        change, mean = paired_difference_over_draws(0.8, after), mean_over_draws(after)
        assert change.low == mean.low - 0.8
        assert change.estimate == pytest.approx(-0.25)
        assert change.high == mean.high - 0.8

    def test_no_draws_is_nan_with_a_reason(self) -> None:
        assert "no draws" in paired_difference_over_draws(0.8, []).reason

    @pytest.mark.parametrize("before", [-0.1, 1.1, math.nan])
    def test_score_before_out_of_range_raises(self, before) -> None:
        with pytest.raises(ValueError, match=r"before_score=.*allowed: 0 to 1"):
            paired_difference_over_draws(before, [0.5])

"""Known answers and edge cases for the width of a basin."""

import math

import numpy as np
import pytest

from basinscope.stats import (
    Width,
    lower_mean,
    threshold,
    upper_mean,
    width_over_draws,
    width_over_items,
)

STEPS = [0.005, 0.01, 0.015, 0.02, 0.03]


def draws(curve, n=20):
    """Return scores of n draws that agree on the curve, one row for each step."""
    return np.repeat(np.asarray(curve, dtype=float)[:, None], n, axis=1)


def over_draws(curve, steps=STEPS, n=20, **changes):
    settings = {"score_at_zero": 1.0, "n_items": 50, "chance": 0.0} | changes
    return width_over_draws(steps, draws(curve, n), **settings)


def items(curve, n=100):
    """Return outcomes in which the first share of the items is right, one row for each step."""
    return np.array([np.arange(n) < round(score * n) for score in curve])


def over_items(curve, steps=STEPS, at_zero=1.0, n=100, **changes):
    settings = {"correct_at_zero": items([at_zero], n)[0], "chance": 0.0} | changes
    return width_over_items(steps, items(curve, n), **settings)


BOTH = pytest.mark.parametrize("measure", [over_draws, over_items])


@pytest.mark.parametrize(
    ("at_zero", "chance", "level", "expected"),
    [(1.0, 0.0, 0.5, 0.5), (0.85, 0.25, 0.5, 0.55), (0.9, 0.5, 0.25, 0.8), (0.6, 0.2, 0.9, 0.24)],
)
def test_threshold(at_zero, chance, level, expected) -> None:
    assert threshold(at_zero, chance, level) == pytest.approx(expected)


def test_threshold_agrees_with_the_loss_t_at_the_level() -> None:
    best, chance, level = 0.85, 0.25, 0.3
    score = threshold(best, chance, level)
    assert 1 - (score - chance) / (best - chance) == pytest.approx(level)


class TestEstimate:
    @BOTH
    def test_interpolates_between_the_steps_around_the_first_crossing(self, measure) -> None:
        # 0.8 at 0.01 and 0.2 at 0.015: 0.5 is half of the way.
        assert measure([1.0, 0.8, 0.2, 0.0, 0.0]).estimate == pytest.approx(0.0125)

    @BOTH
    def test_interpolates_from_the_score_at_zero(self, measure) -> None:
        assert measure([0.25, 0.0, 0.0, 0.0, 0.0]).estimate == pytest.approx(0.005 * 0.5 / 0.75)

    @BOTH
    def test_a_mean_equal_to_the_threshold_is_not_below_it(self, measure) -> None:
        assert measure([1.0, 0.5, 0.0, 0.0, 0.0]).estimate == pytest.approx(0.01)
        assert measure([1.0, 0.5, 1.0, 1.0, 0.5]).unresolved

    @BOTH
    def test_is_the_first_crossing_of_several(self, measure) -> None:
        width = measure([1.0, 0.2, 0.8, 0.0, 0.0])
        assert width.estimate == pytest.approx(0.005 + 0.005 * 0.5 / 0.8)

    @BOTH
    @pytest.mark.parametrize(("level", "expected"), [(0.1, 0.002), (0.5, 0.01), (0.9, 0.018)])
    def test_level_moves_the_threshold(self, measure, level, expected) -> None:
        width = measure([0.75, 0.5, 0.25, 0.0, 0.0], level=level)
        assert width.estimate == pytest.approx(expected)
        assert width.level == level

    @BOTH
    def test_chance_moves_the_threshold(self, measure) -> None:
        # s* = 0.25 + 0.5 * 0.75 = 0.625.
        width = measure([1.0, 0.75, 0.5, 0.25, 0.25], chance=0.25)
        assert width.estimate == pytest.approx(0.0125)


class TestInterval:
    @BOTH
    def test_is_the_two_steps_around_a_clear_crossing(self, measure) -> None:
        width = measure([1.0, 1.0, 0.0, 0.0, 0.0])
        assert (width.low, width.high) == (0.01, 0.015)
        assert not width.unresolved
        assert width.reason == ""

    def test_walks_use_the_one_sided_bounds_of_each_step(self) -> None:
        rng = np.random.default_rng(0)
        centre = np.array([[0.95], [0.8], [0.55], [0.3], [0.02]])
        scores = np.clip(centre + 0.1 * rng.standard_normal((5, 12)), 0.0, 1.0)
        width = width_over_draws(
            STEPS, scores, score_at_zero=1.0, n_items=50, chance=0.0, confidence=0.9
        )
        above = [lower_mean(row, 0.05) > 0.5 for row in scores]
        below = [upper_mean(row, 0.05) < 0.5 for row in scores]
        assert above == [True, True, False, False, False]
        assert below == [False, False, False, False, True]
        assert (width.low, width.high) == (0.01, 0.03)

    @BOTH
    def test_outward_walk_stops_at_the_first_failure(self, measure) -> None:
        # The last steps are clearly above again: they must not raise low.
        width = measure([1.0, 0.5, 1.0, 1.0, 0.0])
        assert width.low == 0.005
        assert width.high == 0.03

    @BOTH
    def test_inward_walk_stops_at_the_first_failure(self, measure) -> None:
        # A dip further in does not lower high beyond the last crossing.
        width = measure([1.0, 0.0, 1.0, 0.0, 0.0])
        assert width.high == 0.02
        assert width.low <= width.estimate <= width.high

    @BOTH
    def test_collapse_before_the_first_step(self, measure) -> None:
        width = measure([0.0, 0.0, 0.0, 0.0, 0.0])
        assert (width.low, width.estimate, width.high) == (0.0, pytest.approx(0.0025), 0.005)

    @BOTH
    def test_recovered_at_the_outermost_step_is_not_bracketed(self, measure) -> None:
        width = measure([1.0, 1.0, 0.0, 0.0, 1.0])
        assert width.high == math.inf
        assert width.estimate == pytest.approx(0.0125)
        assert not width.unresolved
        assert "no upper end" in width.reason

    @pytest.mark.parametrize(("n", "bracketed"), [(1, False), (6, False), (7, True), (8, True)])
    def test_few_draws_cannot_give_an_upper_end(self, n, bracketed) -> None:
        # Even an exact bound, 1 - 0.025^(1/n), is above 1/2 for n <= 5.
        width = over_draws([1.0, 1.0, 0.0, 0.0, 0.0], n=n)
        assert math.isfinite(width.high) == bracketed
        assert width.n_units == n
        assert width.unit == "draws"

    def test_items_are_paired_with_themselves_at_zero(self) -> None:
        # W = z(a) - z(0)/2 takes values in [-1/2, 1]; here it is -1/2 or 1/2 for the 60 items
        # right at zero, 0 for the others.
        width = over_items([0.6, 0.5, 0.4, 0.3, 0.0], at_zero=0.6)
        assert width.unit == "items"
        assert width.n_units == 100
        low_of = [
            1.5 * lower_mean((items([s])[0] - 0.5 * items([0.6])[0] + 0.5) / 1.5, 0.025) - 0.5
            for s in (0.6, 0.5, 0.4, 0.3)
        ]
        assert width.low == max(a for a, low in zip(STEPS, low_of, strict=False) if low > 0)
        assert width.low == 0.01

    @pytest.mark.parametrize(("level", "chance"), [(0.5, 0.25), (0.2, 0.5), (0.8, 0.1)])
    def test_items_are_compared_with_the_image_of_zero(self, level, chance) -> None:
        # All 400 items right at zero, so W = z(a) - s*: the test is that of z(a) against s*, but
        # on a scale stretched to the range -(1 - level) - level * chance ... 1 - level * chance.
        n, span, offset = 400, 2 - level, (1 - level) + level * chance
        s_star = threshold(1.0, chance, level)
        curve = np.clip(s_star + np.array([0.12, 0.09, 0.06, 0.0, -0.12]), 0.0, 1.0)
        width = over_items(curve, n=n, chance=chance, level=level)
        tests = [
            lower_mean((row - s_star + offset) / span, 0.025) * span for row in items(curve, n)
        ]
        passed = [low > offset for low in tests]
        assert passed[0]
        assert not passed[3]
        assert width.low == STEPS[passed.index(False) - 1]
        assert width.estimate == pytest.approx(0.02, abs=0.002)


class TestUnresolved:
    @BOTH
    def test_never_below_the_threshold(self, measure) -> None:
        width = measure([1.0, 1.0, 1.0, 1.0, 0.9])
        assert width.unresolved
        assert math.isnan(width.estimate)
        assert width.high == math.inf
        assert width.low == 0.03
        assert "still above the threshold at the outermost step 0.03" in width.reason
        assert "measure further out" in width.reason

    @pytest.mark.parametrize(
        ("at_zero", "chance"), [(0.02, 0.0), (0.0, 0.0), (0.3, 0.25), (0.2, 0.25)]
    )
    def test_no_basin_where_zero_is_not_above_chance(self, at_zero, chance) -> None:
        curve = [0.2, 0.1, 0.0, 0.0, 0.0]
        n = 50
        for width in (
            over_draws(curve, score_at_zero=at_zero, n_items=n, chance=chance),
            over_items(curve, at_zero=at_zero, n=n, chance=chance),
        ):
            if (at_zero, chance) == (0.02, 0.0):
                # One right answer of 50 is above a chance of exactly 0, where none can occur.
                assert not width.unresolved
                continue
            assert width.unresolved
            assert math.isnan(width.low)
            assert math.isnan(width.high)
            assert "is not above chance" in width.reason
            assert f"({at_zero:.2f} on 50 items)" in width.reason
            assert "no basin to measure" in width.reason

    def test_more_items_tell_a_score_from_chance(self) -> None:
        curve = [0.2, 0.1, 0.0, 0.0, 0.0]
        assert over_draws(curve, score_at_zero=0.3, n_items=50, chance=0.25).unresolved
        assert not over_draws(curve, score_at_zero=0.3, n_items=500, chance=0.25).unresolved


class TestMirroredHalfCurvesAndCurvesPaddedBeyondTheMeasuredRange:
    """Named regression: a width comes from measured steps of its own side, and no others."""

    @BOTH
    def test_width_never_extrapolates(self, measure) -> None:
        # The line through the last two points would cross just outside; nothing was measured.
        width = measure([1.0, 0.9, 0.8, 0.7, 0.51])
        assert math.isnan(width.estimate)
        assert width.high == math.inf

    @BOTH
    @pytest.mark.parametrize("cut", [1, 2])
    def test_a_cut_curve_is_not_padded_with_its_last_or_a_collapsed_value(
        self, measure, cut
    ) -> None:
        curve = [1.0, 1.0, 0.0, 0.0, 0.0]
        assert measure(curve).estimate == pytest.approx(0.0125)
        width = measure(curve[:cut], steps=STEPS[:cut])
        assert width.unresolved
        assert width.low == STEPS[cut - 1]
        assert width.high == math.inf

    def test_padding_with_nan_raises(self) -> None:
        with pytest.raises(ValueError, match=r"NaN were given.*leaving out steps not measured"):
            over_draws([1.0, 1.0, 0.0, math.nan, math.nan])
        outcomes = items([1.0, 0.0]).astype(float)
        outcomes[1] = math.nan
        with pytest.raises(ValueError, match="correct holds nan"):
            width_over_items([0.01, 0.02], outcomes, correct_at_zero=items([1.0])[0], chance=0.0)

    @pytest.mark.parametrize(
        "steps",
        [
            [-0.03, -0.02, -0.01, 0.01, 0.02],
            [0.0, 0.005, 0.01, 0.02, 0.03],
            [0.03, 0.02, 0.01, 1, 2],
        ],
    )
    def test_steps_of_both_signs_or_with_zero_or_unsorted_raise(self, steps) -> None:
        with pytest.raises(ValueError, match=r"greater than 0 and increasing.*one side"):
            over_draws([1.0, 1.0, 0.0, 0.0, 0.0], steps=steps)

    def test_the_sides_are_measured_apart(self) -> None:
        plus = over_draws([1.0, 1.0, 0.0, 0.0, 0.0], sign=1)
        minus = over_draws([1.0, 0.0, 0.0, 0.0, 0.0], sign=-1)
        assert (plus.sign, minus.sign) == (1, -1)
        assert plus.estimate > minus.estimate


class TestArguments:
    @BOTH
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"level": 0.0}, "level=0.0 was given; allowed: 0 < level < 1; try 0.5"),
            ({"level": 1.0}, "level=1.0 was given"),
            ({"level": math.nan}, "level=nan was given"),
            ({"chance": 1.0}, "chance=1.0 was given; allowed: 0 <= chance < 1"),
            ({"chance": -0.1}, "chance=-0.1 was given"),
            ({"confidence": 95}, "confidence=95 was given; allowed: 0 < confidence < 1"),
            ({"sign": 0}, r"sign=0 was given; allowed: \+1 or -1"),
        ],
    )
    def test_out_of_range_raises(self, measure, changes, message) -> None:
        with pytest.raises(ValueError, match=message):
            measure([1.0, 1.0, 0.0, 0.0, 0.0], **changes)

    @BOTH
    @pytest.mark.parametrize("steps", [[], [[0.1]], [math.nan], [math.inf]])
    def test_steps_that_are_no_grid_raise(self, measure, steps) -> None:
        with pytest.raises(ValueError, match=r"steps=.*allowed: .*finite, at least one"):
            measure([1.0], steps=steps)

    @BOTH
    def test_a_row_for_each_step(self, measure) -> None:
        with pytest.raises(ValueError, match=r"with 5 steps.*try a row for each step"):
            measure([1.0, 0.0])

    def test_no_draws_raises(self) -> None:
        with pytest.raises(ValueError, match="at least one draw"):
            over_draws([1.0, 1.0, 0.0, 0.0, 0.0], n=0)

    def test_no_items_raises(self) -> None:
        with pytest.raises(ValueError, match="at least one item"):
            width_over_items([0.01], np.zeros((1, 0)), correct_at_zero=[], chance=0.0)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"score_at_zero": 0.333, "n_items": 50}, "allowed: multiples of 1/50.*not rounded"),
            ({"score_at_zero": 1.2}, "score_at_zero=1.2 was given; allowed: 0 to 1"),
            ({"n_items": 0}, "n_items=0 was given; allowed: 1 or more"),
        ],
    )
    def test_score_at_zero_comes_from_the_items(self, changes, message) -> None:
        with pytest.raises(ValueError, match=message):
            over_draws([1.0, 1.0, 0.0, 0.0, 0.0], **changes)


class TestWidth:
    def test_infinite_needs_a_reason(self) -> None:
        with pytest.raises(ValueError, match="without a reason"):
            Width(0.1, 0.2, math.inf, 0.5, 0.95, 1, "draws", 8)

    def test_ends_in_order(self) -> None:
        with pytest.raises(ValueError, match="allowed: low <= estimate <= high"):
            Width(0.3, 0.2, 0.4, 0.5, 0.95, 1, "draws", 8)

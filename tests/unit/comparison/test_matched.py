"""Forgetting at matched new-task loss: where a fine-tuning curve first reaches a target."""

from __future__ import annotations

import math

import pytest

from basinscope.comparison.matched import Arrival, arrival, targets
from basinscope.widening.rows import TuningPoint


def curve(*points):
    return [point(k, new, old) for k, (new, old) in enumerate(points)]


def point(step, new, old):
    return TuningPoint(step=step, new_nll=new, new_score=None, old_nll=old, old_score=None)


def test_interpolates_between_the_points_around_the_target():
    found = arrival(curve((4.0, 2.0), (3.0, 2.4), (2.0, 3.4)), 2.5)
    assert found == Arrival(pytest.approx(2.9), pytest.approx(0.9), pytest.approx(1.5))


def test_a_measured_point_needs_no_interpolation():
    assert arrival(curve((4.0, 2.0), (3.0, 2.4), (2.0, 3.4)), 3.0).old_nll == pytest.approx(2.4)


def test_the_first_arrival_counts_where_the_curve_turns():
    turning = curve((4.0, 2.0), (3.0, 2.5), (3.4, 2.8), (2.9, 3.5))
    assert arrival(turning, 3.2).forgetting == pytest.approx(0.4)
    # between the turn's points a lower target is reached from the later one alone
    assert arrival(turning, 2.95).old_nll == pytest.approx(3.43)


def test_nothing_is_extrapolated():
    found = arrival(curve((4.0, 2.0), (3.0, 2.4)), 2.999)
    assert math.isnan(found.forgetting)
    assert found.reason == "reaches 3.0000, not 2.9990"


def test_what_needs_no_tuning_forgets_nothing():
    assert arrival(curve((3.0, 2.0), (2.0, 9.0)), 3.5) == Arrival(2.0, 0.0, 0.0)


def test_a_loss_that_is_not_finite_gives_a_reason_not_a_number():
    broken = [*curve((4.0, 2.0), (3.5, 2.1)), point(9, None, 2.0)]
    assert arrival(broken, 3.7).reason == ""
    assert arrival(broken, 3.0).reason == "a loss is not finite at step 9"
    assert arrival([], 3.0).reason == "it was not fine-tuned"


def test_forgetting_may_be_negative():
    assert arrival(curve((4.0, 2.0), (3.0, 1.5)), 3.0).forgetting == pytest.approx(-0.5)


def test_targets_are_shares_of_the_mean_gain():
    found = targets([curve((4.0, 2.0), (3.0, 2.0), (3.5, 2.0)), curve((4.2, 2.0), (2.8, 2.0))])
    # starts 4.1, best 2.9
    assert found == {
        0.25: pytest.approx(3.8),
        0.5: pytest.approx(3.5),
        0.75: pytest.approx(3.2),
    }


def test_no_targets_without_gain_or_curves():
    assert targets([]) == {}
    assert targets([[]]) == {}
    assert targets([curve((4.0, 2.0), (4.5, 2.0))]) == {}

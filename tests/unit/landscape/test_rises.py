"""Rises of the mean above the score at zero: one test for a task."""

from __future__ import annotations

import numpy as np
import pytest

import basinscope as bs
from basinscope.landscape.design import Design, Share
from basinscope.report.text import notes, summary

N = 40


def held_back(share: float) -> bs.CallableTask:
    """Right at zero in a tenth of the items; under noise in a share of them, by the draw."""

    def fn(module):
        weight = module.weight[0, 0].item()
        if weight == 1.0:
            return [1] * (N // 10) + [0] * (N - N // 10)
        rng = np.random.default_rng(abs(int(weight * 1e7)))
        return (rng.random(N) < share).astype(int)

    return bs.CallableTask("held", fn, N)


def plan(draws: int) -> Design:
    return Design({"held": Share(draws, 4, 0.1)}, 1, 1.0, False, None, None, 0.0)


LINES = {
    "crossed": {"plan": plan(64)},
    "draws": {"draws": 24},
    "one draw": {"draws": 1},
}


@pytest.mark.parametrize("options", LINES.values(), ids=LINES)
def test_a_model_that_does_better_under_noise(engine, options) -> None:
    land = bs.landscape(engine, held_back(0.7), steps=[0.1, -0.1, 0.2], **options)
    (row,) = land.rises().itertuples()
    assert (row.task, row.points, row.direction) == ("held", 3, "random")
    assert row.score_at_zero == 0.1
    assert row.score == pytest.approx(0.7, abs=0.15)
    assert row.rise == pytest.approx(row.score - row.score_at_zero)
    assert 0 < row.low < row.rise
    assert row.p_value < 0.05
    (note,) = [note for note in notes(land) if "sandbagging" in note]
    assert "held: better under noise than at zero" in note
    assert "over all 3 points" in note
    assert summary(land)["rises"][0]["p_value"] == row.p_value


@pytest.mark.parametrize("options", LINES.values(), ids=LINES)
def test_a_model_that_does_worse(engine, options) -> None:
    land = bs.landscape(engine, held_back(0.02), steps=[0.1, -0.1, 0.2], **options)
    (row,) = land.rises().itertuples()
    assert row.low < 0
    assert row.p_value == 1
    assert not [note for note in notes(land) if "sandbagging" in note]


@pytest.mark.parametrize("draws", [1, 12])
def test_points_where_a_search_stopped(engine, make_task, draws) -> None:
    land = bs.landscape(engine, make_task(100, chance=0.4), draws=draws)
    assert not all(trial.whole for trial in land.trials)
    (row,) = land.rises().itertuples()
    assert row.points == len(land.means()) - 1
    assert row.p_value > 0.05 > 0 >= row.low


def test_whatever_rises_from_nothing_is_no_chance(engine) -> None:
    task = bs.CallableTask("t", lambda m: [int(m.weight[0, 0].item() != 1.0), 0, 0], 3)
    land = bs.landscape(engine, task, steps=[0.1], draws=8)
    assert land.rises().p_value.tolist() == [0.0]


def test_the_evidence_and_the_bound_agree(engine) -> None:
    """The bound is above 0 exactly where the p-value is below the error."""
    for share in (0.11, 0.14, 0.17, 0.2, 0.3):
        land = bs.landscape(engine, held_back(share), steps=[0.1, 0.2, 0.3], draws=32)
        (row,) = land.rises(confidence=0.9).itertuples()
        assert (row.low > 0) == (row.p_value < 0.1)


def test_step_zero_alone_has_no_rise(engine) -> None:
    assert bs.landscape(engine, held_back(0.5), steps=[0]).rises().empty

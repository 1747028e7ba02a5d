"""Collapse radii: brackets around edges that are known, and what is said where there are none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import basinscope as bs
from basinscope.attack import collapse_radius
from basinscope.directions import Direction

N = 4
STEP = 0.7315  # where the score falls, along the first axis


class Axis(Direction):
    """The first coordinate alone."""

    label = "axis"
    draws = 1

    def delta(self, engine, name, draw=0):
        found = torch.zeros(engine.shapes[name])
        found.view(-1)[0] = math.sqrt(engine.d)
        return found


def module():
    layer = nn.Linear(N, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    return layer


def edges(plus, minus, *, n=40, after=0.0, name="edges"):
    """Task of score 1 between the two steps, and ``after`` outside."""

    def fn(m):
        step = float(m.weight.detach()[0, 0] - 1) / math.sqrt(N)
        right = n if -minus < step < plus else round(after * n)
        return [1] * right + [0] * (n - right)

    return bs.CallableTask(name, fn, n)


@pytest.fixture
def engine():
    return bs.load(module())


@pytest.mark.parametrize("step", [1e-5, 3e-4, STEP, 9.0])
def test_edge_of_any_size_is_bracketed_on_both_sides(engine, step):
    plus, minus = collapse_radius(engine, Axis(), edges(step, STEP / 3))
    assert plus.low <= step <= plus.high
    assert plus.high - plus.low <= min(1e-6, 0.05 * plus.high) * (1 + 1e-9)
    assert minus.low <= STEP / 3 <= minus.high
    assert (plus.sign, minus.sign, plus.task, plus.direction) == (1, -1, "edges", "axis")
    assert plus.score == 1.0
    assert plus.threshold == pytest.approx(0.5)
    assert plus.reason == minus.reason == ""
    assert plus.norm == pytest.approx((plus.low * 2, plus.high * 2))
    assert plus.in_rms == pytest.approx((plus.low, plus.high)), "all weights are 1"


def test_level_says_what_a_fall_is(engine):
    task = edges(0.1, 0.1, after=0.6)
    half, quarter = (collapse_radius(engine, Axis(), task, level=level)[0] for level in (0.5, 0.25))
    assert math.isnan(half.high), "0.6 is above 0.5"
    assert "no collapse up to step" in half.reason
    assert quarter.low <= 0.1 <= quarter.high


def test_several_tasks_have_an_edge_each(engine):
    tasks = [edges(0.2, 0.3, name="a"), edges(1.7, 0.01, name="b")]
    found = {(e.task, e.sign): e for e in collapse_radius(engine, Axis(), tasks)}
    for key, step in {("a", 1): 0.2, ("a", -1): 0.3, ("b", 1): 1.7, ("b", -1): 0.01}.items():
        assert found[key].low <= step <= found[key].high


def test_near_changes_the_way_but_not_the_edge(engine):
    for near in (1e-5, 0.5, 8.0):
        plus, _ = collapse_radius(engine, Axis(), edges(STEP, STEP), near=near)
        assert plus.low <= STEP <= plus.high


def test_a_score_at_chance_has_no_edge(engine):
    task = bs.CallableTask("coin", lambda m: [1, 0] * 20, 40, chance=0.5)
    for edge in collapse_radius(engine, Axis(), task):
        assert math.isnan(edge.low)
        assert math.isnan(edge.high)
        assert edge.reason == "the score at zero, 20/40, is not above chance (0.5)"
        assert edge.to_json()["alpha_low"] is None


def test_draws_of_a_random_direction_differ(engine):
    task = edges(0.5, 0.5)
    one, two = (collapse_radius(engine, bs.Random(0), task, draw=k)[0] for k in (0, 1))
    first = bs.normals("weight", N, seed=0, draw=1)[0]
    assert one.low != two.low
    edge = 0.5 * math.sqrt(N) / abs(float(first))
    assert two.low * (1 - 1e-5) <= edge <= two.high * (1 + 1e-5)


def test_every_point_is_kept_and_none_is_measured_twice(engine, tmp_path):
    calls = []
    task = edges(STEP, STEP)
    counted = bs.CallableTask("edges", lambda m: calls.append(1) or task.fn(m), 40)
    first = collapse_radius(engine, Axis(), counted, run=tmp_path / "run")
    land = bs.load_run(tmp_path / "run")
    assert len(calls) == len(land.trials)
    assert len({trial.step for trial in land.trials}) == len(calls)
    assert collapse_radius(engine, Axis(), counted, run=tmp_path / "run") == first
    assert len(calls) == len(land.trials)
    width = land.width("edges")
    assert width.low <= STEP <= width.high


def test_numbers_out_of_range(engine):
    task = edges(1, 1)
    for options in ({"tolerance": 0.0}, {"near": -1.0}, {"near": math.nan}):
        with pytest.raises(bs.BasinscopeError, match="allowed: above 0"):
            collapse_radius(engine, Axis(), task, **options)
    with pytest.raises(bs.BasinscopeError, match="level=0; allowed: between 0 and 1"):
        collapse_radius(engine, Axis(), task, level=0)

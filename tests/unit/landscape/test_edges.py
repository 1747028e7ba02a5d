"""The search for the edges: where it looks next, what it asks there, what it leaves on record."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

import basinscope as bs
from basinscope.landscape.edges import (
    BEYOND,
    FURTHEST,
    GUARD,
    LOOKS,
    TOLERANCE,
    Seen,
    both_sides,
    ladder,
    next_step,
)
from basinscope.runs.bench import Bench, Unit
from basinscope.runs.spec import model_spec, sha256, task_spec

LIMITS = {"first": 0.05, "least": 1e-6, "furthest": 16.0}


def walk(margin, seen=None):
    """Every point that a noiseless search looks at, in order."""
    seen = dict(seen or {})
    asked = []
    while (step := next_step(seen, **LIMITS)) is not None:
        assert step not in seen, "no point is asked twice"
        assert len(asked) < 100
        seen[step] = Seen(margin(step), sure=True, close=False)
        asked.append(step)
    return asked, seen


@pytest.mark.parametrize("edge", [1e-5, 0.0031, 0.0499, 0.05, 0.0501, 0.7, 13.0])
def test_a_cliff_is_bracketed_to_the_tolerance_and_guarded(edge):
    asked, seen = walk(lambda a: 0.4 if a < edge else -0.4)
    below, above = min(a for a in seen if a >= edge), max(a for a in seen if a < edge)
    assert below - above <= TOLERANCE * below
    inside = [0.0, *sorted(a for a in seen if a <= below)]
    assert max(b - a for a, b in pairwise(inside)) <= GUARD * below
    assert max(seen) >= 0.9 * BEYOND * below
    assert len(asked) < 35
    assert all(float(f"{a:.3g}") == a for a in asked), "steps can be read and typed again"


def test_a_dip_that_bisection_jumps_over_is_met_by_a_guard():
    def dips(a):
        return -0.4 if 0.3 <= a < 0.75 or a >= 1.0 else 0.4

    seen = {0.85: Seen(0.4, True, False), 1.7: Seen(-0.4, True, False)}
    _, seen = walk(dips, seen)
    assert min(a for a in seen if dips(a) < 0) <= 0.3 / (1 - TOLERANCE)


def test_an_end_at_the_threshold_ends_the_bisection_and_is_flanked():
    seen = {
        0.5: Seen(0.4, True, False), 1.0: Seen(0.01, False, True), 2.0: Seen(-0.4, True, False)
    }  # fmt: skip
    assert next_step(seen, **LIMITS) == 0.75, "not within (1, 2): the edge is at 1"
    seen[0.75] = Seen(0.2, True, False)
    assert next_step(seen, **LIMITS) == 1.3
    seen[1.3] = Seen(-0.2, True, False)
    guards, _ = walk(lambda a: 0.4 if a < 1 else -0.4, seen)
    assert guards == []


def test_it_looks_further_out_until_the_score_is_surely_down():
    seen = {0.4: Seen(0.4, True, False), 0.44: Seen(-0.1, False, False)}
    asked = []
    while (step := next_step(seen, **LIMITS)) is not None:
        seen[step] = Seen(0.4 if step < 0.42 else -0.1, step < 0.42, False)
        asked.append(step)
    assert max(asked) > FURTHEST * 0.44
    assert max(asked) <= BEYOND * FURTHEST * 0.44 * 1.01


def test_it_ends_where_nothing_falls_and_where_everything_does():
    asked, _ = walk(lambda a: 0.4)
    assert max(asked) >= LIMITS["furthest"]
    asked, _ = walk(lambda a: -0.4)
    assert min(asked) <= LIMITS["least"]


@pytest.mark.parametrize("flanks", [None, both_sides])
@pytest.mark.parametrize("sure", [True, False])
def test_it_creeps_no_closer_to_zero_than_the_least_distance(flanks, sure):
    seen = {}
    while (step := next_step(seen, **LIMITS, flanks=flanks)) is not None:
        assert step not in seen
        seen[step] = Seen(-0.4 if sure else -0.001, sure, not sure)
    assert 0.5 * LIMITS["least"] <= min(seen) <= LIMITS["least"]
    assert len(seen) < 25


def test_looks_double_up_to_the_most_outcomes():
    for draws in range(1, 40):
        for outcomes in (1, 7, 100, 256):
            looks = ladder(draws, outcomes)
            assert looks == sorted(set(looks))
            assert looks[-1] == math.ceil(outcomes / draws)
    assert max(len(ladder(draws)) for draws in range(1, 400)) == LOOKS


@pytest.fixture
def bench():
    engine = bs.load(torch.nn.Linear(2, 1, bias=False))
    tasks = tuple(bs.CallableTask(f"t{n}", lambda m, n=n: [1] * n, n) for n in (5, 40))
    specs = tuple(task_spec(t) for t in tasks)
    return Bench(engine, (bs.Random(0), bs.Random(1)), tasks, model_spec(engine), specs)


def test_parts_are_an_order_of_the_draw_that_is_the_same_at_every_step(bench):
    def part(a, b, task=1, direction=0, draw=3, step=0.1):
        return bench.chosen(Unit(direction, draw, step, (task,), part=(a, b)), task)

    assert part(0, 16) == part(0, 16, step=-7.0) == part(0, 16, direction=1)
    assert part(0, 16) != part(0, 16, draw=4)
    assert part(0, 8) + part(8, 16) == part(0, 16)
    assert sorted(part(0, 39) + part(39, 64), key=int) == [str(i) for i in range(40)]
    assert part(0, 16) != tuple(str(i) for i in range(16))
    assert part(0, 64) is None, "all items: the record of a point that was not searched"
    assert part(0, 16, task=0) is None
    assert part(16, 32, task=0) == ()


def test_the_order_is_settled_by_text_alone(bench):
    """A known answer: records of earlier versions are found again."""
    assert bench.chosen(Unit(0, 0, 1.0, (1,), part=(0, 4)), 1) == ("1", "39", "28", "36")


def test_a_part_is_recorded_in_the_order_of_the_task(bench):
    unit = Unit(0, 1, 0.1, (0, 1), part=(0, 16))
    trials = [trial for _, trial in bench.measure(unit)]
    assert [t.n for t in trials] == [5, 16]
    assert [t.whole for t in trials] == [True, False]
    assert list(trials[1].items) == sorted(trials[1].items, key=int)
    for t, trial in enumerate(trials):
        trial.verify()
        assert trial.address == sha256(bench.key(unit, t))

"""Crossed landscapes from beginning to end, on a toy whose mean curve is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import basinscope as bs
from basinscope.directions import Direction
from basinscope.landscape.design import Design, Share
from basinscope.report.landscapes import _labels


def plan(draws: int, items: int, *, budget=None, precision=None, searched=False, began=0.0):
    return Design(
        {"half-spaces": Share(draws, items, 0.1)}, 1, 1.0, searched, budget, precision, began
    )


STEPS = [0.2, 1.0]


def test_draws_answer_items_of_their_own(engine, make_task) -> None:
    land = bs.landscape(engine, make_task(40), steps=STEPS, plan=plan(64, 3))
    trials = [t for t in land.trials if t.step == 1.0]
    assert [t.draw for t in trials] == list(range(64))
    assert {t.n for t in trials} == {3}
    assert len({t.items for t in trials}) > 20
    assert land.crossed("half-spaces", "random")


def test_it_says_what_all_items_say(engine, make_task) -> None:
    """The interval of 200 draws of 3 items holds the mean of 400 others on all 40."""
    task = make_task(40)
    crossed = bs.landscape(engine, task, steps=STEPS, plan=plan(200, 3)).means().set_index("step")
    every = bs.landscape(engine, task, directions=["random:1"], steps=STEPS, draws=400)
    for row in every.means().itertuples():
        assert crossed.low[row.step] <= row.score <= crossed.high[row.step]
        assert crossed.score[row.step] == pytest.approx(row.score, abs=0.08)
    assert (crossed.high - crossed.low)[0.2] < 0.12


def test_a_point_that_is_precise_takes_no_more_draws(engine, make_task) -> None:
    land = bs.landscape(engine, make_task(40), steps=[0.01, 1.0], plan=plan(400, 3, precision=0.08))
    counts = land.means().set_index("step").draws
    assert counts[0.01] < counts[1.0] < 400
    means = land.means()
    assert ((means.high - means.low) / 2 <= 0.08).all()


def test_it_ends_when_the_time_is_over(engine, make_task) -> None:
    land = bs.landscape(engine, make_task(40), steps=STEPS, plan=plan(4000, 3, budget=1e-9))
    counts = land.means().set_index("step").draws
    assert counts[0.2] == counts[1.0] == 4, "the first draws of every point are measured"


def test_the_same_line_measures_nothing_anew_and_more_draws_extend_it(
    engine, make_task, tmp_path
) -> None:
    def run(draws: int):
        return bs.landscape(
            engine, make_task(40), steps=STEPS, plan=plan(draws, 3), run=tmp_path / "run"
        )

    first = {t.address for t in run(16).trials}
    assert {t.address for t in run(16).trials} == first
    assert first < {t.address for t in run(32).trials}
    read = bs.load_run(tmp_path / "run")
    assert read.means().draws.max() == 32


def test_other_items_under_a_draw_are_another_run(engine, make_task, tmp_path) -> None:
    bs.landscape(engine, make_task(40), steps=STEPS, plan=plan(8, 3), run=tmp_path / "run")
    for options in ({"plan": plan(8, 4)}, {"draws": 2}):
        with pytest.raises(bs.BasinscopeError, match="items of 'half-spaces' under a draw"):
            bs.landscape(engine, make_task(40), steps=STEPS, run=tmp_path / "run", **options)


class Axis(Direction):
    """All ones."""

    label, draws = "axis", 1

    def identity(self, engine, draw=0):
        return "ones"

    def delta(self, engine, name, draw=0):
        return torch.ones(engine.shapes[name])


def test_a_determined_direction_beside_a_random_one_has_all_items(engine, make_task) -> None:
    other = Axis()
    land = bs.landscape(
        engine, make_task(40), directions=["random", other], steps=STEPS, plan=plan(8, 3)
    )
    sizes = land.to_pandas().groupby("direction").n.max()
    assert sizes["random"] in (3, 40), "step 0 has all items"
    own = [t for t in land.trials if t.direction == other.label]
    assert {t.n for t in own} == {40}
    assert not land.crossed("half-spaces", other.label)


def test_a_search_brackets_the_half_width(engine, make_task) -> None:
    task = make_task(100, chance=0.4)
    land = bs.landscape(engine, task, plan=plan(256, 3, searched=True))
    for sign in (1, -1):
        width = land.width("half-spaces", sign=sign)
        assert 0 < width.low <= width.estimate <= width.high < math.inf
        assert width.high / width.low < 4
        every = bs.landscape(
            engine, task, directions=["random:9"], draws=300,
            steps=[sign * width.low, sign * width.high],
        )  # fmt: skip
        scores = every.means().set_index("step").score
        assert scores[sign * width.low] > 0.4 + scores[0.0] * 0.3 > scores[sign * width.high]


def test_a_search_that_is_late_at_once_has_its_records(engine, make_task) -> None:
    land = bs.landscape(engine, make_task(100), plan=plan(64, 3, searched=True, budget=1e-9))
    assert land.means().draws.max() in (1, 8)


def test_nothing_that_changes_is_no_loss(engine) -> None:
    """Weights of a few items add up to the score itself, not to one of other last bits."""
    floor = bs.CallableTask("half-spaces", lambda module: [0] + [1] * 29, 30)
    land = bs.landscape(engine, floor, steps=STEPS, plan=plan(8, 3))
    assert land.means()["T"].isna().all()
    assert land.compare().difference.abs().max() < 1e-12
    assert land.to_pandas().score.tolist() == pytest.approx([29 / 30] * 24)


def test_a_run_of_step_zero_may_grow(engine, make_task, tmp_path) -> None:
    bs.landscape(engine, make_task(40), steps=[0], run=tmp_path / "run")
    land = bs.landscape(engine, make_task(40), steps=STEPS, plan=plan(8, 3), run=tmp_path / "run")
    assert land.crossed("half-spaces", "random")


class Speaker(bs.CallableTask):
    """Outcomes with labels and likelihoods that no weights change: rare long answers."""

    def outcomes(self, module):
        from basinscope.tasks import Outcome

        return [
            Outcome(n > 0, "complies" if n == 0 else "refuses", nll=100.0 if n % 2 else 5.0,
                    tokens=100 if n % 2 else 1)
            for n in range(self.n_items)
        ]  # fmt: skip


def test_what_no_weights_change_is_the_same_at_every_step(engine) -> None:
    """Labels weigh items by what they stand for; a mean NLL is the ratio of all of them."""
    task = Speaker("half-spaces", lambda module: [], 100)
    land = bs.landscape(engine, task, steps=[0.001], plan=plan(400, 3))
    (labels,) = _labels(land)
    shares = {row[1]: dict(zip(labels.header[2:], row[2:], strict=True)) for row in labels.rows}
    assert shares[0.0]["complies"] == pytest.approx(0.01)
    assert shares[0.001]["complies"] == pytest.approx(0.01)
    nll = land.likelihood().set_index("step")
    assert nll.nll_low[0.001] <= nll.nll[0.0] <= nll.nll_high[0.001]
    assert nll.nll[0.001] == pytest.approx(nll.nll[0.0], rel=0.03)


def test_all_wrong_at_zero_is_no_basin(engine) -> None:
    wrong = bs.CallableTask("half-spaces", lambda module: np.zeros(20), 20)
    for searched in (True, False):
        land = bs.landscape(
            engine, wrong, steps=None if searched else STEPS, plan=plan(8, 3, searched=searched)
        )
        width = land.width("half-spaces", sign=1)
        assert math.isnan(width.estimate)
        assert "chance" in width.reason


@pytest.mark.parametrize("steps", [STEPS, None])
@pytest.mark.parametrize("draws", [None, 12, 1])
def test_a_task_of_one_item_has_no_width(engine, steps, draws) -> None:
    one = bs.CallableTask("half-spaces", lambda module: [1], 1)
    made = plan(8, 3, searched=steps is None) if draws is None else None
    land = bs.landscape(engine, one, steps=steps, plan=made, draws=draws)
    assert (land.means().score == 1).all()
    width = land.width("half-spaces", sign=1)
    assert math.isnan(width.low)
    assert "a task of one item" in width.reason
    assert land.to_pandas().step.abs().nunique() <= 3, "no edge is looked for"


@pytest.mark.parametrize("searched", [False, True])
def test_what_is_there_already_is_all_that_is_there(engine, make_task, tmp_path, searched) -> None:
    """Not only what of the first batch is there; and in all it is as many as were planned."""
    reports: list[tuple[int, int]] = []

    def run(draws: int):
        reports.clear()
        made = dataclasses.replace(plan(draws, 3, searched=searched), settings=1 + 2 * draws)
        return bs.landscape(
            engine, make_task(100), steps=None if searched else STEPS, plan=made,
            run=tmp_path / "run", progress=lambda done, of, place: reports.append((done, of)),
        )  # fmt: skip

    first = run(16).records
    assert reports[0][0] == 0
    assert reports[-1][0] == first
    run(16)
    assert {done for done, _ in reports} == {first}
    more = run(32)
    assert reports[0][0] == first
    assert reports[-1] == (more.records, max(65, more.records))


def test_single_draws_of_a_few_items_have_no_width(engine, make_task) -> None:
    land = bs.landscape(engine, make_task(40), steps=STEPS, plan=plan(8, 3))
    with pytest.raises(bs.BasinscopeError, match=r"draw 2 .* answered 3 items"):
        land.width("half-spaces", draw=2)
    assert land.spread().empty


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget=0"),
        ({"budget": "soon"}, "'soon'"),
        ({"budget": math.inf}, "budget=inf"),
        ({"precision": 0.5}, "precision=0.5"),
        ({"precision": math.nan}, "precision=nan"),
        ({"precision": 0.1, "draws": 4}, "with draws=4"),
        ({"budget": "5m", "directions": ["quantised:4"]}, "along quantised:4"),
        ({"grid": True}, "grid=41 without draws"),
        ({"outcomes": 100}, "outcomes=100, grid=0 without draws"),
    ],
)
def test_what_cannot_be_planned(task, options, message) -> None:
    with pytest.raises(bs.BasinscopeError, match=message):
        bs.landscape("no-such-model", task, **options)

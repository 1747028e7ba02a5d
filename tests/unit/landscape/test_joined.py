"""What a search leaves on record, in every table: points of fewer items than the task has."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import basinscope as bs
from basinscope import stats
from basinscope.directions import Direction
from basinscope.landscape.edges import OUTCOMES
from basinscope.landscape.joined import joined

N = 150


class Axis(Direction):
    label, draws = "axis", 1

    def delta(self, engine, name, draw=0):
        return torch.ones(engine.shapes[name])


def engine() -> bs.Engine:
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(module.weight)
    return bs.load(module)


def slope(asked: list | None = None, n: int = N):
    """Item i is right up to a step of its own, evenly spread over (0, 1) on both sides."""

    def fn(module):
        alpha = abs(module.weight.item() - 1.0)
        if asked is not None:
            asked.append(alpha)
        return [int((i + 0.5) / n > alpha) for i in range(n)]

    return bs.CallableTask("slope", fn, n)


@pytest.fixture(scope="module")
def land():
    return bs.landscape(engine(), slope(), directions=[Axis()])


def test_points_are_stopped_early_and_the_edge_is_found(land):
    sizes = {abs(t.step): t.n for t in land.trials}
    assert sizes[0.0] == N
    assert min(sizes.values()) == 16
    assert sum(t.n for t in land.trials) < 15 * N
    assert land.records > len(land.trials)
    for sign in (1, -1):
        width = land.width("slope", sign=sign)
        assert width.estimate == pytest.approx(0.5, abs=0.05)
        assert 0.0 < width.low < 0.5 < width.high < 1.0
        assert width.unit == "items"


def test_n_of_every_row_is_what_was_asked(land):
    table = land.to_pandas()
    assert dict(zip(table["step"], table["n"], strict=True)) == {t.step: t.n for t in land.trials}
    assert (table["score"] == table["correct"] / table["n"]).all()
    assert len(land.items()) == table["n"].sum()
    assert not land.items().duplicated(["step", "item"]).any()


def test_a_stopped_point_has_the_interval_that_allows_stopping(land):
    whole = {t.step: t.whole for t in land.trials}
    for row in land.to_pandas().itertuples():
        exact = stats.clopper_pearson(row.correct, row.n, 0.95)
        if whole[row.step]:
            assert (row.low, row.high) == (exact.low, exact.high)
        else:
            assert row.low <= exact.low
            assert row.high >= exact.high
    means = land.means().set_index("step")
    for row in land.to_pandas().itertuples():
        assert (means.loc[row.step, "low"], means.loc[row.step, "high"]) == (row.low, row.high)


def test_a_stopped_point_is_compared_on_the_items_that_were_asked(land):
    rows = land.compare().set_index("step")
    for trial in land.trials:
        if trial.direction is None:
            continue
        row = rows.loc[trial.step]
        lost = trial.n - sum(trial.correct)
        assert row["difference"] == pytest.approx(-lost / trial.n)
        assert row["low"] <= row["difference"] <= row["high"]
        assert (row["lost"], row["gained"]) == (lost, 0)
        assert math.isnan(row["p_value"]) != trial.whole


def test_records_of_one_point_join_to_that_of_all_its_items(land, tmp_path):
    """What the items of a point would have given together."""
    whole = bs.landscape(
        engine(), slope(), directions=[Axis()], steps=[t.step for t in land.trials], draws=1
    )
    known = {t.step: dict(zip(t.items, t.correct, strict=True)) for t in whole.trials}
    for trial in land.trials:
        trial.verify()
        assert list(trial.items) == sorted(trial.items, key=int)
        assert trial.correct == tuple(known[trial.step][item] for item in trial.items)


def test_a_record_of_all_items_stands_alone(land):
    whole = bs.landscape(engine(), slope(), directions=[Axis()], steps=[0.05], draws=1)
    both = [t for t in (*land.trials, *whole.trials) if t.step == 0.05]
    assert len(both) == 2
    assert joined(both) == joined(both[::-1]) == [t for t in whole.trials if t.step == 0.05]


def test_the_search_uses_what_a_grid_has_measured(tmp_path):
    asked: list = []
    task = slope(asked)
    bs.landscape(engine(), task, directions=[Axis()], steps=[-0.05, 0.05, 0.5], run=tmp_path)
    n = len(asked)
    found = bs.landscape(engine(), task, directions=[Axis()], run=tmp_path)
    new = asked[n:]
    assert not any(np.isclose(a, 0.05) for a in new)
    alone = bs.landscape(engine(), slope(), directions=[Axis()])
    assert {t.step for t in alone.trials} <= {t.step for t in found.trials}, "the same way"


def test_a_killed_search_goes_on_where_it_was(tmp_path, land):
    class Stop(Exception):
        pass

    def progress(done, planned, what):
        if done == 9:
            raise Stop("enough")

    asked: list = []
    with pytest.raises(Stop, match="enough"):
        bs.landscape(engine(), slope(asked), directions=[Axis()], run=tmp_path, progress=progress)
    assert len(list((tmp_path / "trials").iterdir())) == 9
    again = bs.landscape(engine(), slope(asked), directions=[Axis()], run=tmp_path)
    assert len(asked) == land.records
    assert again.trials == land.trials
    assert bs.load_run(tmp_path).widths().equals(land.widths())


def test_the_full_curve_on_top_of_the_search(land, tmp_path):
    grid = bs.landscape(engine(), slope(), directions=[Axis()], grid=9, run=tmp_path)
    steps = {t.step for t in grid.trials} - {t.step for t in land.trials}
    ends = sorted({t.step for t in grid.trials if t.whole and t.step})
    assert len(ends) == 8
    assert ends == pytest.approx([ends[-1] * k / 4 for k in range(-4, 5) if k], rel=0.01)
    assert ends[-1] == pytest.approx(1.0, abs=0.15)
    assert steps <= set(ends)
    again = bs.landscape(engine(), slope(), directions=[Axis()], grid=9, run=tmp_path)
    assert again.trials == grid.trials, "the grid does not move when it is there already"
    fixed = bs.landscape(engine(), slope(), directions=[Axis()], steps=ends, draws=1)
    assert grid.width("slope").estimate == pytest.approx(fixed.width("slope").estimate, abs=0.15)


def test_no_point_has_more_outcomes_than_were_allowed():
    for outcomes, most in ((100, 100), (1000, 1000), (5000, 2000)):
        land = bs.landscape(engine(), slope(n=2000), directions=[Axis()], outcomes=outcomes)
        assert max(t.n for t in land.trials if t.step) == most
        assert land.width("slope").estimate == pytest.approx(0.5, abs=4 * 0.5 / most**0.5)


def test_several_draws_have_items_of_their_own_and_are_the_units():
    def signs(module):
        return (module.weight[0] > 0).int()

    module = torch.nn.Linear(300, 1, bias=False)
    torch.nn.init.ones_(module.weight)
    task = bs.CallableTask("signs", signs, 300)
    land = bs.landscape(bs.load(module), task, level=0.25, draws=12)
    by_step: dict = {}
    for trial in land.trials:
        if trial.step:
            by_step.setdefault(trial.step, []).append(trial)
    for trials in by_step.values():
        assert len(trials) == 12
        assert len({t.n for t in trials}) == 1
        assert len({t.items for t in trials}) == 12
        assert 12 * trials[0].n < OUTCOMES + 12
    for sign in (1, -1):
        width = land.width("signs", 0.25, sign=sign)
        assert width.unit == "draws"
        assert width.low < 1 / 0.67449 < width.high
        assert width.estimate == pytest.approx(1 / 0.67449, rel=0.3)
    assert land.draw_widths("signs", 0.25)["width"].notna().any()
    with pytest.raises(bs.BasinscopeError, match=r"in two draws on all items.*--grid"):
        land.variance("signs")


def test_a_task_at_chance_and_one_with_an_edge_are_searched_together():
    lucky = bs.CallableTask("lucky", lambda m: [1, 0] * 20, 40, chance=0.5)
    land = bs.landscape(engine(), [lucky, slope()], directions=[Axis()])
    assert {t.step for t in land.trials if t.task == "lucky"} == {-0.05, 0.0, 0.05}
    assert land.width("slope").estimate == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": True, "steps": [1]}, "grid=True with steps=.*without steps"),
        ({"grid": 4}, "grid=4 with steps=None; allowed: an odd number"),
        ({"grid": 1}, "grid=1 .* from 3 on"),
        ({"grid": -3}, "grid=-3"),
        ({"outcomes": 0}, "outcomes=0 with steps=None; allowed: at least 1"),
        ({"outcomes": 10, "steps": [1]}, "outcomes=10 .* only where the edges are searched"),
        ({"draws": 0}, "draws=0; allowed: at least 1"),
    ],
)
def test_what_a_search_cannot_do(options, message):
    with pytest.raises(bs.BasinscopeError, match=message):
        bs.landscape(engine(), slope(), directions=[Axis()], **options)

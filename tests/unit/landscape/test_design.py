"""The plan of a crossed design, from what a draw costs."""

from __future__ import annotations

import math
import re

import pytest

import basinscope as bs
from basinscope.landscape import design as designs
from basinscope.landscape.design import FEWEST, SIZES, Price, design, expected, seconds_of, spend
from basinscope.runs.spec import CrossedSpec

TIMES = {"90": 90, "90s": 90, "5m": 300, "1.5h": 5400}


def test_more_draws_and_more_items_narrow_the_interval() -> None:
    assert expected(256, 3) < expected(64, 3) < expected(16, 3)
    assert expected(64, 12) < expected(64, 3)


def test_cheap_settings_get_few_items_and_dear_ones_many() -> None:
    cheap = spend(Price(start=0.001, item=0.01), SIZES, 10.0, None)
    dear = spend(Price(start=2.0, item=0.01), SIZES, 60.0, None)
    assert cheap.items <= 4
    assert dear.items >= 16
    assert dear.draws < cheap.draws


def test_the_time_is_spent_and_not_more() -> None:
    price = Price(start=0.1, item=0.02, fixed=100, rate=2.2)
    share = spend(price, SIZES, 120.0, None)
    assert 0.85 * 120 < price.seconds(share.draws, share.items) <= 120


def test_a_precision_takes_what_costs_least() -> None:
    price = Price(start=0.1, item=0.02)
    share = spend(price, SIZES, math.inf, 0.06)
    assert share.half_width <= 0.06
    others = [spend(price, [m], math.inf, 0.06) for m in SIZES]
    cost = price.seconds(share.draws, share.items)
    assert cost == min(price.seconds(s.draws, s.items) for s in others)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1.5h", 5400)]
)
def test_times(text, seconds) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5 parsecs", "-1m", "0", "inf", "nan"])
def test_what_is_no_time(text) -> None:
    with pytest.raises(bs.BasinscopeError, match="a time above 0"):
        seconds_of(text)


class TestDesign:
    """Plans of an engine whose costs are given."""

    @pytest.fixture(autouse=True)
    def _costs(self, monkeypatch) -> None:
        costs = designs.Costs(0.1, (0.05, 0.3), (0.01, 0.05))
        monkeypatch.setattr(designs, "probe", lambda *_: costs)

    @pytest.fixture
    def plan(self, engine, make_task):
        tasks = [make_task(40, name="a"), make_task(60, name="b")]

        def make(steps=(0.1, 0.2), **options):
            options = {"budget": 60.0, "precision": None, "workers": 1} | options
            return design(engine, tasks, [bs.Random(0)], steps, **options)

        return make

    def test_a_budget(self, plan) -> None:
        made = plan()
        assert set(made.shares) == {"a", "b"}
        assert 45 < made.seconds <= 60
        assert not made.searched
        assert made.settings == 1 + 2 * sum(share.draws for share in made.shares.values())

    def test_a_search(self, plan) -> None:
        made = plan(None, budget=200.0)
        assert made.searched
        assert made.seconds <= 200
        assert "the edges are searched" in str(made)

    def test_a_precision_alone(self, plan) -> None:
        made = plan(budget=None, precision=0.08)
        assert all(share.half_width <= 0.08 for share in made.shares.values())

    def test_what_a_run_folder_has_settled(self, plan) -> None:
        known = CrossedSpec(items={"a": 5}, draws={"a": 33}, budget=60.0, precision=None)
        again, more = plan(known=known), plan(known=known, budget=600.0)
        assert (again.shares["a"].items, again.shares["a"].draws) == (5, 33)
        assert more.shares["a"].items == 5
        assert more.shares["a"].draws > 33
        assert more.shares["b"].items in SIZES

    @pytest.mark.parametrize("steps", [(0.1, 0.2), None])
    def test_a_budget_for_less_than_a_step(self, plan, steps) -> None:
        with pytest.raises(bs.BasinscopeError, match=r"budget of .*; allowed: at least .* s for"):
            plan(steps, budget=0.5)

    @pytest.mark.parametrize("steps", [(0.1, 0.2), None])
    def test_the_least_budget_is_enough(self, plan, steps) -> None:
        with pytest.raises(bs.BasinscopeError, match=r"budget of 0\.5 s") as refused:
            plan(steps, budget=0.5)
        least = float(re.search(r"at least (\d+) s", refused.value.allowed)[1])
        assert plan(steps, budget=least + 1).seconds <= least + 1

    @pytest.mark.parametrize("budget", [None, 60.0])
    def test_a_precision_that_the_items_cannot_give(self, plan, budget) -> None:
        with pytest.raises(bs.BasinscopeError, match="items of a are expected to give") as refused:
            plan(budget=budget, precision=0.001)
        least = float(re.search(r"at least ([\d.]+)", refused.value.allowed)[1])
        assert plan(budget=None, precision=least).shares["a"].half_width <= least

    @pytest.mark.parametrize("steps", [(0.1, 0.2), None])
    def test_directions_of_one_draw_are_within_the_budget(self, engine, make_task, steps) -> None:
        tasks = [make_task(40, name="a"), make_task(60, name="b")]

        def seconds(*more, budget=None, precision=0.1):
            lines = [bs.Random(0), *more]
            return design(
                engine, tasks, lines, steps, budget=budget, precision=precision, workers=1
            )

        alone, mixed = seconds(), seconds(bs.Quantised(4))
        settings, each = (18, 0.05 + 0.3 + 0.1 + 40 * 0.01 + 60 * 0.05)
        settings = settings if steps is None else 2
        assert mixed.seconds - alone.seconds == pytest.approx(settings * each, rel=0.05)
        assert mixed.settings - alone.settings == settings
        budget = 1.2 * alone.seconds
        less, more = (
            seconds(*lines, budget=budget, precision=None) for lines in ((bs.Quantised(4),), ())
        )
        assert less.shares["b"].draws < more.shares["b"].draws
        assert less.seconds <= budget

    def test_a_prefix_that_is_read_anew_takes_more_items_of_a_draw(self, engine, make_task) -> None:
        """A long few-shot prefix is paid once for each draw, so a draw answers more items."""
        task, items = make_task(100, name="a"), []
        for prefix_s in (0.0, 0.2, 1.0):
            costs = designs.Costs(0.05, (prefix_s,), (0.05,))
            plan = design(
                engine, [task], [bs.Random(0)], (0.1, 0.2),
                budget=1000.0, precision=None, workers=1, costs=costs,
            )  # fmt: skip
            items.append(plan.shares["a"].items)
        assert items[0] < items[1] < items[2]

    @pytest.mark.parametrize(("budget", "names"), [(600.0, "ab"), (100.0, "a"), (40.0, "a")])
    def test_as_many_tasks_as_can_be_bracketed(self, engine, make_task, budget, names) -> None:
        tasks = [make_task(40, name="a"), make_task(60, name="b")]
        made, some = designs.bracketing(engine, tasks, bs.Random(), budget)
        assert "".join(task.name for task in some) == "".join(made.shares) == names
        assert made.searched
        assert made.budget == budget

    def test_a_begun_run_keeps_its_tasks(self, engine, make_task) -> None:
        tasks = [make_task(40, name="a"), make_task(60, name="b")]
        known = CrossedSpec(items={"a": 5}, draws={"a": 33}, budget=600.0, precision=None)
        made, some = designs.bracketing(engine, tasks, bs.Random(), 600.0, known)
        assert [task.name for task in some] == ["a"]
        assert made.shares["a"].items == 5

    def test_to_json(self, plan) -> None:
        made = plan()
        assert made.to_json()["tasks"]["a"]["draws"] == made.shares["a"].draws >= FEWEST


@pytest.mark.parametrize("prefix_s", [0.0, 0.7])
def test_what_is_read_anew_is_measured_apart_from_the_items(
    engine, make_task, monkeypatch, prefix_s
) -> None:
    """On a clock that only answers move: a prefix for each call, and so much for each item."""
    now = [0.0]

    def answer(engine, task, items):
        now[0] += prefix_s + 0.02 * len(items)

    monkeypatch.setattr(designs, "score", answer)
    monkeypatch.setattr(designs.time, "perf_counter", lambda: now[0])
    costs = designs.probe(engine, [make_task(40)], (bs.Random(0), 0, 0.1), 1)
    assert costs.item == pytest.approx((max(0.02, prefix_s / 80 + 0.002),))
    assert costs.start == pytest.approx((prefix_s,), abs=1e-9)

"""A failed evaluation is a wrong answer with its reason, never a missing one."""

from __future__ import annotations

import json
import math

import pytest
import torch

import basinscope as bs
from basinscope.directions import Direction
from basinscope.engines.base import Engine
from basinscope.runs.bench import Bench, Unit, score
from basinscope.runs.spec import canonical, model_spec, task_spec
from basinscope.runs.store import Store
from basinscope.tasks import Choices, Generation, Outcome, Ranking
from basinscope.tasks.base import Item

NAN = math.nan


class Scripted(Engine):
    """Gives the answers that it was made with."""

    kind = "scripted/1"

    def __init__(self, answers):
        super().__init__(torch.nn.Linear(2, 1))
        self.answers = answers

    def answer(self, requests):
        assert len(requests) == len(self.answers)
        return self.answers


class Compare:
    """Right where the first answer's first number is the largest; one or two requests an item."""

    name, chance, scoring = "compare", 0.0, "compare/1"

    def __init__(self, *requests_per_item):
        self.items = tuple(
            Item(f"item-{i}", (Choices("c", ("a", "b")),) * n)
            for i, n in enumerate(requests_per_item)
        )
        self.seen = []

    def oracle(self, item, answers):
        self.seen.append((item.id, list(answers)))
        first, second = answers[0].loglik
        return Outcome(first > second, "first", margin=first - second, nll=-first)


def bench_of(engine, *tasks, direction=None) -> Bench:
    tasks = tuple(tasks)
    specs = tuple(task_spec(t) for t in tasks)
    return Bench(engine, (direction or bs.Random(0),), tasks, model_spec(engine), specs)


def test_answers_reach_the_item_that_asked():
    answers = [Ranking((float(i), 2.5)) for i in range(6)]
    task = Compare(1, 3, 2)
    outcomes = score(Scripted(answers), task)
    assert task.seen == [
        ("item-0", answers[:1]), ("item-1", answers[1:4]), ("item-2", answers[4:])
    ]  # fmt: skip
    assert [o.correct for o in outcomes] == [False, False, True]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_is_wrong_with_its_reason_and_never_asks_the_oracle(failing):
    answers = [Ranking((1.0, 0.0)), Ranking((1.0, 0.0)), Ranking((1.0, 0.0))]
    answers[failing] = Ranking((), "non-finite logits")
    task = Compare(2, 1)
    broken, fine = score(Scripted(answers), task)
    assert broken == Outcome(False, "non-finite logits", failed=True)
    assert fine.correct
    assert [item for item, _ in task.seen] == ["item-1"]


def test_a_failed_generation_is_wrong_too():
    task = Compare(1)
    (outcome,) = score(Scripted([Generation("I cannot", True, "too long")]), task)
    assert outcome == Outcome(False, "too long", failed=True)


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_what_is_no_number_becomes_null(bad, tmp_path):
    engine, task = Scripted([Ranking((bad, 0.0))]), Compare(1)
    found = bs.landscape(engine, task, steps=[0.0], run=tmp_path / "run")
    assert found.trials[0].margins == found.trials[0].nlls == (None,)
    (record,) = (tmp_path / "run" / "trials").glob("*.json")
    assert json.loads(record.read_text())["margins"] == [None]
    assert found.items()["margin"].isna().all()
    assert bs.load_run(tmp_path / "run").trials == found.trials


@pytest.mark.parametrize("value", [NAN, 2, -1, 0.5, None, "1", math.inf, True])
def test_callable_values_other_than_0_and_1_are_wrong(value, tmp_path):
    task = bs.CallableTask("t", lambda module: [value, 1], n_items=2)
    engine = bs.load(torch.nn.Linear(2, 1))
    found = bs.landscape(engine, task, steps=[0.0], run=tmp_path / "run")
    assert found.trials[0].correct == (1 if value is True else 0, 1)
    assert found.trials[0].labels == ("1" if value is True else "invalid", "1")


def test_nan_under_broken_weights_counts_as_wrong():
    engine = bs.load(torch.nn.Linear(2, 1))
    task = bs.CallableTask("t", lambda module: module.weight[0].sqrt() * 0 + 1, n_items=2)
    found = bs.landscape(engine, task, steps=[0.0, 1e6], draws=3)
    items = found.items()
    assert set(items["label"]) == {"1", "invalid"}
    assert ((items["label"] == "1") == (items["outcome"] == 1)).all()


def test_functions_of_the_module_have_a_setting_of_the_weights_each():
    engine = bs.load(torch.nn.Linear(2, 1))
    seen = []

    def note(module):
        seen.append((engine.epoch, module.weight.detach().clone()))
        return [1]

    bench = bench_of(engine, *(bs.CallableTask(n, note, n_items=1) for n in "abc"))
    epoch, theta0 = engine.epoch, engine.module.weight.detach().clone()
    trials = list(bench.measure(Unit(0, 1, 0.5, (0, 2))))
    assert [(t, trial.task) for t, trial in trials] == [(0, "a"), (2, "c")]
    assert [e for e, _ in seen] == [epoch + 1, epoch + 3], "set, restored, set"
    expected = theta0 + 0.5 * bs.Random(0).delta(engine, "weight", 1)
    assert all(torch.equal(weight, expected) for _, weight in seen)
    assert torch.equal(engine.module.weight, theta0)
    for _, trial in trials:
        trial.verify()
        assert (trial.direction, trial.draw, trial.step) == ("random", 1, 0.5)


def test_weights_are_back_when_whoever_asked_goes_away():
    engine = bs.load(torch.nn.Linear(2, 1))
    theta0 = engine.fingerprint()
    bench = bench_of(engine, *(bs.CallableTask(n, lambda m: [1], n_items=1) for n in "ab"))
    measuring = bench.measure(Unit(0, 0, 0.5, (0, 1)))
    next(measuring)
    assert engine.fingerprint() != theta0
    measuring.close()
    assert engine.fingerprint() == theta0


class Custom(Direction):
    """A direction that names itself by no identity: its bytes are hashed."""

    label = "custom"

    def __init__(self):
        self.calls = 0

    def delta(self, engine, name, draw=0):
        self.calls += 1
        return torch.full(engine.shapes[name], 1.0 + draw)


def test_identity_is_worked_out_once_for_each_draw():
    direction = Custom()
    bench = bench_of(
        bs.load(torch.nn.Linear(2, 1)),
        *(bs.CallableTask(n, lambda m: [1], n_items=1) for n in "abc"),
        direction=direction,
    )
    units = [Unit(0, draw, step, (0, 1, 2)) for draw in (0, 1) for step in (1.0, 2.0)]
    keys = [bench.key(unit, t) for unit in units for t in unit.tasks]
    assert direction.calls == 2 * 2, "two parameters, two draws"
    assert len({canonical(key) for key in keys}) == 12
    assert len({key["direction"] for key in keys}) == 2
    assert bench.key(Unit(None, 0, 0.0, (0,)), 0)["direction"] is None


def test_a_trial_is_what_the_store_wants():
    engine = bs.load(torch.nn.Linear(2, 1))
    found = bs.landscape(engine, bs.CallableTask("t", lambda m: [1, 0], n_items=2), steps=[1.0])
    store = Store(None, found.spec)
    for trial in found.trials:
        store.put(trial)
    assert tuple(store.trials()) == found.trials


def test_tasks_that_ask_share_one_setting_of_the_weights(checkpoint):
    engine = bs.load(checkpoint)
    bench = bench_of(engine, *bs.tasks("basic,math", limit=2))
    epoch = engine.epoch
    assert len(list(bench.measure(Unit(0, 0, 0.01, (0, 1))))) == 2
    assert engine.epoch == epoch + 2, "set once, restored once"

"""Tasks: requests that make sense, outcomes that cannot be mistaken, samples that stay the same."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import basinscope as bs
from basinscope.errors import BasinscopeError
from basinscope.tasks import Choices, Generate, Item, Outcome, Task
from basinscope.tasks.base import Subset, check_chance, items_hash, limited


def outcomes(value, n=3):
    return bs.CallableTask("t", lambda module: value, n).outcomes(None)


class Questions:
    name, chance, scoring = "questions", 0.25, "choice/1"

    def __init__(self, n=20, ids=str):
        self.items = tuple(Item(ids(i), (Choices(f"{i}?", (" a", " b")),), 0) for i in range(n))

    def oracle(self, item, answers):
        return Outcome(item.answer == 0, "asked")


class TestCallableTask:
    @pytest.mark.parametrize(
        "value",
        [
            [1, 0, 1],
            (1, 0, 1),
            [True, False, True],
            [1.0, 0.0, 1.0],
            np.array([1, 0, 1]),
            np.array([True, False, True]),
            torch.tensor([1, 0, 1]),
            torch.tensor([True, False, True]),
            torch.tensor([1.0, 0.0, 1.0], requires_grad=True),
            torch.tensor([1.0, 0.0, 1.0], dtype=torch.bfloat16),
            [np.int64(1), np.bool_(False), torch.tensor(1)],
        ],
        ids=lambda v: type(v).__name__,
    )
    def test_takes_zeros_and_ones_of_every_kind(self, value):
        found = outcomes(value)
        assert [o.correct for o in found] == [True, False, True]
        assert [o.label for o in found] == ["1", "0", "1"]
        assert all(type(o.correct) is bool for o in found)

    @pytest.mark.parametrize(
        "bad", [float("nan"), float("inf"), 2, -1, 0.5, 0.999, "1", None, [1], (), {}, 1j]
    )
    def test_anything_else_is_wrong_and_labelled(self, bad):
        assert outcomes([1, bad, 1]) == [
            Outcome(True, "1"), Outcome(False, "invalid", failed=True), Outcome(True, "1")
        ]  # fmt: skip

    @pytest.mark.parametrize("one", [1, True, 1.0, np.float32(1), torch.tensor(1), np.array([1])])
    def test_of_one_item_may_return_the_value_itself(self, one):
        assert outcomes(one, 1) == [Outcome(True, "1")]

    @pytest.mark.parametrize("value", [[], [1], [1, 1, 1, 1], 1, None, torch.ones(2), "1111"])
    def test_of_another_length_is_refused(self, value):
        with pytest.raises(
            BasinscopeError, match=r"'t': fn returned \d values; allowed: 3, as n_items"
        ):
            outcomes(value)

    def test_matrices_are_not_taken_for_vectors(self):
        assert [o.label for o in outcomes(torch.ones(3, 1))] == ["invalid"] * 3

    def test_passes_the_module_and_lets_its_errors_through(self):
        seen = []
        bs.CallableTask("t", lambda m: seen.append(m) or 1, 1).outcomes("module")
        assert seen == ["module"]
        with pytest.raises(ZeroDivisionError, match="division"):
            bs.CallableTask("t", lambda m: 1 / 0, 1).outcomes(None)

    @pytest.mark.parametrize("n", [0, -1])
    def test_of_no_items_is_refused(self, n):
        with pytest.raises(BasinscopeError, match=f"n_items={n} for task 't'.*at least 1"):
            bs.CallableTask("t", lambda m: [], n)

    @pytest.mark.parametrize("chance", [-0.1, 1.0, 1.5, math.nan, math.inf])
    def test_with_an_impossible_chance_is_refused(self, chance):
        with pytest.raises(BasinscopeError, match=r"chance=.* for task 't'.*0 <= chance < 1"):
            bs.CallableTask("t", lambda m: [1], 1, chance=chance)
        with pytest.raises(BasinscopeError, match=r"chance=.* for task 'u'"):
            check_chance("u", chance)

    def test_is_a_task_with_numbered_items(self):
        task = bs.CallableTask("t", lambda m: [1, 1], 2, version="7")
        assert isinstance(task, Task)
        assert [item.id for item in task.items] == ["0", "1"]
        assert task.scoring == "callable/7"
        with pytest.raises(TypeError, match=r"outcomes\(module\)"):
            task.oracle(task.items[0], ())


class TestRequests:
    def test_are_values(self):
        assert Choices("a", ("b",)) == Choices("a", ("b",))
        assert len({Generate("a", 3), Generate("a", 3), Generate("a", 4)}) == 2
        with pytest.raises(dataclasses.FrozenInstanceError, match="assign"):
            Choices("a", ("b",)).context = "c"

    def test_do_not_differ_by_their_decided(self):
        # code cannot be hashed; it stops early only where the score can no longer change
        first, second = (Generate("a", 3, decided=d) for d in (None, str.isupper))
        assert first == second
        assert hash(first) == hash(second)

    @pytest.mark.parametrize("continuations", [(), ("",), ("a", "")])
    def test_without_anything_to_rank_are_refused(self, continuations):
        with pytest.raises(BasinscopeError, match="at least one, none empty"):
            Choices("a", continuations)

    @pytest.mark.parametrize("stop", ["end", ("",), ("a", "")])
    def test_that_stop_everywhere_are_refused(self, stop):
        with pytest.raises(BasinscopeError, match="a tuple of non-empty strings"):
            Generate("a", 3, stop=stop)

    def test_of_fewer_tokens_than_none_are_refused(self):
        with pytest.raises(BasinscopeError, match="max_tokens=-1; allowed: 0 or more"):
            Generate("a", -1)


class TestItemsHash:
    @staticmethod
    def changed(**changes):
        task = Questions()
        for key, value in changes.items():
            setattr(task, key, value)
        return items_hash(task)

    def test_is_that_of_the_same_questions(self):
        assert items_hash(Questions()) == items_hash(Questions())
        assert len(items_hash(Questions())) == 64

    def test_tells_every_change_of_what_is_asked(self):
        first = Item("0", (Choices("0?", (" a", " b")),), 0)
        variants = [
            dataclasses.replace(first, id="00"),
            dataclasses.replace(first, answer=1),
            dataclasses.replace(first, answer="0"),
            dataclasses.replace(first, requests=()),
            dataclasses.replace(first, requests=(Choices("0!", (" a", " b")),)),
            dataclasses.replace(first, requests=(Choices("0?", (" b", " a")),)),
            dataclasses.replace(first, requests=(Choices("?", (" a", " b"), prefix="0"),)),
            dataclasses.replace(first, requests=(Generate("0?", 3),)),
            dataclasses.replace(first, requests=(Generate("0?", 4),)),
            dataclasses.replace(first, requests=(Generate("0?", 4, stop=("x",)),)),
            dataclasses.replace(first, requests=(Generate("0?", 4, chat=True),)),
            dataclasses.replace(first, requests=(Generate("0?", 4, chat="if any"),)),
            dataclasses.replace(
                first, requests=(Generate("0?", 4, chat=True, turns=(("user", "x"),)),)
            ),
        ]
        rest = Questions().items[1:]
        hashes = [self.changed(items=(item, *rest)) for item in (first, *variants)]
        hashes += [self.changed(items=(*rest, first)), self.changed(items=rest)]
        hashes += [
            self.changed(name="other"), self.changed(chance=0.5), self.changed(scoring="choice/2")
        ]  # fmt: skip
        assert hashes[0] == items_hash(Questions())
        assert len(set(hashes)) == len(hashes)

    def test_does_not_depend_on_decided(self):
        items = [
            (Item("0", (Generate("0?", 3, decided=decided),)),)
            for decided in (None, str.isupper, lambda text: True)
        ]
        assert len({self.changed(items=i) for i in items}) == 1


class TestLimited:
    @pytest.mark.parametrize("limit", [None, 20, 21, 1000])
    def test_to_all_items_is_the_task(self, limit):
        task = Questions()
        assert limited(task, limit) is task

    @pytest.mark.parametrize("limit", [0, -1])
    def test_to_none_is_refused(self, limit):
        with pytest.raises(BasinscopeError, match=f"limit={limit}; allowed: at least 1"):
            limited(Questions(), limit)

    def test_keeps_the_order_and_everything_but_the_items(self):
        task = Questions()
        some = limited(task, 7)
        assert len(some.items) == 7
        assert list(some.items) == [item for item in task.items if item in some.items]
        assert (some.name, some.chance, some.scoring) == ("questions", 0.25, "choice/1")
        assert some.oracle(some.items[0], ()) == Outcome(True, "asked")
        assert isinstance(some, Task)
        assert isinstance(some, Subset)

    def test_is_the_same_sample_every_time(self):
        assert limited(Questions(), 7).items == limited(Questions(), 7).items
        assert [int(i.id) for i in limited(Questions(), 5).items] == [4, 7, 9, 15, 18]

    def test_grows_by_adding(self):
        samples = [{i.id for i in limited(Questions(50), k).items} for k in (1, 5, 20, 49)]
        assert all(a < b for a, b in pairwise(samples))

    def test_differs_by_seed(self):
        samples = {tuple(i.id for i in limited(Questions(), 5, seed).items) for seed in range(9)}
        assert len(samples) > 5

    def test_touches_no_generator(self):
        before = torch.random.get_rng_state()
        limited(Questions(), 5)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_takes_every_item_equally_often(self):
        # H0: each of 20 items with probability 1/4; 2000 seeds; chi-square at 1e-6 (19 d.o.f.; the
        # sample is without replacement, which makes the statistic smaller still)
        counts = np.zeros(20)
        for seed in range(2000):
            for item in limited(Questions(), 5, seed).items:
                counts[int(item.id)] += 1
        assert ((counts - 500) ** 2 / 500).sum() < 66

    def test_leaves_callables_whole(self):
        task = bs.CallableTask("t", lambda m: [1] * 9, 9)
        assert limited(task, 3) is task

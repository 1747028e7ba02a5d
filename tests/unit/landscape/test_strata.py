"""Scores by stratum and their mean, from records alone."""

from __future__ import annotations

import pytest
import torch

import basinscope as bs
from basinscope import stats
from basinscope.directions import Direction
from basinscope.landscape.strata import MACRO
from basinscope.tasks import Choices, Item, Outcome, Ranking


class Alpha(bs.Engine):
    """Answers every request with alpha."""

    kind = "alpha/1"

    def answer(self, requests):
        return [Ranking((self.module.weight.item() - 1,)) for _ in requests]


class Ones(Direction):
    label = "ones"

    def delta(self, engine, name, draw=0):
        return torch.ones(engine.shapes[name])


class Groups:
    """Right in group a at 0 alone, in b never but for its first item, in c always."""

    name, chance, scoring = "groups", 0.0, "groups/1"
    items = tuple(Item(i, (Choices("c", ("a",)),)) for i in ("a/0", "b/0", "a/1", "b/1", "c/0/x"))

    def oracle(self, item, answers):
        at_zero = answers[0].loglik[0] == 0
        return Outcome(item.id == "b/0" or item.id[0] == "c" or (item.id[0] == "a" and at_zero))


@pytest.fixture
def land():
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, 1.0)
    other = bs.CallableTask("other", lambda module: [1], n_items=1)
    return bs.landscape(
        Alpha(module), [Groups(), other], directions=[Ones()], steps=[0, 1.0], draws=2
    )


def test_every_stratum_and_the_mean_of_all(land):
    rows = land.strata("groups")
    assert len(rows) == 2 * 2 * 4  # draws, steps, strata and their mean
    point = rows[(rows["draw"] == 1) & (rows["step"] == 1.0)].set_index("stratum")
    assert list(point.index) == ["a", "b", "c", MACRO]
    assert point["n"].to_dict() == {"a": 2, "b": 2, "c": 1, MACRO: 5}
    assert point["score"].to_dict() == {"a": 0.0, "b": 0.5, "c": 1.0, MACRO: 0.5}
    exact, mean = stats.clopper_pearson(1, 2), stats.mean_over_strata([0, 1, 1], [2, 2, 1])
    assert tuple(point.loc["b", ["low", "high"]]) == (exact.low, exact.high)
    assert tuple(point.loc[MACRO, ["low", "high"]]) == (mean.low, mean.high)
    zero = rows[rows["step"] == 0.0]
    assert set(zero[zero["stratum"] == MACRO]["score"]) == {(1 + 0.5 + 1) / 3}


def test_where_there_are_none_it_says_so(land):
    with pytest.raises(bs.BasinscopeError, match="items of task 'other' have no strata; allowed"):
        land.strata("other")
    with pytest.raises(
        bs.BasinscopeError, match="task 'nosuch', not of this run; allowed: groups, other"
    ):
        land.strata("nosuch")

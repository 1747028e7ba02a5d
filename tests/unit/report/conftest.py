"""Landscapes to draw: a linear module along a straight axis."""

from __future__ import annotations

import pytest
import torch

import basinscope as bs
from basinscope.directions import Direction
from basinscope.tasks import Choices, Item, Outcome, Ranking

HOSTILE = "<script>alert('x')</script>"


class Axis(Direction):
    """All ones: the only weight goes from 1 to 1 + alpha."""

    label = "axis"

    def __init__(self, label: str = "axis") -> None:
        self.label = label

    def identity(self, engine, draw=0):
        return "ones"

    def delta(self, engine, name, draw=0):
        return torch.ones(engine.shapes[name])


class Kinds:
    """A task whose labels are words: named as it likes, right at small alpha."""

    chance, scoring = 0.25, "kinds/1"

    def __init__(self, name: str, labels: tuple[str, str], edge: float) -> None:
        self.name, self.labels, self.edge = name, labels, edge
        self.items = tuple(Item(f"{name}-{i}", (Choices("c", ("a",)),)) for i in range(12))

    def oracle(self, item, answers):
        (alpha,) = answers[0].loglik
        right = abs(alpha) < self.edge
        return Outcome(right, self.labels[not right], margin=self.edge - abs(alpha))


class Echo(bs.Engine):
    """Answers every request with alpha."""

    kind = "echo/1"

    def answer(self, requests):
        alpha = self.module.weight.item() - 1
        return [Ranking((alpha,)) for _ in requests]


def _draw(
    *tasks: tuple[str, tuple[str, str], float],
    steps=(-1.0, -0.2, 0.2, 1.0),
    draws=2,
    weight=1.0,
    label="axis",
    run=None,
) -> bs.Landscape:
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, weight)
    chosen = [Kinds(*task) for task in tasks or [("t", ("refuses", "complies"), 0.5)]]
    return bs.landscape(
        Echo(module, source=HOSTILE), chosen, directions=[Axis(label)], steps=steps, draws=draws,
        run=run,
    )  # fmt: skip


@pytest.fixture
def draw():
    """Landscape of tasks (name, labels, edge)."""
    return _draw


@pytest.fixture
def hostile():
    return HOSTILE

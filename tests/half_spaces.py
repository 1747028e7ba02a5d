"""A model of one layer and tasks that are functions of it; a tiny language model with a task."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

import basinscope as bs
from basinscope.tasks import Choices, Item, Outcome

D = 8


def _rows(n=12):
    found = torch.randn(n, D, generator=torch.Generator().manual_seed(0))
    found[:, 0] = found[:, 0].abs() + 0.3
    return found


def _layer(seed=0):
    layer = nn.Linear(D, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0] + [0.01 * seed] * (D - 1)]))
    return layer


def _task(n=12, *, name="half-spaces", chance=0.0):
    x = _rows(n)
    return bs.CallableTask(name, lambda m: m(x)[:, 0] > 0, n, chance=chance)


@pytest.fixture
def make_layer():
    return _layer


@pytest.fixture
def make_task():
    return _task


@pytest.fixture
def engine():
    return bs.load(_layer())


@pytest.fixture
def task():
    return _task()


@dataclass(frozen=True)
class Sayings:
    """Items whose right answer is what the model itself prefers at theta0."""

    best: dict[str, int] = field(hash=False)
    items: tuple[Item, ...] = ()
    name: str = "sayings"
    chance: float = 1 / 3
    scoring: str = "sayings/1"

    def oracle(self, item, answers):
        return Outcome(int(np.argmax(answers[0].loglik)) == self.best[item.id])


@pytest.fixture(scope="session")
def speaker(checkpoint):
    """Tiny language model in float32, and a task that it gets right."""
    engine = bs.load(checkpoint, dtype="float32")
    items = tuple(
        Item(f"i{n}", (Choices(f"Say {n}: the Cat can ", ("q", "z", "W")),)) for n in range(4)
    )
    answers = engine.answer([item.requests[0] for item in items])
    best = {i.id: int(np.argmax(a.loglik)) for i, a in zip(items, answers, strict=True)}
    return engine, Sayings(best, items)

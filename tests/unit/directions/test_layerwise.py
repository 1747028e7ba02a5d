"""Noise in proportion to each tensor's own weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import basinscope as bs
from basinscope.directions import Layerwise


class Small(nn.Module):
    """Matrices of very different scales, a norm and an empty bias."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(60, 50)
        self.down = nn.Linear(50, 40, bias=False)
        self.norm = nn.LayerNorm(40)
        with torch.no_grad():
            self.up.weight.mul_(20)
            self.up.bias.zero_()


@pytest.fixture
def engine():
    torch.manual_seed(0)
    return bs.load(Small())


def test_each_tensor_moves_in_proportion_to_its_norm(engine) -> None:
    """At a step of RMS(theta0) every tensor moves as far as it is long: alpha = 1 as published."""
    before = {name: tensor.clone() for name, tensor in engine.module.named_parameters()}
    with engine.at(Layerwise(3), step=engine.rms, draw=2):
        moved = {n: (p - before[n]).norm().item() for n, p in engine.module.named_parameters()}
    for name in ("up.weight", "down.weight"):
        n = before[name].numel()
        assert moved[name] == pytest.approx(before[name].norm().item(), rel=5 / math.sqrt(2 * n))
    assert moved["norm.weight"] == moved["norm.bias"] == moved["up.bias"] == 0


def test_it_has_the_normals_of_random(engine) -> None:
    line = Layerwise(3)
    raw = bs.Random(3).delta(engine, "down.weight", 1)
    scale = engine.module.down.weight.norm().item() / math.sqrt(raw.numel()) / engine.rms
    torch.testing.assert_close(line.delta(engine, "down.weight", 1), raw * scale)


def test_it_is_no_random_direction(engine) -> None:
    assert Layerwise(3).identity(engine) != bs.Random(3).identity(engine)
    assert Layerwise(3).identity(engine) != Layerwise(4).identity(engine)


def test_it_restores(engine) -> None:
    before = engine.fingerprint()
    with engine.at(Layerwise(), step=0.1, draw=0):
        pass
    assert engine.fingerprint() == before

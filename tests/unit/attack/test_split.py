"""Linear layers in bfloat16 whose float32 weights are split in two."""

from __future__ import annotations

import torch
from torch import nn

from basinscope.attack.split import SplitLinear, halves


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_halves_make_up_the_weight():
    weight = rand(64, 32)
    high, low = halves(weight)
    assert high.dtype == low.dtype == torch.bfloat16
    assert torch.equal(high, weight.bfloat16())
    assert ((high.float() + low.float() - weight).abs() <= 2.0**-16 * weight.abs()).all()


def test_a_small_displacement_of_a_bfloat16_weight_keeps_its_own_precision():
    theta, move = rand(64, 32).bfloat16().float(), 1e-5 * rand(64, 32, seed=1).sign()
    safe = theta.abs() > 0.01  # half a unit in the last place is then above the move
    high, low = halves(theta + move)
    assert torch.equal(high.float()[safe], theta[safe])
    assert ((low.float() - move).abs()[safe] <= 0.02 * move.abs()[safe]).all(), (
        "2^-9, float32's sum"
    )


def test_forward_and_gradients_are_those_of_the_layer():
    layer, x = nn.Linear(96, 48), rand(7, 5, 96).requires_grad_()
    gy = rand(7, 5, 48, seed=2)

    def run():
        layer.zero_grad()
        x.grad = None
        y = layer(x)
        (y * gy).sum().backward()
        return y.detach(), x.grad, layer.weight.grad, layer.bias.grad

    plain = run()
    with SplitLinear():
        split = run()
    for name, a, b in zip(("y", "x", "weight", "bias"), plain, split, strict=True):
        assert b.dtype == torch.float32
        error = float((a - b).norm() / a.norm())
        assert error < 6e-3, name
        assert (error > 0) == (name != "bias"), "it is another way of computing"


def test_other_dtypes_and_functions_are_left_alone():
    layer, x = nn.Linear(8, 8).double(), rand(3, 8).double()
    with SplitLinear():
        inside = layer(x), torch.nn.functional.linear(x, weight=layer.weight)
    assert torch.equal(inside[0], layer(x))
    assert torch.equal(inside[1], x @ layer.weight.T)

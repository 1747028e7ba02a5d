"""Noise under autocast, and folded into the cast from float32 master weights to bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import basinscope as bs
from basinscope.optim.methods import MethodSpec, build
from basinscope.optim.tensors import FIRST_DRAW


def network():
    rng = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) * 0.3)
    return net


def batch(seed=1, dtype=torch.float32):
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)).to(dtype)


def augmented(net, **changed):
    given = {"sigma": 0.1, "seed": 3, "lr": 0.01, "cast": torch.bfloat16, **changed}
    return bs.GaussianAugmented(net.named_parameters(), **given)


def test_the_noise_is_added_in_float32_and_rounded_once():
    net = network()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    masters = {n: p.data_ptr() for n, p in net.named_parameters()}
    opt = augmented(net, select="weight")
    with opt.perturbed():
        for name, p in net.named_parameters():
            noise = bs.normals(name, p.numel(), seed=3, draw=FIRST_DRAW).reshape(p.shape)
            wanted = before[name] + 0.1 * noise if "weight" in name else before[name]
            assert p.dtype == torch.bfloat16
            assert torch.equal(p.detach(), wanted.to(torch.bfloat16))
    for name, p in net.named_parameters():  # the masters were never written to, nor copied
        assert p.data_ptr() == masters[name]
        assert torch.equal(p, before[name])


def test_gradients_are_those_of_the_noisy_bfloat16_model_added_in_float32():
    net = network()
    opt = augmented(net)
    wanted = None
    for draw in range(2):
        copy = network()
        with torch.no_grad():
            for name, p in copy.named_parameters():
                noise = bs.normals(name, p.numel(), seed=3, draw=FIRST_DRAW + draw).reshape(p.shape)
                p.add_(0.1 * noise)
        copy = copy.to(torch.bfloat16)
        copy(batch(draw, torch.bfloat16)).square().mean().backward()
        grads = [p.grad.float() for p in copy.parameters()]
        wanted = grads if wanted is None else [a + b for a, b in zip(wanted, grads, strict=True)]
        with opt.perturbed():
            net(batch(draw, torch.bfloat16)).square().mean().backward()
    for p, grad in zip(net.parameters(), wanted, strict=True):
        assert p.grad.dtype == torch.float32
        assert torch.equal(p.grad, grad)
    opt.step()
    assert all(p.dtype == torch.float32 for p in net.parameters())
    assert all(s["exp_avg"].dtype == torch.float32 for s in opt.state.values())


def test_small_steps_are_not_lost_between_bfloat16_numbers():
    """A bfloat16 weight of 1 does not move by 1e-4; its float32 master does, step by step."""
    w = nn.Parameter(torch.ones(1))
    opt = bs.GaussianAugmented(
        [("w", w)], base=torch.optim.SGD, sigma=0.0, cast=torch.bfloat16, lr=1e-4
    )
    for _ in range(10):
        with opt.perturbed():
            w.sum().backward()
        opt.step()
        opt.zero_grad()
    assert float(w.detach()) == pytest.approx(0.999, abs=1e-6)


def test_an_exception_brings_masters_and_gradients_back():
    net = network()
    opt = augmented(net)
    with opt.perturbed():
        net(batch(1, torch.bfloat16)).square().mean().backward()
    before = [(p.detach().clone(), p.grad.clone()) for p in net.parameters()]
    with pytest.raises(RuntimeError, match="planned"), opt.perturbed():
        raise RuntimeError("planned")
    for p, (value, grad) in zip(net.parameters(), before, strict=True):
        assert torch.equal(p, value)
        assert torch.equal(p.grad, grad)


def test_a_backward_pass_that_comes_too_late_is_refused():
    net = network()
    opt = augmented(net)
    with opt.perturbed():
        loss = net(batch(1, torch.bfloat16)).square().mean()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_weights_that_autocast_cached_do_not_outlive_the_noise():
    """Defect 6 of earlier code: autocast keeps bfloat16 copies of weights until its block ends."""
    net = network()
    opt = augmented(net, cast=None)
    with torch.autocast("cpu", torch.bfloat16):
        clean = net(batch()).detach()
        found = []
        for _ in range(2):
            with opt.perturbed():
                found.append(net(batch()).detach())
        after = net(batch()).detach()
    assert torch.equal(clean, after)
    assert not torch.equal(found[0], clean)
    assert not torch.equal(found[0], found[1])


def test_cast_under_autocast_keeps_the_master_weights():
    net = network()
    before = [p.detach().clone() for p in net.parameters()]
    opt = augmented(net)
    with opt.perturbed(), torch.autocast("cpu", torch.bfloat16):
        net(batch()).square().mean().backward()
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    opt.step()


@pytest.mark.parametrize("cast", [torch.float16, "bfloat16", True])
def test_another_cast(cast):
    with pytest.raises(bs.BasinscopeError, match=r"cast=.*allowed: torch\.bfloat16"):
        augmented(network(), cast=cast)


CLOSURES = {
    "lbfgs": (torch.optim.LBFGS, {}),
    "sam": ("SAM", {"base_optimizer": torch.optim.SGD, "lr": 0.1}),
}


@pytest.mark.parametrize("base", CLOSURES)
def test_a_base_that_needs_a_closure(base):
    kind, given = CLOSURES[base]
    if kind == "SAM":
        kind = pytest.importorskip("pytorch_optimizer").SAM
    net = network()
    opt = bs.GaussianAugmented(net.parameters(), base=kind, sigma=0.01, **given)

    def closure():
        opt.zero_grad()
        loss = net(batch()).square().mean()
        loss.backward()
        return loss

    closure()
    with pytest.raises(bs.BasinscopeError, match=r"step\(\) without a closure, around"):
        opt.step()
    before = [p.detach().clone() for p in net.parameters()]
    opt.step(closure)
    assert not all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))


def test_cast_on_several_ranks_is_refused_and_leaves_the_weights_alone(monkeypatch):
    net = network()
    opt = augmented(net)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(bs.BasinscopeError, match=r"on 2 ranks.*MixedPrecisionPolicy"):
        opt.perturbed().__enter__()
    assert all(p.dtype == torch.float32 for p in net.parameters())


def test_evaluated_weights_are_not_hidden_by_autocast():
    net = network()
    spec = MethodSpec("averaged", {"average": "ema:0.5"})
    method = build(spec, net, lr=0.5, total_steps=4)
    for seed in range(3):
        method.step([lambda seed=seed: net(batch(seed)).square().mean()])
    with torch.autocast("cpu", torch.bfloat16):
        live = net(batch()).detach()
        with method.evaluated():
            averaged = net(batch()).detach()
        after = net(batch()).detach()
    assert torch.equal(live, after)
    assert not torch.equal(live, averaged)


def test_gradients_are_cleared_inside_too():
    """Those of before are put aside there, and came back although zero_grad was called."""
    net = network()
    opt = augmented(net, sigma=0.0, base=torch.optim.SGD)
    found = []
    for _ in range(2):
        with opt.perturbed():
            opt.zero_grad()
            net(batch(dtype=torch.bfloat16)).square().mean().backward()
        found.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_closure_that_clears_gradients_gives_those_of_one_pass():
    w = nn.Parameter(torch.zeros(2))
    opt = bs.GaussianAugmented(
        [("w", w)], base=torch.optim.LBFGS, sigma=0.0, lr=0.1, max_iter=4, cast=torch.bfloat16
    )

    def closure():
        opt.zero_grad()
        loss = (w.float() - 3).square().sum()
        loss.backward()
        return loss

    for _ in range(40):
        opt.step(closure)
    assert torch.allclose(w, torch.full((2,), 3.0), atol=0.1)

"""GaussianAugmented in a loop of Accelerate: accumulation, clipping, saving, going on."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn

import basinscope as bs
from basinscope.optim.methods import MethodSpec, build
from basinscope.optim.trainer import unwrapped


@pytest.fixture(autouse=True)
def _fresh_accelerate(monkeypatch):
    """Accelerate keeps one state to a process, and a Trainer leaves its precision behind."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def network():
    rng = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) * 0.3)
    return net


def batches():
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(4, 6, generator=rng) for _ in range(6)]


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def by_hand():
    net = network()
    opt = bs.GaussianAugmented(net.named_parameters(), sigma=0.05, seed=2, lr=0.01)
    for i, x in enumerate(batches()):
        with opt.perturbed():
            (net(x).square().mean() / 2).backward()
        if i % 2:
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            opt.step()
            opt.zero_grad()
    return weights(net)


def accelerated(folder=None, stop=6, go_on=False):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    net = network()
    opt = bs.GaussianAugmented(net.named_parameters(), sigma=0.05, seed=2, lr=0.01)
    net, opt = accelerator.prepare(net, opt)
    first = 0
    if go_on:
        accelerator.load_state(folder)
        first = unwrapped(opt).draws
    for x in batches()[first:stop]:
        with accelerator.accumulate(net):
            with unwrapped(opt).perturbed():
                accelerator.backward(net(x).square().mean())
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(net.parameters(), 0.5)
            opt.step()
            opt.zero_grad()
    if folder and not go_on:
        accelerator.save_state(folder)
    return weights(net), opt, accelerator


def test_the_loop_of_accelerate_is_the_plain_loop_bit_for_bit():
    found, opt, _ = accelerated()
    assert torch.equal(found, by_hand())
    assert unwrapped(opt).draws == 6


def test_saved_and_gone_on_bit_for_bit(tmp_path):
    accelerated(tmp_path / "state", stop=4)
    found, _, _ = accelerated(tmp_path / "state", go_on=True)
    assert torch.equal(found, by_hand())


def test_saving_in_the_middle_of_a_perturbation_is_refused(tmp_path):
    _, opt, accelerator = accelerated()
    with (
        unwrapped(opt).perturbed(),
        pytest.raises(bs.BasinscopeError, match=r"state_dict\(\) inside perturbed"),
    ):
        accelerator.save_state(tmp_path / "state")


def test_methods_take_accelerators_backward_under_its_autocast():
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    net = accelerator.prepare(network())
    spec = MethodSpec("sam", {"average": "ema:0.5"})
    method = build(spec, net, lr=0.01, total_steps=3, backward=accelerator.backward)
    before = weights(net)
    for x in batches()[:3]:
        method.step([lambda x=x: net(x).square().mean()], 1.0)
    assert not torch.equal(weights(net), before)

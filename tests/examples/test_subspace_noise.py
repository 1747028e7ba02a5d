"""Noise in a span: along its rows and nowhere else, and the weights clean outside."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file
from subspace_noise import SubspaceAugmented

from basinscope.errors import BasinscopeError
from basinscope.optim.gaussian import GaussianAugmented


@pytest.fixture
def basis(tmp_path):
    """Two directions over two tensors, orthonormal together."""
    path = tmp_path / "basis.safetensors"
    rows = torch.zeros(2, 6)
    rows[0, 0] = rows[0, 4] = math.sqrt(0.5)
    rows[1, 2] = 1.0
    save_file({"a": rows[:, :4].reshape(2, 2, 2).clone(), "b": rows[:, 4:].clone()}, path)
    return path


def weights():
    torch.manual_seed(0)
    return [("a", torch.nn.Parameter(torch.randn(2, 2))), ("b", torch.nn.Parameter(torch.randn(2)))]


def moved(named, opt):
    before = torch.cat([p.detach().flatten() for _, p in named])
    with opt.perturbed():
        return torch.cat([p.detach().flatten() for _, p in named]) - before


def test_moves_along_the_rows_with_one_normal_each(basis):
    named = weights()
    opt = SubspaceAugmented(named, torch.optim.SGD, basis=basis, sigma=2.0, seed=3, lr=0.1)
    every = torch.stack([moved(named, opt) for _ in range(400)])
    assert every[:, [1, 3, 5]].abs().max() < 1e-6  # rounding
    assert torch.allclose(every[:, 0], every[:, 4], atol=1e-6)
    # null: coordinates are N(0, 4); the mean square of 400 leaves 4 (1 +- .5) with p < 1e-9
    for z in (every[:, 0] * math.sqrt(2), every[:, 2]):
        assert 2.0 < float(z.square().mean()) < 6.0


def test_weights_come_back_bit_for_bit_also_after_an_error(basis):
    named = weights()
    before = [p.detach().clone() for _, p in named]
    opt = SubspaceAugmented(named, torch.optim.SGD, basis=basis, sigma=1.0, lr=0.1)
    with pytest.raises(ZeroDivisionError, match="division"), opt.perturbed():
        1 / 0  # noqa: B018
    for (_, p), clean in zip(named, before, strict=True):
        assert torch.equal(p, clean)


def test_sigma_zero_is_the_base(basis):
    runs = []
    for made in (
        lambda named: SubspaceAugmented(named, torch.optim.AdamW, basis=basis, sigma=0.0, lr=0.1),
        lambda named: torch.optim.AdamW(named, lr=0.1),
    ):
        named = weights()
        opt = made(named)
        for _ in range(3):
            with opt.perturbed() if isinstance(opt, GaussianAugmented) else torch.enable_grad():
                sum(p.square().sum() for _, p in named).backward()
            opt.step()
            opt.zero_grad()
        runs.append([p.detach() for _, p in named])
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


def test_expected_gradient_of_a_kink_widens_along_the_span(basis):
    """E d|x| = 2 Phi(x / s) - 1 along a row: at x = s it is .683, without noise it is 1."""
    named = weights()
    with torch.no_grad():
        named[0][1].fill_(1.0)
    opt = SubspaceAugmented(named, torch.optim.SGD, basis=basis, sigma=1.0, lr=0.1)
    for _ in range(2000):
        with opt.perturbed():
            named[0][1].abs().sum().backward()
    gradient = named[0][1].grad.flatten() / 2000
    # standard error .016; 6 of them: p < 1e-8
    assert abs(float(gradient[2]) - 0.6827) < 0.1
    assert float(gradient[1]) == 1.0


def test_resuming_goes_on_with_the_next_draw(basis):
    named = weights()
    opt = SubspaceAugmented(named, torch.optim.SGD, basis=basis, sigma=1.0, lr=0.1)
    moved(named, opt)
    state = opt.state_dict()
    expected = moved(named, opt)
    again = SubspaceAugmented(named, torch.optim.SGD, basis=basis, sigma=1.0, lr=0.1)
    again.load_state_dict(state)
    assert torch.equal(moved(named, again), expected)


def test_what_does_not_fit_is_refused(basis, tmp_path):
    with pytest.raises(BasinscopeError, match="is not a basis for this model"):
        SubspaceAugmented([("a", torch.nn.Parameter(torch.ones(3)))], basis=basis, sigma=1.0)
    with pytest.raises(BasinscopeError, match="no file at"):
        SubspaceAugmented(weights(), basis=tmp_path / "none", sigma=1.0)
    with pytest.raises(BasinscopeError, match="relative=True with noise in a subspace"):
        SubspaceAugmented(weights(), basis=basis, sigma=1.0, relative=True)
    with pytest.raises(BasinscopeError, match="sigma=-1"):
        SubspaceAugmented(weights(), basis=basis, sigma=-1)


def test_another_basis_is_refused(basis, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.eye(4)[:2].reshape(2, 2, 2).clone()}, other)
    state = SubspaceAugmented(weights(), basis=basis, sigma=1.0).state_dict()
    with pytest.raises(BasinscopeError, match=r"made with other noise \(noise_basis of group 0"):
        SubspaceAugmented(weights(), basis=other, sigma=1.0).load_state_dict(state)

"""Training methods on quadratics, where every step has a closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import basinscope as bs
from basinscope.optim.methods import MethodSpec, build
from basinscope.optim.tensors import FIRST_DRAW

H = torch.tensor([1.0, 4.0, 9.0])
START = torch.tensor([1.0, -0.5, 0.25])
RATE = 0.05


class Point(nn.Module):
    """f(w) = 1/2 sum H w^2, whose gradient is H w."""

    def __init__(self, start=START):
        super().__init__()
        self.w = nn.Parameter(start.clone())

    def forward(self):
        return 0.5 * (H * self.w**2).sum()


def take(name, steps=1, start=START, **options):
    point = Point(start)
    spec = MethodSpec(name, {"base": "sgd", **options})
    method = build(spec, point, lr=RATE, betas=(0.0, 0.0), seed=7, total_steps=max(steps, 1))
    path = []
    for _ in range(steps):
        method.step([point])
        path.append(point.w.detach().clone())
    return point, method, path


def xi(draw, sigma):
    return sigma * bs.normals("w", 3, seed=7, draw=FIRST_DRAW + draw)


def test_two_points_give_the_clean_gradient_of_a_quadratic():
    """(H (w + e) + H (w - e)) / 2 = H w, however large the noise; GO's is off by H e."""
    _, _, (nso,) = take("nso", sigma=0.5)
    torch.testing.assert_close(nso, START - RATE * H * START, rtol=0, atol=1e-6)
    _, _, (go,) = take("go", sigma=0.5)
    torch.testing.assert_close(go, START - RATE * H * (START + xi(0, 0.5)), rtol=0, atol=1e-6)
    assert (go - nso).abs().max() > 0.01


def test_two_points_on_a_quartic_add_the_third_derivative():
    """On w^4 / 4 the two points give w^3 + 3 w e^2: odd orders cancel, the curvature's stay."""
    w = nn.Parameter(torch.tensor([0.5, 0.5, 0.5]))
    model = nn.Module()
    model.w = w
    method = build(MethodSpec("nso", {"sigma": 0.3, "base": "sgd"}), model, lr=1.0, betas=(0.0, 0),
                   seed=7, total_steps=1)  # fmt: skip
    method.step([lambda: 0.25 * (w**4).sum()])
    expected = 0.5 - (0.5**3 + 3 * 0.5 * xi(0, 0.3) ** 2)
    torch.testing.assert_close(w.detach(), expected, rtol=0, atol=1e-6)


def test_anti_pgd_is_its_recursion_and_its_clean_weights_are_those_of_go():
    """x' = x - rate H x + xi' - xi; z = x - xi follows z' = z - rate H (z + xi)."""
    sigma, steps = 0.1, 5
    point, method, path = take("anti-pgd", steps, sigma=sigma)
    x, z = START.clone(), START.clone()
    for k in range(steps):
        before = xi(k, sigma) if k else torch.zeros(3)
        z = z - RATE * H * (z + before)
        x = x - RATE * H * x + xi(k + 1, sigma) - before
        torch.testing.assert_close(path[k], x, rtol=0, atol=1e-6)
    live = point.w.detach().clone()
    with method.evaluated():
        torch.testing.assert_close(point.w.detach(), z, rtol=0, atol=1e-6)
    assert torch.equal(point.w.detach(), live)


def test_anti_pgd_whose_noise_stops_ends_at_its_clean_weights():
    point, method, path = take("anti-pgd", 4, sigma=0.1, schedule="first:0.5")
    with method.evaluated():
        assert torch.equal(point.w.detach(), path[-1])


def test_sam_ascends_by_rho_along_the_gradient():
    """w' = w - rate H (w + rho H w / |H w|)."""
    _, _, (found,) = take("sam", rho=0.2)
    g = H * START
    expected = START - RATE * H * (START + 0.2 * g / g.norm())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_asam_ascends_in_units_of_the_weights():
    """w' = w - rate H (w + rho w^2 g / | |w| g |) (Kwon et al. 2021, equation 5)."""
    _, _, (found,) = take("asam", rho=0.2)
    g = H * START
    expected = START - RATE * H * (START + 0.2 * START**2 * g / (START.abs() * g).norm())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_looksam_is_sam_on_every_kth_step():
    """On its full steps: SAM. Between them it adds alpha |g| / |v| v, with v the part of the last
    ascended gradient at right angles to the plain one."""
    _, _, path = take("looksam", 2, rho=0.2, k=2, alpha=0.5)
    g = H * START
    ascended = H * (START + 0.2 * g / g.norm())
    torch.testing.assert_close(path[0], START - RATE * ascended, rtol=0, atol=1e-6)
    v = ascended - (ascended @ g) / (g @ g) * g
    plain = H * path[0]
    expected = path[0] - RATE * (plain + 0.5 * plain.norm() / v.norm() * v)
    torch.testing.assert_close(path[1], expected, rtol=0, atol=1e-6)


def test_friendly_sam_ascends_along_what_is_new_in_the_gradient():
    """Second step: m = g0, the ascent is along g1 - sigma m (Li et al. 2024, algorithm 1)."""
    _, _, path = take("friendly-sam", 2, rho=0.2, sigma=0.5, lmbda=0.9)
    along = H * path[0] - 0.5 * H * START
    expected = path[0] - RATE * H * (path[0] + 0.2 * along / along.norm())
    torch.testing.assert_close(path[1], expected, rtol=0, atol=1e-6)


def test_wsam_steps_from_the_gradient_and_adds_weighted_sharpness():
    """w' = w - rate (g + gamma / (1 - gamma) (g_ascended - g)) (Yue et al. 2023, algorithm 2)."""
    _, _, (found,) = take("wsam", rho=0.2, gamma=0.75)
    g = H * START
    ascended = H * (START + 0.2 * g / g.norm())
    torch.testing.assert_close(found, START - RATE * (g + 3 * (ascended - g)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("word", ["tail:0.5", "ema:0.75"])
def test_averages_are_the_averages_of_the_path(word):
    """Mean over the last half of 6 steps; or 0.75 a + 0.25 w from the first weights on."""
    point, method, path = take("averaged", 6, average=word)
    if word == "tail:0.5":
        expected = torch.stack(path[3:]).mean(0)
    else:
        expected = path[0]
        for w in path[1:]:
            expected = 0.75 * expected + 0.25 * w
    with method.evaluated():
        torch.testing.assert_close(point.w.detach(), expected, rtol=0, atol=1e-6)
    assert torch.equal(point.w.detach(), path[-1])
    plain, _, _ = take("adamw", 6)
    assert torch.equal(point.w.detach(), plain.w.detach())  # averaging changes no step


class Wide(nn.Module):
    """Its loss is the mean of dropped ones; `seen` keeps them."""

    def __init__(self, n):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))
        self.dropout = nn.Dropout(0.3)
        self.n, self.seen = n, []

    def forward(self):
        out = self.dropout(self.w.expand(self.n))
        self.seen.append(out.detach())
        return out.mean()


def test_continuous_dropout_has_mean_one_and_its_std():
    """Null: factors i.i.d. N(1, 0.4^2), n = 200,000. Gates: 6 standard errors of the mean and of
    the standard deviation (false alarm 4e-9). Ordinary dropout at the layer's own rate 0.3 has
    std 0.65; one factor for both micro-batches, a correlation of 1.
    """
    n, std = 200_000, 0.4
    model = Wide(n)
    method = build(MethodSpec("dropout", {"std": std}), model, lr=0.0, seed=1, total_steps=2)
    method.step([model, model])
    method.step([model])
    for seen in model.seen:
        assert abs(float(seen.double().mean()) - 1) < 6 * std / math.sqrt(n)
        assert abs(float(seen.double().std()) - std) < 6 * std / math.sqrt(2 * n)
    for a, b in ((0, 1), (0, 2), (1, 2)):  # fresh for each micro-batch and step
        found = torch.corrcoef(torch.stack([model.seen[a], model.seen[b]]).double())[0, 1]
        assert abs(float(found)) < 6 / math.sqrt(n)
    assert model.dropout.p == 0.3
    assert torch.equal(model.dropout.eval()(torch.ones(4)), torch.ones(4))  # nothing is left on

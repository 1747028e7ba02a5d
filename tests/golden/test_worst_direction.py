"""Toy losses whose worst direction is known in closed form.

With ``L(theta0 + v) = v H v / 2 + b v`` the worst direction on a sphere is H's top eigenvector
where b = 0, b itself where H = 0, and the solution ``(lambda I - H) v = b`` of the trust-region
problem (More and Sorensen 1983) where neither is.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import nn

import basinscope as bs


class Toy(nn.Module):
    """Two parameters of unequal size, somewhere that is not zero."""

    def __init__(self, n: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        parts = torch.randn(n, generator=generator).to(dtype).split([n // 3, n - n // 3])
        self.first, self.second = (nn.Parameter(part.clone()) for part in parts)

    @property
    def theta(self) -> torch.Tensor:
        return torch.cat([self.first, self.second])


def quadratic(n, *, low=0.0, gap=0.9, linear=0.0, dtype=torch.float32):
    """Module, loss, H and b; H has top eigenvalue 1, then ``gap`` down to ``low``."""
    rng = np.random.default_rng(11)
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    values = np.linspace(gap, low, n)
    values[0] = 1.0
    h, b = (q * values) @ q.T, linear * rng.normal(size=n)
    module = Toy(n, dtype)
    at = module.theta.detach().clone()
    ht, bt = torch.tensor(h, dtype=dtype), torch.tensor(b, dtype=dtype)

    def loss(m):
        v = m.theta - at
        return v @ ht @ v / 2 + bt @ v

    return module, loss, q[:, 0], h, b


def vector(engine, direction):
    parts = [direction.delta(engine, name).double().flatten() for name in engine.shapes]
    return torch.cat(parts).numpy()


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("n", [20, 300])
@pytest.mark.parametrize("low", [0.0, -2.0], ids=["convex", "indefinite"])
@pytest.mark.parametrize("start", [1, 3], ids=["one-start", "three-starts"])
def test_top_eigenvector_of_a_quadratic(n, low, start):
    module, loss, top, _, _ = quadratic(n, low=low)
    engine = bs.load(module)
    found = bs.attack(engine, loss, steps=60 * start, starts=start)
    delta = vector(engine, found.direction)
    assert abs(cosine(delta, top)) >= 0.999
    assert np.linalg.norm(delta) == pytest.approx(math.sqrt(n), rel=1e-5)
    radius = found.radius
    assert found.loss == pytest.approx(radius**2 / 2, rel=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_gaussian_start_finds_it(seed):
    # the gradient at theta0 is zero, so that start 0 is Gaussian too: none may rely on it
    module, loss, top, _, _ = quadratic(100)
    engine = bs.load(module)
    found = bs.attack(engine, loss, steps=200, starts=4, seed=seed)
    losses = [start.loss for start in found.starts]
    assert len(losses) == 4
    assert min(losses) == pytest.approx(max(losses), rel=1e-3)
    firsts = {start.trace[0][2] for start in found.starts}
    assert len(firsts) == 4, "four starts from different places"
    assert abs(cosine(vector(engine, found.direction), top)) >= 0.99


@pytest.mark.parametrize("radius", [1e-3, 1.0, 30.0])
def test_trust_region_solution_with_a_linear_term(radius):
    module, loss, _, h, b = quadratic(60, low=-1.0, linear=0.3, dtype=torch.float64)
    values, q = np.linalg.eigh(h)
    c = q.T @ b

    def excess(multiplier):
        return np.linalg.norm(c / (multiplier - values)) - radius

    above = values[-1] + np.array([1e-12, np.linalg.norm(b) / radius + 1.0])
    worst = q @ (c / (optimize.brentq(excess, *above) - values))
    engine = bs.load(module)
    found = bs.attack(engine, loss, radius=radius, steps=200)
    assert cosine(vector(engine, found.direction), worst) >= 0.999, "with its sign"
    assert found.loss == pytest.approx(worst @ h @ worst / 2 + b @ worst, rel=1e-3)


def test_a_linear_loss_is_stationary_at_its_gradient():
    module, _, _, _, b = quadratic(30, linear=1.0)
    engine = bs.load(module)
    at = module.theta.detach().clone()
    slope = torch.tensor(b, dtype=torch.float32)
    found = bs.attack(engine, lambda m: slope @ (m.theta - at), starts=1)
    assert cosine(vector(engine, found.direction), b) >= 0.999999
    assert found.starts[0].steps <= 3
    assert "stationary" in found.ended[0]


def test_inside_a_ball_it_finds_a_maximum_that_no_sphere_holds():
    # -|v - c|^2 is highest at c, which lies inside the ball
    module = Toy(40)
    at = module.theta.detach().clone()
    c = torch.randn(40, generator=torch.Generator().manual_seed(3))
    engine = bs.load(module)
    size = float(c.norm())

    def loss(m):
        return -(m.theta - at - c).square().sum()

    ball = bs.attack(engine, loss, radius=3 * size, inside=True)
    sphere = bs.attack(engine, loss, radius=3 * size)
    assert ball.loss == pytest.approx(0.0, abs=1e-3 * size**2)
    assert ball.radius == pytest.approx(size, rel=0.02), "the norm of the displacement itself"
    assert sphere.loss == pytest.approx(-((2 * size) ** 2), rel=1e-3)
    assert sphere.radius == pytest.approx(3 * size)


def test_the_loss_never_falls_along_the_way():
    module, loss, _, _, _ = quadratic(80, low=-3.0, linear=0.1)
    found = bs.attack(bs.load(module), loss, radius=2.0, steps=60, starts=2)
    for start in found.starts:
        best = np.maximum.accumulate([row[2] for row in start.trace])
        assert start.loss == pytest.approx(best[-1], rel=1e-6)


def test_collapse_radius_of_a_half_space_is_its_distance():
    # 1[x . theta > 0] falls at x . theta / ||x||^2 along x, in the direction of -x alone
    rng = np.random.default_rng(5)
    n = 50
    x = rng.normal(size=n)
    module = Toy(n)
    theta = module.theta.detach().numpy().astype(float)
    x *= np.sign(x @ theta)
    xt = torch.tensor(x, dtype=torch.float32)
    # a score of one item cannot be told from chance 0 with confidence: a hundred times the same
    task = bs.CallableTask("half-space", lambda m: [float(m.theta @ xt > 0)] * 100, 100)
    engine = bs.load(module)
    found = bs.attack(engine, lambda m: -(m.theta @ xt), starts=1, measure=[task])
    plus, minus = found.collapse
    distance = x @ theta / np.linalg.norm(x)
    low, high = plus.norm
    scale = engine.rms * math.sqrt(n)
    assert low <= distance * (1 + 1e-5)
    assert distance * (1 - 1e-5) <= high
    assert high - low <= 1e-6 * scale
    assert (plus.sign, minus.sign) == (1, -1)
    assert math.isnan(minus.high)
    assert "no collapse up to step" in minus.reason

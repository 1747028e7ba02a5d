"""Certificates of scores that are known in closed form, through the public API alone.

A half-space attains the bound: with S = 1[x . theta > 0] the smoothed score is
Phi(x . theta / (sigma ||x||)), and at theta - r x / ||x|| it is Phi(z - r / sigma) exactly. A ball
does better than the bound. All comparisons have fixed seeds and fail by chance (over seeds) with
probability at most 1e-6.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import basinscope as bs
from basinscope.directions import save_direction
from basinscope.geometries import subspace_from_trajectory
from basinscope.stats import smoothing as formulas

FALSE_ALARM = 1e-6
D = 10


def model(theta):
    layer = nn.Linear(len(theta), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(np.asarray(theta), dtype=torch.float32)[None])
    return bs.load(layer)


def half_space(x):
    row = torch.tensor(np.asarray(x), dtype=torch.float32)
    return bs.CallableTask("half-space", lambda m: [m.weight.detach()[0] @ row > 0], 1)


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(7)
    theta, x = rng.normal(size=D), rng.normal(size=D)
    return theta, x * np.sign(x @ theta)


class TestHalfSpace:
    SIGMA, DRAWS = 0.6, 1500

    def test_the_formula_is_attained(self, case):
        theta, x = case
        norm = np.linalg.norm(x)
        p = stats.norm.cdf(x @ theta / (self.SIGMA * norm))
        for r in (0.0, 0.1, 0.5, 2.0):
            displaced = theta - r * x / norm
            truth = stats.norm.cdf(x @ displaced / (self.SIGMA * norm))
            assert float(formulas.lower_bound(p, r, self.SIGMA)) == pytest.approx(truth, rel=1e-9)
            away = stats.norm.cdf(x @ (theta + r * x / norm) / (self.SIGMA * norm))
            assert float(formulas.upper_bound(p, r, self.SIGMA)) == pytest.approx(away, rel=1e-9)

    @pytest.mark.parametrize("r", [0.0, 0.4, 0.8])
    def test_measured_score_of_the_displaced_model_is_the_attained_bound(self, case, r):
        theta, x = case
        norm = np.linalg.norm(x)
        p = stats.norm.cdf(x @ theta / (self.SIGMA * norm))
        cert = bs.certify(
            model(theta - r * x / norm), half_space(x), sigma=self.SIGMA, draws=self.DRAWS,
            items_per_draw=1, seed=5,
        )  # fmt: skip
        correct = sum(unit.correct for unit in cert.units)
        bound = float(formulas.lower_bound(p, r, self.SIGMA))
        assert stats.binomtest(correct, self.DRAWS, bound).pvalue > FALSE_ALARM / 3

    def test_certificate_is_nearly_the_truth_and_below_it(self, case):
        theta, x = case
        z = x @ theta / (self.SIGMA * np.linalg.norm(x))
        cert = bs.certify(
            model(theta), half_space(x), sigma=self.SIGMA, draws=self.DRAWS, items_per_draw=1,
            confidence=1 - FALSE_ALARM, target=0.5,
        )  # fmt: skip
        assert cert.p_lower <= stats.norm.cdf(z) <= cert.p_upper
        # the truth's radius is z sigma: 1500 draws come within a quarter of it
        assert 0.75 * z * self.SIGMA < cert.radius() <= z * self.SIGMA
        for r in (0.1, 0.3):
            truth = stats.norm.cdf(z - r / self.SIGMA)
            assert cert.lower_bound(r) <= truth
            assert cert.lower_bound(r, weak=True) <= cert.lower_bound(r)


class TestAnisotropic:
    def test_half_space_in_a_tensors_own_scale(self):
        # two tensors; noise ten times as large on the second: r counts in units of each
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = nn.Parameter(torch.tensor([1.0]))
                self.b = nn.Parameter(torch.tensor([10.0]))

        task = bs.CallableTask("sum", lambda m: [float(m.a.detach() + m.b.detach()) > 9.0], 1)
        engine = bs.load(Two())
        cert = bs.certify(engine, task, sigma=0.1, draws=1500, items_per_draw=1, geometry="rms")
        scale = math.sqrt((1 + 100) / 2)  # of E ||noise||^2 = d at sigma = 1
        spread = 0.1 * math.sqrt(1 + 100) / scale
        p = stats.norm.cdf((11.0 - 9.0) / spread)
        assert cert.p_lower <= p
        narrow = bs.certify(
            engine, task, sigma=1.0, draws=1500, items_per_draw=1, geometry="params:^b$"
        )
        correct = sum(unit.correct for unit in narrow.units)
        truth = stats.norm.cdf(2.0)
        assert stats.binomtest(correct, 1500, truth).pvalue > FALSE_ALARM


class TestBall:
    def test_bound_lies_below_the_non_central_chi_square(self):
        rng = np.random.default_rng(3)
        theta = rng.normal(size=D) * 0.3
        size, sigma = 3.0, 0.6
        task = bs.CallableTask("ball", lambda m: [float(m.weight.detach().norm()) < size], 1)
        cert = bs.certify(
            model(theta), task, sigma=sigma, draws=800, items_per_draw=1,
            confidence=1 - FALSE_ALARM,
        )  # fmt: skip

        def truth(centre):
            return stats.ncx2.cdf((size / sigma) ** 2, D, (np.linalg.norm(centre) / sigma) ** 2)

        assert 0.9 < cert.p_lower / truth(theta) <= 1
        for r in (0.2, 0.5, 1.0):
            outward = theta * (1 + r / np.linalg.norm(theta))
            assert cert.lower_bound(r) <= truth(outward)


class TestSubspace:
    def test_half_space_in_the_span_of_its_normal(self, case, tmp_path):
        theta, x = case
        norm = np.linalg.norm(x)
        engine = model(theta)
        toward = save_direction(
            tmp_path / "x.safetensors", {"weight": torch.tensor(x[None])}, {}, displacement=norm
        )
        basis = subspace_from_trajectory(engine, [f"saved:{toward}"], 1, tmp_path / "u.safetensors")
        z = x @ theta / norm
        sigma = z / 1.5  # p = Phi(1.5), however many dimensions there are
        cert = bs.certify(
            engine, half_space(x), sigma=sigma, draws=800, items_per_draw=1, geometry=basis
        )
        correct = sum(unit.correct for unit in cert.units)
        assert stats.binomtest(correct, 800, stats.norm.cdf(1.5)).pvalue > FALSE_ALARM
        found = cert.verdict(f"saved:{toward}", target=0.5)
        assert found.r == pytest.approx(norm, rel=1e-5)
        outside = np.cross(np.eye(3), [1, 0, 0])[1]  # any vector that is not along x
        aside = np.zeros(D)
        aside[:3] = outside
        aside -= (aside @ x) * x / norm**2
        other = save_direction(
            tmp_path / "y.safetensors", {"weight": torch.tensor(aside[None])}, {},
            displacement=float(np.linalg.norm(aside)),
        )  # fmt: skip
        left = cert.verdict(f"saved:{other}", target=0.5)
        assert math.isinf(left.r)
        assert left.word == "outside the certificate"
        assert left.outside == pytest.approx(np.linalg.norm(aside), rel=1e-5)

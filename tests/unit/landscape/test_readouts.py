"""VISAGE, and the sigma at which the likelihood has risen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import basinscope as bs
from basinscope.landscape.design import Design, Share
from basinscope.report.text import summary
from basinscope.tasks import Outcome

GRID = [-0.2, -0.1, 0.0, 0.1, 0.2]


def cliff(edge: float) -> bs.CallableTask:
    """Nine of ten items are right within the edge, none beyond."""
    return bs.CallableTask("t", lambda m: [abs(m.weight[0, 0].item() - 1) < edge] * 9 + [0], 10)


class Ones(bs.Random):
    """Random by name, but every draw moves the first weight alone, by its own factor."""

    def delta(self, engine, name, draw=0):
        delta = np.zeros(engine.shapes[name], dtype=np.float32)
        delta[0, 0] = 1 + draw / 100
        return torch.from_numpy(delta)

    def parts(self, engine, name, draw, device):
        flat = self.delta(engine, name, draw).reshape(-1)
        return lambda a, b: flat[a:b].clone()

    def perturb(self, engine, name, draw, step, live):
        return super(bs.Random, self).perturb(engine, name, draw, step, live)


class Falling(bs.CallableTask):
    """NLL 1 + (w - 1)^2 for each item, along the first weight."""

    def outcomes(self, module):
        far = module.weight[0, 0].item() - 1
        return [Outcome(1, nll=1.0 + far**2, tokens=1) for _ in range(self.n_items)]


def measured(engine, task, steps=GRID, draws=12, **options):
    return bs.landscape(engine, task, directions=[Ones()], steps=steps, draws=draws, **options)


class TestVisage:
    """The mean margin of the points of the basin."""

    @pytest.mark.parametrize(("edge", "margin"), [(0.15, 0.9), (0.05, 0.9), (9.0, 0.9)])
    def test_only_points_of_the_basin_count(self, engine, edge, margin) -> None:
        value = measured(engine, cliff(edge)).visage("t")
        assert value.estimate == pytest.approx(margin)
        assert value.low < margin <= value.high

    def test_a_slope(self, engine) -> None:
        task = bs.CallableTask(
            "t", lambda m: np.arange(10) < round(10 - 40 * abs(m.weight[0, 0].item() - 1)), 10
        )
        value = measured(engine, task, draws=1).visage("t")
        assert value.estimate == pytest.approx((0.2 + 0.6 + 1 + 0.6 + 0.2) / 5)

    @pytest.mark.parametrize("steps", [[0.1], [-0.1, 0.2], [0.1, 0.2], [-0.2, -0.01, 0.01, 0.2]])
    def test_steps_that_are_not_even(self, engine, steps) -> None:
        value = measured(engine, cliff(0.1), steps).visage("t")
        assert math.isnan(value.estimate)
        assert "not spread evenly" in value.reason

    def test_draws_of_a_few_items(self, engine, task) -> None:
        design = Design({task.name: Share(16, 3, 0.1)}, 1, 1.0, False, None, None, 0.0)
        land = bs.landscape(engine, task, steps=GRID, plan=design)
        for value in (land.visage(task.name), land.nll_sigma(task.name)):
            assert math.isnan(value.estimate)
        assert "no draw answered all items" in land.visage(task.name).reason


class TestSigma:
    """Where the NLL has risen by 1%: (1 + draw/100) sigma = 0.1."""

    def test_the_median_of_the_draws(self, engine) -> None:
        steps = [round(0.01 * k, 3) for k in range(-20, 21)]
        land = measured(engine, Falling("t", lambda m: [], 5), steps, draws=20)
        for sign in (1, -1):
            value = land.nll_sigma("t", sign=sign)
            assert value.estimate == pytest.approx(0.1 / 1.095, rel=0.01)
            assert value.low <= value.estimate <= value.high
            assert value.high - value.low <= 0.021

    def test_other_shares(self, engine) -> None:
        land = measured(engine, Falling("t", lambda m: [], 5), [0.1, 0.15, 0.2, 0.25], draws=7)
        assert land.nll_sigma("t", rise=0.04).estimate == pytest.approx(0.2 / 1.03, rel=0.02)

    def test_a_rise_that_was_not_reached(self, engine) -> None:
        land = measured(engine, Falling("t", lambda m: [], 5), [0.01, 0.02])
        value = land.nll_sigma("t")
        assert value.low == 0.02
        assert math.isinf(value.estimate)
        assert "measure further out" in value.reason

    def test_few_draws_have_no_ends(self, engine) -> None:
        value = measured(engine, Falling("t", lambda m: [], 5), [0.05, 0.2], draws=3).nll_sigma("t")
        assert (value.low, value.high) == (0, math.inf)
        assert "3 draws" in value.reason

    def test_a_task_without_likelihoods(self, engine) -> None:
        assert "no likelihoods" in measured(engine, cliff(0.1)).nll_sigma("t").reason


def test_they_are_words_of_the_summary(engine) -> None:
    read = summary(measured(engine, Falling("t", lambda m: [], 5)))
    (row,) = read["visage"]
    assert (row["task"], row["a"], row["visage"]) == ("t", 0.2, 1.0)
    plus, minus = read["nll_1pct_sigma"]
    assert (plus["sign"], minus["sign"]) == (1, -1)
    assert 0 <= plus["low"] <= plus["sigma"] <= plus["high"]

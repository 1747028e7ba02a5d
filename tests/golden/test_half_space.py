"""Landscapes whose scores are known in closed form, through the public API alone.

With theta the weight of a linear layer and delta ~ N(0, I), the expected score at step alpha is

* of a half-space, 1[x . theta > 0]:  Phi(x . theta / (alpha ||x||));
* of a mean of half-spaces: the mean of those, however the items hang together;
* of a ball, 1[||theta|| < R]: the non-central chi-square distribution with d degrees of freedom and
  non-centrality ||theta||^2 / alpha^2, at R^2 / alpha^2.

Every comparison has a fixed seed and size, and fails by chance (over seeds) with probability at
most 1e-6: draws are independent, so the number of ones of one item is binomial, and the mean of a
bounded score is within Bernstein's distance of its expectation.
"""

import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import nn

import basinscope as bs

FALSE_ALARM = 1e-6
D = 12


def rng():
    return np.random.default_rng(2025)


def model(theta):
    layer = nn.Linear(len(theta), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(theta, dtype=torch.float32)[None])
    return bs.load(layer)


def half_spaces(x, *, name="half-spaces", chance=0.0):
    rows = torch.tensor(np.atleast_2d(x), dtype=torch.float32)
    return bs.CallableTask(name, lambda m: m(rows)[:, 0] > 0, len(rows), chance=chance)


def expected(theta, x, alpha):
    """Score of each half-space under N(theta, alpha^2 I)."""
    x = np.atleast_2d(x)
    return stats.norm.cdf(x @ theta / (abs(alpha) * np.linalg.norm(x, axis=1)))


def bernstein(scores, mean, claims=1):
    """Whether independent scores in [0, 1] have that mean, at 1e-6 shared among the claims.

    P(|average - mean| > t) <= 2 exp(-n t^2 / (2 v + 2 t / 3)), v <= mean (1 - mean).
    """
    n, variance = len(scores), mean * (1 - mean)
    log = math.log(2 * claims / FALSE_ALARM)
    t = log / (3 * n) + math.sqrt((log / (3 * n)) ** 2 + 2 * variance * log / n)
    return abs(np.mean(scores) - mean) <= t


class TestOneHalfSpace:
    STEPS = (-0.7, 0.1, 0.3, 1.0, 5.0)
    DRAWS = 600

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls):
        theta, x = rng().normal(size=D), rng().normal(size=D) + 0.3
        x *= np.sign(x @ theta)
        engine = model(theta)
        before = engine.fingerprint()
        land = bs.landscape(
            engine, half_spaces(x), directions=[bs.Random(1)], steps=cls.STEPS, draws=cls.DRAWS
        )
        assert engine.fingerprint() == before
        return theta, x, land

    def test_scores_as_the_normal_distribution_says(self, case):
        theta, x, land = case
        means = land.means().set_index("step")
        assert means.loc[0.0, "score"] == 1.0
        for step in self.STEPS:
            (p,) = expected(theta, x, step)
            assert means.loc[step, "draws"] == self.DRAWS
            ones = round(means.loc[step, "score"] * self.DRAWS)
            test = stats.binomtest(ones, self.DRAWS, p)
            assert test.pvalue > FALSE_ALARM / len(self.STEPS), (step, p)

    def test_intervals_over_draws_hold_the_expectation(self, case):
        theta, x, land = case
        means = land.means(confidence=1 - FALSE_ALARM / len(self.STEPS)).set_index("step")
        for step in self.STEPS:
            (p,) = expected(theta, x, step)
            assert means.loc[step, "low"] <= p <= means.loc[step, "high"]
            assert means.loc[step, "high"] - means.loc[step, "low"] < 0.25

    def test_depends_on_the_margin_over_the_norm_alone(self, case):
        # x and 3x are one half-space: equal outcomes draw by draw
        theta, x, land = case
        scaled = bs.landscape(
            model(theta), half_spaces(3 * x), directions=[bs.Random(1)], steps=[0.3], draws=50
        )
        one, three = (
            la.to_pandas().query("step == 0.3 and draw < 50")["score"].tolist()
            for la in (land, scaled)
        )
        assert one == three


class TestMeanOfHalfSpaces:
    DRAWS = 200
    STEPS = (0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls):
        generator = rng()
        theta, x = generator.normal(size=D), generator.normal(size=(24, D))
        x *= np.sign(x @ theta)[:, None]
        x += 0.4 * theta  # margins of both kinds, items that share a direction
        land = bs.landscape(
            model(theta),
            half_spaces(x, chance=0.5),
            directions=[bs.Random(2)],
            steps=[s * sign for s in cls.STEPS for sign in (1, -1)],
            draws=cls.DRAWS,
        )
        return theta, x, land

    def test_scores_as_the_mean_of_the_closed_forms(self, case):
        theta, x, land = case
        table = land.to_pandas()
        for step in self.STEPS:
            for signed in (step, -step):
                scores = table.loc[table.step == signed, "score"]
                assert len(scores) == self.DRAWS
                mean = float(expected(theta, x, step).mean())
                assert bernstein(scores, mean, 2 * len(self.STEPS)), signed

    def test_scores_each_item_as_its_closed_form(self, case):
        theta, x, land = case
        items = land.items().query("step == 2.0").groupby("item")["outcome"].sum()
        for i, p in enumerate(expected(theta, x, 2.0)):
            test = stats.binomtest(int(items[str(i)]), self.DRAWS, float(p))
            assert test.pvalue > FALSE_ALARM / len(x), i

    @pytest.mark.parametrize("sign", [1, -1])
    def test_width_is_the_crossing_of_the_closed_form(self, case, sign):
        theta, x, land = case
        crossing = optimize.brentq(lambda a: expected(theta, x, a).mean() - 0.75, 1e-3, 100)
        assert self.STEPS[0] < crossing < self.STEPS[-1]
        width = land.width("half-spaces", level=0.5, sign=sign, confidence=1 - FALSE_ALARM)
        assert not width.unresolved
        assert width.low <= crossing <= width.high
        assert width.estimate == pytest.approx(crossing, rel=0.15)
        assert width.high - width.low < 2 * crossing

    def test_width_of_an_edge_beyond_the_grid_is_unresolved(self, case):
        theta, x, _ = case
        land = bs.landscape(model(theta), half_spaces(x, chance=0.5), steps=[0.01, 0.02], draws=40)
        width = land.width("half-spaces")
        assert width.unresolved
        assert width.reason


class TestBall:
    DRAWS = 600
    STEPS = (0.3, 0.6, 1.0)

    def test_scores_as_the_non_central_chi_square_says(self):
        theta = rng().normal(size=D) * 0.5
        norm, radius = np.linalg.norm(theta), 3.2

        def inside(module):
            return [float(module.weight.detach().norm()) < radius]

        land = bs.landscape(
            model(theta),
            bs.CallableTask("ball", inside, 1),
            directions=[bs.Random(3)],
            steps=self.STEPS,
            draws=self.DRAWS,
        )
        means = land.means().set_index("step")
        seen = []
        for step in self.STEPS:
            p = stats.ncx2.cdf((radius / step) ** 2, D, (norm / step) ** 2)
            ones = round(means.loc[step, "score"] * self.DRAWS)
            assert stats.binomtest(ones, self.DRAWS, p).pvalue > FALSE_ALARM / len(self.STEPS), step
            seen.append(p)
        assert seen[0] > 0.95 > 0.4 > seen[-1]


class TestTable:
    def test_has_exactly_the_documented_columns_and_rows(self):
        theta = np.ones(3)
        tasks = [half_spaces(np.eye(3), name="a"), half_spaces(np.ones(3), name="b")]
        land = bs.landscape(
            model(theta), tasks, directions=[bs.Random(0), bs.Random(1)], steps=[0.5, -1.0], draws=3
        )
        table = land.to_pandas()
        assert list(table.columns) == [
            *("task", "direction", "draw", "step", "n", "correct", "score", "low", "high")
        ]  # fmt: skip
        rows = {tuple(r) for r in table[["task", "direction", "draw", "step"]].to_numpy()}
        assert len(rows) == len(table) == 2 * 2 * 3 * 3
        assert set(table.direction) == {"random", "random:1"}
        assert set(table.step) == {-1.0, 0.0, 0.5}
        assert (table.n == table.task.map({"a": 3, "b": 1})).all()
        assert (table.score == table.correct / table.n).all()
        assert ((table.low <= table.score) & (table.score <= table.high)).all()
        at_zero = table[table.step == 0]
        assert (at_zero.score == 1).all()

    def test_of_one_draw_has_the_exact_interval(self):
        land = bs.landscape(model(np.ones(3)), half_spaces(np.eye(3)), steps=[1.0], draws=1)
        for row in land.to_pandas(confidence=0.9).itertuples():
            exact = stats.binomtest(row.correct, row.n).proportion_ci(0.9, method="exact")
            assert (row.low, row.high) == pytest.approx(exact)

    def test_is_the_same_for_the_same_seed(self):
        tables = [
            bs.landscape(
                model(np.ones(3)), half_spaces(np.eye(3)), steps=[1.0], draws=5
            ).to_pandas()
            for _ in range(2)
        ]
        assert tables[0].equals(tables[1])

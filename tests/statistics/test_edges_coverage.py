"""Coverage of what a search for the edges states, by simulation: curves of known width.

The curves, and a model that is not there, are those of `benchmarks/edges.py`; the search and the
tables are the program's own. Conventions (null, false alarm, named bug) as in `test_coverage`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from benchmarks import edges as bench
from misses import limit
from scipy.stats import binom

from basinscope.landscape import edges
from basinscope.stats import verdict, width_over_items


def bracket(land) -> tuple[float, float]:
    """Bug: the last step whose mean is above the threshold, and the first whose is below."""
    zero = land.trials[0]
    means = {t.step: t.score for t in land.trials if t.step > 0}
    below = min((a for a in means if means[a] < zero.score / 2), default=math.inf)
    return max((a for a in means if a < below), default=0.0), below


class TestOneDirection:
    """Null: the interval misses the width of the population of items in at most 5% of the runs.

    One direction; items fall at correlated steps of their own; points are stopped as soon as they
    are decided, steps and numbers of items are chosen while looking. 80 runs for each family, of
    which one side counts, since both share their items. Bug: the bracket taken for the interval;
    it misses in 30% of the runs or more; power > 0.99.
    """

    @pytest.mark.parametrize("name", ["slope", "gentle", "V"])
    def test_coverage(self, name) -> None:
        family = next(f for f in bench.FAMILIES if f.name == name)
        runs, missed, bug, finite = 80, 0, 0, 0
        for seed in range(runs):
            land = bench.searched(bench.World(family, seed, n_draws=1))
            width = land.width("t")
            missed += not width.low <= 1.0 <= width.high
            finite += math.isfinite(width.high) and width.low > 0
            low, high = bracket(land)
            bug += not low <= 1.0 <= high
        assert missed <= limit(runs, 0.05)
        assert finite > 0.6 * runs, "an interval without ends would cover too"
        assert bug > limit(runs, 0.05)


class TestSeveralDirections:
    """Null: the interval misses the width of the mean curve of these items in at most 5%.

    Twelve draws that differ much (log-normal, 1). 40 runs. Bug: all outcomes at a point pooled as
    independent items; it misses in about 45%; power > 0.95.
    """

    def test_coverage(self) -> None:
        family = bench.Family("differ", of_items=0.1, of_draws=1.0, rest=0.1)
        runs, missed, bug = 40, 0, 0
        for seed in range(runs):
            world = bench.World(family, seed, n_draws=12)
            land = bench.searched(world, outcomes=2000)
            truth = family.width_of(world.items, world.right)
            width = land.width("t")
            missed += not width.low <= truth <= width.high
            pooled = _pooled(land)
            bug += not pooled.low <= truth <= pooled.high
        assert missed <= limit(runs, 0.05)
        assert bug > limit(runs, 0.05)


def _pooled(land):
    points = {a: ts for a, ts in land.at_steps("t", "random").items() if a > 0}
    zero = next(t for t in land.trials if t.step == 0)
    place = {item: n for n, item in enumerate(zero.items)}
    return width_over_items(
        list(points),
        [[z for t in ts for z in t.correct] for ts in points.values()],
        correct_at_zero=zero.correct,
        asked=[[place[i] for t in ts for i in t.items] for ts in points.values()],
        chance=0.0,
    )


class TestVerdicts:
    """Null: at a point on the other side of the threshold a verdict errs with at most its error."""

    def test_of_all_items_of_one_direction(self) -> None:
        """400 items, of which 199 are right; threshold 0.499 ("above" is false).

        Looks after every 16 items, in a random order, up to 256; 500 runs, 20,000 of the bug. Bug:
        a binomial test at each look; it errs in 8% or more of the runs; power > 0.9999.
        """
        rng = np.random.default_rng(0)
        runs, tried, error = 20_000, 500, 0.05
        z = np.zeros(400, dtype=int)
        z[:199] = 1
        looks = np.arange(16, 257, 16)
        orders = np.array([rng.permutation(z) for _ in range(runs)])
        counts = np.cumsum(orders, axis=1)[:, looks - 1]
        bug = int((binom.sf(counts - 1, looks, 0.499) < error).any(axis=1).sum())
        task = {"n_items": 400, "threshold": 0.499, "chance": 0.0, "level": 0.501, "error": error}
        wrong = 0
        for order in orders[:tried]:
            found = (verdict([order[:n]], [[1] * n], **task) for n in looks)
            wrong += next(filter(None, found), 0) > 0
        assert wrong <= limit(tried, error)
        assert bug > limit(runs, error)

    def test_over_directions(self) -> None:
        """Twelve draws whose scores are 0 or 1 together, mean 0.45; threshold 0.5; 2,000 runs.

        Five looks. Bug: the draws' items pooled as independent, which decides at the first look, in
        half of the runs wrongly on one of the sides; power > 0.9999.
        """
        rng = np.random.default_rng(1)
        runs, error = 2000, 0.05
        wrong = bug = 0
        task = {"n_items": 10**6, "threshold": 0.5, "chance": 0.0, "level": 0.5, "error": error}
        for _ in range(runs):
            draws = (rng.random(12) < 0.45).astype(int)
            z = np.repeat(draws[:, None], 8, axis=1)
            wrong += verdict(z, np.ones_like(z), **task, looks=5) > 0
            bug += verdict([z.ravel()], [np.ones(z.size)], **task) > 0
        assert wrong <= limit(runs, error)
        assert bug > limit(runs, error)


class TestGuards:
    """A second edge: down at 0.3, right again from 0.75 on, down for good at 1.

    The search starts where the score has recovered. Bug: no guards; it finds the outer edge, in
    every run.
    """

    family = bench.Family("second edge", of_items=0.01, rest=0.01, back=(0.75, 1.0))

    def widths(self, runs: int) -> list[tuple[float, float]]:
        found = []
        for seed in range(runs):
            world = bench.World(self.family, seed, n_draws=1)
            for fall in world.steps.values():
                fall *= 0.3
            world.bench.model.rms = 20 * 0.85
            width = bench.searched(world).width("t")
            found.append((width.estimate, width.high))
        return found

    def test_the_first_edge_is_found(self) -> None:
        for estimate, high in self.widths(20):
            assert estimate == pytest.approx(0.3, rel=0.15)
            assert high >= 1.0, "it bounds the last crossing"

    def test_without_guards_it_is_not(self, monkeypatch) -> None:
        monkeypatch.setattr(edges, "GUARD", math.inf)
        assert all(estimate == pytest.approx(1.0, rel=0.15) for estimate, _ in self.widths(5))


def test_a_search_errs_as_a_grid_does_with_a_fourth_of_the_answers() -> None:
    """Root mean square errors over both sides of 30 worlds, within a fourth of each other."""
    family = next(f for f in bench.FAMILIES if f.name == "slope")
    errors: dict[str, list[float]] = {"grid": [], "search": []}
    cost = 0
    for seed in range(30):
        for name in errors:
            world = bench.World(family, seed, n_draws=1)
            land = bench.on_grid(world, 2.5) if name == "grid" else bench.searched(world)
            errors[name] += [land.width("t", sign=sign).estimate - 1 for sign in (1, -1)]
            cost += world.cost if name == "search" else 0
    rms = {name: math.sqrt(np.mean(np.square(e))) for name, e in errors.items()}
    assert rms["search"] < 1.25 * rms["grid"]
    assert cost / 30 < 41 * 200 / 4

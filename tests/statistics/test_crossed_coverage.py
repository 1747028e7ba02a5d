"""Coverage of what a crossed design states, by simulation: bands, its stopping rule, widths.

Conventions (null, false alarm, named bug) as in `test_coverage`; worlds of `benchmarks/edges.py`.
Items and directions are correlated: which items fall is shared by directions, and how many fall by
the items of a direction.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from benchmarks import edges as bench
from misses import limit
from scipy.stats import binom, ttest_1samp

from basinscope.landscape import Landscape
from basinscope.landscape.crossed import Strata
from basinscope.runs.spec import RunSpec, TaskSpec
from basinscope.runs.store import Trial
from basinscope.stats import clopper_pearson, mean_over_draws

CASES = {
    # where on the curve, chance, and how much directions differ
    "inside a cliff": (0.9, 0.0, 0.02),
    "on a slope": (1.0, 0.0, 0.2),
    "on a slope, choices": (1.0, 0.25, 0.2),
    "directions differ much": (1.0, 0.25, 1.0),
    "outside": (2.0, 0.25, 0.2),
}
RUNS, ITEMS, DRAWS, EACH = 2000, 100, 96, 3


class Point:
    """One step of a world of many directions, of which a run draws some."""

    def __init__(self, at: float, chance: float, of_draws: float, pool: int = 4000) -> None:
        rng = np.random.default_rng([int(100 * at), int(100 * chance)])
        family = bench.Family("t", of_items=0.2, of_draws=of_draws, rest=0.2)
        hard, right = rng.standard_normal(ITEMS), rng.random(ITEMS) < 0.7
        stands = at < family.falls(rng, hard, pool)
        guessed = rng.random((pool, ITEMS)) < chance
        self.outcomes = ((right & stands) | guessed).astype(int)
        before = (right | (rng.random(ITEMS) < chance)).astype(int)
        items = tuple(map(str, range(ITEMS)))
        zero = Trial.model_construct(
            items=items, correct=tuple(before.tolist()), margins=tuple(hard.tolist())
        )
        self.strata = Strata.of(zero)
        self.truth = float(self.outcomes.mean())

    def scores(self, rng: np.random.Generator, run: int) -> tuple[np.ndarray, list[int]]:
        """Scores of the draws of a run, and all of their outcomes."""
        scores, pooled = [], []
        for k, row in enumerate(rng.integers(0, len(self.outcomes), DRAWS)):
            items = self.strata.sample(run * DRAWS + k, EACH)
            own = [int(self.outcomes[row, int(item)]) for item in items]
            scores.append(self.strata.score(items, own))
            pooled += own
        return np.array(scores), pooled


@pytest.mark.parametrize("name", CASES)
def test_bands_and_stopping(name) -> None:
    """Null: the interval misses the mean over all directions and items in at most 5% of the runs.

    2,000 runs of 96 draws of 3 of 100 items; for the stopping rule the run ends when the half-width
    is at most 0.1, looked at every 4 draws from the eighth on. Bug, where directions differ much:
    all outcomes pooled as independent trials, which misses in about a fifth of the runs; power
    > 0.9999.
    """
    point, rng = Point(*CASES[name]), np.random.default_rng(0)
    missed = stopped = pooled_missed = 0
    widths = []
    for run in range(RUNS):
        scores, pooled = point.scores(rng, run)
        interval = mean_over_draws(scores)
        missed += not interval.low <= point.truth <= interval.high
        widths.append(interval.high - interval.low)
        if run < RUNS // 4:  # every look costs a bound
            for n in range(8, DRAWS + 1, 4):
                interval = mean_over_draws(scores[:n])
                if (interval.high - interval.low) / 2 <= 0.1:
                    break
            stopped += not interval.low <= point.truth <= interval.high
        bug = clopper_pearson(sum(pooled), len(pooled))
        pooled_missed += not bug.low <= point.truth <= bug.high
    assert missed <= limit(RUNS, 0.05)
    assert stopped <= limit(RUNS // 4, 0.05)
    assert np.mean(widths) < 0.3, "an interval that is wide enough would cover too"
    if name == "directions differ much":
        assert pooled_missed > limit(RUNS, 0.05)


def test_rises_share_their_error() -> None:
    """Null: where no mean rises above S(0), a rise is found in at most 5% of the runs.

    300 runs of 24 draws at 6 points whose mean is S(0) = 0.6, the draws of a run correlated from
    point to point. Bug: the best of the points by Student's test of its own; power > 0.9999.
    """
    rng, zero = np.random.default_rng(0), 0.6
    items = tuple(map(str, range(20)))
    key = {"task": {"n_items": 20}}
    common = {"key": key, "task": "t", "labels": (), "nlls": (), "margins": (None,) * 20,
              "items": items, "address": ""}  # fmt: skip
    at_zero = Trial.model_construct(
        direction=None, draw=0, step=0.0, correct=(1,) * 12 + (0,) * 8, **common
    )
    task = TaskSpec(name="t", chance=0.0, scoring="", items="", n_items=20)
    spec = RunSpec.model_construct(tasks=(task,), steps=None, directions=("random",), crossed=None)
    runs, risen, bug = 300, 0, 0
    for _ in range(runs):
        shared = rng.random((24, 1))
        own = np.where(rng.random((24, 6)) < 0.5, shared, rng.random((24, 6)))
        counts = binom.ppf(own, 20, zero).astype(int)  # of 20 items, the mean is 12
        trials = [
            Trial.model_construct(
                direction="random", draw=k, step=0.1 * (j + 1),
                correct=(1,) * n + (0,) * (20 - n), **common,
            )
            for k, row in enumerate(counts.tolist())
            for j, n in enumerate(row)
        ]  # fmt: skip
        (row,) = Landscape(spec, [at_zero, *trials]).rises().itertuples()
        risen += row.p_value <= 0.05
        bug += bool((ttest_1samp(counts / 20, zero, alternative="greater").pvalue < 0.05).any())
    assert risen <= limit(runs, 0.05)
    assert bug > limit(runs, 0.05)


class TestWidths:
    """Null: the interval misses the width of the mean curve of these items in at most 5%.

    Searches in a crossed design of up to 128 draws of 3 items; 40 runs, both sides. Bug: all
    outcomes at a point pooled as independent items.
    """

    @pytest.mark.parametrize("of_draws", [0.0, 0.5])
    def test_coverage(self, of_draws) -> None:
        family = bench.Family("t", of_items=0.2, of_draws=of_draws, rest=0.2)
        runs, missed, finite = 40, 0, 0
        for seed in range(runs):
            world = bench.World(family, seed, n_draws=128, n_items=100, each=3)
            land = bench.searched(world)
            truth = family.width_of(world.items, world.right)
            for sign in (1, -1):
                width = land.width("t", sign=sign)
                missed += not width.low <= truth <= width.high
                finite += width.low > 0 and math.isfinite(width.high)
        assert missed <= limit(2 * runs, 0.05)
        assert finite > 1.9 * runs

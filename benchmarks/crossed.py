"""The crossed design against the design of few draws: widths of intervals, and their coverage.

- *On records* (RUN, a landscape whose draws answered all items): at every step the same number of
  answers is spent as 14 draws of 24 fixed items, and as K draws of m items each
  (`basinscope.landscape.crossed`); draws are taken from the records with replacement. Mean widths
  of 95% intervals, and their ratio.
- *Widths of basins* (--runs), on the worlds of `benchmarks.edges`: how often the interval of a
  search misses the half-width of the mean curve of these items, how often it has both ends, the
  median ratio of its ends, answers; beside it the search with twelve draws.

Run: python -m benchmarks.crossed [RUN] [--runs N]
"""

from __future__ import annotations

import argparse
import gc
import math
from pathlib import Path

import numpy as np

import basinscope as bs
from basinscope.landscape import Landscape
from basinscope.landscape.crossed import Strata
from basinscope.stats import mean_over_draws
from benchmarks.edges import FAMILIES, Family, World, searched

DESIGNS = (("12 draws", 12, 0), ("crossed", 64, 6), ("crossed", 170, 3))
OLD_DRAWS, OLD_ITEMS, SIZES, REPEATS = 14, 24, (2, 3, 4, 6, 8), 60


def on_records(land: Landscape) -> None:
    """One row for each task and step."""
    print(f"{'task':8}{'step':>8}{'draws':>7}{'score':>7}{'14 x 24':>9}", end="")
    print("".join(f"{f'm = {m}':>16}" for m in SIZES))
    for task in land.tasks:
        for direction in land.directions(task):
            for step, trials in land.at_steps(task, direction).items():
                if step and len(trials) >= OLD_DRAWS:
                    zero = land.at_steps(task, direction)[0.0][0]
                    outcomes = np.array([t.correct for t in trials])
                    row(task, step, Strata.of(zero), outcomes)


def row(task: str, step: float, strata: Strata, outcomes: np.ndarray) -> None:
    """Print the widths at one step, outcomes of shape (draws, items)."""
    rng = np.random.default_rng(0)
    place = {item: n for n, item in enumerate(strata.items)}
    n_draws, n_items = outcomes.shape
    old = []
    for _ in range(REPEATS):
        some = rng.choice(n_items, min(OLD_ITEMS, n_items), replace=False)
        draws = rng.choice(n_draws, OLD_DRAWS, replace=False)
        old.append(width(outcomes[np.ix_(draws, some)].mean(axis=1)))
    print(f"{task:8}{step:8g}{n_draws:7}{outcomes.mean():7.3f}{np.mean(old):9.3f}", end="")
    for m in SIZES:
        new = []
        for repeat in range(REPEATS):
            scores = []
            for k, draw in enumerate(rng.integers(0, n_draws, OLD_DRAWS * OLD_ITEMS // m)):
                items = strata.sample(1000 * repeat + k, m)
                own = [int(outcomes[draw, place[item]]) for item in items]
                scores.append(strata.score(items, own))
            new.append(width(np.array(scores)))
        print(f"{np.mean(new):9.3f} ({np.mean(new) / np.mean(old):.2f})", end="")
    print()


def width(scores: np.ndarray) -> float:
    """Of the 95% interval of the mean."""
    interval = mean_over_draws(scores)
    return interval.high - interval.low


def of_basins(family: Family, chance: float, runs: int, design: str) -> None:
    """Print a row for each design, or each called so."""
    for name, draws, each in DESIGNS:
        if design not in ("all", name):
            continue
        missed, finite, ratios, answers = 0, 0, [], []
        for seed in range(runs):
            knows = 0.8 if chance == 0 else 0.6
            world = World(
                family, seed, n_draws=draws, n_items=100, chance=chance, knows=knows, each=each
            )
            land = searched(world)
            truth = world.width
            answers.append(world.cost)
            for sign in (1, -1):
                half = land.width("t", sign=sign)
                missed += not half.low <= truth <= half.high
                ratios.append(half.high / half.low if half.low else math.inf)
                finite += math.isfinite(ratios[-1])
        print(
            f"{family.name:18}{chance:7.2f} {name:9}{draws:4} x {each or 'looks':>5}"
            f"{1 - missed / (2 * runs):9.4f}{finite / (2 * runs):9.2f}{np.median(ratios):9.2f}"
            f"{np.mean(answers):9.0f}",
            flush=True,
        )


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--design", default="all", help="crossed, 12 draws, or all")
    parser.add_argument("--curves", default="", help="some of the curves, by commas")
    options = parser.parse_args()
    gc.freeze()  # what was imported is not looked through again for every world
    if options.run:
        land = bs.load_run(options.run)
        assert isinstance(land, Landscape)
        on_records(land)
    if options.runs:
        names = ("covered", "ends", "ratio", "answers")
        print(f"{'curve':18}{'chance':>7} {'design':23}" + "".join(f"{n:>9}" for n in names))
        for family in (FAMILIES[5], FAMILIES[3], FAMILIES[2], FAMILIES[1]):
            if options.curves and family.name not in options.curves.split(","):
                continue
            for chance in (0.0, 0.25):
                of_basins(family, chance, options.runs, options.design)


if __name__ == "__main__":
    main()

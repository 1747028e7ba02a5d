"""The half-width of a basin: evaluations it takes by a search, and by a grid of the same error.

- *Simulation*: curves of known width. The items fall at steps of their own, correlated from draw to
  draw; with choices, an item that has fallen is guessed right with the probability of chance. The
  grid is the published one: 41 points, zero among them, on both sides, 200 items each, one
  direction; how far out it reaches is between 2 and 3 half-widths. The search is the program's own,
  from a start anywhere within a factor of four. Root mean square errors of the half-width of the
  mean curve over all directions and items, relative to it; answers for both sides together, those
  at zero included. *Covered*: how often the stated interval holds it (left out where it is that of
  one direction, which differs).
- *SmolLM2* (--model), a worker for each core: the same task, items and direction by the search and
  by the grid; the widths with their intervals, the answers that were asked for, seconds; and how
  long the grid would take by the published loops (B0, `benchmarks.same_work`), in proportion to
  their time for 25 items (8 texts).

Run: python -m benchmarks.edges [--runs N] [--draws N] [--model TASK] [--limit N]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import norm

import basinscope as bs
from basinscope.landscape import Landscape
from basinscope.landscape.edges import OUTCOMES, search
from basinscope.runs.bench import Bench, Unit
from basinscope.runs.spec import CrossedSpec, RunSpec, TaskSpec
from basinscope.runs.store import Trial
from basinscope.tasks import Generate
from benchmarks.baselines.published import Published

N_ITEMS, POINTS = 200, 41
SAMPLE, TEXTS = 25, 8  # items by which B0 is timed: two batches of texts


@dataclass(frozen=True)
class Family:
    """How items fall: log of the step at which item i falls under draw d, around a median of 0.

    Attributes:
        of_items: standard deviation of what an item has in all directions.
        of_draws: of what a direction has for all items.
        rest: of what is of both.
        uniform: the step is uniform in (0, 2) instead: a V, not a floor with an edge.
        back: between these steps every item is right again: a second edge.
    """

    name: str
    of_items: float = 0.0
    of_draws: float = 0.0
    rest: float = 0.0
    uniform: bool = False
    back: tuple[float, float] | None = None

    def falls(self, rng: np.random.Generator, items: np.ndarray, n_draws: int) -> np.ndarray:
        """Steps, shape (n_draws, n_items), for items of standard normal hardness."""
        shared = self.of_draws * rng.standard_normal((n_draws, 1))
        rest = self.rest * rng.standard_normal((n_draws, items.size))
        log = self.of_items * items + shared + rest
        return 2.0 * norm.cdf(log) if self.uniform else np.exp(log)

    def width_of(self, items: np.ndarray, right: np.ndarray, share: float = 0.5) -> float:
        """Step at which a share of the right items stand, on average over all directions."""
        spread = math.hypot(self.of_draws, self.rest)
        hard = self.of_items * items[right]

        def above(log: float) -> float:
            return float(np.mean(norm.cdf((hard - log) / spread))) - share

        log = brentq(above, -10.0, 10.0)
        return 2.0 * float(norm.cdf(log)) if self.uniform else math.exp(log)


FAMILIES = (
    Family("cliff", of_items=0.02, rest=0.02),
    Family("steep", of_items=0.07, rest=0.07),
    Family("slope", of_items=0.2, rest=0.2),
    Family("gentle", of_items=0.4, rest=0.4),
    Family("V", of_items=0.7, rest=0.7, uniform=True),
    Family("directions differ", of_items=0.2, of_draws=0.2, rest=0.2),
)


class World:
    """A model that is not there: outcomes of one task under every draw and step, and their count.

    Stands in for `basinscope.runs.session.Session` in a search.
    """

    def __init__(
        self, family: Family, seed: int, *, n_draws: int, n_items: int = N_ITEMS,
        chance: float = 0.0, knows: float = 0.8, scale: float = 1.0, each: int = 0,
    ) -> None:  # fmt: skip
        rng = np.random.default_rng(seed)
        self.family, self.scale, self.seed, self.n_draws = family, scale, seed, n_draws
        self.each = each  # items of a draw in a crossed design; 0 where the draws are fixed
        self.right = rng.random(n_items) < knows
        self.items = rng.standard_normal(n_items)
        self.steps = {s: family.falls(rng, self.items, n_draws) for s in (1.0, -1.0)}
        task = bs.CallableTask("t", lambda module: [], n_items, chance=chance)
        self.spec = TaskSpec(name="t", chance=chance, scoring="", items="", n_items=n_items)
        model: Any = SimpleNamespace(rms=20 * scale * rng.uniform(0.3, 1.2))
        engine: Any = None
        self.bench = Bench(engine, (bs.Random(0),), (task,), model, (self.spec,))
        self.asked: dict[tuple[int, float], set[str]] = {}
        self.places: dict[tuple[str, ...], np.ndarray] = {}
        self.at: dict[float, np.ndarray] = {}  # outcomes, shape (n_draws, n_items)

    def measure(self, units: Sequence[Unit]) -> None:
        """Note which items are asked where."""
        for unit in units:
            self.asked.setdefault((unit.draw, unit.step), set()).update(self.ids(unit))

    def ids(self, unit: Unit) -> Sequence[str]:
        """Items of a unit."""
        chosen = self.bench.chosen(unit, 0)
        return [str(i) for i in range(self.spec.n_items)] if chosen is None else chosen

    def outcomes(self, unit: Unit, task: int) -> dict[str, int]:
        """Outcomes of the items of a unit."""
        items = tuple(self.ids(unit))
        return dict(zip(items, self.answers(unit.draw, unit.step, items), strict=True))

    def trial(self, unit: Unit, task: int) -> Trial:
        """Record of all items of a unit, without margins."""
        outcomes = self.outcomes(unit, task)
        return self.record(unit.draw, unit.step, tuple(outcomes))

    def record(self, draw: int, step: float, items: tuple[str, ...]) -> Trial:
        """Record of some items at a point."""
        return Trial.model_construct(
            key={"task": {"n_items": self.spec.n_items}}, task="t",
            direction="random" if step else None, draw=draw, step=step, items=items,
            correct=self.answers(draw, step, items), margins=(None,) * len(items),
            address="", labels=(), nlls=(), tokens=(), failed=(),
        )  # fmt: skip

    def answers(self, draw: int, step: float, items: tuple[str, ...]) -> tuple[int, ...]:
        """Outcomes of some items at a point."""
        if items not in self.places:
            self.places[items] = np.array(items, dtype=int)
        return tuple(self.curve(draw, step)[self.places[items]].astype(int).tolist())

    def curve(self, draw: int, step: float) -> np.ndarray:
        """Outcomes of all items at a point."""
        if step not in self.at:
            a = abs(step) / self.scale
            back = self.family.back and self.family.back[0] <= a < self.family.back[1]
            stands = self.steps[math.copysign(1.0, step)] > (0.0 if back or not step else a)
            outcomes = self.right & stands
            if self.spec.chance:
                place = np.random.default_rng([self.seed, int(abs(step) * 1e6), step < 0])
                outcomes |= place.random(outcomes.shape) < self.spec.chance
            self.at[step] = outcomes
        return self.at[step][draw]

    @property
    def width(self) -> float:
        """Half-width of the mean curve over all directions, on these items.

        Guesses that were lucky at zero raise the threshold, and fewer items than half stand there.
        """
        chance, known = self.spec.chance, float(self.right.mean())
        level = (float(self.curve(0, 0.0).mean()) - chance) / 2 / (known * (1 - chance))
        return self.family.width_of(self.items, self.right, level)

    @property
    def cost(self) -> int:
        """Answers that were asked for."""
        return sum(map(len, self.asked.values()))

    def landscape(self) -> Landscape:
        """Records of what was asked."""
        trials = [
            self.record(draw, step, tuple(sorted(ids, key=int)))
            for (draw, step), ids in self.asked.items()
        ]
        crossed = CrossedSpec(
            items={"t": self.each}, draws={"t": self.n_draws}, budget=None, precision=None
        )  # fmt: skip
        spec = RunSpec.model_construct(
            tasks=(self.spec,), steps=None, directions=("random",),
            crossed=crossed if self.each else None,
        )  # fmt: skip
        return Landscape(spec, trials)


def searched(world: World, outcomes: int = OUTCOMES) -> Landscape:
    """What the program's search finds in a world."""
    session: Any = world
    search(
        session, world.n_draws, 0.5, outcomes, ((world.n_draws, world.each),) if world.each else ()
    )
    return world.landscape()


def on_grid(world: World, reach: float) -> Landscape:
    """What the published grid finds: one direction, all items everywhere."""
    half = POINTS // 2
    for k in range(-half, half + 1):
        step = reach * k / half
        world.measure([Unit(None if k == 0 else 0, 0, step, (0,))])
    return world.landscape()


def simulate(family: Family, chance: float, n_draws: int, runs: int, outcomes: int) -> str:
    """One row: errors of grid and search, answers, and how often and how far the interval holds."""
    errors: dict[str, list[float]] = {"grid": [], "search": []}
    costs, ends, covered = [], [], []
    for seed in range(runs):
        knows = 0.8 if chance == 0 else 0.6
        worlds = [World(family, seed, n_draws=n, chance=chance, knows=knows) for n in (1, n_draws)]
        reach = np.random.default_rng([seed, 1]).uniform(2.0, 3.0)
        lands = {"grid": on_grid(worlds[0], reach), "search": searched(worlds[1], outcomes)}
        costs.append(worlds[1].cost)
        for name, land in lands.items():
            for sign in (1, -1):
                width = land.width("t", sign=sign)
                errors[name].append(width.estimate - 1.0)
                if name == "search" and (n_draws > 1 or not family.of_draws):
                    covered.append(width.low <= 1.0 <= width.high)
                if name == "search":
                    ends.append((width.low, width.high))
    rms = {name: math.sqrt(np.nanmean(np.square(e))) for name, e in errors.items()}
    low, high = np.median(ends, axis=0)
    cost, grid = float(np.mean(costs)), POINTS * N_ITEMS
    # a search that errs less may ask for less: errors fall as the square root of the answers
    equal = grid / cost * min(1.0, (rms["grid"] / rms["search"]) ** 2)
    return (
        f"{family.name:<18}{chance:>7.2f}{n_draws:>6}{rms['grid']:>9.3f}{rms['search']:>9.3f}"
        f"{grid:>8}{cost:>8.0f}{grid / cost:>8.1f}{equal:>8.1f}"
        f"{np.mean(covered) if covered else math.nan:>9.3f}   [{low:.2f}, {high:.2f}]"
    )


def on_model(word: str, limit: int, grid: bool) -> None:
    """Search and grid on SmolLM2, the same direction and items."""
    engine = bs.load("smollm2")
    tasks = bs.tasks(word, limit=limit)

    def timed(work: Callable[[], Landscape]) -> tuple[Landscape, float]:
        start = time.perf_counter()
        land = work()
        return land, time.perf_counter() - start

    lands = {"search": timed(lambda: bs.landscape(engine, tasks, draws=1, workers=None))}
    edges = [w for w in lands["search"][0].widths()["width"] if math.isfinite(w)]
    reach = 2.5 * max(edges)
    steps = [reach * k / (POINTS // 2) for k in range(-(POINTS // 2), POINTS // 2 + 1)]
    if grid:
        lands["grid"] = timed(
            lambda: bs.landscape(engine, tasks, draws=1, steps=steps, workers=None)
        )
    for name, (land, seconds) in lands.items():
        answers = sum(trial.n for trial in land.trials)
        settings = len({(t.draw, t.step) for t in land.trials})
        print(f"{name}: {settings} settings, {answers} answers, {seconds:.1f} s")
        for row in land.widths().itertuples():
            side = "+" if row.sign > 0 else "-"
            print(f"  {row.task} {side} {row.width:.4f} [{row.low:.4f}, {row.high:.4f}]")
    theirs = published_s(engine, tasks[0])
    print(
        f"the grid of {len(tasks[0].items)} items by B0, {torch.get_num_threads()} threads, in "
        f"proportion to some of them: {theirs:.0f} s; against it (gate 60, aim 200): "
        + ", ".join(f"{name} {theirs / seconds:.0f}" for name, (_, seconds) in lands.items())
    )


def published_s(engine: Any, task: Any) -> float:
    """Seconds of the grid by the published loops (B0), from a sample of the items at one point."""
    side = Published(engine.checkpoint)
    asked = [item.requests[0] for item in task.items]
    rows = [engine.row(request) for request in asked]
    sample = rows[:: max(1, len(rows) // SAMPLE)][:SAMPLE]
    side.perturb(0.001)
    start = time.perf_counter()
    side.perturb(0.01)
    shifted = time.perf_counter()
    if isinstance(asked[0], Generate):
        few = sample[:TEXTS]
        side.write([(*row.head, *row.body) for row in few], asked[0].max_tokens)
        each = (time.perf_counter() - shifted) / len(few)
        return POINTS * (shifted - start + each * len(rows))
    for row in sample:
        side.rank((*row.head, *row.body), row.tails)
    each = (time.perf_counter() - shifted) / sum(map(tokens_of, sample))
    return POINTS * (shifted - start + each * sum(map(tokens_of, rows)))


def tokens_of(row: Any) -> int:
    """Tokens of the prompt with each of its continuations."""
    return sum(len(row.head) + len(row.body) + len(tail) for tail in row.tails)


def main() -> None:
    """Print a row for each family, and the two runs of the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--outcomes", type=int, default=OUTCOMES)
    parser.add_argument("--model", metavar="TASK", help="run this task on SmolLM2 too")
    parser.add_argument(
        "--limit", type=int, default=200, help="items of that task (the published grid: 200)"
    )
    parser.add_argument("--no-grid", action="store_true", help="the search alone, and B0's time")
    options = parser.parse_args()
    print(
        f"{'':<18}{'chance':>7}{'draws':>6}{'error of':>9}{'of the':>9}{'answers':>8}{'of the':>8}"
        f"{'':>8}{'at equal':>8}{'':>9}   median 95%\n"
        f"{'family':<18}{'':>7}{'':>6}{'the grid':>9}{'search':>9}{'of grid':>8}{'search':>8}"
        f"{'ratio':>8}{'error':>8}{'covered':>9}   interval"
    )
    for family in FAMILIES if options.runs else ():
        for chance in (0.0, 0.25):
            print(
                simulate(family, chance, options.draws, options.runs, options.outcomes), flush=True
            )
    if options.model:
        on_model(options.model, options.limit, not options.no_grid)


if __name__ == "__main__":
    main()

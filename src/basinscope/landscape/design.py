"""How to spend a time, or how long a precision takes: the plan of a crossed design.

What a draw costs is measured here, in seconds: setting the weights; of each task what is read anew
under each setting (a few-shot prefix) and what an item takes. The half-width of an interval over K
draws of m items each is that of the program's own bounds for scores half way down, whose variance
is what directions (`BETWEEN`) and m items (`WITHIN`) give them. The m of a task is the one for
which that is least in the time; K is what fits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri

from basinscope import stats
from basinscope.directions.base import Direction
from basinscope.engines.base import Engine
from basinscope.errors import BasinscopeError
from basinscope.landscape.crossed import FEWEST
from basinscope.runs.bench import score
from basinscope.runs.cost import Setting
from basinscope.runs.executor import cores
from basinscope.runs.forecast import crowding, minutes
from basinscope.runs.spec import CrossedSpec
from basinscope.tasks.base import Item, Task

BUDGET_S, PRECISION = 300.0, 0.05  # of a first look, where nothing is asked for
MOST = 4096  # draws at a point
BRACKETING = 24  # draws at a point of a search that has both ends of its interval
# of the variance of an outcome half way down: what directions differ by, and what is left of the
# items' where they are taken in strata
BETWEEN, WITHIN = 0.05, 0.75
SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # items of a task under a draw
# settings of a search on one side, as simulated (benchmarks/edges.py): so many, and for each draw
# that a point may have so many more
SEARCHED, SEARCHED_PER_DRAW = 100, 2.2
POINTS, DECIDING = 9, 64  # of one draw on a side, and answers of a task at each of them
START_S = 6.0  # of workers, from their start to their first unit


@dataclass(frozen=True)
class Costs:
    """Seconds, on one worker while all of them are busy.

    Attributes:
        setting: to set the weights, and where there are no workers to restore them.
        start: of each task, what is read once under a setting.
        item: of each task, what an item takes besides.
    """

    setting: float
    start: tuple[float, ...]
    item: tuple[float, ...]

    def draw(self, items: Sequence[int]) -> float:
        """Of a draw at one step, with so many items of each task, from the first."""
        own = zip(self.start, self.item, items, strict=False)
        return self.setting + sum(start + item * n for start, item, n in own)


@dataclass(frozen=True)
class Price:
    """Seconds of a point: of a draw without items, of an item, and of how many draws it is made.

    A search looks at many points: ``fixed`` draws and ``rate`` times as many as one point has.
    """

    start: float
    item: float
    fixed: float = 0.0
    rate: float = 1.0

    def seconds(self, draws: int, items: int) -> float:
        """Of so many draws that answer so many items each."""
        return (self.fixed + self.rate * draws) * (self.start + self.item * items)


@dataclass(frozen=True)
class Share:
    """What of a plan is one task's: draws at each step (of a search: the most), items of each."""

    draws: int
    items: int
    half_width: float  # of an interval half way down, as expected


@dataclass(frozen=True)
class Design:
    """A plan.

    Attributes:
        shares: by the name of the task.
        settings: of the weights, in all.
        seconds: that it takes, as far as can be known.
        searched: whether the edges are searched.
        budget: seconds that were given; None for as many as the precision takes.
        precision: half-width that is wanted; None for what the budget gives.
        began: by `time.perf_counter`: the budget counts from here.
    """

    shares: Mapping[str, Share]
    settings: int
    seconds: float
    searched: bool
    budget: float | None
    precision: float | None
    began: float

    @property
    def spec(self) -> CrossedSpec:
        """What of it a run folder keeps."""
        return CrossedSpec(
            items={task: share.items for task, share in self.shares.items()},
            draws={task: share.draws for task, share in self.shares.items()},
            budget=self.budget,
            precision=self.precision,
        )

    def late(self) -> bool:
        """Whether the budget is spent."""
        return self.budget is not None and time.perf_counter() - self.began >= self.budget

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "settings": self.settings,
            "seconds": float(f"{self.seconds:.3g}"),
            "searched": self.searched,
            "tasks": {task: asdict(share) for task, share in self.shares.items()},
        }

    def __str__(self) -> str:
        """One line."""
        most = "the edges are searched with at most" if self.searched else "at each step"
        each = ", ".join(
            f"{s.draws} draws of {s.items} items of {task} (±{s.half_width:.2f})"
            for task, s in self.shares.items()
        )
        about = "roughly " if self.searched else ""
        return (
            f"{most} {each}; {about}{self.settings:,} settings of the weights, about "
            f"{minutes(self.seconds)}"
        )


def design(
    engine: Engine,
    tasks: Sequence[Task],
    directions: Sequence[Direction],
    steps: Sequence[float] | None,
    *,
    budget: float | None,
    precision: float | None,
    workers: int | None = None,
    known: CrossedSpec | None = None,
    costs: Costs | None = None,
) -> Design:
    """Plan a landscape: every task has an equal part of the time.

    Args:
        engine: the model, at its pristine weights.
        tasks: scored at every setting of the weights.
        directions: those of one draw are measured on all items, within the budget; the others
            are planned.
        steps: None where the edges are searched.
        budget: seconds for all of it.
        precision: half-width of an interval that is wanted at every point.
        workers: as in `basinscope.landscape`.
        known: what a run folder has settled; its draws hold for the same budget and precision.
        costs: of a draw, where they are known; default they are measured.

    Raises:
        BasinscopeError: a budget in which no point can be measured, or a precision that the items
            cannot give.

    Cost: a few seconds of real answers.
    """
    began = time.perf_counter()
    team = (workers or cores()) if engine.device.type == "cpu" else 1
    at = [abs(s) for s in steps or () if s]
    middle = sorted(at)[len(at) // 2] if at else 0.05 * (engine.rms or 1.0)
    costs = costs or probe(engine, tasks, (directions[0], 0, middle), team)
    slices = sum(line.draws_among(2) > 1 for line in directions)
    fixed, rate = (SEARCHED, SEARCHED_PER_DRAW) if steps is None else (0, 1.0)
    points = slices * (2 if steps is None else max(len(at), 1))
    whole = [len(task.items) for task in tasks]
    single = (len(directions) - slices) * (2 * POINTS if steps is None else len(at))
    single_s = single * costs.draw([min(n, DECIDING) if steps is None else n for n in whole]) / team
    first_s = costs.draw(whole) + START_S * (team > 1) + single_s
    first_s += time.perf_counter() - began
    room = math.inf if budget is None else (budget - first_s) * team / len(tasks) / points
    shares, seconds, settings = {}, first_s, 1 + single
    options: list[tuple[Price, list[int]]] = []
    for t, task in enumerate(tasks):
        sizes = [m for m in SIZES if m < len(task.items)] or [len(task.items)]
        if known is not None and task.name in known.items:
            sizes = [known.items[task.name]]
        price = Price(costs.setting + costs.start[t], costs.item[t], fixed, rate)
        options.append((price, sizes))
    least = max(
        price.seconds(FEWEST, sizes[0]) if not fixed else 0.1 * price.seconds(0, sizes[0])
        for price, sizes in options
    )
    if least > room:
        needed = first_s + least * points * len(tasks) / team
        raise BasinscopeError(
            f"a budget of {budget:g} s",
            f"at least {math.ceil(needed)} s for this model, these tasks and steps",
            "a larger budget, fewer steps or fewer tasks",
        )
    for task, (price, sizes) in zip(tasks, options, strict=True):
        if precision is not None:
            _check_precision(precision, task, sizes)
        share = spend(price, sizes, room, precision)
        if known is not None and (known.budget, known.precision) == (budget, precision):
            draws = known.draws.get(task.name, share.draws)
            share = Share(draws, share.items, expected(draws, share.items))
        shares[task.name] = share
        seconds += price.seconds(share.draws, share.items) * points / team
        settings += round((fixed + rate * share.draws) * points)
    return Design(
        shares, settings, min(seconds, budget or math.inf), steps is None, budget, precision, began
    )


def bracketing(
    engine: Engine, tasks: Sequence[Task], direction: Direction, budget: float,
    known: CrossedSpec | None = None,
) -> tuple[Design, list[Task]]:  # fmt: skip
    """Plan a search of as many of the tasks, from the first, as a time is enough for.

    Args:
        engine: the model, at its pristine weights.
        tasks: the most important first.
        direction: one of several draws.
        budget: seconds.
        known: what a run folder has settled.

    Returns:
        The plan, and the tasks that are in it: those of which a point may have `BRACKETING` draws,
        about the fewest from which both ends of an interval are found; at least the first.
    """
    began = time.perf_counter()
    if known is not None:
        tasks = [task for task in tasks if task.name in known.items]
    setting = (direction, 0, 0.05 * (engine.rms or 1.0))
    costs = probe(engine, tasks, setting, cores() if engine.device.type == "cpu" else 1)
    for n in range(len(tasks), 0, -1):
        some = list(tasks[:n])
        try:
            plan = design(
                engine, some, [direction], None, budget=budget, precision=None, known=known,
                costs=costs,
            )  # fmt: skip
        except BasinscopeError:
            if n == 1:
                raise
            continue
        if n == 1 or known or min(share.draws for share in plan.shares.values()) >= BRACKETING:
            break
    return replace(plan, budget=budget, began=began), some


def spend(price: Price, sizes: Sequence[int], seconds: float, precision: float | None) -> Share:
    """Draws and items of a task for which its intervals are narrowest.

    Args:
        price: of a draw.
        sizes: items that a draw may answer, from the fewest.
        seconds: of a worker, at a point; infinite where only the precision counts.
        precision: half-width that is enough: then what costs least.
    """
    options = []
    for m in [m for m in sizes if price.seconds(FEWEST, m) <= seconds] or sizes[:1]:
        draws = FEWEST
        while draws < MOST and (precision is None or expected(draws, m) > precision):
            more = math.ceil(1.1 * draws)
            if price.seconds(more, m) > seconds:
                break
            draws = more
        options.append(Share(draws, m, expected(draws, m)))

    def merit(share: Share) -> tuple[float, float]:
        reached = precision is not None and share.half_width <= precision
        return (0.0 if reached else share.half_width, price.seconds(share.draws, share.items))

    return min(options, key=merit)


def _check_precision(precision: float, task: Task, sizes: Sequence[int]) -> None:
    """Refuse a half-width that no number of draws is expected to give."""
    reached = min(expected(MOST, m) for m in sizes)
    if precision < reached:
        least = math.ceil(1000 * reached) / 1000
        raise BasinscopeError(
            f"precision={precision:g}",
            f"at least {least:g}, which {MOST:,} draws of at most {max(sizes)} of the "
            f"{len(task.items)} items of {task.name} are expected to give",
            f"{least:g}, or more items",
        )


def probe(engine: Engine, tasks: Sequence[Task], setting: Setting, workers: int) -> Costs:
    """Measure what a draw costs a worker of one thread, with all of them at work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if workers > 1 else threads)
    direction, draw, step = setting
    start, item, setting_s = [], [], math.inf
    try:
        # a worker does not restore the weights in between
        with engine.moving() if workers > 1 else nullcontext():
            for _ in range(3):  # the first compiles
                before = time.perf_counter()
                with engine.at(direction, step=step, draw=draw):
                    pass
                setting_s = min(setting_s, time.perf_counter() - before)
        for task in tasks:
            taken = []
            for asked in (few := _spread(task, 2), more := _spread(task, 8)):
                with engine.at(direction, step=step, draw=draw):
                    before = time.perf_counter()
                    score(engine, task, asked)
                    taken.append(time.perf_counter() - before)
            n, m = len(few), len(more)
            each = max(taken[1] - taken[0], 0.0) / (m - n) if m > n else 0.0
            item.append(max(each, taken[1] / m / 10))
            start.append(max(taken[1] - m * item[-1], 0.0))
    finally:
        torch.set_num_threads(threads)
    slower = crowding(engine, workers) if workers > 1 else 1.0
    return Costs(
        setting_s * slower, tuple(s * slower for s in start), tuple(i * slower for i in item)
    )


def _spread(task: Task, n: int) -> list[Item]:
    size = len(task.items)
    return [task.items[k * size // n] for k in range(n)] if n < size else list(task.items)


@cache
def expected(draws: int, m: int) -> float:
    """Half-width at 95% for scores half way down, of so many draws of m items each.

    >>> round(expected(112, 3), 2), expected(112, 3) < expected(56, 6)
    (0.08, True)
    """
    deviation = 0.5 * math.sqrt(BETWEEN + WITHIN / m)
    x = np.clip(0.5 + deviation * ndtri((np.arange(draws) + 0.5) / draws), 0.0, 1.0)
    interval = stats.mean_over_draws(x)
    return (interval.high - interval.low) / 2


def seconds_of(text: str) -> float:
    """Seconds of a time such as 90s, 5m or 1.5h.

    Raises:
        BasinscopeError: for anything else.

    >>> seconds_of("5m"), seconds_of("90")
    (300.0, 90.0)
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("s", "m", "h") else (text, "s")
    try:
        seconds = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise BasinscopeError(f"budget {text!r}", "a time above 0: 90s, 5m or 1.5h", "5m")
    return seconds

"""Which points are measured: the units of a plan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from basinscope.directions.base import Direction
from basinscope.errors import BasinscopeError
from basinscope.runs.bench import Bench, Unit
from basinscope.tasks.base import Task


def check(
    tasks: Sequence[Task],
    directions: Sequence[Direction],
    steps: Sequence[float] | None,
    draws: int,
    level: float,
    workers: int | None,
) -> None:
    """Refuse a plan that measures nothing, or whose names would not tell its rows apart."""
    for kind, names in (
        ("tasks", [t.name for t in tasks]),
        ("directions", [d.label for d in directions]),
    ):
        if not names or len(set(names)) != len(names):
            raise BasinscopeError(f"{kind}: {names}", "one or more, each once", "name each once")
    if steps is not None and (not len(steps) or not all(math.isfinite(s) for s in steps)):
        raise BasinscopeError(f"steps={list(steps)}", "at least one, all finite", "0,0.01")
    if draws < 1:
        raise BasinscopeError(f"draws={draws}", "at least 1", "20")
    check_workers(workers)
    if not 0 < level < 1:
        raise BasinscopeError(f"level={level}", "between 0 and 1", "0.5")
    for task in tasks:
        if not task.items:
            raise BasinscopeError(
                f"task {task.name!r} has no items", "a task with items", "another"
            )


def check_workers(workers: int | None) -> None:
    """Refuse a number of workers that measures nothing."""
    if workers is not None and workers < 1:
        raise BasinscopeError(f"workers={workers}", "at least 1", "leave workers out")


def units_at(
    bench: Bench, steps: Iterable[float], draws: int, directions: Sequence[int] | None = None
) -> list[Unit]:
    """One unit for each setting of the weights; step 0 once for all directions.

    A direction that is determined has one draw, however many are asked for: measuring it again
    would count one direction as several independent ones.
    """
    every = tuple(range(len(bench.tasks)))
    units = []
    for step in steps:
        if step == 0.0:
            units.append(Unit(None, 0, 0.0, every))
            continue
        for d in range(len(bench.directions)) if directions is None else directions:
            own = bench.directions[d].draws_among(draws)
            units += [Unit(d, draw, step, every) for draw in range(own)]
    return units

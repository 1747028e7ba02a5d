"""Which points are measured: the units of a plan, and what of them is there already."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from basinscope.directions.base import Direction, draws_of
from basinscope.errors import BasinscopeError
from basinscope.runs.executor import Executor
from basinscope.runs.measure import Bench, Unit
from basinscope.runs.spec import sha256
from basinscope.runs.store import Store, Trial
from basinscope.tasks.base import Task

Progress = Callable[[int, int, str], None]
"""Called with trials done, trials planned so far, and what was measured last."""


def check(
    tasks: Sequence[Task],
    directions: Sequence[Direction],
    steps: Sequence[float] | None,
    draws: int,
    level: float,
    workers: int | None,
) -> None:
    """Refuse a plan that measures nothing, or whose names would not tell its rows apart."""
    for what, names in (
        ("tasks", [t.name for t in tasks]),
        ("directions", [d.label for d in directions]),
    ):
        if not names or len(set(names)) != len(names):
            raise BasinscopeError(f"{what}: {names}", "allowed: at least one, each named once")
    if steps is not None and (not len(steps) or not all(math.isfinite(s) for s in steps)):
        raise BasinscopeError(f"steps={list(steps)}", "allowed: at least one, all finite")
    if draws < 1:
        raise BasinscopeError(f"draws={draws}", "allowed: at least 1")
    if workers is not None and workers < 1:
        raise BasinscopeError(f"workers={workers}", "allowed: at least 1")
    if not 0 < level < 1:
        raise BasinscopeError(f"level={level}", "allowed: between 0 and 1, such as 0.5")
    for task in tasks:
        if not task.items:
            raise BasinscopeError(f"task {task.name!r} has no items")


def check_labels(bench: Bench, store: Store, draws: int) -> None:
    """Refuse two directions of one label, or two labels of one direction, in a run folder."""
    labels: dict[tuple[str, int], str] = {}
    for d, direction in enumerate(bench.directions):
        for draw in range(draws_of(direction, draws)):
            first = labels.setdefault((bench.identity(d, draw), draw), direction.label)
            if first != direction.label:
                raise BasinscopeError(
                    f"directions {first!r} and {direction.label!r} are the same", "give one of them"
                )
    for trial in store.trials():
        if trial.direction is None or trial.draw >= draws:
            continue
        label = labels.get((trial.key["direction"], trial.draw))
        if label is None and trial.direction in labels.values():
            raise BasinscopeError(
                f"{store.folder} holds another direction called {trial.direction!r}",
                "a label names one direction in a run folder",
                "give another --run, or the direction another label",
            )
        if label not in (None, trial.direction):
            raise BasinscopeError(
                f"{store.folder} holds the direction {label!r} as {trial.direction!r}",
                "a direction has one label in a run folder",
                "give another --run, or the direction its old label",
            )


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
            own = draws_of(bench.directions[d], draws)
            units += [Unit(d, draw, step, every) for draw in range(own)]
    return units


class Measure:
    """Have units measured that the store does not hold yet, and keep their trials."""

    def __init__(
        self,
        bench: Bench,
        store: Store,
        team: Executor,
        progress: Progress | None,
        where: Callable[[Trial], str] = lambda trial: f"{trial.step:.4g}",
    ) -> None:
        self.bench, self.store, self.team, self.progress = bench, store, team, progress
        self.where = where
        self.done = self.planned = 0

    def __call__(self, units: Sequence[Unit]) -> None:
        """Measure what is missing of these units."""
        left = []
        for unit in units:
            tasks = tuple(t for t in unit.tasks if not self._has(unit, t))
            self.planned += len(unit.tasks)
            self.done += len(unit.tasks) - len(tasks)
            if tasks:
                left.append(replace(unit, tasks=tasks))
        self._tell("")
        for trial in self.team.run(left) if left else ():
            self.store.put(trial)
            self.done += 1
            self._tell(f"{trial.task} at {self.where(trial)}")

    def _has(self, unit: Unit, task: int) -> bool:
        """Whether the outcomes are there: as a record of their own, or in one of all items."""
        if self.bench.chosen(unit, task) == ():
            return True
        whole = unit.part is not None and self._get(replace(unit, part=None), task) is not None
        return whole or self._get(unit, task) is not None

    def _get(self, unit: Unit, task: int) -> Trial | None:
        return self.store.get(sha256(self.bench.key(unit, task)))

    def outcomes(self, unit: Unit, task: int) -> dict[str, int]:
        """Outcome of every item of a unit that is measured, by item."""
        chosen = self.bench.chosen(unit, task)
        if chosen == ():
            return {}
        trial = self._get(replace(unit, part=None), task) or self._get(unit, task)
        assert trial is not None
        found = dict(zip(trial.items, trial.correct, strict=True))
        return found if chosen is None else {item: found[item] for item in chosen}

    def _tell(self, what: str) -> None:
        if self.progress is not None:
            self.progress(self.done, self.planned, what)

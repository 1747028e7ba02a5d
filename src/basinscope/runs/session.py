"""A run's frame: what is measured that the store does not hold yet, and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from basinscope.runs.executor import Executor
from basinscope.runs.measure import Bench, Unit
from basinscope.runs.spec import sha256
from basinscope.runs.store import Store, Trial

Progress = Callable[[int, int, str], None]
"""Called with trials done, trials planned so far, and what was measured last."""


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

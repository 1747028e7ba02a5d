"""The frame of a run: opened, measured in, closed, and the weights compared at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from basinscope.engines.base import Engine
from basinscope.errors import BasinscopeError
from basinscope.runs import executor
from basinscope.runs.bench import Bench, Unit
from basinscope.runs.executor import Executor
from basinscope.runs.spec import RunSpec, sha256
from basinscope.runs.store import Store, Trial

Progress = Callable[[int, int, str], None]
"""Called with trials done, trials planned so far, and what was measured last."""


@contextmanager
def open_session(
    bench: Bench,
    spec: RunSpec,
    run: str | Path | None,
    *,
    workers: int | None = 1,
    units: int = 1,
    progress: Progress | None = None,
    where: Callable[[Trial], str] = lambda trial: f"{trial.step:.4g}",
) -> Iterator[Session]:
    """Open a run's store and its workers, close them, and compare the weights with the first.

    Args:
        bench: what is measured.
        spec: the plan, which the run folder keeps.
        run: run folder; None keeps the records in memory.
        workers: as in `basinscope.landscape`.
        units: about how many settings of the weights will be measured: no more workers start.
        progress: called after every trial.
        where: a trial's place, as progress names it.

    Raises:
        BasinscopeError: a run folder of something else, one label for two directions, a disk that
            cannot be written.
        AssertionError: on leaving, if one bit of the weights is another than on entering.
    """
    store = Store(run, spec)
    if not spec.plan:  # which fixes the noise, and is compared by the store
        check_labels(bench, store, spec.draws)
    team = executor.make(bench, workers, units)
    with restored(bench.engine, bench.model.fingerprint):
        try:
            yield Session(bench, store, team, progress, where)
        finally:
            team.close()


@contextmanager
def restored(engine: Engine, fingerprint: str) -> Iterator[None]:
    """Raise AssertionError after the body unless the weights have this fingerprint."""
    yield
    if engine.fingerprint() != fingerprint:
        raise AssertionError("the weights were not restored")


def check_labels(bench: Bench, store: Store, draws: int) -> None:
    """Refuse two directions of one label, or two labels of one direction, in a run folder."""
    labels: dict[tuple[str, int], str] = {}
    for d, direction in enumerate(bench.directions):
        for draw in range(direction.draws_among(draws)):
            first = labels.setdefault((bench.identity(d, draw), draw), direction.label)
            if first != direction.label:
                raise BasinscopeError(
                    f"directions {first!r} and {direction.label!r} are the same",
                    "directions that differ",
                    "give one of them",
                )
    for trial in store.trials():
        if trial.direction is None or trial.draw >= draws:
            continue
        label = labels.get((trial.key["direction"], trial.draw))
        if label is None and trial.direction in labels.values():
            raise BasinscopeError(
                f"{store.folder} holds another direction called {trial.direction!r}",
                "one direction for a label",
                "another --run, or another label",
            )
        if label not in (None, trial.direction):
            raise BasinscopeError(
                f"{store.folder} holds the direction {label!r} as {trial.direction!r}",
                "one label for a direction",
                "another --run, or the old label",
            )


class Session:
    """Have units measured that the store does not hold yet, and keep their trials."""

    def __init__(
        self,
        bench: Bench,
        store: Store,
        team: Executor,
        progress: Progress | None,
        where: Callable[[Trial], str],
    ) -> None:
        self.bench, self.store, self.team, self.progress = bench, store, team, progress
        self.where = where
        self.done = self.planned = 0
        self.expected = 0  # trials of the whole run; 0 where each batch says how many it has

    def expect(self, trials: int) -> None:
        """Count, from the first report on, all that is there and about so many trials in all."""
        self.expected, self.done = trials, sum(1 for _ in self.store.trials())
        self.planned = self.done

    def measure(self, units: Sequence[Unit]) -> None:
        """Measure what is missing of these units."""
        missing = []
        for unit in units:
            tasks = tuple(t for t in unit.tasks if not self._has(unit, t))
            there = 0 if self.expected else len(unit.tasks) - len(tasks)
            self.planned += len(tasks) + there
            self.done += there
            if tasks:
                missing.append(replace(unit, tasks=tasks))
        self._report("")
        for trial in self.team.run(missing) if missing else ():
            self.store.put(trial)
            self.done += 1
            self._report(f"{trial.task} at {self.where(trial)}")

    def trial(self, unit: Unit, task: int) -> Trial | None:
        """Record of one task of a unit; None where it is not measured."""
        return self.store.get(sha256(self.bench.key(unit, task)))

    def outcomes(self, unit: Unit, task: int) -> dict[str, int]:
        """Outcome of every item of a unit that is measured, by item."""
        chosen = self.bench.chosen(unit, task)
        if chosen == ():
            return {}
        trial = self.trial(replace(unit, part=None), task) or self.trial(unit, task)
        assert trial is not None
        outcomes = dict(zip(trial.items, trial.correct, strict=True))
        return outcomes if chosen is None else {item: outcomes[item] for item in chosen}

    def _has(self, unit: Unit, task: int) -> bool:
        """Whether the outcomes are there: as a record of their own, or in one of all items."""
        if self.bench.chosen(unit, task) == ():
            return True
        whole = unit.part is not None and self.trial(replace(unit, part=None), task) is not None
        return whole or self.trial(unit, task) is not None

    def _report(self, place: str) -> None:
        if self.progress is not None:
            self.progress(self.done, max(self.planned, self.expected), place)

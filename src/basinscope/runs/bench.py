"""The bench: engine, directions and tasks, and the trials that they give."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256 as sha

from basinscope.directions.base import Direction
from basinscope.engines.base import Engine
from basinscope.runs.spec import (
    ModelSpec,
    TaskSpec,
    model_spec,
    sha256,
    task_spec,
    trial_key,
)
from basinscope.runs.store import Trial
from basinscope.tasks.base import Answer, CallableTask, Item, Outcome, Task
from basinscope.weights.surroundings import fixed

CHUNK = 1024  # items whose rows and answers are held at once


@dataclass(frozen=True)
class Unit:
    """Weights to be set once and every task to be measured there.

    ``direction`` indexes the run's directions; None at step 0, where ``draw`` is 0. ``items`` are
    pairs of a task and the ids of those of its items that are answered; of other tasks all are.
    """

    direction: int | None
    draw: int
    step: float
    tasks: tuple[int, ...]
    items: tuple[tuple[int, tuple[str, ...]], ...] = ()
    part: tuple[int, int] | None = None


ZERO = Unit(None, 0, 0.0, (0,))
"""The first task under the weights themselves."""


@dataclass(frozen=True)
class Bench:
    """Everything a unit refers to: engine, directions, tasks, and their descriptions."""

    engine: Engine
    directions: tuple[Direction, ...]
    tasks: tuple[Task, ...]
    model: ModelSpec
    task_specs: tuple[TaskSpec, ...]
    _identities: dict[tuple[int, int], str] = field(default_factory=dict, repr=False, compare=False)
    _named: dict[int, tuple[str, ...]] = field(default_factory=dict, repr=False, compare=False)
    _orders: dict[tuple[int, int], tuple[str, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def of(cls, engine: Engine, directions: Sequence[Direction], tasks: Sequence[Task]) -> Bench:
        """Bench of an engine under its present weights."""
        specs = tuple(task_spec(task) for task in tasks)
        return cls(engine, tuple(directions), tuple(tasks), model_spec(engine), specs)

    def identity(self, direction: int, draw: int) -> str:
        """Text that determines delta; worked out once, since it may hash all of delta."""
        if (direction, draw) not in self._identities:
            identity = self.directions[direction].identity(self.engine, draw)
            self._identities[direction, draw] = identity
        return self._identities[direction, draw]

    def key(self, unit: Unit, task: int) -> dict[str, object]:
        """What determines the trial of one task of a unit."""
        name = None
        if unit.direction is not None:
            name = self.identity(unit.direction, unit.draw)
        items = self.chosen(unit, task)
        if unit.part is not None and items is not None:
            wanted = set(items)
            items = tuple(item for item in self._ids(task) if item in wanted)
        return trial_key(self.model, self.task_specs[task], name, unit.draw, unit.step, items)

    def chosen(self, unit: Unit, task: int) -> tuple[str, ...] | None:
        """Ids of the items of a task that a unit asks, those of a part in its order; None for all.

        The order of a draw, that of `shuffled`, is the same at every step, and every part of it is
        a sample without replacement.
        """
        if unit.part is None:
            return dict(unit.items).get(task)
        order = self._orders.get((task, unit.draw))
        if order is None:
            self._orders[task, unit.draw] = order = shuffled(self._ids(task), unit.draw)
        chosen = order[slice(*unit.part)]
        return None if len(chosen) == len(order) else chosen

    def _ids(self, task: int) -> tuple[str, ...]:
        """Ids of a task's items, in its order."""
        if task not in self._named:
            self._named[task] = tuple(item.id for item in self.tasks[task].items)
        return self._named[task]

    def measure(self, unit: Unit) -> Iterator[tuple[int, Trial]]:
        """Set the weights and yield a trial for every task as it is measured.

        Tasks that ask for answers share one setting of the weights. A function of the module has
        one of its own: whatever it does to the weights is undone before the next task.
        """
        asking = [t for t in unit.tasks if not isinstance(self.tasks[t], CallableTask)]
        calling = [t for t in unit.tasks if isinstance(self.tasks[t], CallableTask)]
        # at step 0 any direction will do
        direction = self.directions[unit.direction or 0]
        for group in filter(None, [asking, *([t] for t in calling)]):
            with self.engine.at(direction, step=unit.step, draw=unit.draw):
                for t in group:
                    yield t, self._trial(unit, t)

    def _trial(self, unit: Unit, t: int) -> Trial:
        """Outcomes of one task under the live weights."""
        task, key = self.tasks[t], self.key(unit, t)
        items = task.items
        if (chosen := self.chosen(unit, t)) is not None:
            wanted = set(chosen)
            items = tuple(item for item in items if item.id in wanted)
        outcomes = score(self.engine, task, items)
        tokens = tuple(o.tokens for o in outcomes)
        return Trial(
            address=sha256(key),
            key=key,
            task=task.name,
            direction=None if unit.direction is None else self.directions[unit.direction].label,
            draw=unit.draw,
            step=unit.step,
            items=tuple(item.id for item in items),
            correct=tuple(int(o.correct) for o in outcomes),
            labels=tuple(o.label.encode(errors="backslashreplace").decode() for o in outcomes),
            margins=tuple(_finite(o.margin) for o in outcomes),
            nlls=tuple(_finite(o.nll) for o in outcomes),
            tokens=tokens if any(tokens) else (),
            failed=tuple(i for i, o in enumerate(outcomes) if o.failed),
        )


def shuffled(items: Iterable[str], draw: int) -> tuple[str, ...]:
    """Ids in the order of the SHA-256 of (draw, id): random, and no generator is touched."""
    key = f"edges/1 {draw}".encode()
    return tuple(sorted(items, key=lambda item: sha(key + b"\0" + item.encode()).digest()))


@fixed()
def score(engine: Engine, task: Task, items: Sequence[Item] | None = None) -> list[Outcome]:
    """Outcome of every item (or of some, in the task's order) under the live weights.

    An item without an answer (non-finite logits, a prompt that does not fit) is wrong, labelled
    with the reason: a failed evaluation is never missing.

    Cost: beside the items and their outcomes, the memory of `CHUNK` items however many there are.
    """
    chosen = task.items if items is None else items
    if isinstance(task, CallableTask):
        whole = task.outcomes(engine.module)
        return whole if items is None else [whole[int(item.id)] for item in items]
    outcomes: list[Outcome] = []
    for a in range(0, len(chosen), CHUNK):
        outcomes += _scored(engine, task, chosen[a : a + CHUNK])
    return outcomes


def _scored(engine: Engine, task: Task, items: Sequence[Item]) -> list[Outcome]:
    """Outcomes of some of a task's items."""
    answers = engine.answer([request for item in items for request in item.requests])
    outcomes: list[Outcome] = []
    start = 0
    for item in items:
        outcomes.append(outcome(task, item, answers[start : start + len(item.requests)]))
        start += len(item.requests)
    return outcomes


def outcome(task: Task, item: Item, answers: Sequence[Answer]) -> Outcome:
    """Outcome of an item from the answers to its requests; wrong where one of them failed."""
    failure = next((answer.failure for answer in answers if answer.failure), "")
    return Outcome(False, failure, failed=True) if failure else task.oracle(item, answers)


def _finite(value: float | None) -> float | None:
    """JSON has no NaN; what is not a number is not there."""
    return value if value is not None and math.isfinite(value) else None

"""Trials of a run: by task, direction and step, and what their items weigh."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from basinscope.errors import BasinscopeError, nearest
from basinscope.landscape.crossed import Strata
from basinscope.landscape.joined import joined
from basinscope.runs.spec import RunSpec, TaskSpec
from basinscope.runs.store import Trial


class Trials:
    """What was measured along lines.

    Attributes:
        spec: what was planned.
        trials: what was measured, ordered by task, direction, draw and step: one for each, with the
            items that were asked there.
        records: how many records that is; more than trials where points were measured in parts.
        set_aside: records that did not verify, with the reason.
    """

    def __init__(
        self, spec: RunSpec, trials: Iterable[Trial], set_aside: Sequence[str] = ()
    ) -> None:
        self.spec = spec
        records = tuple(trials)
        self.records = len(records)
        self.trials = tuple(joined(records))
        self.set_aside = tuple(set_aside)
        self._tasks = {task.name: task for task in spec.tasks}
        self._zero = {t.task: t for t in self.trials if t.direction is None}
        self._weights: dict[tuple[Any, ...], list[float]] = {}
        for task, each in (spec.crossed.items if spec.crossed else {}).items():
            if task not in self._zero:
                continue
            strata = Strata.of(self._zero[task])
            for trial in (t for t in self.trials if t.task == task and t.direction is not None):
                if trial.items == strata.sample(trial.draw, each):
                    self._weights[_place(trial)] = strata.weights(trial.items)
        self._points: dict[tuple[str, str], dict[float, list[Trial]]] = {}
        for trial in self.trials:
            if trial.direction is not None:
                curve = self._points.setdefault((trial.task, trial.direction), {})
                curve.setdefault(trial.step, []).append(trial)

    def directions(self, task: str | None = None) -> list[str]:
        """Labels of the directions along which something (of a task) was measured."""
        measured = {label for name, label in self._points if task in (None, name)}
        planned = [label for label in self.spec.directions if label in measured]
        return planned + sorted(measured - set(planned))

    def score(self, trial: Trial) -> float:
        """Score of a draw, whose mean over directions is that of all items of the task.

        The mean of its outcomes; of a crossed design weighted by the strata of its items.
        """
        weights = self._weights.get(_place(trial))
        if weights is None:
            return trial.score
        return min(sum(w * z for w, z in zip(weights, trial.correct, strict=True)), 1.0)

    def weights(self, trial: Trial) -> list[float]:
        """Share of the task's items that each of a trial's items stands for."""
        return self._weights.get(_place(trial)) or [1 / trial.n] * trial.n

    def weighted(self, trial: Trial) -> bool:
        """Whether a trial answered a few items, as a draw of a crossed design."""
        return _place(trial) in self._weights

    def crossed(self, task: str, direction: str) -> bool:
        """Whether draws of a direction answered a few items each, as in a crossed design."""
        points = self._points.get((task, direction), {})
        return any(self.weighted(t) for trials in points.values() for t in trials)

    def curve(self, task: str, direction: str) -> dict[float, list[float]]:
        """Scores of each draw, by step in ascending order, step 0 included."""
        points = self.at_steps(task, direction)
        return {step: list(map(self.score, trials)) for step, trials in points.items()}

    def draws(self, task: str, direction: str) -> dict[int, list[Trial]]:
        """Trials of each draw in ascending order of the step, step 0 included."""
        points = self.at_steps(task, direction)
        zero = points.pop(0.0, [])
        by_draw: dict[int, list[Trial]] = {}
        for trial in (t for trials in points.values() for t in trials):
            by_draw.setdefault(trial.draw, []).append(trial)
        return {n: sorted(zero + by_draw[n], key=lambda t: t.step) for n in sorted(by_draw)}

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks of this run."""
        return list(self._tasks)

    def sits_at(self, direction: str) -> float | None:
        """Step at which the model that a direction was made from sits itself.

        ``||theta' - theta0|| / sqrt(d)`` (arXiv 2505.17646, SFT-case); None for a direction that no
        other model is behind.
        """
        norm = self.spec.displacements.get(direction)
        return None if norm is None else norm / math.sqrt(self.spec.model.d)

    def task(self, name: str) -> TaskSpec:
        """Spec of a task of this run."""
        if name not in self._tasks:
            raise BasinscopeError(
                f"task {name!r}, not of this run",
                ", ".join(self._tasks),
                nearest(name, self._tasks),
            )
        return self._tasks[name]

    def at_steps(self, task: str, direction: str) -> dict[float, list[Trial]]:
        """Trials of every draw, by step in ascending order, step 0 included."""
        points = dict(self._points.get((task, direction), {}))
        if task in self._zero:
            points[0.0] = [self._zero[task]]
        return dict(sorted(points.items()))

    def placed(self) -> Iterable[tuple[Trial, str, int]]:
        """Every trial with its direction and draw; step 0 once for each of them."""
        for task in self._tasks:
            for direction in self.directions(task):
                for draw, trials in self.draws(task, direction).items():
                    yield from ((trial, direction, draw) for trial in trials)
            if not self.directions(task) and task in self._zero:
                yield self._zero[task], "", 0

    def one_direction(self, task: str, label: str | None) -> str:
        """Label of a direction of a task; of its only one where none is named."""
        self.task(task)
        known = self.directions(task)
        if label is None and len(known) == 1:
            return known[0]
        if label is None or label not in known:
            raise BasinscopeError(
                f"direction {label!r} of task {task!r}",
                ", ".join(known) or "one that was measured",
                nearest(str(label), known) if known else "run the same line again",
            )
        return label


def _place(trial: Trial) -> tuple[str, str | None, int, float]:
    return trial.task, trial.direction, trial.draw, trial.step

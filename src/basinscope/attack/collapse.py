"""How far along one direction a task holds: its collapse radius, bracketed by bisection."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from basinscope import stats
from basinscope.directions import words
from basinscope.directions.base import Direction
from basinscope.errors import BasinscopeError
from basinscope.runs.bench import Bench, Unit
from basinscope.runs.models import Model, engine_of
from basinscope.runs.plan import check
from basinscope.runs.session import Progress, open_session
from basinscope.runs.spec import RunSpec, displacements
from basinscope.runs.store import Store
from basinscope.tasks.base import Task
from basinscope.tasks.words import tasks as tasks_of

TOLERANCE = 1e-6  # of the weights' norm
RELATIVE = 0.05  # of the radius, where that is smaller
_FIRST, _LAST, _LEAST = 0.05, 16.0, 1e-9  # of RMS(theta0): where the search begins and ends


@dataclass(frozen=True)
class Collapse:
    """Bracket of the step at which a task's score first falls below its threshold.

    Attributes:
        task: name.
        direction: label.
        sign: +1 or -1.
        low: largest step measured before the fall, >= 0; NaN where there is no edge.
        high: least step at which the score was below the threshold; NaN where there is none.
        score: at theta0, on ``n_items`` items.
        threshold: ``chance + (1 - level) (score - chance)``.
        d: number of perturbed parameters.
        rms: RMS(theta0).
        reason: why there is no bracket; empty otherwise.
    """

    task: str
    direction: str
    sign: int
    low: float
    high: float
    score: float
    threshold: float
    n_items: int
    d: int
    rms: float
    reason: str = ""

    @property
    def norm(self) -> tuple[float, float]:
        """The bracket as norms of the displacement, ``step * sqrt(d)``."""
        return self.low * math.sqrt(self.d), self.high * math.sqrt(self.d)

    @property
    def in_rms(self) -> tuple[float, float]:
        """The bracket in units of RMS(theta0): as a share of the weights' norm."""
        scale = self.rms or math.nan
        return self.low / scale, self.high / scale

    def to_json(self) -> dict[str, Any]:
        """Everything, in JSON's types: each bracket in alpha, as a norm, and in RMS(theta0)."""
        brackets = {"alpha": (self.low, self.high), "norm": self.norm, "rms": self.in_rms}
        ends = {
            f"{unit}_{end}": value if math.isfinite(value) else None
            for unit, bracket in brackets.items()
            for end, value in zip(("low", "high"), bracket, strict=True)
        }
        kept = ("task", "direction", "sign", "score", "threshold", "n_items", "reason")
        return {**{name: getattr(self, name) for name in kept}, **ends}


def collapse_radius(
    model: Model,
    direction: str | Direction,
    tasks: str | Task | Sequence[str | Task],
    *,
    level: float = 0.5,
    draw: int = 0,
    tolerance: float = TOLERANCE,
    near: float | None = None,
    run: str | Path | None = None,
    progress: Progress | None = None,
) -> tuple[Collapse, ...]:
    """Collapse radius of tasks along one direction, on both sides of theta0.

    The step is halved from ``near`` until no task has fallen, or doubled until every task has, then
    each task's edge is bisected until the bracket is narrower than ``tolerance`` times RMS(theta0)
    (in norm: of the norm of the weights) and than 5% of itself.

    Args:
        model: an engine, or what `basinscope.load` takes. In 16 bits a displacement of less than
            half a unit in a weight's last place is rounded away: measure small radii in float32.
        direction: any, word or object.
        tasks: words or objects, as in `basinscope.tasks`.
        level: fraction of the way from the score at theta0 down to chance, in (0, 1).
        draw: number of the draw, of a random direction.
        tolerance: resolution, as a share of RMS(theta0).
        near: step to begin with; default 0.05 RMS(theta0).
        run: run folder to keep every measured point in; a `basinscope.landscape` run, so that it
            can be drawn and resumed.
        progress: see `basinscope.landscape`.

    Returns:
        Two brackets for each task, + and -.

    Raises:
        BasinscopeError: as `basinscope.landscape`.

    *Guarantee*: the score was below the threshold at ``high`` and not at ``low``, nor at any
    measured point before it: a fall and rise between two measured points is not seen.
    *Cost*: about 25 evaluations of a task for each sign.
    """
    many, direction = tasks_of(tasks), words.direction(direction)
    check(many, [direction], None, 1, level, 1)
    if not tolerance > 0 or (near is not None and not 0 < near < math.inf):
        raise BasinscopeError(
            f"tolerance={tolerance}, near={near}", "above 0, or None for near", "leave both out"
        )
    engine = engine_of(model, run)
    bench = Bench.of(engine, [direction], many)
    spec = RunSpec(
        kind="landscape", model=bench.model, tasks=bench.task_specs, directions=(direction.label,),
        draws=draw + 1, steps=None, level=level, displacements=displacements(engine, [direction]),
    )  # fmt: skip
    with open_session(bench, spec, run, progress=progress) as session:

        def correct(task: int, step: float) -> tuple[int, int]:
            unit = Unit(0, draw, step, (task,)) if step else Unit(None, 0, 0.0, (task,))
            session.measure([unit])
            trial = session.trial(unit, task)
            assert trial is not None
            return sum(trial.correct), trial.n

        return _brackets(spec, correct, near or _FIRST * (spec.model.rms or 1.0), tolerance)


def read_collapse(store: Store, radius: float) -> tuple[Collapse, ...]:
    """Brackets along an attack's direction, from the points that were measured, without the model.

    Args:
        store: run folder of `collapse_radius`.
        radius: norm of the displacement that the search began at.

    Raises:
        BasinscopeError: a point is missing.
    """
    spec = store.spec
    tasks = [task.name for task in spec.tasks]
    counts = {(tasks.index(t.task), t.step): (sum(t.correct), t.n) for t in store.trials()}
    near = radius / math.sqrt(spec.model.d)
    try:
        return _brackets(spec, lambda task, step: counts[task, step], near, TOLERANCE)
    except KeyError:
        raise BasinscopeError(
            f"the collapse radii in {store.folder} are not finished",
            "a search with every point measured",
            "run the same line again: it resumes",
        ) from None


def _brackets(
    spec: RunSpec, correct: Callable[[int, float], tuple[int, int]], near: float, tolerance: float
) -> tuple[Collapse, ...]:
    """Both brackets of every task; ``correct`` says how many items of a task are right, of all."""
    return tuple(
        _bracket(spec, t, sign, partial(correct, t), near, tolerance)
        for t in range(len(spec.tasks))
        for sign in (1, -1)
    )


def _bracket(
    spec: RunSpec, task: int, sign: int, correct: Callable[[float], tuple[int, int]],
    near: float, tolerance: float,
) -> Collapse:  # fmt: skip
    task_spec, model = spec.tasks[task], spec.model
    scale = model.rms or 1.0
    tolerance *= scale
    right, n = correct(0.0)
    threshold = stats.threshold(right / n, task_spec.chance, spec.level)

    def bracket(low: float, high: float, reason: str = "") -> Collapse:
        return Collapse(task_spec.name, spec.directions[0], sign, low, high, right / n, threshold,
                        n, model.d, model.rms, reason)  # fmt: skip

    if not stats.lower_proportion(right, n, 0.95).low > task_spec.chance:
        why = f"the score at zero, {right}/{n}, is not above chance ({task_spec.chance:g})"
        return bracket(math.nan, math.nan, why)

    def fallen(step: float) -> bool:
        return correct(sign * step)[0] / n < threshold

    low, high = 0.0, near
    if fallen(high):
        while high > _LEAST * scale:
            if not fallen(high / 2):
                low = high / 2
                break
            high /= 2
    else:
        while not fallen(2 * high):
            high *= 2
            if high > _LAST * scale:
                return bracket(high, math.nan, f"no collapse up to step {high:.4g}")
        low, high = high, 2 * high
    while high - low > min(tolerance, RELATIVE * high) and high > _LEAST * scale:
        middle = (low + high) / 2
        if fallen(middle):
            high = middle
        else:
            low = middle
    return bracket(low, high)

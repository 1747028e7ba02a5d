"""Plan the points of one-dimensional landscapes and have them measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from basinscope.engines.base import Engine
from basinscope.errors import BasinscopeError
from basinscope.landscape.record import Landscape
from basinscope.runs import executor
from basinscope.runs.measure import Bench
from basinscope.runs.plan import Measure, Progress, check, check_labels, search, units_at
from basinscope.runs.spec import (
    RunSpec,
    direction_labels,
    displacements,
    model_spec,
    task_spec,
)
from basinscope.runs.store import Store
from basinscope.tasks.base import Task
from basinscope.weights.directions import Direction, Random, draws_of, sits_at


def landscape(
    engine: Engine,
    tasks: Sequence[Task] | Task,
    *,
    directions: Sequence[Direction] | None = None,
    steps: Sequence[float] | None = None,
    draws: int = 4,
    level: float = 0.5,
    run: str | Path | None = None,
    workers: int | None = 1,
    progress: Progress | None = None,
) -> Landscape:
    """Score tasks along directions, at explicit steps or where the edges are.

    Args:
        engine: from `basinscope.load`.
        tasks: tasks to score; all of them at each setting of the weights.
        directions: default: random, seed 0.
        steps: signed positions alpha; 0 is always measured too. None finds each task's edge on
            both sides of zero: doubling until every task has fallen below the threshold, then
            bisecting each crossing of the mean over draws to 15% of its distance.
        draws: independent draws of each random direction; one that is determined has one.
        level: where None is given for steps, the level whose crossing is sought (see `width`).
        run: run folder; a folder with the same model and items is resumed and may grow.
        workers: processes to measure in, one thread each; None takes one for each core. With more
            than one, model, tasks and directions must be ones that a word names.
        progress: see `Progress`.

    Returns:
        The landscape of everything that the run folder holds.

    Raises:
        BasinscopeError: nothing to measure, steps that are not finite, a foreign run folder, a
            disk that cannot be written.

    Guarantee: the same spec gives the same records whatever the workers and the order.
    Cost: one pass over the weights and one evaluation of every task for each direction, draw and
    step that is not measured yet.
    """
    many = [tasks] if isinstance(tasks, Task) else list(tasks)
    lines = [Random(0)] if directions is None else list(directions)
    check(many, lines, steps, draws, level, workers)
    bench = Bench(
        engine, tuple(lines), tuple(many), model_spec(engine), tuple(task_spec(t) for t in many)
    )
    explicit = None if steps is None else tuple(sorted({float(s) + 0.0 for s in steps} | {0.0}))
    spec = RunSpec(
        kind="landscape",
        model=bench.model,
        tasks=bench.task_specs,
        directions=direction_labels(lines),
        draws=draws,
        steps=explicit,
        level=level,
        displacements=displacements(engine, lines),
    )
    store = Store(run, spec)
    check_labels(bench, store, draws)
    points = len(explicit or ()) or 2
    slices = sum(draws_of(direction, draws) for direction in lines)
    team = executor.make(bench, workers, (points - 1) * slices + 1)
    try:
        measure = Measure(bench, store, team, progress)
        if explicit is not None:
            measure(units_at(bench, explicit, draws))
        else:
            search(measure, draws, level)
    finally:
        team.close()
    if engine.fingerprint() != bench.model.fingerprint:
        raise AssertionError("the weights were not restored")
    return Landscape(store.spec, store.trials(), store.set_aside)


def interpolation_steps(
    engine: Engine, direction: Direction, points: int, *, beyond: float = 0.25
) -> list[float]:
    r"""Steps from the model to the one that a direction was made from, and somewhat beyond.

    .. math:: \alpha_k = \alpha^* k / (\text{points} - 1), \qquad
              \alpha^* = \|\theta' - \theta_0\| / \sqrt{d}

    so that the landscape at step k is the linear interpolation
    :math:`(1 - t) \theta_0 + t \theta'`, t = k / (points - 1).

    Args:
        engine: gives theta0.
        direction: one that another model is behind, such as `Toward`.
        points: how many from 0 to alpha*, both included; at least 2.
        beyond: share of the way on which steps of the same length follow; 0 for none.

    Raises:
        BasinscopeError: fewer than two points, or no model behind the direction.
    """
    end = sits_at(direction, engine)
    if end is None:
        raise BasinscopeError(
            f"no model is behind {direction.label}", "allowed: to:MODEL, adapter:FOLDER and others"
        )
    if points < 2 or not 0.0 <= beyond < math.inf:
        raise BasinscopeError(
            f"points={points}, beyond={beyond}", "allowed: points >= 2, beyond >= 0"
        )
    last = points - 1
    return [end * k / last for k in range(points + math.ceil(beyond * last))]

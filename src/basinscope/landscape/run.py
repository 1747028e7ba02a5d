"""Plan the points of one-dimensional landscapes and have them measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from basinscope.directions import words
from basinscope.directions.base import Direction
from basinscope.errors import BasinscopeError, typed
from basinscope.landscape import rounds
from basinscope.landscape.design import (
    BUDGET_S,
    POINTS,
    PRECISION,
    Design,
    design,
    seconds_of,
)
from basinscope.landscape.edges import OUTCOMES, search
from basinscope.landscape.record import Landscape
from basinscope.runs.bench import Bench
from basinscope.runs.executor import recipe
from basinscope.runs.models import Model, check_folder, engine_of
from basinscope.runs.plan import check, units_at
from basinscope.runs.session import Progress, open_session
from basinscope.runs.spec import RunSpec, direction_labels, displacements
from basinscope.tasks.base import Task
from basinscope.tasks.words import tasks as tasks_of

SEARCH_DRAWS, GRID_POINTS = 12, 41


@typed
def landscape(
    model: Model,
    tasks: str | Task | Sequence[str | Task],
    *,
    directions: Sequence[str | Direction] = ("random",),
    steps: Sequence[float] | None = None,
    draws: int | None = None,
    budget: float | str | None = None,
    precision: float | None = None,
    grid: bool | int = False,
    outcomes: int = OUTCOMES,
    level: float = 0.5,
    plan: Design | None = None,
    run: str | Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Landscape:
    """Score tasks along directions, at explicit steps or where the edges are.

    Args:
        model: an engine, or what `basinscope.load` takes.
        tasks: words or objects, as in `basinscope.tasks`; all of them are scored at each setting of
            the weights.
        directions: words or objects, as in `basinscope.direction`.
        steps: signed positions alpha; 0 is always measured too. None finds each task's edge on
            both sides of zero, each point on as many items as decide it: see
            `basinscope.landscape.edges` and, for the error of the width, `Landscape.width`.
        draws: independent draws of each random direction, every one of which answers all items
            (in a search, as many of them as decide a point). None makes it a crossed design: as
            many draws as fit, each answering a few items of its own, which gives the narrowest
            intervals over directions, for all items (`basinscope.landscape.crossed`). A direction
            that is determined has one draw, whose items are the units.
        budget: of a crossed design: seconds for the whole, or a text such as "5m".
        precision: of a crossed design: half-width of the interval that is wanted at every point
            (in a search, at the points beside the edge). With neither, 5 minutes and 0.05,
            whichever comes first.
        grid: where the edges are searched, measure besides the full curve on all items: so many
            points on both sides out to twice the widest edge, zero included; True is 41.
        outcomes: where the edges are searched, the most answers of a task at one point over all
            draws. Those close to the edge take them all; the error of the estimated width goes
            down as their square root.
        level: where None is given for steps, the level whose crossing is sought (see `width`).
        plan: what `planned_design` gave for the same arguments; default it is made here.
        run: run folder; a folder with the same model and items is resumed and may grow.
        workers: processes to measure in, one thread each. None, which gives the same records and
            is faster, takes one for each core where words name model, tasks and directions and the
            model is on the CPU; else all is measured in this process.
        progress: see `Progress`.

    Returns:
        The landscape of everything that the run folder holds.

    Raises:
        BasinscopeError: nothing to measure, steps that are not finite, a foreign run folder, a
            disk that cannot be written.

    Guarantee: the same spec gives the same records whatever the workers and the order. How many
    items a draw of a crossed design answers is settled by timings, once, and kept in the spec: the
    same line in another folder may come to another number, unless it is given the same ``plan``.
    Cost: one pass over the weights and one evaluation of every task for each direction, draw and
    step that is not measured yet; in a search, about nine points on each side, most of them decided
    by 16 to 64 answers.
    """
    many = tasks_of(tasks)
    lines = words.directions(directions)
    check(many, lines, steps, 1 if draws is None else draws, level, workers)
    points = check_search(steps, grid, outcomes)
    seconds = check_crossed(lines, draws, budget, precision, outcomes, points)
    engine = engine_of(model, run)
    bench = Bench.of(engine, lines, many)
    explicit = None if steps is None else tuple(sorted({float(s) + 0.0 for s in steps} | {0.0}))
    if plan is None and is_crossed(lines, draws, steps):
        plan = planned_design(
            engine, many, lines, steps, budget=seconds, precision=precision,
            workers=workers if recipe(bench) is not None else 1, run=run,
        )  # fmt: skip
    shares = [(s.draws, s.items) for s in (plan.shares[t.name] for t in many)] if plan else []
    most = max((n for n, _ in shares), default=draws or 1)
    spec = RunSpec(
        kind="landscape",
        model=bench.model,
        tasks=bench.task_specs,
        directions=direction_labels(lines),
        draws=most,
        steps=explicit,
        level=level,
        displacements=displacements(engine, lines),
        crossed=plan.spec if plan else None,
    )
    slices = sum(direction.draws_among(most) for direction in lines)
    settings = len(explicit) - 1 if explicit is not None else 2
    with open_session(
        bench, spec, run, workers=workers, units=settings * slices + 1, progress=progress
    ) as session:
        if plan is not None:
            session.expect(plan.settings)
        alone = [d for d, line in enumerate(lines) if plan is None or line.draws_among(2) == 1]
        precise, late = (plan.precision, plan.late) if plan else (None, lambda: False)
        if explicit is not None:
            session.measure(units_at(bench, explicit if alone else [0.0], most, alone))
            rounds.measure(session, [s for s in explicit if s], shares, precise, late)
        else:
            edge = search(session, most, level, outcomes, shares, late)
            if points:
                session.measure(units_at(bench, full_curve(edge, points), most))
    store = session.store
    return Landscape(store.spec, store.trials(), store.set_aside)


def is_crossed(
    directions: Sequence[Direction], draws: int | None, steps: Sequence[float] | None
) -> bool:
    """Whether draws are as many as fit: where some direction has several, somewhere but at 0."""
    several = any(line.draws_among(2) > 1 for line in directions)
    return several and draws is None and (steps is None or any(steps))


def planned_design(
    model: Model,
    tasks: Sequence[Task],
    directions: Sequence[Direction],
    steps: Sequence[float] | None,
    *,
    budget: float | None = None,
    precision: float | None = None,
    workers: int | None = None,
    run: str | Path | None = None,
) -> Design:
    """The crossed design of a landscape, which its ``plan`` takes; see `landscape`.

    Cost: a few seconds of real answers.
    """
    if budget is None and precision is None:
        budget, precision = BUDGET_S, PRECISION
    begun = None if run is None else check_folder(run, "landscape")
    return design(
        engine_of(model), tasks, directions, steps, budget=budget, precision=precision,
        workers=workers, known=begun.crossed if begun else None,
    )  # fmt: skip


def check_crossed(
    directions: Sequence[Direction],
    draws: int | None,
    budget: float | str | None,
    precision: float | None,
    outcomes: int = OUTCOMES,
    grid: int = 0,
) -> float | None:
    """Refuse what a crossed design cannot keep to; return the budget in seconds."""
    several = any(line.draws_among(2) > 1 for line in directions)
    if (outcomes != OUTCOMES or grid) and draws is None and several:
        raise BasinscopeError(
            f"outcomes={outcomes}, grid={grid} without draws",
            "with so many draws, or along a direction that is determined",
            f"draws={SEARCH_DRAWS}, or a budget",
        )
    if isinstance(budget, str):
        budget = seconds_of(budget)
    if budget is not None and not 0 < budget < math.inf:
        raise BasinscopeError(f"budget={budget}", "seconds above 0, or 90s, 5m, 1.5h", "5m")
    if precision is not None and not 0 < precision < 0.5:
        raise BasinscopeError(f"precision={precision}", "a half-width between 0 and 0.5", "0.05")
    if budget is None and precision is None:
        return None
    if draws is not None:
        raise BasinscopeError(
            f"budget={budget}, precision={precision} with draws={draws}",
            "either so many draws, or as many as a budget or a precision takes",
            "leave out draws",
        )
    if not several:
        labels = ", ".join(line.label for line in directions)
        raise BasinscopeError(
            f"budget={budget}, precision={precision} along {labels}",
            "with a direction of several draws, such as random",
            "leave them out: a direction that is determined is measured on all items",
        )
    return budget


def check_search(steps: Sequence[float] | None, grid: bool | int, outcomes: int) -> int:
    """Refuse what a search cannot do; return how many points its full curve has, 0 for none."""
    points = GRID_POINTS if grid is True else int(grid)
    if points and (steps is not None or points < 3 or points % 2 == 0):
        raise BasinscopeError(
            f"grid={grid} with steps={None if steps is None else list(steps)}",
            "an odd number of points from 3 on, without steps: the edges say how far out",
            f"grid={GRID_POINTS}, or the steps alone",
        )
    if outcomes < 1 or (steps is not None and outcomes != OUTCOMES):
        raise BasinscopeError(
            f"outcomes={outcomes} with steps={None if steps is None else list(steps)}",
            "at least 1, and only where the edges are searched (no steps)",
            f"{OUTCOMES}",
        )
    return points


def full_curve(edge: float, points: int) -> list[float]:
    """Evenly spaced steps on both sides, zero included, out to twice an edge.

    >>> full_curve(0.02, 5)
    [-0.04, -0.02, 0.0, 0.02, 0.04]
    """
    half = points // 2
    return [float(f"{2 * edge * k / half:.3g}") for k in range(-half, half + 1)]


def planned(
    tasks: Sequence[Task], draws: Sequence[int], outcomes: int, grid: bool, sides: int = 2
) -> tuple[int, int]:
    """Settings of the weights and evaluations that a search will take, roughly.

    Args:
        tasks: tasks to score.
        draws: how many draws each direction has.
        outcomes: as in `landscape`.
        grid: as in `landscape`.
        sides: of zero that are searched.
    """
    sizes = [len(task.items) for task in tasks]
    settings, answers = 1 + sides * POINTS * sum(draws), sum(sizes)
    for own in draws:
        # as simulated (benchmarks/edges.py): draws that are the units need more answers to decide
        each = outcomes * (0.25 if own < 8 else 0.6)
        answers += sum(round(sides * POINTS * min(each, own * n)) for n in sizes)
    if grid:
        settings += (GRID_POINTS - 1) * sum(draws)
        answers += (GRID_POINTS - 1) * sum(draws) * sum(sizes)
    return settings, answers


def interpolation_steps(
    model: Model, direction: str | Direction, points: int, *, beyond: float = 0.25
) -> list[float]:
    r"""Steps from the model to the one that a direction was made from, and somewhat beyond.

    .. math:: \alpha_k = \alpha^* k / (\text{points} - 1), \qquad
              \alpha^* = \|\theta' - \theta_0\| / \sqrt{d}

    so that the landscape at step k is the linear interpolation
    :math:`(1 - t) \theta_0 + t \theta'`, t = k / (points - 1).

    Args:
        model: gives theta0; an engine, or what `basinscope.load` takes.
        direction: word or object; one that another model is behind, such as `Toward`.
        points: how many from 0 to alpha*, both included; at least 2.
        beyond: share of the way on which steps of the same length follow; 0 for none.

    Raises:
        BasinscopeError: fewer than two points, or no model behind the direction.
    """
    line = words.direction(direction)
    if points < 2 or not 0.0 <= beyond < math.inf:
        raise BasinscopeError(
            f"points={points}, beyond={beyond}", "points >= 2, beyond >= 0", "points=11, beyond=0"
        )
    end = line.sits_at(engine_of(model))
    if end is None:
        raise BasinscopeError(
            f"no model is behind {line.label}", "a direction with one", "to:MODEL or adapter:FOLDER"
        )
    last = points - 1
    return [end * k / last for k in range(points + math.ceil(beyond * last))]

"""What is measured, frozen and hashed: the run's spec, and the address of every trial.

An address hashes exactly what determines the outcome. Where two runs agree on that, they share the
record; what does not change an outcome (batch, workers, device, machine) does not stand in it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from basinscope.directions.base import Direction
from basinscope.engines.base import Engine
from basinscope.errors import BasinscopeError
from basinscope.tasks.base import Task, items_hash
from basinscope.weights import noise


class Frozen(BaseModel):
    """A record that never changes and knows no other fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    AfterValidator(lambda value: math.nan if math.isnan(value) else value),  # one NaN: == holds
    PlainSerializer(lambda value: value if math.isfinite(value) else None, when_used="json"),
]
"""A float that is null in JSON where it is not finite."""


class ModelSpec(Frozen):
    """The weights that are perturbed, and how answers are computed from them."""

    source: str  # as the user named it; not part of any address
    fingerprint: str  # sha256 of all live weights
    setup: str  # sha256 of what turns them into answers: structure, config, tokenizer, template
    dtype: str
    engine: str  # kind and version of the engine
    params: str | None  # regular expression of the selection
    selection: str  # sha256 of the selected names and shapes
    noise: str  # scheme
    d: int
    rms: float  # RMS(theta0) over the selection


class TaskSpec(Frozen):
    """A task and the sha256 of everything that it asks."""

    name: str
    chance: float
    scoring: str
    items: str
    n_items: int


class PlaneSpec(Frozen):
    """The plane of a surface, and the grid on it."""

    x: str  # label of the direction along x
    y: str  # and along y, of what of it is orthogonal to x where that was asked for
    cosine: float  # between the two
    xs: tuple[float, ...]
    ys: tuple[float, ...]


class CrossedSpec(Frozen):
    """How the answers of a crossed design are spent; see `basinscope.landscape.crossed`."""

    items: dict[str, int]  # of each task under a draw
    draws: dict[str, int]  # of each task at a step, at most
    budget: float | None  # seconds that were given for it
    precision: float | None  # half-width that was wanted at every point


class RunSpec(Frozen):
    """One line of the command line: model, tasks, directions and steps."""

    kind: str
    model: ModelSpec
    tasks: tuple[TaskSpec, ...]
    directions: tuple[str, ...]  # labels
    draws: int
    steps: tuple[float, ...] | None  # None: the edges are bracketed and bisected
    level: float
    displacements: dict[str, float] = {}  # ||theta' - theta0|| by label, where there is a theta'
    plane: PlaneSpec | None = None  # of a surface
    crossed: CrossedSpec | None = None  # of a landscape whose draws answer a few items each
    plan: dict[str, Any] = {}  # what a certificate fixed before sampling; see basinscope.certify

    @property
    def hash(self) -> str:
        """Sha256 of the canonical JSON; fields that came later count where they say something."""
        return sha256(self.model_dump(mode="json", exclude_defaults=True))


def model_spec(engine: Engine) -> ModelSpec:
    """Describe an engine under its present weights, which must be those it was loaded with."""
    engine.check_untouched()
    shapes = {name: tuple(shape) for name, shape in engine.shapes.items()}
    return ModelSpec(
        source=engine.source,
        fingerprint=engine.fingerprint(),
        setup=engine.setup(),
        dtype=engine.dtype,
        engine=engine.kind,
        params=engine.params,
        selection=sha256(shapes),
        noise=noise.SCHEME,
        d=engine.d,
        rms=engine.rms,
    )


def task_spec(task: Task) -> TaskSpec:
    """Describe a task.

    Raises:
        BasinscopeError: half a character in its name or an item's, which no table can hold.
    """
    try:
        "".join((task.name, *(item.id for item in task.items))).encode()
    except UnicodeEncodeError:
        raise BasinscopeError(
            f"half a character in the name of task {task.name!r:.80} or of one of its items",
            "text in Unicode",
            "another name",
        ) from None
    return TaskSpec(
        name=task.name,
        chance=task.chance,
        scoring=task.scoring,
        items=items_hash(task),
        n_items=len(task.items),
    )


MODEL = ("fingerprint", "setup", "selection", "dtype", "engine")
"""What of the model stands in every address."""


def trial_key(
    model: ModelSpec,
    task: TaskSpec,
    direction: str | None,
    draw: int,
    step: float,
    items: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Everything that determines a trial's outcome.

    Args:
        model: the engine's description.
        task: the task's description.
        direction: the direction's identity; None at step 0, where all directions are the same.
        draw: number of the independent direction; 0 at step 0.
        step: position on the slice.
        items: ids of the items that were answered, in the task's order; None for all of them.
    """
    assert (direction is None) == (step == 0.0)
    return {
        **({} if items is None else {"items": list(items)}),
        **{field: getattr(model, field) for field in MODEL},
        "task": task.model_dump(),
        "direction": direction,
        "draw": draw,
        "step": step,
    }


def sha256(value: Any) -> str:
    """Hash of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: Any) -> str:
    """JSON with sorted keys and without spaces: the same text for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def conflicts(old: RunSpec, new: RunSpec) -> list[str]:
    """Why two specs cannot share a run folder, in words; empty if they can.

    The steps, draws, directions and tasks of a landscape may grow, since every trial has its own
    address. The model, the items of a task, and what a certificate fixed before sampling may not
    change.
    """
    reasons = [] if old.kind == new.kind else [f"{old.kind} -> {new.kind}"]
    for name in sorted(old.plan.keys() | new.plan.keys()):
        if old.plan.get(name) != new.plan.get(name):
            reasons.append(f"{name} {old.plan.get(name)} -> {new.plan.get(name)}")
    for field in (*MODEL, "noise"):
        was, now = getattr(old.model, field), getattr(new.model, field)
        if was != now:
            most = 12 if len(was) == len(now) == 64 else None  # characters of a hash
            reasons.append(f"{field} {was[:most]} -> {now[:most]}")
    before = {task.name: task for task in old.tasks}
    for task in new.tasks:
        was_task = before.get(task.name)
        if was_task is not None and was_task != task:
            reasons.append(f"items of {task.name!r} ({was_task.n_items} -> {task.n_items})")
    # a plan of one draw has no design, and what it measured belongs to any
    if old.kind == new.kind == "landscape" and all(s.crossed or s.draws > 1 for s in (old, new)):
        were, are = (spec.crossed.items if spec.crossed else {} for spec in (old, new))
        reasons += [
            f"items of {name!r} under a draw ({were.get(name, 'all')} -> {are.get(name, 'all')})"
            for name in sorted(before.keys() & {task.name for task in new.tasks})
            if were.get(name) != are.get(name)
        ]
    axes = [(spec.plane.x, spec.plane.y) for spec in (old, new) if spec.plane]
    if len(set(axes)) > 1:
        reasons.append("plane of " + " -> ".join(" and ".join(pair) for pair in axes))
    for label, norm in new.displacements.items():
        was_norm = old.displacements.get(label, norm)
        if not math.isclose(was_norm, norm, rel_tol=1e-6):
            reasons.append(f"displacement of {label!r} {was_norm:.4g} -> {norm:.4g}")
    return reasons


def merged(old: RunSpec, new: RunSpec) -> RunSpec:
    """The new plan, with the tasks and directions that only the old one names kept."""

    def join(first: Sequence[Any], second: Sequence[Any]) -> tuple[Any, ...]:
        return (*first, *(x for x in second if x not in first))

    crossed = new.crossed
    if old.crossed and crossed:
        both = {name: {**getattr(old.crossed, name), **getattr(crossed, name)}
                for name in ("items", "draws")}  # fmt: skip
        crossed = crossed.model_copy(update=both)
    return new.model_copy(
        update={
            "crossed": crossed or old.crossed,
            "tasks": join(old.tasks, new.tasks),
            "directions": join(old.directions, new.directions),
            "draws": max(old.draws, new.draws) if new.plan else new.draws,
            "displacements": {**new.displacements, **old.displacements},
        }
    )


def displacements(engine: Engine, directions: Sequence[Direction]) -> dict[str, float]:
    """||theta' - theta0|| of the directions that another model is behind, by label."""
    for direction in directions:
        direction.fit(engine)
    norms = {direction.label: direction.displacement for direction in directions}
    return {label: norm for label, norm in norms.items() if norm is not None}


def direction_labels(directions: Sequence[Direction]) -> tuple[str, ...]:
    """Labels of the directions, which must differ: they name rows in every table."""
    return tuple(direction.label for direction in directions)

"""Worst-case directions: how near a collapse is if the direction is looked for.

``delta = argmax loss(theta0 + alpha delta)`` over ``||delta|| = sqrt(d)`` (worst-case in arXiv
2505.17646, section 3), by ascent on the sphere from several starts (`basinscope.attack.ascent`),
and the radius at which tasks collapse along it, on both sides (`basinscope.attack.collapse`).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from basinscope import points, stats
from basinscope.attack.ascent import Rules, State, Terrain, begin, climb
from basinscope.attack.collapse import Collapse, collapse_radius, read_collapse
from basinscope.attack.objective import Loss, Objective, Value, check, of, target
from basinscope.attack.proxy import Proxy, descend
from basinscope.attack.record import (
    COLLAPSE,
    DIRECTION,
    SPEC,
    AttackRecord,
    Folder,
    Kept,
    Start,
    read_header,
    read_record,
)
from basinscope.attack.vectors import InMemory, norm, views
from basinscope.directions.planes import Drawn
from basinscope.directions.saved import Saved, save_direction
from basinscope.engines.base import Engine
from basinscope.engines.loading import load
from basinscope.errors import BasinscopeError, nearest, typed
from basinscope.runs import header
from basinscope.runs.models import Model, engine_of
from basinscope.runs.session import Progress
from basinscope.runs.spec import sha256
from basinscope.runs.store import Store, versions
from basinscope.tasks.base import Task
from basinscope.tasks.words import tasks as tasks_of
from basinscope.weights import noise
from basinscope.weights.surroundings import fixed

__all__ = ["Attack", "Collapse", "Proxy", "Start", "attack", "collapse_radius"]

METHODS = {"pga": 200, "proxy": 10}
"""Ways to look for a worst direction, and how many gradients each takes by default."""

KEEP_EVERY_S = 60.0


@dataclass(frozen=True)
class Attack:
    """A worst direction that was found, and how far along it tasks hold.

    Attributes:
        direction: normalised to sqrt(d); a file if there is a run folder, else in memory.
        method: ``pga`` or ``proxy``.
        objective: name of what was attacked.
        level: fraction of the way down to chance that counts as collapse.
        loss_at_zero: the objective at theta0, in nats for tasks and texts.
        score_at_zero: its 0-1 score there; NaN where it has none.
        starts: what every start came to, with its trace.
        best: number of the start that the direction is from.
        collapse: bracket of the collapse radius of every measured task, on both sides.
    """

    direction: Saved | InMemory
    method: str
    objective: str
    level: float
    loss_at_zero: float
    score_at_zero: float
    starts: tuple[Start, ...]
    best: int
    collapse: tuple[Collapse, ...]

    @property
    def radius(self) -> float:
        """Norm of the displacement that the ascent ended with."""
        return self.starts[self.best].radius

    @property
    def loss(self) -> float:
        """The objective at that displacement."""
        return self.starts[self.best].loss

    @property
    def ended(self) -> tuple[str, ...]:
        """Why starts ended before their steps were used up."""
        return tuple(f"start {s.start}: {s.ended}" for s in self.starts if s.ended)

    def summary(self) -> dict[str, Any]:
        """Everything but the direction's tensors, in JSON's types."""
        return {
            "method": self.method,
            "objective": self.objective,
            "label": self.direction.label,
            "loss_at_zero": self.loss_at_zero,
            "score_at_zero": None if math.isnan(self.score_at_zero) else self.score_at_zero,
            "radius": self.radius,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "best": self.best,
            "starts": [start.model_dump(mode="json") for start in self.starts],
            "collapse": [edge.to_json() for edge in self.collapse],
        }


@typed
@fixed()
def attack(
    model: Model,
    objective: Task | str | Path | Loss,
    *,
    measure: str | Task | Sequence[str | Task] = (),
    steps: int | None = None,
    seed: int = 0,
    radius: float | None = None,
    starts: int = 2,
    method: str = "pga",
    inside: bool = False,
    limit: int = 48,
    level: float = 0.5,
    compute: str = "bfloat16",
    proxy: Proxy | None = None,
    run: str | Path | None = None,
    progress: Progress | None = None,
) -> Attack:
    r"""Look for the direction along which the objective's loss rises most, and measure it.

    .. math:: \delta^* = \arg\max_{\|\delta\|^2 = d} L(\theta_0 + \alpha \delta)

    (arXiv 2505.17646, section 3). Without ``radius`` the ascent looks for the smallest displacement
    :math:`\alpha \sqrt d` that collapses the objective's 0-1 score: it climbs at one radius until
    the score has collapsed there, shrinks the radius, and goes on from the same direction.

    Weights, direction and gradient are float32 (float64 for an engine in float64), and so is what
    the collapse radii are measured with. An engine in 16 bits is attacked through a copy in
    float32: in bfloat16 a displacement of less than half a unit in the last place of a weight (5e-4
    at 0.18) would be rounded away, and the ascent would be blind.

    Args:
        model: an engine, or what `basinscope.load` takes; a word is loaded in float32.
        objective: a task with reference answers, word or object (its cross-entropy is maximised),
            the path of a text file, or a function ``loss(module)`` that returns a scalar tensor.
        measure: further tasks, words or objects, whose collapse radius is measured along the
            direction.
        steps: gradients in all, shared by the starts (one that ends early leaves its steps to the
            next); default 200, 10 for the proxy.
        seed: of the Gaussian starts and of the sample that ``limit`` takes.
        radius: norm of the displacement. None: for tasks and texts the smallest one that collapses
            the score; for a function 0.01 ||theta0|| (sqrt(d) where theta0 is zero).
        starts: the first is the gradient at theta0, the others are Gaussian.
        method: ``pga`` (projected gradient ascent) or ``proxy`` (`basinscope.attack.Proxy`).
        inside: the ball of that radius instead of the sphere.
        limit: most items (blocks of 64 tokens, of a text) that each gradient is taken over. The
            other items (as many other blocks) are held out; both are measured.
        level: fraction of the way from the score at theta0 down to chance that counts as collapse.
        compute: what linear layers multiply in during the ascent on a task or text: ``float32``, or
            ``bfloat16`` with weights split in two, which loses no small displacement
            (`basinscope.attack.split`) and is faster where the processor multiplies bfloat16.
        proxy: settings of the proxy.
        run: run folder. Running the same call again resumes it, to the same bits on a CPU with the
            same number of threads; a folder of another attack is refused.
        progress: see `basinscope.landscape`.

    Returns:
        The direction, its collapse radii, and the trace of the ascent.

    Raises:
        BasinscopeError: no reference answers, a loss that does not depend on the weights or is not
            finite at theta0, numbers out of range, a foreign run folder, a disk that cannot be
            written.

    *Guarantee*: the collapse was measured at the upper end of every bracket. That the direction is
    the worst is not guaranteed: a local maximum gives an upper bound on the worst-case radius. On
    leaving, the engine's weights, gradients and ``requires_grad`` are what they were.
    *Cost*: ``steps`` forward and backward passes over the sampled items, and about 25 evaluations
    of each task for each sign; nine vectors of float32 as long as the weights.
    """
    attacked, further = checked(
        objective, measure, method=method, steps=steps, starts=starts, radius=radius, level=level,
        limit=limit, seed=seed, compute=compute,
    )  # fmt: skip
    total = METHODS[method] if steps is None else steps
    engine = engine_of(model, dtype="auto" if isinstance(model, nn.Module) else "float32")
    work = _exact(engine)
    goal = of(work, attacked, limit, seed, compute)
    settings = proxy or Proxy()
    spec: dict[str, Any] = {
        "kind": "attack/1",
        "method": method,
        "objective": goal.identity,
        "fingerprint": work.fingerprint(),
        "setup": work.setup(),
        "selection": sha256({name: list(shape) for name, shape in work.shapes.items()}),
        "dtype": work.dtype,
        "noise": noise.SCHEME,
        "steps": total,
        "seed": seed,
        "radius": radius,
        "starts": starts if method == "pga" else 1,
        "inside": inside,
        "level": level,
        "compute": compute,
        "proxy": asdict(settings) if method == "proxy" else None,
    }
    folder = Folder(run, spec)
    if folder.direction is None or not folder.direction.exists():
        terrain = Terrain(work, goal)
        zero = terrain.value(torch.zeros_like(terrain.g), 0.0)
        if not math.isfinite(zero.loss):
            raise BasinscopeError(
                f"the loss of {goal.name!r} at theta0 is {zero.loss}",
                "a finite loss at the weights themselves",
                "another objective, or compute float32",
            )
        after = _Teller(progress, total)
        if method == "proxy":
            kept = Kept()
            kept.finish(descend(terrain, settings, total, lambda state: after(state, 0)))
        else:
            rules = _rules(work, goal, zero, radius, inside, level)
            kept = _ascend(terrain, rules, total, starts, seed, folder, after)
        record = AttackRecord(
            spec=spec,
            model=engine.source,
            objective=goal.name,
            zero=(zero.loss, zero.score),
            best=kept.best,
            starts=tuple(kept.done),
            versions=versions(),
        )
        direction: Saved | InMemory = _kept(kept, work, method, record, folder)
    else:
        folder.forget()  # which a run that was killed here has left
        direction = Saved(str(folder.direction))
        record = read_record(direction)
    many = (*goal.tasks, *further)
    edges: tuple[Collapse, ...] = ()
    if many:
        near = record.starts[record.best].radius / math.sqrt(work.d)
        edges = collapse_radius(
            work,
            Drawn(direction, name="attack"),
            many,
            level=level,
            near=near,
            run=folder.trials,
            progress=progress,
        )
    return _attack(direction, record, edges)


def read_attack(folder: str | Path) -> Attack:
    """A finished attack from its run folder, without its model.

    The brackets are those that the search finds in the points that were measured.

    Raises:
        BasinscopeError: no attack there, or one that is not finished.
    """
    path = Path(folder)
    if not header.exists(path / SPEC):
        raise header.missing(path, "attack")
    read_header(path / SPEC)
    if not (path / DIRECTION).exists():
        raise BasinscopeError(
            f"the attack in {folder} is not finished",
            "an attack whose ascent has ended",
            "run the same line again: it resumes",
        )
    direction = Saved(str(path / DIRECTION))
    record = read_record(direction)
    edges: tuple[Collapse, ...] = ()
    if header.exists(path / COLLAPSE):
        edges = read_collapse(Store(path / COLLAPSE), record.starts[record.best].radius)
    return _attack(direction, record, edges)


def _attack(
    direction: Saved | InMemory, record: AttackRecord, collapse: tuple[Collapse, ...]
) -> Attack:
    return Attack(
        direction=direction,
        method=record.spec["method"],
        objective=record.objective,
        level=record.spec["level"],
        loss_at_zero=record.zero[0],
        score_at_zero=record.zero[1],
        starts=record.starts,
        best=record.best,
        collapse=collapse,
    )


def _ascend(
    terrain: Terrain,
    rules: Rules,
    total: int,
    starts: int,
    seed: int,
    folder: Folder,
    after: Callable[[State, int], None],
) -> Kept:
    """Climb from every start in turn; what is kept in between is enough to go on."""
    kept, said = folder.resume(terrain.g.device), time.monotonic()

    def step(state: State) -> None:
        nonlocal said
        after(state, sum(start.steps for start in kept.done))
        if time.monotonic() - said >= KEEP_EVERY_S:
            kept.state = state
            folder.keep(kept)
            said = time.monotonic()

    for number in range(len(kept.done), starts):
        left = total - sum(start.steps for start in kept.done)
        own = replace(rules, steps=left // (starts - number))
        # along a Gaussian direction the score collapses a thousand times farther out
        first = min((start.radius for start in kept.done if start.collapsed), default=None)
        state = kept.state or begin(terrain, own, number, seed, first)
        kept.finish(climb(terrain, own, state, step))
        folder.keep(kept)
    return kept


def _kept(
    kept: Kept, engine: Engine, method: str, record: AttackRecord, folder: Folder
) -> Saved | InMemory:
    """The best direction, in the run folder where there is one."""
    assert kept.winner is not None
    # the proxy ends at another set of weights; a radius of the ascent is a place, not a model
    displacement = kept.done[kept.best].radius if method == "proxy" else None
    scale = math.sqrt(engine.d) / norm(kept.winner)
    if folder.direction is None:
        return InMemory(views(kept.winner, engine), scale, displacement=displacement)
    tensors = views(kept.winner.mul_(scale), engine)
    kept_tensors = {name: t for name, t in tensors.items() if bool(t.any())}
    save_direction(
        folder.direction,
        kept_tensors,
        record.model_dump(mode="json"),
        displacement=displacement,
        zero=[name for name in tensors if name not in kept_tensors],
    )
    folder.forget()
    return Saved(str(folder.direction))


def _exact(engine: Engine) -> Engine:
    """The engine itself, or a copy of it in float32 where small displacements would be lost."""
    if engine.dtype in ("float32", "float64"):
        return engine
    module = copy.deepcopy(engine.module)
    return load(module, dtype="float32", params=engine.params, tokenizer=engine.tokenizer)


def _rules(
    engine: Engine,
    goal: Objective,
    zero: Value,
    radius: float | None,
    inside: bool,
    level: float,
) -> Rules:
    size = engine.rms * math.sqrt(engine.d)
    threshold = math.nan
    if math.isnan(zero.score):
        radius = radius or 0.01 * size or math.sqrt(engine.d)
    elif radius is None:
        if not zero.score > goal.chance:
            raise BasinscopeError(
                f"the score of {goal.name!r} at theta0 is {zero.score:.3g}, "
                f"not above chance ({goal.chance:g})",
                "a score above chance, which can collapse",
                "a radius, or another task",
            )
        threshold = stats.threshold(zero.score, goal.chance, level)
    return Rules(0, radius, inside, zero.loss, threshold, most=size, least=1e-6 * size)


class _Teller:
    """Tells the progress: gradients done and planned, and where the ascent is."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total = progress, total

    def __call__(self, state: State, before: int) -> None:
        _, size, loss, _ = state.trace[-1]
        points.send({"radius": size, "loss": loss}, before + state.steps)
        if self.progress is not None:
            what = f"radius {size:.3g}: loss {loss:.3f}"
            self.progress(before + state.steps, self.total, what)


def checked(
    objective: Task | str | Path | Loss, measure: str | Task | Sequence[str | Task], *,
    method: str, steps: int | None, starts: int, radius: float | None, level: float, limit: int,
    seed: int, compute: str, **options: Any,
) -> tuple[Task | Path | Loss, list[Task]]:  # fmt: skip
    """Refuse what is wrong without a model; give what is attacked, and what else is measured."""
    if method not in METHODS:
        raise BasinscopeError(f"method {method!r}", ", ".join(METHODS), nearest(method, METHODS))
    steps = METHODS[method] if steps is None else steps
    if starts < 1 or steps < (starts if method == "pga" else 1):  # the proxy has one start
        raise BasinscopeError(
            f"steps={steps}, starts={starts}",
            "at least one start, a step for each",
            f"steps={METHODS[method]}, starts=1",
        )
    if radius is not None and not 0 < radius < math.inf:
        raise BasinscopeError(
            f"radius={radius}",
            "a norm above 0, or None for the smallest radius that collapses the score",
            "leave radius out",
        )
    if not 0 < level < 1:
        raise BasinscopeError(f"level={level}", "between 0 and 1", "0.5")
    noise.stream("", seed, 0)
    attacked = target(objective, **options)
    check(attacked, limit, seed, compute)
    return attacked, tasks_of(measure, **options)

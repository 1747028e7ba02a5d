"""Ascent on the sphere: conjugate gradients along great circles, at an ever smaller radius.

With ``x`` on the unit sphere and f(x) = loss(theta0 + R x), a step goes along the great circle
``cos(a) x + sin(a) u``, u the conjugate direction of Polak and Ribiere made from projected
gradients (Smith 1994, "Optimization techniques on Riemannian manifolds"; Absil, Mahony and
Sepulchre 2008, chapter 8). The angle a follows the slopes at both ends of the last arc (secant); a
step that does not raise the loss is taken back and shortened. So the loss never falls, and each
step costs one gradient.

Where the objective has a 0-1 score, the radius is not given but found: at each radius the loss is
raised until the score has collapsed, then the radius shrinks and the ascent goes on from there.
What is found is a local maximum: an upper bound on the worst-case radius, no certificate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

import torch

from basinscope.attack.objective import Objective, Value
from basinscope.attack.vectors import InMemory, combine, dot, gaussian, norm, views
from basinscope.engines.base import Engine
from basinscope.weights import selection

FIRST_ANGLE, LAST_ANGLE, MOST_ANGLE = 0.3, 1e-4, 1.2
SHRINK = 0.75  # of the radius, once the score has collapsed there
STALL_STEPS, STALL_GAIN = 6, 0.02  # no collapse, and the loss's rise grows by less than that


@dataclass
class State:
    """Where one start is: everything that the next step depends on.

    ``x`` is the direction (norm 1; less inside a ball), ``u`` the unit search direction, ``r`` the
    last projected gradient, ``best`` the direction whose collapse was seen at the least radius.
    """

    start: int
    radius: float
    x: torch.Tensor
    u: torch.Tensor | None = None
    r: torch.Tensor | None = None
    best: torch.Tensor | None = None
    best_at: tuple[float, float, float] | None = None  # radius, loss and score of best
    loss: float = math.nan
    score: float = math.nan
    slope: float = 0.0
    length: float = 0.0  # of what u is the unit of
    angle: float = FIRST_ANGLE
    curved: bool = True  # the next arc stays on the sphere
    steps: int = 0
    rises: list[float] = field(default_factory=list)  # of the loss at this radius
    ended: str = ""
    trace: list[tuple[int, float, float, float]] = field(default_factory=list)

    def vectors(self) -> dict[str, torch.Tensor]:
        """What of it is as long as the weights."""
        tensors = {name: getattr(self, name) for name in ("x", "u", "r", "best")}
        return {name: value for name, value in tensors.items() if value is not None}

    def scalars(self) -> dict[str, object]:
        """The rest of it."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("x", "u", "r", "best")
        }


class Terrain:
    """Loss and gradient at theta0 + R x; leaves nothing behind in the module.

    Args:
        engine: in float32 (or float64): a small displacement must not be rounded away.
        objective: made for this engine.
    """

    def __init__(self, engine: Engine, objective: Objective) -> None:
        self.engine, self.objective = engine, objective
        self.g = torch.zeros(engine.d, device=engine.device)

    def value(self, x: torch.Tensor, radius: float) -> Value:
        """Loss and score at theta0 + radius x."""
        with self._at(x, radius):
            return self.objective.evaluate(False)

    def gradient(self, x: torch.Tensor, radius: float) -> Value:
        """Loss and score at theta0 + radius x; the gradient in theta is in ``g`` then."""
        self.g.zero_()
        with self._at(x, radius), _grads(self.engine, views(self.g, self.engine)):
            return self.objective.evaluate(True)

    @contextmanager
    def _at(self, x: torch.Tensor, radius: float) -> Iterator[None]:
        direction = InMemory(views(x, self.engine))
        with self.engine.at(direction, step=radius):
            yield


@contextmanager
def _grads(engine: Engine, targets: dict[str, torch.Tensor]) -> Iterator[None]:
    """Have gradients of the perturbed parameters, and of nothing else, written into the targets.

    On leaving, every parameter's ``requires_grad`` and ``grad`` are what they were.
    """
    every = list(engine.module.parameters())
    before = [(p, p.requires_grad, p.grad) for p in every]
    chosen = selection.checkpoint_parameters(engine.module)
    names = {_memory(p): name for name, p in chosen.items() if name in targets}
    try:
        for p in every:
            name = names.get(_memory(p))
            p.grad = None
            p.requires_grad_(name is not None)
            # the backward pass adds to what is there: no second copy of the gradient, and tied
            # parameters, also where they are two objects, add up
            if name is not None and _takes(p, targets[name]):
                p.grad = targets[name]
        yield
        for p in every:
            if p.grad is not None and not _takes(p, target := targets[names[_memory(p)]]):
                target.add_(p.grad.to(target.device))
    finally:
        for p, required, grad in before:
            p.grad = None
            p.requires_grad_(required)
            p.grad = grad


def _takes(p: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether a tensor can be a parameter's gradient."""
    return p.dtype == target.dtype and p.device == target.device


def _memory(p: torch.Tensor) -> tuple[object, ...]:
    return p.data_ptr(), p.shape, p.stride()


@dataclass(frozen=True)
class Rules:
    """What an ascent is told.

    Args:
        steps: gradients for each start.
        radius: norm of the displacement; None to look for the least one that collapses the score.
        inside: the ball instead of the sphere.
        zero_loss: loss at theta0.
        threshold: score below which the objective has collapsed.
        most: where the search for a first radius ends.
        least: and where it begins.
    """

    steps: int
    radius: float | None
    inside: bool
    zero_loss: float
    threshold: float
    most: float
    least: float


def begin(
    terrain: Terrain, rules: Rules, start: int, seed: int, first: float | None = None
) -> State:
    """Start 0 is the gradient at theta0, the others are Gaussian directions of the seed.

    Where the gradient at theta0 is zero, start 0 is Gaussian as well.

    Args:
        terrain: loss and gradient.
        rules: what to climb under.
        start: number of the start.
        seed: of the Gaussian directions.
        first: radius to begin at where none is given; None to double one until the score collapses.
    """
    x, steps = None, 0
    if start == 0:
        terrain.gradient(torch.zeros_like(terrain.g), 0.0)
        steps, size = 1, norm(terrain.g)
        if math.isfinite(size) and size > 0:
            x = terrain.g * (1 / size)
    if x is None:
        x = gaussian(terrain.engine, seed, start)
    radius = rules.radius or first
    if radius is None:
        radius = rules.least
        while radius < rules.most and not terrain.value(x, radius).score < rules.threshold:
            radius *= 2
    return State(start, radius, x, steps=steps)


def climb(
    terrain: Terrain, rules: Rules, state: State, after: Callable[[State], None] = lambda _: None
) -> State:
    """Go on from a state until the steps are used up or nothing rises any more.

    Args:
        terrain: loss and gradient.
        rules: what to climb under.
        state: from `begin`, or one that was saved.
        after: called after every step with the state as it then is.
    """
    while state.steps < rules.steps and not state.ended:
        if state.u is None:
            _arrive(terrain, rules, state)
        else:
            _step(terrain, rules, state)
        state.trace.append((state.steps, state.radius, state.loss, state.score))
        if rules.radius is None and not state.ended:
            _judge(rules, state)
        after(state)
    if rules.radius is None:
        _settle(terrain, rules, state)
    return state


def _judge(rules: Rules, state: State) -> None:
    """Shrink the radius where the score has collapsed; end where it will not."""
    if state.score < rules.threshold:
        state.best, state.best_at = state.x, (state.radius, state.loss, state.score)
        state.radius *= SHRINK
        state.u, state.angle = None, FIRST_ANGLE
        return
    recent = state.rises[-STALL_STEPS:]
    if len(recent) == STALL_STEPS and sum(recent) < STALL_GAIN * (state.loss - rules.zero_loss):
        state.ended = f"no collapse at radius {state.radius:.4g}"


def _settle(terrain: Terrain, rules: Rules, state: State) -> None:
    """The last direction instead of the best, if it collapses the score at a smaller radius."""
    if state.x is state.best or not math.isfinite(state.loss):
        return
    for share in (1.05, 1.1, 1.15, 1.2, 1.25, 1.3):
        radius = share * state.radius
        if state.best_at is not None and radius >= state.best_at[0]:
            return
        value = terrain.value(state.x, radius)
        if value.score < rules.threshold:
            state.best, state.best_at = state.x, (radius, value.loss, value.score)
            return


def _arrive(terrain: Terrain, rules: Rules, state: State) -> None:
    """Loss and first search direction at a radius that is new."""
    value = terrain.gradient(state.x, state.radius)
    state.steps += 1
    if not _finite(state, value, terrain.g):
        return
    state.loss, state.score, state.rises = value.loss, value.score, []
    whole = norm(terrain.g)
    r = _project(rules, state, terrain.g)
    size = norm(r)
    if size <= 1e-6 * whole:
        state.ended = "a stationary point: no direction raises the loss"
        return
    terrain.g = torch.empty_like(r) if state.r is None else state.r
    state.r, state.u = r, r * (1 / size)
    state.length = state.slope = size


def _step(terrain: Terrain, rules: Rules, state: State) -> None:
    """One arc; taken back and shortened if the loss does not rise."""
    assert state.u is not None
    a, cos, sin = state.angle, math.cos(state.angle), math.sin(state.angle)
    x = combine(cos, state.x.clone(), sin, state.u) if state.curved else state.x + a * state.u
    size = norm(x)
    if state.curved or size > 1:
        x.mul_(1 / size)
    value = terrain.gradient(x, state.radius)
    state.steps += 1
    if not _finite(state, value, terrain.g):
        return
    slope = dot(terrain.g, state.u)
    if state.curved:
        slope = cos * slope - sin * dot(terrain.g, state.x)
    gain = state.slope / (state.slope - slope) if slope < 0.9 * state.slope else 3.0
    if not value.loss > state.loss:
        state.angle = a * min(max(gain, 0.1), 0.5)
        if state.angle < LAST_ANGLE:
            state.ended = "the loss does not rise any more"
        return
    if state.curved:
        combine(cos, state.u, -sin, state.x)
    state.rises.append(value.loss - state.loss)
    state.x, state.loss, state.score = x, value.loss, value.score
    state.angle = min(a * min(max(gain, 0.3), 2.5), MOST_ANGLE)
    _turn(terrain, rules, state)


def _turn(terrain: Terrain, rules: Rules, state: State) -> None:
    """Next search direction: Polak-Ribiere, or the gradient where that does not rise."""
    assert state.u is not None
    assert state.r is not None
    was_curved = state.curved
    r = _project(rules, state, terrain.g)
    square = dot(r, r)
    if square == 0.0:
        state.ended = "a stationary point: no direction raises the loss"
        return
    beta = max(0.0, (square - dot(r, state.r)) / dot(state.r, state.r))
    if state.curved != was_curved:
        beta = 0.0
    # the two change places: vectors as long as the weights are what the memory goes into
    terrain.g, state.r = state.r, r
    combine(beta * state.length, state.u, 1.0, r)
    if state.curved:
        combine(1.0, state.u, -dot(state.u, state.x), state.x)
    state.length = norm(state.u)
    state.u.mul_(1 / state.length)
    state.slope = dot(r, state.u)
    if state.slope <= 0:
        state.length = state.slope = math.sqrt(square)
        state.u = r * (1 / state.length)


def _project(rules: Rules, state: State, g: torch.Tensor) -> torch.Tensor:
    """Make g the gradient along the sphere; all of it inside a ball, or where it points inwards."""
    along = dot(g, state.x)
    state.curved = not rules.inside or (norm(state.x) > 1 - 1e-6 and along > 0)
    return combine(1.0, g, -along, state.x) if state.curved else g


def _finite(state: State, value: Value, g: torch.Tensor) -> bool:
    """Whether loss and gradient are numbers; else the start ends with what it has."""
    good = math.isfinite(value.loss) and math.isfinite(norm(g))
    if not good:
        state.ended = f"the loss is not finite at radius {state.radius:.4g}; the last good is kept"
    return good

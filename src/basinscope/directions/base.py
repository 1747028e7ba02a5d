"""Directions in weight space: what the weights move along, one draw at a time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from basinscope.errors import BasinscopeError
from basinscope.weights import noise
from basinscope.weights.parts import Parts, Weights, shape_of


@runtime_checkable
class Direction(Protocol):
    """A family of directions delta, scaled so that ``E ||delta||^2 = d``.

    Beside these a direction may carry

    - ``identity``: a string that determines delta at the engine's theta0, or a function of the
      engine that gives it, for the address of its records; without it the bytes of delta are
      hashed;
    - ``draws``: how many independent draws it has; 1 where delta is determined, and without it any
      number;
    - ``displacement``: the norm ||theta' - theta0|| of what it was made from, None if of nothing;
    - ``fit(engine)``: called before each use with an engine; reads what it was made from, raises
      if that does not fit the engine, and returns at once if it has been fitted to this one;
    - ``parts(engine, name, draw)``: delta of one parameter piece by piece, see `Parts`, or None
      where it is zero; spares the memory of a whole tensor.
    """

    @property
    def label(self) -> str:
        """Word that names it in every table, as on the command line."""
        ...

    def delta(self, engine: Weights, name: str, draw: int = 0) -> torch.Tensor:
        """Direction of one parameter: float32, of that parameter's shape."""
        ...


@dataclass(frozen=True)
class Random:
    """Most-case direction: delta ~ N(0, I) per coordinate, raw (arXiv 2505.17646, section 3).

    Not filter-normalised, so that a step alpha is the standard deviation sigma of Gaussian weight
    noise. Draws of one seed are independent directions; see `noise.normals`.

    Args:
        seed: names the family.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a seed that names no stream."""
        noise.stream("", self.seed, 0)

    @property
    def label(self) -> str:
        """``random`` or ``random:SEED``, the word of the command line."""
        return "random" if self.seed == 0 else f"random:{self.seed}"

    @property
    def identity(self) -> str:
        """Noise scheme and seed."""
        return f"{noise.SCHEME} seed={self.seed}"

    @property
    def displacement(self) -> None:
        """A random direction comes from no other model."""
        return

    def delta(self, engine: Weights, name: str, draw: int = 0) -> torch.Tensor:
        """Standard normals of that parameter: float32, of its shape."""
        shape = shape_of(engine, name)
        return noise.normals(name, shape.numel(), seed=self.seed, draw=draw).reshape(shape)


def fit(direction: Direction, engine: Weights) -> None:
    """Have a direction read what it is made from, where it wants to; cheap the second time.

    Raises:
        BasinscopeError: if that cannot be read or does not fit the engine.
    """
    own = getattr(direction, "fit", None)
    if callable(own):
        own(engine)


def parts_of(direction: Direction, engine: Weights, name: str, draw: int) -> Parts | None:
    """Delta of one parameter piece by piece on the CPU or where theta0 lies; None where it is zero.

    Raises:
        BasinscopeError: if delta has another shape than the parameter.
    """
    shape = shape_of(engine, name)
    if type(direction) is Random:
        seed = direction.seed
        return lambda a, b: noise.normals(name, b - a, seed=seed, draw=draw, start=a)
    own = getattr(direction, "parts", None)
    if callable(own):
        found: Parts | None = own(engine, name, draw)
        return found
    delta = direction.delta(engine, name, draw)
    if delta.shape != shape:
        raise BasinscopeError(
            f"direction {direction.label!r} gives {name} the shape {tuple(delta.shape)}",
            f"the parameter has {tuple(shape)}",
            "is it made for another model?",
        )
    flat = delta.detach().to(torch.float32).reshape(-1)
    return lambda a, b: flat[a:b].clone()


def draws_of(direction: Direction, draws: int) -> int:
    """How many of so many draws are independent: one where delta is determined."""
    own = getattr(direction, "draws", None)
    return draws if own is None else min(draws, own)


def displacement(direction: Direction, engine: Weights) -> float | None:
    """||theta' - theta0|| over the selection (float64); None where no other model is behind it."""
    fit(direction, engine)
    return getattr(direction, "displacement", None)


def sits_at(direction: Direction, engine: Weights) -> float | None:
    """Step at which the other model itself sits on the slice: displacement / sqrt(d)."""
    norm = displacement(direction, engine)
    return None if norm is None else norm / math.sqrt(engine.d)


def identity(direction: Direction, engine: Weights, draw: int) -> str:
    """Text that determines delta: the direction's own, or a hash of its float32 bytes."""
    fit(direction, engine)
    own = getattr(direction, "identity", None)
    if callable(own):
        own = own(engine)
    if isinstance(own, str):
        return own
    digest = hashlib.sha256()
    for name in engine.shapes:
        delta = direction.delta(engine, name, draw).to(torch.float32).contiguous()
        digest.update(name.encode() + b"\0")
        digest.update(delta.cpu().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


Displacement = Callable[[str], Parts | None]
"""Gives theta' - theta0 of every perturbed parameter by name, piece by piece; None where zero."""


def held(tensors: Mapping[str, torch.Tensor]) -> Displacement:
    """Tensors in memory as a displacement; parameters that have none do not move."""

    def parts(name: str) -> Parts | None:
        if name not in tensors:
            return None
        flat = tensors[name].detach().reshape(-1)
        return lambda a, b: flat[a:b].to("cpu", torch.float32)

    return parts


def displacement_of(direction: Direction, engine: Weights) -> Displacement:
    """Displacement theta' - theta0 of a direction that another model is behind.

    Raises:
        BasinscopeError: no other model is behind it.
    """
    norm = displacement(direction, engine)
    if norm is None:
        raise BasinscopeError(
            f"direction {direction.label!r} has no displacement",
            "allowed: one that another model is behind (a checkpoint, an adapter)",
            "give the norm r itself: cert.verdict(0.02)",
        )
    scale = norm / math.sqrt(engine.d)

    def parts(name: str) -> Parts | None:
        found = parts_of(direction, engine, name, 0)
        return None if found is None else lambda a, b: found(a, b).mul_(scale).cpu()

    return parts

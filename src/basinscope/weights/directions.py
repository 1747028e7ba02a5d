"""Directions in weight space: what the weights move along, one draw at a time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from basinscope.errors import BasinscopeError
from basinscope.weights import noise


class Shapes(Protocol):
    """What a direction may ask of an engine: the selected parameters and their shapes."""

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shape of every perturbed parameter, by canonical name."""
        ...


@runtime_checkable
class Direction(Protocol):
    """A family of directions delta, scaled so that ``E ||delta||^2 = d``.

    Beside these a direction may carry ``identity`` (a string that determines delta, for the
    address of its records; without it the bytes of delta are hashed) and ``displacement`` (the
    norm of the displacement that it was made from).
    """

    @property
    def label(self) -> str:
        """Word that names it in every table, as on the command line."""
        ...

    def delta(self, engine: Shapes, name: str, draw: int = 0) -> torch.Tensor:
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

    def delta(self, engine: Shapes, name: str, draw: int = 0) -> torch.Tensor:
        """Standard normals of that parameter: float32, of its shape."""
        shape = shape_of(engine, name)
        return noise.normals(name, shape.numel(), seed=self.seed, draw=draw).reshape(shape)


def shape_of(engine: Shapes, name: str) -> torch.Size:
    """Shape of a perturbed parameter, or an error that lists some of the names."""
    try:
        return engine.shapes[name]
    except KeyError:
        some = ", ".join(list(engine.shapes)[:3])
        raise BasinscopeError(
            f"no perturbed parameter is called {name!r}", f"allowed: {some}, ..."
        ) from None


def identity(direction: Direction, engine: Shapes, draw: int) -> str:
    """Text that determines delta: the direction's own, or a hash of its float32 bytes."""
    own = getattr(direction, "identity", None)
    if isinstance(own, str):
        return own
    digest = hashlib.sha256()
    for name in engine.shapes:
        delta = direction.delta(engine, name, draw).to(torch.float32).contiguous()
        digest.update(name.encode() + b"\0")
        digest.update(delta.cpu().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def parse(word: str) -> Random:
    """Direction named by a word of the command line, ``random[:SEED]``.

    Raises:
        BasinscopeError: for an unknown word or a malformed seed.
    """
    kind, _, rest = word.partition(":")
    if kind != "random" or (":" in word and not (rest.isascii() and rest.isdigit())):
        raise BasinscopeError(
            f"direction {word!r}",
            "allowed: random or random:SEED with an integer seed",
            "for example -d random -d random:1",
        )
    return Random(int(rest or 0))

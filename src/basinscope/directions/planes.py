"""Angles between directions, planes that two of them span, and where models lie in a plane.

Everything is summed in float64, a few chunks of one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from basinscope.directions.base import Direction
from basinscope.directions.displaced import Displaced, Moves
from basinscope.directions.toward import Toward, weighted
from basinscope.errors import BasinscopeError
from basinscope.weights.parts import Device, Parts, Weights, chunks

PARALLEL = 1e-5  # a remainder below this share of sqrt(d) is rounding, not a direction


@dataclass(frozen=True)
class Drawn(Direction):
    """One draw of a family, as a direction of its own, perhaps by another name.

    Args:
        family: any direction.
        draw: number of the draw.
        name: its label; None for ``random#3``, or the family's own where it is draw 0.
    """

    family: Direction
    draw: int = 0
    name: str | None = None
    draws = 1

    @property
    def label(self) -> str:
        """Word that names it in every table; on the command line there is none."""
        number = f"#{self.draw}" if self.draw else ""
        return self.name or f"{self.family.label}{number}"

    def identity(self, engine: Weights, draw: int = 0) -> str:
        """Text that determines delta: for draw 0 the family's."""
        number = f" draw={self.draw}" if self.draw else ""
        return f"{self.family.identity(engine, self.draw)}{number}"

    def fit(self, engine: Weights) -> None:
        """Fit the family."""
        self.family.fit(engine)

    def parts(self, engine: Weights, name: str, draw: int, device: Device) -> Parts | None:
        """Delta of one parameter piece by piece."""
        self.check_draw(draw)
        return self.family.parts(engine, name, self.draw, device)


@dataclass(frozen=True)
class Orthogonal(Displaced):
    """What of a direction is orthogonal to another: ``b - (<a,b>/<a,a>) a``, scaled to sqrt(d).

    Args:
        b: the direction.
        a: what it is made orthogonal to.
    """

    b: Direction
    a: Direction

    @property
    def label(self) -> str:
        """``B_|_A``, which no word of the command line names."""
        return f"{self.b.label}_|_{self.a.label}"

    @property
    def displacement(self) -> None:
        """No model is behind a remainder."""
        return

    def _read(self, engine: Weights) -> Moves:
        gram = inner_products(engine, [self.a, self.b])
        share = float(gram[0, 1] / gram[0, 0])
        left = gram[1, 1] - share * gram[0, 1]
        if left < PARALLEL**2 * gram[1, 1]:
            raise BasinscopeError(
                f"{self.a.label} and {self.b.label} are parallel",
                "two directions that span a plane",
                "another direction for one axis",
            )
        return _Remainder(self.b, self.a, share, _pair_identity(engine, self.a, self.b))


@dataclass(frozen=True)
class _Remainder:
    b: Direction
    a: Direction
    share: float
    pair: str

    def parts(self, engine: Weights, name: str, device: Device) -> Parts | None:
        return _combined(engine, name, device, ((self.b, 1.0), (self.a, -self.share)))

    def identity(self) -> str:
        return f"orthogonal/1 {self.pair}"


@dataclass(frozen=True)
class Plane:
    """The plane theta0 + x a + y b.

    Args:
        a: first axis, any direction (draw 0; see `Drawn` for another).
        b: second axis.
        orthogonal: take of b what is orthogonal to a.
    """

    a: Direction
    b: Direction
    orthogonal: bool = False

    @property
    def axes(self) -> tuple[Direction, Direction]:
        """Directions of norm sqrt(d) (random ones: on average) along x and y."""
        return self.a, Orthogonal(self.b, self.a) if self.orthogonal else self.b

    def at(self, x: float, y: float) -> Point:
        """Point of the plane, as a direction to be taken at step 1.

        >>> from basinscope.directions.base import Random
        >>> Plane(Random(0), Random(1)).at(0.5, -0.25).label
        'plane:0.5,-0.25:random&random:1'
        """
        return Point(*self.axes, float(x), float(y))


@dataclass(frozen=True)
class Point(Direction):
    """delta = x a + y b, not rescaled: at step 1 the weights lie at (x, y) of the plane.

    Args:
        a: first axis.
        b: second axis.
        x: step along a.
        y: step along b.
    """

    a: Direction
    b: Direction
    x: float
    y: float
    draws = 1

    def __post_init__(self) -> None:
        """Refuse a point that is nowhere."""
        if not np.isfinite([self.x, self.y]).all():
            raise BasinscopeError(f"point ({self.x}, {self.y})", "finite coordinates", "0.01,0")

    @property
    def label(self) -> str:
        """``plane:0.5,-0.25:A&B``: a word from which a worker process can rebuild it."""
        return f"plane:{self.x!r},{self.y!r}:{self.a.label}&{self.b.label}"

    def identity(self, engine: Weights, draw: int = 0) -> str:
        """Text that determines delta."""
        return f"plane/1 {_pair_identity(engine, self.a, self.b)} x={self.x!r} y={self.y!r}"

    def fit(self, engine: Weights) -> None:
        """Fit both axes."""
        self.a.fit(engine)
        self.b.fit(engine)

    def parts(self, engine: Weights, name: str, draw: int, device: Device) -> Parts | None:
        """Delta of one parameter piece by piece."""
        self.check_draw(draw)
        return _combined(engine, name, device, ((self.a, self.x), (self.b, self.y)))


class Projection(NamedTuple):
    """Where a model lies in a plane, and how far off it."""

    x: float
    y: float
    residual: float  # ||Delta - x a - y b||, in the units of a weight


def inner_products(engine: Weights, directions: Sequence[Direction]) -> npt.NDArray[np.float64]:
    """Gram matrix <delta_i, delta_j> over the selection, float64; draw 0 of each."""
    for direction in directions:
        direction.fit(engine)
    gram = torch.zeros(len(directions), len(directions), dtype=torch.float64)
    for rows in _stacked(engine, directions):
        gram += rows @ rows.T
    return gram.numpy()


def cosines(engine: Weights, directions: Sequence[Direction]) -> npt.NDArray[np.float64]:
    """Cosines between directions over the selection: symmetric, ones on the diagonal.

    Two independent random directions have a cosine of 0 within about 1/sqrt(d).

    Args:
        engine: its selection and theta0.
        directions: draw 0 of each is taken; see `Drawn` for another.

    Raises:
        BasinscopeError: none given, or one that does not fit or is zero.

    *Cost*: one pass over each direction.
    """
    if not directions:
        raise BasinscopeError("cosines of no direction", "at least one", "random")
    gram = inner_products(engine, directions)
    norms = np.sqrt(np.diagonal(gram))
    for direction, norm in zip(directions, norms, strict=True):
        if not norm > 0:
            raise BasinscopeError(
                f"{direction.label} is zero or not finite",
                "a finite one, not zero",
                "another direction",
            )
    table: npt.NDArray[np.float64] = np.clip(gram / np.outer(norms, norms), -1.0, 1.0)
    np.fill_diagonal(table, 1.0)
    return table


def cosine(a: Direction, b: Direction, engine: Weights) -> float:
    """Cosine of the angle between two directions, see `cosines`."""
    return float(cosines(engine, [a, b])[0, 1])


def project(engine: Weights, plane: Plane, model: Direction | str) -> Projection:
    """Point of the plane that is nearest to a model, by least squares, and its distance from there.

    Args:
        engine: gives theta0.
        plane: its axes need not be orthogonal.
        model: a direction that another model is behind, or a checkpoint as in `Toward`.

    Raises:
        BasinscopeError: a model that does not fit, a direction that no model is behind, or axes
            that are parallel.

    *Cost*: two passes over the model and both axes.
    """
    line: Direction = Toward(model) if isinstance(model, str) else model
    reach = line.sits_at(engine)
    if reach is None:
        raise BasinscopeError(
            f"no model is behind {line.label}",
            "a direction that another model is behind",
            "to:MODEL, adapter:FOLDER or quantised:BITS",
        )
    gram = inner_products(engine, [*plane.axes, line])
    if np.linalg.cond(gram[:2, :2]) > PARALLEL**-2:
        raise BasinscopeError(
            f"{plane.a.label} and {plane.b.label} are parallel",
            "two directions that span a plane",
            "another direction for one axis",
        )
    x, y = np.linalg.solve(gram[:2, :2], reach * gram[:2, 2])
    share = torch.tensor([-x, -y, reach], dtype=torch.float64)
    left = sum(
        float((share @ rows).square().sum()) for rows in _stacked(engine, [*plane.axes, line])
    )
    return Projection(float(x), float(y), left**0.5)


def _stacked(engine: Weights, directions: Sequence[Direction]) -> Iterator[torch.Tensor]:
    """Rows of float64, one for each direction, chunk by chunk over the selection."""
    for name, shape in engine.shapes.items():
        deltas = [direction.parts(engine, name, 0, "cpu") for direction in directions]
        for start, stop in chunks(shape.numel()) if any(deltas) else ():
            rows = torch.zeros(len(deltas), stop - start, dtype=torch.float64)
            for row, parts in zip(rows, deltas, strict=True):
                if parts is not None:
                    row.copy_(parts(start, stop))
            yield rows


def _combined(
    engine: Weights,
    name: str,
    device: Device,
    terms: Sequence[tuple[Direction, float]],
) -> Parts | None:
    """Sum of directions times numbers, float32; None where all are zero."""
    deltas = [(d.parts(engine, name, 0, device), factor) for d, factor in terms if factor]
    moving = [(parts, factor) for parts, factor in deltas if parts is not None]
    return weighted(*zip(*moving, strict=True)) if moving else None


def _pair_identity(engine: Weights, a: Direction, b: Direction) -> str:
    return f"({a.identity(engine)}) ({b.identity(engine)})"

"""Directions made from a displacement: toward another model, along an adapter, a saved one."""

from __future__ import annotations

import abc
import math
import weakref
from dataclasses import dataclass
from typing import Protocol

import torch

from basinscope.errors import BasinscopeError
from basinscope.weights.parts import Parts, Weights, chunks, shape_of, whole


class Moves(Protocol):
    """A displacement Delta = theta' - theta0 over an engine's selection."""

    def parts(self, engine: Weights, name: str) -> Parts | None:
        """Delta of one parameter piece by piece; None where it is zero."""
        ...

    def identity(self) -> str:
        """Text that determines Delta, given theta0."""
        ...


@dataclass
class Fitted:
    """What a direction has found out about itself and one engine."""

    engine: weakref.ref[Weights]
    moves: Moves
    norm: float
    zero: frozenset[str]
    identity: str | None = None


class Displaced(abc.ABC):
    """The one direction of a displacement: delta = sqrt(d) Delta / ||Delta||.

    Subclasses are frozen dataclasses of what names the displacement, and say how to read it
    (`_read`). What is read is kept for the engine it was last used with.

    *Guarantee*: ||delta|| = sqrt(d) up to float32 rounding of its elements; the norm is taken in
    float64.
    *Cost*: one pass over the displacement when fitted, one in each ``at``; memory for a few chunks
    of one tensor, never a copy of the weights, unless a subclass says otherwise.
    """

    draws = 1
    _fitted: Fitted | None = None

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """Word that names it in every table, as on the command line."""

    @abc.abstractmethod
    def _read(self, engine: Weights) -> Moves:
        """Open what the displacement is read from, and check that it fits the engine."""

    @property
    def displacement(self) -> float | None:
        """||theta' - theta0||, float64, over the selection of the last engine; None before."""
        return None if self._fitted is None else self._fitted.norm

    @property
    def identity(self) -> str | None:
        """Text that determines delta at the last engine's theta0; None before."""
        fitted = self._fitted
        if fitted is None:
            return None
        if fitted.identity is None:
            fitted.identity = fitted.moves.identity()
        return fitted.identity

    def fit(self, engine: Weights) -> None:
        """Read the displacement and measure it; returns at once if that was done for this engine.

        Raises:
            BasinscopeError: if it cannot be read, does not fit, is not finite, or is zero.
        """
        if self._fitted is not None and self._fitted.engine() is engine:
            return
        moves = self._read(engine)
        square, zero = 0.0, set()
        for name, shape in engine.shapes.items():
            parts = moves.parts(engine, name)
            ranges = chunks(shape.numel()) if parts is not None else ()
            own = sum(_square(parts(*part)) for part in ranges)  # type: ignore[misc]
            if not math.isfinite(own):
                raise BasinscopeError(
                    f"{self.label}: {name} is not finite (NaN or infinity)",
                    "every weight must be a finite number",
                    "the run that wrote it diverged, or the file is damaged",
                )
            square += own
            if own == 0.0:
                zero.add(name)
        if square == 0.0:
            raise BasinscopeError(
                f"{self.label} has the same weights as the model",
                "a direction needs a displacement that is not zero",
                "check the paths, the dtype and params",
            )
        # the one state of a frozen value: what it found when it was last used
        found = Fitted(weakref.ref(engine), moves, math.sqrt(square), frozenset(zero))
        object.__setattr__(self, "_fitted", found)

    def parts(self, engine: Weights, name: str, draw: int = 0) -> Parts | None:
        """Delta of one parameter piece by piece, float32; None where it is zero."""
        if draw != 0:
            raise BasinscopeError(
                f"draw={draw} of {self.label}", "it has one draw, draw=0: there is nothing random"
            )
        shape_of(engine, name)
        self.fit(engine)
        assert self._fitted is not None
        raw = self._fitted.moves.parts(engine, name)
        if raw is None or name in self._fitted.zero:
            return None
        scale = math.sqrt(engine.d) / self._fitted.norm
        return lambda start, stop: raw(start, stop).mul_(scale)

    def delta(self, engine: Weights, name: str, draw: int = 0) -> torch.Tensor:
        """Direction of one parameter: float32, of that parameter's shape."""
        return whole(self.parts(engine, name, draw), shape_of(engine, name))


def _square(part: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2

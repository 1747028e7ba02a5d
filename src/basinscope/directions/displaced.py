"""Directions made from a displacement: toward another model, along an adapter, a saved one."""

from __future__ import annotations

import abc
import math
import weakref
from dataclasses import dataclass
from typing import Protocol

import torch

from basinscope.directions.base import Direction
from basinscope.errors import BasinscopeError
from basinscope.weights.checkpoints import opened
from basinscope.weights.parts import Device, Parts, Weights, chunks, shape_of
from basinscope.weights.surroundings import fixed

OMITTED = 0.1  # of the parameters of matrices: a direction that leaves out more says so


class Moves(Protocol):
    """A displacement Delta = theta' - theta0 over an engine's selection."""

    def parts(self, engine: Weights, name: str, device: Device) -> Parts | None:
        """Delta of one parameter piece by piece, on a device; None where it is zero."""
        ...

    def identity(self) -> str:
        """Text that determines Delta, given theta0."""
        ...


@dataclass
class Fitted:
    """What a direction has read, for one engine."""

    engine: weakref.ref[Weights]
    moves: Moves
    norm: float
    zero: frozenset[str]
    omits: str
    identity: str | None = None


class Displaced(Direction):
    """The one direction of a displacement: delta = sqrt(d) Delta / ||Delta||.

    Subclasses are frozen dataclasses of what names the displacement, and say how to read it
    (`_read`). What is read is kept for the engine it was last used with.

    Attributes:
        share_of_theta0: how often theta0 is subtracted from weights that were trained elsewhere.

    *Guarantee*: ||delta|| = sqrt(d) up to float32 rounding of its elements; the norm is taken in
    float64.
    *Cost*: one pass over the displacement when fitted, one in each ``at``; memory for a few chunks
    of one tensor, never a copy of the weights, unless a subclass says otherwise.
    """

    draws = 1
    share_of_theta0 = 0.0
    _fitted: Fitted | None = None

    @abc.abstractmethod
    def _read(self, engine: Weights) -> Moves:
        """Open what the displacement is read from, and check that it fits the engine."""

    @property
    def displacement(self) -> float | None:
        """||theta' - theta0||, float64, over the selection of the last engine; None before."""
        return None if self._fitted is None else self._fitted.norm

    @property
    def omits(self) -> str:
        """What of the matrices it leaves where it is, if more than a tenth: one line, or empty."""
        return "" if self._fitted is None else self._fitted.omits

    @fixed()
    def fit(self, engine: Weights) -> None:
        """Read the displacement and measure it; returns at once if that was done for this engine.

        Raises:
            BasinscopeError: if it cannot be read, does not fit, is not finite, or is zero; or if
                much of it is what rounding the model on loading has done.
        """
        if self._fitted is not None and self._fitted.engine() is engine:
            return
        moves = self._read(engine)
        square, zero = 0.0, set()
        for name, shape in engine.shapes.items():
            device = engine.pristine(name).device
            parts = moves.parts(engine, name, device)
            ranges = chunks(shape.numel(), device) if parts is not None else ()
            term = sum(_square(parts(*part)) for part in ranges)  # type: ignore[misc]
            if not math.isfinite(term):
                raise BasinscopeError(
                    f"{self.label}: {name} is not finite (NaN or infinity)",
                    "finite weights",
                    "another checkpoint: its run diverged, or the file is damaged",
                )
            square += term
            if term == 0.0:
                zero.add(name)
        if square == 0.0:
            raise BasinscopeError(
                f"{self.label} has the same weights as the model",
                "a displacement that is not zero",
                "check the paths, the dtype and params",
            )
        if self.share_of_theta0:
            check_rounding(self.label, engine, moves, self.share_of_theta0, math.sqrt(square))
        # the one state of a frozen value: what it has read of the last engine
        omits = _omits(self.label, engine, zero)
        fitted = Fitted(weakref.ref(engine), moves, math.sqrt(square), frozenset(zero), omits)
        object.__setattr__(self, "_fitted", fitted)

    def identity(self, engine: Weights, draw: int = 0) -> str:
        """Text of what the displacement is read from, without its norm."""
        self.fit(engine)
        assert self._fitted is not None
        if self._fitted.identity is None:
            self._fitted.identity = self._fitted.moves.identity()
        return self._fitted.identity

    def parts(self, engine: Weights, name: str, draw: int, device: Device) -> Parts | None:
        """Delta of one parameter piece by piece, float32, on a device; None where it is zero."""
        self.check_draw(draw)
        shape_of(engine, name)
        self.fit(engine)
        assert self._fitted is not None
        raw = self._fitted.moves.parts(engine, name, device)
        if raw is None or name in self._fitted.zero:
            return None
        scale = math.sqrt(engine.d) / self._fitted.norm
        return lambda start, stop: raw(start, stop).mul_(scale)


def check_rounding(label: str, engine: Weights, moves: Moves, share: float, norm: float) -> None:
    """Refuse a displacement that is shorter from theta0 as it is stored, before it was rounded.

    One from the rounded theta0 itself, where a fine-tune began, is the longer from the stored one.

    Raises:
        BasinscopeError: by more than one part in a hundred.

    Cost: one more pass over displacement and model, where loading has rounded the model.
    """
    if engine.origin is None:
        return
    shelf, names = opened(engine.origin, engine.origin, engine)
    rounded = {
        shelf.entries[key].dtype
        for name, key in names.items()
        if torch.promote_types(shelf.entries[key].dtype, engine.pristine(name).dtype)
        != engine.pristine(name).dtype
    }
    if not rounded:
        return
    square = 0.0
    for name, shape in engine.shapes.items():
        theta = engine.pristine(name).reshape(-1)
        parts = moves.parts(engine, name, theta.device)
        for start, stop in chunks(shape.numel(), theta.device):
            stored = shelf.read(names[name], start, stop).to(theta.device, torch.float64)
            part = stored.sub_(theta[start:stop]).mul_(-share)
            square += _square(part if parts is None else part.add_(parts(start, stop)))
    if norm > 1.01 * math.sqrt(square):
        wide = "+".join(sorted(str(dtype).removeprefix("torch.") for dtype in rounded))
        live = "+".join(sorted({str(engine.pristine(n).dtype)[6:] for n in engine.shapes}))
        raise BasinscopeError(
            f"{label} is {math.sqrt(square):.4g} away from the model as it is stored ({wide}), "
            f"and {norm:.4g} from it as it was loaded ({live})",
            "at most 1% more from the model's own rounding",
            "load the model with --dtype float32",
        )


def _omits(label: str, engine: Weights, zero: set[str]) -> str:
    sizes = {n: shape.numel() for n, shape in engine.shapes.items() if len(shape) > 1}
    left = {name: size for name, size in sizes.items() if name in zero}
    n, whole = sum(left.values()), sum(sizes.values())
    if n <= OMITTED * whole:
        return ""
    return (
        f"{label} leaves {n:,} of {whole:,} parameters of matrices where they are "
        f"({n / whole:.0%}; the largest: {max(left, key=left.__getitem__)})"
    )


def _square(part: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2

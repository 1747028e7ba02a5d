"""Directions in weight space: what the weights move along, one draw at a time."""

from __future__ import annotations

import abc
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from basinscope.errors import BasinscopeError
from basinscope.weights import noise
from basinscope.weights.kernels import add_parts
from basinscope.weights.parts import Device, Parts, Weights, shape_of, whole

Displacement = Callable[[str], Parts | None]
"""Gives theta' - theta0 of every perturbed parameter by name, piece by piece on the CPU; None where
zero."""


def held(tensors: Mapping[str, torch.Tensor]) -> Displacement:
    """Tensors in memory as a displacement; parameters that have none do not move."""

    def parts(name: str) -> Parts | None:
        if name not in tensors:
            return None
        flat = tensors[name].detach().reshape(-1)
        return lambda a, b: flat[a:b].to("cpu", torch.float32)

    return parts


class Direction(abc.ABC):
    """A family of directions delta, scaled so that ``E ||delta||^2 = d``.

    A subclass has a `label` and one of `delta` and `parts`, from which the other follows. The rest
    has defaults.

    Attributes:
        draws: how many independent draws it has; None for any number, 1 where delta is determined.

    >>> class Ones(Direction):
    ...     label, draws = "ones", 1
    ...     def delta(self, engine, name, draw=0):
    ...         return torch.ones(engine.shapes[name])
    """

    draws: int | None = None

    def __init_subclass__(cls) -> None:
        """Refuse a class that never says what delta is."""
        super().__init_subclass__()
        if cls.delta is Direction.delta and cls.parts is Direction.parts:
            raise BasinscopeError(
                f"{cls.__name__}, a direction that has neither `delta` nor `parts`",
                "a subclass of Direction with one of them",
                "define one: the other follows",
            )

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """Word that names it in every table, as on the command line."""

    @property
    def displacement(self) -> float | None:
        """||theta' - theta0|| of the model it was made from, float64; None if of none.

        Known once it has been fitted to an engine.
        """
        return None

    @property
    def omits(self) -> str:
        """What of the matrices it leaves where it is, if more than a tenth: one line, or empty.

        Known once it has been fitted to an engine.
        """
        return ""

    def fit(self, engine: Weights) -> None:  # noqa: B027 (most have nothing to read)
        """Read what it is made from; called before each use, so cheap the second time.

        Raises:
            BasinscopeError: if that cannot be read or does not fit the engine.
        """

    def delta(self, engine: Weights, name: str, draw: int = 0) -> torch.Tensor:
        """Direction of one parameter: float32, of that parameter's shape, on the CPU."""
        return whole(self.parts(engine, name, draw, "cpu"), shape_of(engine, name))

    def parts(self, engine: Weights, name: str, draw: int, device: Device) -> Parts | None:
        """Delta of one parameter piece by piece, on a device; None where it is zero.

        Raises:
            BasinscopeError: if delta has another shape than the parameter.
        """
        delta, shape = self.delta(engine, name, draw), shape_of(engine, name)
        if delta.shape != shape:
            raise BasinscopeError(
                f"direction {self.label!r} gives {name} the shape {tuple(delta.shape)}",
                f"the parameter's own, {tuple(shape)}",
                "a direction of this model",
            )
        flat = delta.detach().to(device, torch.float32).reshape(-1)
        return lambda a, b: flat[a:b].clone()

    def perturb(
        self, engine: Weights, name: str, draw: int, step: float, live: torch.Tensor
    ) -> bool:
        """Write ``round(theta0 + step * delta)`` of one parameter into ``live``.

        Returns:
            Whether it was written: where delta is zero ``live`` is left as it is.

        Raises:
            BasinscopeError: if delta has another shape or is not finite.
        """
        parts = self.parts(engine, name, draw, live.device)
        if parts is None:
            return False
        if not add_parts(engine.pristine(name), live, step, parts):
            raise BasinscopeError(
                f"the direction of {name} is not finite (NaN or infinity)",
                "finite numbers",
                "another",
            )
        return True

    def identity(self, engine: Weights, draw: int = 0) -> str:
        """Text that determines delta at the engine's theta0, for the address of its records.

        By default a hash of the bytes of delta, which a subclass saves by knowing better.
        """
        self.fit(engine)
        digest = hashlib.sha256()
        for name in engine.shapes:
            delta = self.delta(engine, name, draw).to(torch.float32).contiguous()
            digest.update(name.encode() + b"\0")
            digest.update(delta.cpu().numpy().tobytes())
        return f"sha256:{digest.hexdigest()}"

    def draws_among(self, draws: int) -> int:
        """How many of so many draws are independent."""
        return draws if self.draws is None else min(draws, self.draws)

    def check_draw(self, draw: int) -> None:
        """Refuse a draw that there is not.

        Raises:
            BasinscopeError: it is none of `draws`.
        """
        if self.draws is not None and not 0 <= draw < self.draws:
            allowed = "0, its only draw" if self.draws == 1 else f"0 to {self.draws - 1}"
            raise BasinscopeError(f"draw={draw} of {self.label}", allowed, "draw=0")

    def sits_at(self, engine: Weights) -> float | None:
        """Step at which the other model itself sits on the slice, displacement / sqrt(d)."""
        self.fit(engine)
        return None if self.displacement is None else self.displacement / math.sqrt(engine.d)

    def as_displacement(self, engine: Weights) -> Displacement:
        """Displacement theta' - theta0 of the model that it was made from.

        Raises:
            BasinscopeError: no other model is behind it.
        """
        scale = self.sits_at(engine)
        if scale is None:
            raise BasinscopeError(
                f"direction {self.label!r} has no displacement",
                "one that another model is behind (a checkpoint, an adapter)",
                "give the norm r itself: cert.verdict(0.02)",
            )

        def parts(name: str) -> Parts | None:
            delta = self.parts(engine, name, 0, "cpu")
            return None if delta is None else lambda a, b: delta(a, b).mul_(scale)

        return parts


@dataclass(frozen=True)
class Random(Direction):
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

    def identity(self, engine: Weights, draw: int = 0) -> str:
        """Noise scheme and seed."""
        return f"{noise.SCHEME} seed={self.seed}"

    def std(self, engine: Weights, name: str) -> float:
        """Standard deviation of delta on one parameter."""
        return 1.0

    def parts(self, engine: Weights, name: str, draw: int, device: Device) -> Parts | None:
        """Normals of that parameter, made where they are wanted."""
        shape_of(engine, name)
        seed, std = self.seed, self.std(engine, name)
        if std == 0.0:
            return None
        return lambda a, b: noise.normals(
            name, b - a, seed=seed, draw=draw, start=a, device=device
        ).mul_(std)

    def perturb(
        self, engine: Weights, name: str, draw: int, step: float, live: torch.Tensor
    ) -> bool:
        """The same in one pass where there is a kernel, which never holds delta."""
        theta, std = engine.pristine(name), self.std(engine, name)
        if std and noise.takes(theta, live):
            old, new = theta.view(-1), live.view(-1)
            noise.perturb(old, new, step, name, seed=self.seed, draw=draw, std=std)
            return True
        return super().perturb(engine, name, draw, step, live)

r"""Geometries of Gaussian noise: which directions it takes, and how far a displacement is in them.

A geometry is a covariance Sigma, of the selected parameters, up to the factor sigma^2 that a
certificate adds. Its noise at sigma = 1 is N(0, Sigma); a displacement Delta has the norm
:math:`r = \lVert \Sigma^{-1/2} \Delta \rVert`, infinite if Delta leaves the range of Sigma. The
certified sets :math:`r \le R` are ellipsoids, perhaps flat ones (`subspaces`, `factors`).

A certificate holds for a geometry that was fixed before its noise was drawn, and then for all
displacements, also those found later.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch

from basinscope.directions.base import Direction, Displacement, Random, held
from basinscope.errors import BasinscopeError
from basinscope.weights import noise
from basinscope.weights.parts import Device, Parts, Weights, chunks, shape_of
from basinscope.weights.selection import compiled

ROUNDING = 1e-3
"""A displacement has left a subspace once more than this share of its norm lies outside, or more
than float32 rounding amounts to (`has_left`).

Rounding of a checkpoint to bfloat16 leaves as much as a fine-tune moves, so that a rounded
checkpoint cannot be told from one that has left.
"""

GREATEST_SCALE = 1e37


@dataclass(frozen=True)
class Distance:
    """Norm of a displacement in a geometry.

    Args:
        r: the norm at sigma = 1; infinite if the displacement leaves the geometry.
        inside: Euclidean norm of its part in the range of the noise.
        outside: Euclidean norm of the rest, which no certificate of this geometry covers.
    """

    r: float
    inside: float
    outside: float


@runtime_checkable
class Geometry(Protocol):
    """A covariance of the weight noise, fixed beforehand."""

    @property
    def label(self) -> str:
        """Word that names it on the command line (`basinscope.geometries.words`)."""
        ...

    @property
    def identity(self) -> str:
        """Text that determines the covariance of the model it was made for."""
        ...

    def noise(self, seed: int) -> Direction:
        """Draws of N(0, Sigma): raw, not scaled to the norm of other directions."""
        ...

    def distance(self, engine: Weights, displacement: Displacement) -> Distance:
        """Norm of a displacement."""
        ...

    def project(
        self, engine: Weights, displacement: Mapping[str, torch.Tensor], radius: float
    ) -> float:
        """Move a displacement, in place, to the nearest point of the ball r <= radius.

        Its part outside the range of the noise is dropped, the rest is shortened: nearest in the
        geometry's own norm.

        Returns:
            r of the projected displacement, at most ``radius``.
        """
        ...


Sample = Callable[[Weights, str, int, Device], Parts | None]
"""Draw of N(0, Sigma) of one parameter, ``sample(engine, name, draw, device)``, as `Parts`."""


@dataclass(frozen=True)
class Noise(Direction):
    """Noise of a geometry as a direction: ``engine.at(noise, step=sigma, draw=...)`` sets it.

    Args:
        geometry: whose noise it is.
        seed: names the family of draws.
        sample: see `Sample`; None where the noise is zero.
    """

    geometry: Geometry
    seed: int
    sample: Sample

    def __post_init__(self) -> None:
        """Refuse a seed that names no stream."""
        noise.stream("", self.seed, 0)

    @property
    def label(self) -> str:
        """The geometry's label, with the seed."""
        return f"noise:{self.geometry.label}:{self.seed}"

    def identity(self, engine: Weights, draw: int = 0) -> str:
        """Noise scheme, seed and covariance."""
        return f"{noise.SCHEME} seed={self.seed} {self.geometry.identity}"

    def parts(self, engine: Weights, name: str, draw: int, device: Device) -> Parts | None:
        """Draw of one parameter piece by piece."""
        shape_of(engine, name)
        return self.sample(engine, name, draw, device)


@dataclass(frozen=True)
class Isotropic:
    """Sigma = I: the same noise on every perturbed weight (arXiv 2505.17646)."""

    label: str = "isotropic"
    identity: str = "isotropic"

    def noise(self, seed: int) -> Direction:
        """Draws of N(0, I)."""
        return Random(seed)

    def distance(self, engine: Weights, displacement: Displacement) -> Distance:
        """Euclidean norm; no displacement leaves this geometry."""
        r = math.sqrt(sum(squares(displacement(n), s) for n, s in engine.shapes.items()))
        return Distance(r, r, 0.0)

    def project(
        self, engine: Weights, displacement: Mapping[str, torch.Tensor], radius: float
    ) -> float:
        """Shorten to the radius; see `Geometry`."""
        r = self.distance(engine, held(displacement)).r
        return shorten(displacement, r, radius)


@dataclass(frozen=True)
class PerTensor:
    """Sigma = diag(s_n^2): the noise of parameter n has the standard deviation s_n.

    Args:
        label: word that names it.
        scales: s_n by name; parameters that are not named, or named with 0, do not move.
    """

    label: str
    scales: Mapping[str, float]

    def __post_init__(self) -> None:
        """Refuse what is no standard deviation, or makes normals that float32 cannot hold."""
        scales = self.scales.values()
        if not all(0 <= s <= GREATEST_SCALE for s in scales) or not any(scales):
            raise BasinscopeError(
                f"scales of {self.label!r}: {dict(list(self.scales.items())[:3])}",
                f"0 to {GREATEST_SCALE:g}, one of them positive",
                "1.0 for each parameter that moves",
            )

    @property
    def identity(self) -> str:
        """Hash of the scales."""
        text = json.dumps(dict(self.scales), sort_keys=True)
        return f"per-tensor sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def noise(self, seed: int) -> Direction:
        """Draws of N(0, diag(s_n^2)): the normals of `Random` of that seed, scaled."""
        return ScaledNormals(seed, geometry=self)

    def distance(self, engine: Weights, displacement: Displacement) -> Distance:
        """Norm with every parameter in units of its scale."""
        r = inside = outside = 0.0
        for name, shape in engine.shapes.items():
            square, scale = squares(displacement(name), shape), self.scales.get(name, 0.0)
            if scale:
                inside += square
                r = math.hypot(r, math.sqrt(square) / scale)
            else:
                outside += square
        return Distance(math.inf if outside else r, math.sqrt(inside), math.sqrt(outside))

    def project(
        self, engine: Weights, displacement: Mapping[str, torch.Tensor], radius: float
    ) -> float:
        """Undo moves of parameters without noise, shorten the rest; see `Geometry`."""
        for name in engine.shapes:
            if not self.scales.get(name, 0.0):
                displacement[name].zero_()
        r = self.distance(engine, held(displacement)).r
        return shorten(displacement, r, radius)


@dataclass(frozen=True)
class ScaledNormals(Random):
    """Noise of `PerTensor`: as fast as that of `Random`, whose normals it scales."""

    geometry: PerTensor = field(kw_only=True)

    @property
    def label(self) -> str:
        """As `Noise`."""
        return f"noise:{self.geometry.label}:{self.seed}"

    def identity(self, engine: Weights, draw: int = 0) -> str:
        """As `Noise`."""
        return f"{noise.SCHEME} seed={self.seed} {self.geometry.identity}"

    def std(self, engine: Weights, name: str) -> float:
        """Scale of the parameter."""
        return self.geometry.scales.get(name, 0.0)


def selected(engine: Weights, pattern: str) -> PerTensor:
    """Noise on the parameters that a regular expression matches; the others do not move.

    Args:
        engine: gives the names.
        pattern: found anywhere in the name, such as ``norm|bias``.

    Raises:
        BasinscopeError: it matches nothing, or is no regular expression.
    """
    names = [name for name in engine.shapes if compiled(pattern).search(name)]
    if not names:
        raise BasinscopeError(
            f"{pattern!r} matches no perturbed parameter",
            f"a regular expression found in names like {', '.join(list(engine.shapes)[:3])}",
            "a part of one of these",
        )
    return PerTensor(f"params:{pattern}", dict.fromkeys(names, 1.0))


def rms_scaled(engine: Weights) -> PerTensor:
    """Noise in proportion to each tensor's RMS, with E ||noise||^2 = d at sigma = 1.

    So sigma has the size of an isotropic one. A tensor that is all zeros gets no noise.
    """
    theta = held({name: engine.pristine(name) for name in engine.shapes})
    squared = {name: squares(theta(name), shape) for name, shape in engine.shapes.items()}
    mean = sum(squared.values()) / engine.d
    scales = {
        name: math.sqrt(squared[name] / max(shape.numel(), 1) / mean) if mean else 0.0
        for name, shape in engine.shapes.items()
    }
    return PerTensor("rms", scales)


def has_left(engine: Weights, outside: float, norm: float) -> bool:
    """Whether the part outside is more than rounding: theta0 + Delta to float32, and our products.

    Args:
        engine: its theta0 is what a checkpoint rounds.
        outside: Euclidean norm of the part outside.
        norm: that of the whole displacement.
    """
    theta = held({name: engine.pristine(name) for name in engine.shapes})
    square = sum(squares(theta(name), shape) for name, shape in engine.shapes.items())
    rounding = 2.0**-23 * math.sqrt(square) + 1e-5 * norm
    return not outside <= min(ROUNDING * norm, rounding)  # NaN has left as well


def squares(parts: Parts | None, shape: torch.Size) -> float:
    """Sum of squares in float64; infinite where a value is not finite."""
    if parts is None:
        return 0.0
    total = sum(float(parts(*part).double().square().sum()) for part in chunks(shape.numel()))
    return total if math.isfinite(total) else math.inf


def shorten(displacement: Mapping[str, torch.Tensor], r: float, radius: float) -> float:
    """Scale a displacement of norm r to the radius where it is longer.

    The factor errs by 1e-6 on the safe side: more than float32 rounding of the norm amounts to.
    """
    check_radius(radius)
    if r <= radius:
        return r
    factor = radius / r * (1 - 1e-6)
    for tensor in displacement.values():
        tensor.mul_(factor)
    return r * factor


def check_radius(radius: float) -> None:
    """Raise unless the radius is a distance; NaN is the radius of a target out of reach."""
    if not radius >= 0.0:
        raise BasinscopeError(f"radius {radius}", "at least 0", "a target below the certified p")

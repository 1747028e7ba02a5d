"""Arithmetic on vectors over all perturbed parameters, held flat in float32.

Everything is computed a chunk at a time and summed in float64 in a fixed order, so that a result
depends on nothing but the values (and, within a chunk, on the number of threads).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from basinscope.directions.base import Direction
from basinscope.engines.base import Engine
from basinscope.weights.noise import normals
from basinscope.weights.parts import Device, Parts, Weights

_CHUNK = 1 << 20


def dot(a: torch.Tensor, b: torch.Tensor) -> float:
    """Inner product of flat float32 vectors."""
    terms: list[float] = torch.stack([torch.dot(a[p], b[p]) for p in _chunks(a)]).tolist()
    return sum(terms)  # fetched together: each fetch waits for the device


def norm(a: torch.Tensor) -> float:
    """Euclidean norm."""
    return math.sqrt(dot(a, a))


def combine(a: float, x: torch.Tensor, b: float, y: torch.Tensor) -> torch.Tensor:
    """``a x + b y`` is written into ``x``."""
    for p in _chunks(x):
        x[p].mul_(a).add_(y[p], alpha=b)
    return x


def _chunks(a: torch.Tensor) -> Iterator[slice]:
    return (slice(k, min(k + _CHUNK, a.numel())) for k in range(0, a.numel(), _CHUNK))


def views(flat: torch.Tensor, engine: Engine) -> dict[str, torch.Tensor]:
    """The parts of a flat vector that belong to each parameter, in its shape; no copies."""
    tensors, start = {}, 0
    for name, shape in engine.shapes.items():
        tensors[name] = flat[start : start + shape.numel()].view(shape)
        start += shape.numel()
    assert start == flat.numel()
    return tensors


def gaussian(engine: Engine, seed: int, draw: int) -> torch.Tensor:
    """One draw of the most-case direction as a vector of norm 1."""
    flat = torch.empty(engine.d, device=engine.device)
    for name, part in views(flat, engine).items():
        part.view(-1).copy_(normals(name, part.numel(), seed=seed, draw=draw, device=flat.device))
    return flat.mul_(1 / norm(flat))


@dataclass(frozen=True, eq=False)
class InMemory(Direction):
    """A direction held in memory: ``scale`` times a tensor for each parameter.

    Args:
        tensors: one for each perturbed parameter.
        scale: such that the norm of the whole is sqrt(d).
        label: word that names it in every table.
        displacement: norm of the displacement that it was made from, where one was fixed.
    """

    tensors: dict[str, torch.Tensor]
    scale: float = 1.0
    label: str = "attack"
    displacement: float | None = None
    draws = 1

    def parts(self, engine: Weights, name: str, draw: int, device: Device) -> Parts:
        """Delta of one parameter piece by piece, float32."""
        flat = self.tensors[name].view(-1)
        return lambda start, stop: flat[start:stop].to(device) * self.scale

"""Directions toward compressed copies of the model's own weights: quantised or pruned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import hardshrink

from basinscope.directions.displaced import Displaced, Moves
from basinscope.errors import BasinscopeError
from basinscope.weights.parts import Device, Parts, Weights

MOST_BITS = 16


@dataclass(frozen=True)
class Quantised(Displaced):
    """Toward the round-to-nearest copy of the weights (RTN, the baseline of arXiv 2210.17323).

    The weights of linear layers are rounded; embeddings, output head, norms and biases stay. Each
    output has groups of consecutive inputs, and each group a grid of its own, in float32:

    - symmetric: ``s max(-q, min(q, round(w/s)))`` with ``q = 2^(bits-1) - 1``, ``s = max|w| / q``;
    - asymmetric: ``s (clip(round(w/s) + z, 0, 2^bits - 1) - z)`` between the least and the largest
      weight (zero included), with ``s = (max - min) / (2^bits - 1)``, ``z = round(-min/s)``.

    Args:
        bits: 2 to 16.
        group: inputs that share a grid (the last group of a row may be shorter); None: all.
        symmetric: which grid.
    """

    bits: int
    group: int | None = None
    symmetric: bool = True

    def __post_init__(self) -> None:
        """Refuse grids that are none."""
        if not _is_int(self.bits) or not 2 <= self.bits <= MOST_BITS:
            raise BasinscopeError(f"bits={self.bits!r}", f"an integer, 2 to {MOST_BITS}", "8")
        if self.group is not None and (not _is_int(self.group) or self.group < 1):
            raise BasinscopeError(f"group={self.group!r}", "an integer of at least 1", "128")
        object.__setattr__(self, "bits", int(self.bits))
        object.__setattr__(self, "group", None if self.group is None else int(self.group))

    @property
    def label(self) -> str:
        """``quantised:BITS[:GROUP][:asymmetric]``."""
        group = "" if self.group is None else f":{self.group}"
        return f"quantised:{self.bits}{group}{'' if self.symmetric else ':asymmetric'}"

    def _read(self, engine: Weights) -> Moves:
        _need_linear(self.label, engine)
        return _Rounded(self)

    def round(self, weight: torch.Tensor) -> torch.Tensor:
        """Rounded copy of a float32 matrix (outputs, inputs)."""
        size = self.group or weight.shape[1]
        whole = weight.shape[1] // size * size
        grid = _symmetric if self.symmetric else _asymmetric
        pieces = []
        if whole:
            pieces.append(grid(weight[:, :whole].reshape(-1, size), self.bits))
        if whole < weight.shape[1]:
            pieces.append(grid(weight[:, whole:], self.bits))
        return torch.cat([p.reshape(len(weight), -1) for p in pieces], dim=1)


@dataclass(frozen=True)
class Pruned(Displaced):
    """Toward the copy whose smallest weights are zero (magnitude pruning, arXiv 1506.02626).

    In each linear layer apart, and in each expert, output head excepted, the weights of at most the
    magnitude of the ``fraction``-quantile become zero; equal magnitudes at the edge go together.

    Args:
        fraction: of each layer's weights, in (0, 1].
    """

    fraction: float

    def __post_init__(self) -> None:
        """Refuse fractions that prune nothing."""
        number = isinstance(self.fraction, float | int) and not isinstance(self.fraction, bool)
        if not number or not 0 < self.fraction <= 1:
            raise BasinscopeError(f"fraction={self.fraction!r}", "above 0, at most 1", "0.5")
        object.__setattr__(self, "fraction", float(self.fraction))

    @property
    def label(self) -> str:
        """``pruned:FRACTION``."""
        return f"pruned:{self.fraction!r}"

    def _read(self, engine: Weights) -> Moves:
        edges = {}
        for name in _need_linear(self.label, engine):
            theta = engine.pristine(name)
            edges[name] = [
                self._edge(matrix) for matrix in (theta if theta.dim() == 3 else theta[None])
            ]
        return _Cut(self.fraction, edges)

    def _edge(self, matrix: torch.Tensor) -> float:
        sizes = matrix.abs().float().reshape(-1).cpu().numpy()
        last = max(1, round(self.fraction * sizes.size)) - 1
        return float(np.partition(sizes, last)[last])


class _Rounded:
    def __init__(self, quantised: Quantised) -> None:
        self.quantised = quantised

    def parts(self, engine: Weights, name: str, device: Device) -> Parts | None:
        if name not in engine.linear:
            return None
        theta, round_ = engine.pristine(name), self.quantised.round
        if engine.linear[name] == 1:
            theta = theta.flatten(0, -2)  # of experts: the outputs of one behind those of another

            def rows(first: int, last: int) -> torch.Tensor:
                weights = theta[first:last].to(device, torch.float32)
                return round_(weights).sub_(weights)

            return by_rows(rows, theta.shape[1])
        weights = theta.to(device, torch.float32)
        turned = weights.mT.contiguous()
        moved = round_(turned.flatten(0, -2)).view(turned.shape).mT.sub(weights).reshape(-1)
        return lambda start, stop: moved[start:stop].clone()

    def identity(self) -> str:
        bits, group = self.quantised.bits, self.quantised.group
        grid = "symmetric" if self.quantised.symmetric else "asymmetric"
        return f"quantised/1 bits={bits} group={group} {grid}"


class _Cut:
    def __init__(self, fraction: float, edges: dict[str, list[float]]) -> None:
        self.fraction, self.edges = fraction, edges

    def parts(self, engine: Weights, name: str, device: Device) -> Parts | None:
        if name not in self.edges:
            return None
        theta, edges = engine.pristine(name).reshape(-1), self.edges[name]
        size = theta.numel() // len(edges)

        def parts(start: int, stop: int) -> torch.Tensor:
            weights = theta[start:stop].to(device, torch.float32, copy=True)
            for n in range(start // size, -(-stop // size)):
                own = weights[max(0, n * size - start) : (n + 1) * size - start]
                own.copy_(hardshrink(own, edges[n]).sub_(own))  # zero where |weights| <= edge
            return weights

        return parts

    def identity(self) -> str:
        return f"pruned/1 fraction={self.fraction!r}"


def by_rows(rows: Callable[[int, int], torch.Tensor], columns: int) -> Parts:
    """Parts of a matrix whose rows are computed when they are asked for."""

    def parts(start: int, stop: int) -> torch.Tensor:
        first = start // columns
        flat = rows(first, -(-stop // columns)).reshape(-1)
        return flat[start - first * columns : stop - first * columns]

    return parts


def _symmetric(groups: torch.Tensor, bits: int) -> torch.Tensor:
    top = 2 ** (bits - 1) - 1
    scale = groups.abs().amax(dim=1, keepdim=True).div_(top)
    scale[scale == 0] = 1.0
    return (groups / scale).round_().clamp_(-top, top).mul_(scale)


def _asymmetric(groups: torch.Tensor, bits: int) -> torch.Tensor:
    top = 2**bits - 1
    low = groups.amin(dim=1, keepdim=True).clamp_(max=0.0)
    scale = groups.amax(dim=1, keepdim=True).clamp_(min=0.0).sub_(low).div_(top)
    scale[scale == 0] = 1.0
    zero = (-low / scale).round_()
    return (groups / scale).round_().add_(zero).clamp_(0, top).sub_(zero).mul_(scale)


def _need_linear(label: str, engine: Weights) -> list[str]:
    names = [name for name in engine.linear if name in engine.shapes]
    if not names:
        raise BasinscopeError(
            f"{label}: no weight of a linear layer is perturbed",
            "a selection with linear layers (the output head is left alone)",
            "leave params out",
        )
    return names


def _is_int(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)

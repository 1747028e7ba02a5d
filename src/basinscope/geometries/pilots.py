"""Subspaces to certify in, found before the certificate: trajectories, gradients, chance."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from basinscope.directions.base import Direction, Displacement
from basinscope.directions.words import direction_of
from basinscope.errors import BasinscopeError
from basinscope.geometries.subspaces import RandomSubspace, Subspace, save_basis
from basinscope.weights import selection
from basinscope.weights.checkpoints import Shelf
from basinscope.weights.parts import Parts, Weights

if TYPE_CHECKING:
    from basinscope.engines.base import Engine


def subspace_from_trajectory(
    engine: Weights, checkpoints: Sequence[str | Path | Direction], k: int, path: str | Path
) -> Subspace:
    """Leading directions of a pilot run: the span of most of where its checkpoints went.

    Args:
        engine: the model that the run started from.
        checkpoints: folders, adapters or directions, as in `Certificate.verdict`; at least k.
        k: dimension.
        path: file for the basis, ``.safetensors``.

    Returns:
        The geometry; its span holds most of the squared norms of the displacements.

    Raises:
        BasinscopeError: checkpoints of another model, or fewer than k independent ones.

    Cost: reads every checkpoint twice; 4 k d bytes on disk.
    """
    directions = [direction_of(other) for other in checkpoints]
    moves = [direction.as_displacement(engine) for direction in directions]
    about = {"made": "trajectory", "of": [d.label for d in directions]}
    shares = save_basis(path, moves, engine, k, about)
    return _with_shares(Subspace(str(path), engine), shares)


def subspace_from_gradients(
    engine: Engine, losses: Sequence[Callable[[Any], torch.Tensor]], k: int, path: str | Path
) -> Subspace:
    """Leading directions of a task's gradients at theta0.

    Args:
        engine: the model; its weights are read, not moved.
        losses: ``loss(module)``, a scalar tensor; one for each item or batch; at least k.
        k: dimension.
        path: file for the basis, ``.safetensors``.

    Raises:
        BasinscopeError: a loss that is not a finite scalar with a gradient.

    Cost: a forward and backward for each loss; while it runs every gradient lies on disk beside
    the basis (4 d bytes each), one at a time in memory.
    """
    from safetensors.torch import save_file

    live = selection.parameters(engine.module, engine.params)
    folder = Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".gradients-") as scratch:
        moves: list[Displacement] = []
        for n, loss in enumerate(losses):
            with torch.enable_grad():
                value = loss(engine.module)
                if value.numel() != 1 or not bool(torch.isfinite(value).all()):
                    raise BasinscopeError(
                        f"loss {n} has shape {tuple(value.shape)}, or is not finite",
                        "a finite scalar tensor from loss(module)",
                        "return the mean of finite losses",
                    )
                slopes = torch.autograd.grad(value, list(live.values()), allow_unused=True)
            file = Path(scratch) / f"{n}.safetensors"
            state = {
                name: slope.detach().to("cpu", torch.float32).contiguous()
                for name, slope in zip(live, slopes, strict=True)
                if slope is not None
            }
            save_file(state, file)
            moves.append(_stored(Shelf([file])))
        shares = save_basis(path, moves, engine, k, {"made": "gradients", "losses": len(losses)})
    return _with_shares(Subspace(str(path), engine), shares)


def random_subspace(engine: Weights, k: int, seed: int = 0) -> RandomSubspace:
    """Span of k random directions: the control for a chosen subspace, made from counters."""
    return RandomSubspace(engine, k, seed)


def _stored(shelf: Shelf) -> Displacement:
    def parts(name: str) -> Parts | None:
        if name not in shelf.entries:
            return None
        return lambda a, b: shelf.read(name, a, b)

    return parts


def _with_shares(subspace: Subspace, shares: list[float]) -> Subspace:
    subspace.shares = tuple(shares)
    return subspace

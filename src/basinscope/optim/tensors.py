"""Noise into a parameter, whatever its dtype, device and sharding."""

from __future__ import annotations

import math

import torch
from torch.autograd.graph import increment_version
from torch.distributed.tensor import DTensor

from basinscope.errors import BasinscopeError
from basinscope.weights import noise
from basinscope.weights.kernels import add_parts


def local(live: torch.Tensor) -> torch.Tensor:
    """What of a tensor lies on this rank, in the memory where it lies."""
    tensor = live.to_local() if isinstance(live, DTensor) else live
    return tensor.detach()


def start(live: torch.Tensor) -> int:
    """Position in the whole tensor of the first element that lies on this rank.

    Raises:
        BasinscopeError: for a sharding other than by rows.
    """
    if not isinstance(live, DTensor):
        return 0
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if not all(isinstance(p, Replicate) or p == Shard(0) for p in live.placements):
        raise BasinscopeError(
            f"parameters sharded as {live.placements}", "replicas, or shards by rows", "Shard(0)"
        )
    _, offset = compute_local_shape_and_global_offset(live.shape, live.device_mesh, live.placements)
    return int(offset[0] * math.prod(live.shape[1:])) if live.dim() else 0


FIRST_DRAW = 1 << 32
"""Draws of training are numbered from here on: no certificate and no landscape, whose draws are
numbered from 0, then meets noise that the weights were trained with, whatever the seeds."""


def add_noise(
    clean: torch.Tensor,
    live: torch.Tensor,
    sigma: float,
    name: str,
    *,
    seed: int,
    draw: int,
    start: int = 0,
) -> None:
    """Write round(clean + sigma * noise) into ``live``, which may be ``clean`` itself.

    Args:
        clean: contiguous.
        live: of the same shape, and of the same dtype or, for a float32 ``clean``, bfloat16.
        sigma: standard deviation of the noise; negative for its mirror image.
        name: canonical name of the tensor, as in `basinscope.normals`.
        seed: as there.
        draw: counted from `FIRST_DRAW` on.
        start: as there.
    """
    draw += FIRST_DRAW
    if noise.takes(clean, live, start):
        old, new = clean.view(-1), live.view(-1)
        noise.perturb(old, new, sigma, name, seed=seed, draw=draw, start=start)
    else:
        add_parts(
            clean, live, sigma,
            lambda a, b: noise.normals(
                name, b - a, seed=seed, draw=draw, start=start + a, device=live.device
            ),
        )  # fmt: skip
    increment_version(live)

"""Noise into a parameter, whatever its dtype, device and sharding; and the name it goes by."""

from __future__ import annotations

import math
import re

import torch
from torch.autograd.graph import increment_version
from torch.distributed.tensor import DTensor

from basinscope.errors import BasinscopeError
from basinscope.weights import noise

_WRAPPER = re.compile(r"(^|\.)(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def canonical(name: str) -> str:
    """Name of a parameter without what DDP, FSDP, checkpointing and compilation put before it.

    >>> canonical("module._orig_mod.h.0.weight")
    'h.0.weight'
    """
    while (shorter := _WRAPPER.sub(r"\1", name)) != name:
        name = shorter
    return name


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
            f"a parameter sharded as {live.placements}", "allowed: replicated, or sharded by rows"
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
    words = (torch.float32, torch.bfloat16)
    fused = clean.dtype in words and live.dtype in words and live.is_contiguous()
    if start == 0 and live.device.type == "cpu" and fused:
        noise.perturb(clean.view(-1), live.view(-1), sigma, name, seed=seed, draw=draw)
        increment_version(live)
        return
    wide = torch.float64 if clean.dtype == torch.float64 else torch.float32
    n = clean.numel()
    if live.device.type == "cpu":
        epsilon = noise.normals(name, n, seed=seed, draw=draw, start=start)
    else:
        epsilon = noise.normals_torch(
            name, n, seed=seed, draw=draw, start=start, device=live.device
        )
    live.copy_((clean.to(wide) + sigma * epsilon.to(wide).view(clean.shape)).to(live.dtype))

"""B3: noise that is never kept: drawn from its seed to be added, and again to be subtracted.

Evolution strategies and random-search loops (RandOpt) perturb weights in this way.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch


@torch.no_grad()
def add_and_subtract(tensors: Iterable[torch.Tensor], step: float, seed: int = 0) -> None:
    """Draw and add, draw and subtract, tensor by tensor."""
    held = list(tensors)
    for sign in (step, -step):
        for k, tensor in enumerate(held):
            torch.manual_seed(seed + k)
            noise = torch.randn(tensor.shape, dtype=tensor.dtype, device=tensor.device)
            tensor.add_(noise, alpha=sign)

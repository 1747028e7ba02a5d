"""How a way of computing is compared with a model's own forward, once, at loading."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from basinscope.engines.memory import out_of_memory

OFF = 16  # roundings that a logit may be off, for the square root of the number of layers
LEAST_OFF, MOST_OFF = 1e-3, 0.3  # of the logits' spread
AT_ONCE = 1 << 30  # bytes of float32 weights that are held at once; more only layer by layer


def near(logits: torch.Tensor, expected: torch.Tensor, module: nn.Module) -> bool:
    """Whether logits are the expected ones up to rounding.

    The root mean square of what they are off may be some roundings of the weights' dtype for the
    square root of the layers, in parts of the logits' spread: 9% in bfloat16 and 1% in float16 for
    two layers, 30% in bfloat16 from 23 layers on, and 0.1% in float32.
    """
    config = getattr(module, "config", None)
    layers = getattr(config, "num_hidden_layers", None) or 1
    eps = max(torch.finfo(p.dtype).eps for p in module.parameters() if p.is_floating_point()) / 2
    tolerance = min(MOST_OFF, max(LEAST_OFF, OFF * eps * math.sqrt(layers)))
    error = (logits.float() - expected.float()).square().mean().sqrt()
    return float(error) <= tolerance * float(expected.float().std()) + 1e-6


def right(module: nn.Module, check: Callable[[], bool]) -> bool:
    """Whether a check of a module holds: in float32, and in its own dtype.

    A wrong way of computing shows in float32, where rounding hides nothing; its own dtype may have
    kernels of its own. Float32 is left out where memory does not suffice for a layer of it.
    """
    if all(p.dtype == torch.float32 or p.is_inference() for p in module.parameters()):
        return check()
    try:
        with in_float32(module):
            sound = check()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        sound = True
    return sound and check()


@contextmanager
def in_float32(module: nn.Module) -> Iterator[None]:
    """Inside it a module computes in float32; its weights keep their values and, after it, bytes.

    Cost: four bytes for each weight, up to a gigabyte; of a larger model, for those of one layer at
    a time, which are cast anew in every pass.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer as Layer

    before: dict[torch.Tensor, torch.Tensor] = {}

    def cast(tensors: list[torch.Tensor]) -> None:
        with torch.inference_mode(False):
            for tensor in tensors:
                if tensor.is_floating_point() and tensor.element_size() == 2:
                    before[tensor] = tensor.data
                    tensor.data = tensor.data.float()

    def restore(tensors: list[torch.Tensor]) -> None:
        with torch.inference_mode(False):
            for tensor in tensors:
                if tensor in before:
                    tensor.data = before.pop(tensor)

    def around(part: nn.Module, tensors: list[torch.Tensor]) -> list[Any]:
        return [
            part.register_forward_pre_hook(lambda *_: cast(tensors)),
            part.register_forward_hook(lambda *_: restore(tensors), always_call=True),
        ]

    handles: list[Any] = []
    try:
        if sum(t.numel() * 4 for t in _weights(module, recurse=True)) <= AT_ONCE:
            cast(_weights(module, recurse=True))
        else:
            inside: set[nn.Module] = set()
            for part in module.modules():
                if part not in inside:
                    whole = isinstance(part, Layer)
                    if tensors := _weights(part, recurse=whole):
                        handles += around(part, tensors)
                    inside.update(part.modules() if whole else ())
        yield
    finally:
        for handle in handles:
            handle.remove()
        restore(list(before))


def _weights(part: nn.Module, *, recurse: bool) -> list[torch.Tensor]:
    return [*part.parameters(recurse), *part.buffers(recurse)]

"""What surrounds a call in torch and would change its numbers: switched off inside.

Others set it for their own work (a Trainer's autocast, a notebook's default device). A record must
not depend on it, since it does not stand in the record's address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.modules import module as hooks

_DEVICES = ("cpu", "cuda")
_GLOBAL_HOOKS: tuple[dict[int, Any], ...] = (
    hooks._global_forward_pre_hooks,
    hooks._global_forward_hooks,
    hooks._global_backward_pre_hooks,
    hooks._global_backward_hooks,
)


def _flushes_denormals() -> bool:
    return bool(torch.full((1,), 1e-40, dtype=torch.float32, device="cpu").mul_(1.0) == 0.0)


_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any], Any], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 0),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp, True),
    (
        torch.backends.cuda.mem_efficient_sdp_enabled,
        torch.backends.cuda.enable_mem_efficient_sdp,
        True,
    ),
    (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp, True),
    (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp, True),
    (_flushes_denormals, torch.set_flush_denormal, False),
)
"""How a setting is read and written, and what it is in a process where nobody has changed it."""


@contextmanager
def fixed() -> Iterator[None]:
    """Inside it torch computes as in a process where nobody has changed a setting.

    Switched off: autocast, inference mode and no_grad, another default dtype or device,
    deterministic algorithms, products of float32 in fewer bits, attention kernels that are ruled
    out, flushed denormals, hooks on every module. All of it is as it was afterwards.
    """
    with ExitStack() as stack:
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for read, write, usual in _SETTINGS:
            if (present := read()) != usual:
                stack.callback(write, present)
                write(usual)
        for registered in filter(None, _GLOBAL_HOOKS):
            stack.callback(registered.update, dict(registered))
            registered.clear()
        yield

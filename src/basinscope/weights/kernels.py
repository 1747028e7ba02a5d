"""theta + step * delta, rounded once; on the CPU by kernels that do it in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch

from basinscope.weights.parts import Parts, chunks


def add_parts(theta: torch.Tensor, live: torch.Tensor, step: float, parts: Parts) -> bool:
    """Write ``round(theta + step * delta)`` into ``live``: any dtype, layout and device.

    The product and the sum are float32, and float64 where theta is.

    Args:
        theta: contiguous; it may lie on another device.
        live: of the same shape; it may be strided, and bfloat16 where theta is float32.
        step: position on the slice.
        parts: delta piece by piece, where ``live`` lies.

    Returns:
        Whether all of delta is finite; if not, ``live`` holds what cannot be used.
    """
    wide = torch.float64 if theta.dtype == torch.float64 else torch.float32
    target = (live if live.is_contiguous() else live.contiguous()).view(-1)
    old, fused = theta.view(-1), theta.dtype == live.dtype and has_kernel(theta, live)
    finite: bool | torch.Tensor = True
    for a, b in chunks(old.numel(), live.device):
        delta = parts(a, b).to(wide)
        if fused:
            finite &= add(old[a:b], target[a:b], step, delta)
        else:
            target[a:b] = (old[a:b].to(live.device, wide) + delta * step).to(live.dtype)
            finite = torch.isfinite(delta).all() & finite  # asked once: it waits for the device
    if not live.is_contiguous():
        live.copy_(target.view(live.shape))
    return bool(finite)


def has_kernel(theta: torch.Tensor, live: torch.Tensor) -> bool:
    """Whether kernels take these two: contiguous, on the CPU, in float32 or bfloat16."""
    return all(
        tensor.device.type == "cpu"
        and tensor.dtype in (torch.float32, torch.bfloat16)
        and tensor.is_contiguous()
        for tensor in (theta, live)
    )


def add(theta: torch.Tensor, live: torch.Tensor, step: float, delta: torch.Tensor) -> bool:
    """Write ``round(theta + step * delta)`` into ``live``; rounds to nearest, ties to even.

    Args:
        theta: flat contiguous CPU tensor, float32 or bfloat16.
        live: of the same dtype and length.
        step: position on the slice.
        delta: float32, of the same length.

    Returns:
        Whether all of delta is finite; if not, ``live`` holds what cannot be used.
    """
    kernel = _add_bfloat16 if theta.dtype == torch.bfloat16 else _add_float32
    greatest = kernel(words_of(theta), words_of(live), np.float32(step), words_of(delta))
    return bool(greatest < _INFINITE)


def jit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile without fast-math: contraction or reassociation would change the bits."""
    return numba.njit(nogil=True, cache=True, error_model="numpy", **options)  # type: ignore[no-any-return]


def words_of(flat: torch.Tensor) -> npt.NDArray[Any]:
    """Share a tensor's memory with NumPy, which has no bfloat16, as raw 16-bit words."""
    flat = flat.detach()
    if flat.dtype == torch.bfloat16:
        return flat.view(torch.int16).numpy().view(np.uint16)
    return flat.numpy()


_U32 = np.uint32
_INFINITE = np.uint32(0x7F800000)  # exponent bits of infinity and NaN, above those of any number


@jit(inline="always")
def bfloat16_of(x):  # type: ignore[no-untyped-def]
    """Round a float32 to the nearest bfloat16 (as uint16), ties to even."""
    bits = np.float32(x).view(np.uint32)
    return np.uint16((bits + _U32(0x7FFF) + ((bits >> _U32(16)) & _U32(1))) >> _U32(16))


@jit(inline="always")
def bfloat16_sum(word, addend):  # type: ignore[no-untyped-def]
    """Round a bfloat16 (as uint16) plus a float32 to the nearest bfloat16, ties to even."""
    return bfloat16_of(np.uint32(_U32(word) << _U32(16)).view(np.float32) + addend)


@jit()
def _add_float32(theta, live, step, delta):  # type: ignore[no-untyped-def]
    greatest = _U32(0)
    for i in range(theta.size):
        greatest = max(greatest, np.float32(delta[i]).view(np.uint32) & _INFINITE)
        live[i] = theta[i] + step * delta[i]
    return greatest


@jit()
def _add_bfloat16(theta, live, step, delta):  # type: ignore[no-untyped-def]
    greatest = _U32(0)
    for i in range(theta.size):
        greatest = max(greatest, np.float32(delta[i]).view(np.uint32) & _INFINITE)
        live[i] = bfloat16_sum(theta[i], step * delta[i])
    return greatest

"""theta + step * delta in one pass: a float32 product, a float32 sum, one rounding, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch


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

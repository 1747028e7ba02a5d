"""Linear layers in bfloat16 that lose no small displacement of float32 weights.

A float32 weight is the sum of its bfloat16 rounding and of the bfloat16 rounding of the rest, to
2^-17 of itself, and the rest keeps its own relative precision of 2^-9. Where theta0 is a bfloat16
checkpoint and the displacement below half a unit in the last place, the two are theta0 and the
displacement. Casting the weight once (autocast) would drop the second: the loss would not move.

So ``x W^T`` takes two products in bfloat16 forward and three backward, five in place of the three
that float32 takes. Which is faster is the processor's matter; see ``docs/how-to/attack.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class SplitLinear(TorchFunctionMode):
    """Inside it ``torch.nn.functional.linear`` with float32 weights multiplies in bfloat16."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace linear layers; everything else is as it is."""
        named = kwargs or {}
        if func is functional.linear and not named and _fits(args[1]):
            y = _Split.apply(args[0], args[1])  # type: ignore[no-untyped-call]
            return y if len(args) < 3 or args[2] is None else y + args[2]
        return func(*args, **named)


def _fits(weight: torch.Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.dim() == 2


def halves(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two bfloat16 tensors whose sum is the float32 weight, to 2^-17 of it."""
    high = weight.bfloat16()
    return high, (weight - high.float()).bfloat16()


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        flat, (high, low) = x.reshape(-1, x.shape[-1]).bfloat16(), halves(weight)
        y = (flat @ high.T).float().add_(flat @ low.T)
        return y.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, gy: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        x, weight = ctx.saved_tensors
        flat = gy.reshape(-1, gy.shape[-1]).bfloat16()
        gx = gw = None
        if ctx.needs_input_grad[0]:
            high, low = halves(weight)
            gx = (flat @ high).float().add_(flat @ low).view(x.shape)
        if ctx.needs_input_grad[1]:
            gw = (flat.T @ x.reshape(-1, x.shape[-1]).bfloat16()).float()
        return gx, gw

"""Guards: a block that must leave every bit of the weights as it was, and what differs if not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from basinscope.engines.base import Engine
from basinscope.errors import BasinscopeError
from basinscope.weights import selection

SHOWN = 3


@dataclass(frozen=True)
class Difference:
    """How a tensor differs from what it was.

    Attributes:
        name: canonical name in the checkpoint.
        elements: how many of its elements have another bit.
        size: its elements.
        largest: largest |difference|, in float32; NaN where a value is NaN; infinite where the
            tensor has gone, has come, or has another shape or dtype.
        relative: mean |difference| over the mean |value before|.
    """

    name: str
    elements: int
    size: int
    largest: float
    relative: float

    def __str__(self) -> str:
        """The difference in words."""
        if self.largest == float("inf"):
            return f"{self.name} is another tensor, has gone or has come"
        return (
            f"{self.name} in {self.elements:,} of {self.size:,} elements, by {self.largest:.3g} at "
            f"most and {self.relative:.2g} of its mean"
        )


@contextmanager
def unchanged(model: nn.Module | Engine) -> Iterator[None]:
    """Raise after the block if it left one bit of the weights different.

    For what should be undone at its end: an adapter merged and unmerged, a sync of weights, noise.

    Args:
        model: a module or an engine; all parameters and persistent buffers are watched, tied ones
            once, those that an adapter added too.

    Raises:
        BasinscopeError: on leaving, with the tensors that differ and by how much. An exception of
            the block itself passes through instead.

    Guarantee: compares bits, so that -0.0 is not 0.0, and a NaN is itself.
    Cost: one copy of the weights on the CPU, and one pass over them each way.

    Example:
        >>> import torch, basinscope as bs
        >>> layer = torch.nn.Linear(2, 2)
        >>> with bs.unchanged(layer):
        ...     layer.weight.data += 0.1
        ...     layer.weight.data -= 0.1
        Traceback (most recent call last):
        basinscope.errors.BasinscopeError: the block left 1 of 2 tensors different: ...
    """
    module = model.module if isinstance(model, Engine) else model
    if not isinstance(module, nn.Module):
        raise BasinscopeError(
            f"unchanged(...) of type {type(model).__name__}", "a module or an engine", "model"
        )
    before = {
        name: tensor.detach().to("cpu", copy=True)
        for name, tensor in selection.tensors(module).items()
    }
    yield
    different = differences(before, selection.tensors(module))
    if different:
        shown = "; ".join(map(str, sorted(different, key=lambda d: -d.relative)[:SHOWN]))
        more = f"; and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        raise BasinscopeError(
            f"the block left {len(different)} of {len(before)} tensors different: {shown}{more}",
            "every bit as it was",
            "put back a copy of the weights, in place of undoing by arithmetic",
        )


def differences(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]
) -> list[Difference]:
    """Tensors of which a bit differs, in the order of the first mapping."""
    found_in = [*before, *(name for name in after if name not in before)]
    many = []
    for name in found_in:
        old, new = before.get(name), after.get(name)
        if old is None or new is None or (old.shape, old.dtype) != (new.shape, new.dtype):
            size = (old if old is not None else after[name]).numel()
            many.append(Difference(name, size, size, float("inf"), float("inf")))
            continue
        old, new = old.detach().to("cpu"), new.detach().to("cpu")
        bits = [t.contiguous().view(-1).view(torch.uint8).view(-1, t.element_size())
                for t in (old, new)]  # fmt: skip
        changed = int((bits[0] != bits[1]).any(dim=1).sum()) if old.numel() else 0
        if changed:
            gap, mean = (new.double() - old.double()).abs(), old.double().abs().mean()
            relative = float(gap.mean() / mean) if mean else float("nan")
            many.append(Difference(name, changed, old.numel(), float(gap.max()), relative))
    return many

"""The pristine copy of the weights: set them anywhere on a slice, get them back bit for bit.

Persistent buffers (running statistics) come back as well: a body may change them by running the
module. Parameters that are not perturbed have no copy; a change of them is noticed and refused.

The live weights are always computed from the pristine copy, never from the previous point, and
restored by copying, never by subtraction (defect 2 of earlier code: after 300 bfloat16
add-subtract cycles 59-67% of the weights had changed).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import increment_version

from basinscope.directions.base import Direction
from basinscope.errors import BasinscopeError
from basinscope.weights.parts import Weights

SAMPLE = 64  # elements of each tensor that every check reads


class Pristine:
    """Owns the pristine values of some live tensors, and every write to them.

    Args:
        live: tensors to perturb, by canonical name; written in place.
        pristine: their values, where they lie already somewhere unchanging (a memory-mapped
            checkpoint of the same dtype); copied from ``live`` otherwise.
        walk: gives every tensor that the module holds at present, by name: ``live`` (found anew,
            since a module may be given other tensors), other parameters, and buffers, which are
            copied and restored too.

    Attributes:
        epoch: advances with every change of the live weights; whatever was computed from them is
            keyed by it.
    """

    def __init__(
        self,
        live: Mapping[str, torch.Tensor],
        pristine: Mapping[str, torch.Tensor] | None = None,
        walk: Callable[[], Mapping[str, torch.Tensor]] | None = None,
    ) -> None:
        self.live = {name: tensor.detach() for name, tensor in live.items()}
        self._walk = (lambda: self.live) if walk is None else walk
        self._buffers = {
            name: (tensor, tensor.clone())
            for name, tensor in self._walk().items()
            if not isinstance(tensor, nn.Parameter) and name not in self.live
        }
        self.values: dict[str, torch.Tensor] = {}
        for name, tensor in self.live.items():
            mapped = None if pristine is None else pristine.get(name)
            if mapped is not None:
                assert mapped.shape == tensor.shape
                assert mapped.dtype == tensor.dtype
                self.values[name] = mapped
            else:
                self.values[name] = tensor.clone(memory_format=torch.contiguous_format)
        self.epoch = 0
        self.moved = False  # live weights were left where they are
        self._seen = {name: _state(tensor) for name, tensor in self._walk().items()}
        self._samples = _samples(self._walk())

    @torch.no_grad()
    def set(self, engine: Weights, direction: Direction, step: float, draw: int) -> None:
        """Live weights = round(theta0 + step * delta): one float32 sum, rounded once.

        Theta0 is what the engine gives. Ask `check_untouched` before: what others have written
        would be lost.

        Raises:
            BasinscopeError: if step is not a finite float32, or if delta has another shape or is
                not finite.
        """
        if not abs(step) <= torch.finfo(torch.float32).max:
            raise BasinscopeError(f"step={step}", "a finite number (float32)", "0.01")
        self.epoch += 1
        if step == 0.0 and self.moved:
            self.restore()
        if step == 0.0:
            return
        for name, live in self.live.items():
            if not direction.perturb(engine, name, draw, step, live) and self.moved:
                live.copy_(self.values[name])
            increment_version(live)

    @torch.no_grad()
    def restore(self, *, weights: bool = True) -> None:
        """Live weights and buffers = the pristine bytes; the buffers alone where weights stay."""
        self.epoch += 1
        self.moved = not weights
        for name, live in self.live.items() if weights else ():
            live.copy_(self.values[name])
            self._seen[name] = _state(live)
        for name, (buffer, value) in self._buffers.items():
            buffer.copy_(value)  # always: batch normalisation writes without counting a version
            self._seen[name] = _state(buffer)

    @torch.no_grad()
    def check_untouched(self, *, every_bit: bool = False) -> None:
        """Raise if a tensor was written, moved or replaced by others since the last `restore`.

        Guarantee: whatever torch counts as a write is noticed. One through ``.data``, which it does
        not count, is noticed if it reached one of `SAMPLE` elements spread over each tensor, or
        any bit with ``every_bit``.
        """
        if self.moved:
            return
        now = {name: _state(tensor) for name, tensor in self._walk().items()}
        pairs = {name: (live, self.values[name]) for name, live in self.live.items() if every_bit}
        name = (
            next((n for n in {**self._seen, **now} if now.get(n) != self._seen.get(n)), None)
            or next(filter(None, (sample.changed() for sample in self._samples)), None)
            or next((n for n, pair in pairs.items() if not _same_bits(*pair)), None)
        )
        if name is not None:
            raise BasinscopeError(
                f"the weights were changed or moved since the engine was loaded ({name})",
                "the weights that the engine was loaded with",
                "load the changed module anew: bs.load(engine.module)",
            )


@dataclass(frozen=True)
class _Sample:
    """Elements spread over the memory of tensors of one device and dtype, and what they were."""

    views: dict[str, torch.Tensor]
    before: torch.Tensor

    def changed(self) -> str | None:
        """Name of the first tensor of which an element is another now."""
        views = list(self.views.values())
        if _same_bits(torch.cat(views), self.before):
            return None
        before = torch.split(self.before, [len(view) for view in views])
        parts = zip(self.views, views, before, strict=True)
        return next(name for name, view, part in parts if not _same_bits(view, part))


@torch.no_grad()
def _samples(tensors: Mapping[str, torch.Tensor]) -> list[_Sample]:
    groups: dict[tuple[torch.device, torch.dtype], dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if tensor.numel():
            flat = tensor.view(-1) if tensor.is_contiguous() else tensor[(0,) * (tensor.ndim - 1)]
            groups[tensor.device, tensor.dtype][name] = flat[:: -(-len(flat) // SAMPLE)].detach()
    return [_Sample(views, torch.cat(list(views.values()))) for views in groups.values()]


def _same_bits(some: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one dtype are equal, NaN to NaN and -0 not to 0."""
    some, other = (t.contiguous().view(-1).view(torch.uint8) for t in (some, other))
    return torch.equal(some, other)


def _state(tensor: torch.Tensor) -> tuple[object, ...]:
    """Where a tensor lies and how often it was written: tells a change without reading it."""
    return tensor.data_ptr(), tensor.dtype, 0 if tensor.is_inference() else tensor._version

"""The pristine copy of the weights: set them anywhere on a slice, get them back bit for bit.

The live weights are always computed from the pristine copy, never from the previous point, and
restored by copying, never by subtraction (defect 2 of earlier code: after 300 bfloat16
add-subtract cycles 59-67% of the weights had changed).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.autograd.graph import increment_version

from basinscope.errors import BasinscopeError
from basinscope.weights import noise
from basinscope.weights.directions import Direction, Random, Shapes

_CHUNK = 1 << 20  # elements: bounds the float32 temporaries of the generic path to a few MiB


class Pristine:
    """Owns the pristine values of some live tensors, and every write to them.

    Args:
        live: tensors to perturb, by canonical name; written in place.
        pristine: their values, where they lie already somewhere unchanging (a memory-mapped
            checkpoint of the same dtype); copied from ``live`` otherwise.

    Attributes:
        epoch: advances with every change of the live weights; whatever was computed from them is
            keyed by it.
    """

    def __init__(
        self,
        live: Mapping[str, torch.Tensor],
        pristine: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.live = {name: tensor.detach() for name, tensor in live.items()}
        self.values: dict[str, torch.Tensor] = {}
        for name, tensor in self.live.items():
            given = None if pristine is None else pristine.get(name)
            if given is not None:
                assert given.shape == tensor.shape
                assert given.dtype == tensor.dtype
                self.values[name] = given
            else:
                self.values[name] = tensor.clone(memory_format=torch.contiguous_format)
        self.epoch = 0
        self._seen = self._versions()

    def set(self, engine: Shapes, direction: Direction, step: float, draw: int) -> None:
        """Live weights = round(theta0 + step * delta): one float32 sum, rounded once.

        Raises:
            BasinscopeError: if step is not finite, if delta has another shape or is not finite, or
                if somebody else has changed the weights since they were last pristine.
        """
        if not math.isfinite(step):
            raise BasinscopeError(f"step={step}", "allowed: a finite number")
        self.check_untouched()
        self.epoch += 1
        if step == 0.0:
            return
        for name, live in self.live.items():
            theta = self.values[name]
            if type(direction) is Random and _has_kernel(live):
                noise.perturb(
                    theta.view(-1), live.view(-1), step, name, seed=direction.seed, draw=draw
                )
            else:
                self._add(name, theta, live, step, _delta(engine, direction, name, draw))
            increment_version(live)
        self._seen = self._versions()

    def restore(self) -> None:
        """Live weights = the pristine bytes."""
        self.epoch += 1
        with torch.no_grad():
            for name, live in self.live.items():
                live.copy_(self.values[name])
        self._seen = self._versions()

    def check_untouched(self) -> None:
        """Raise if the live tensors were written or moved by others since the last call here."""
        if self._versions() != self._seen:
            raise BasinscopeError(
                "the weights were changed or moved since the engine was loaded",
                "an engine measures the weights that it was loaded with",
                "load the changed module anew: bs.load(engine.module)",
            )

    def _versions(self) -> list[tuple[int, int]]:
        return [(t.data_ptr(), t._version) for t in self.live.values()]

    @staticmethod
    def _add(
        name: str, theta: torch.Tensor, live: torch.Tensor, step: float, delta: torch.Tensor
    ) -> None:
        """Add any direction to any dtype on any device, in chunks; float64 stays float64."""
        wide = torch.float64 if theta.dtype == torch.float64 else torch.float32
        target = live.view(-1) if live.is_contiguous() else torch.empty_like(theta).view(-1)
        old, add = theta.view(-1), delta.reshape(-1)
        for a in range(0, old.numel(), _CHUNK):
            part = slice(a, min(a + _CHUNK, old.numel()))
            move = add[part].to(device=theta.device, dtype=wide) * step
            if not bool(torch.isfinite(move).all()):
                raise BasinscopeError(
                    f"the direction of {name} is not finite at step={step}",
                    "allowed: finite directions and steps",
                )
            target[part] = (old[part].to(wide) + move).to(theta.dtype)
        if not live.is_contiguous():
            live.copy_(target.view(live.shape))


def _has_kernel(live: torch.Tensor) -> bool:
    return (
        live.device.type == "cpu"
        and live.dtype in (torch.float32, torch.bfloat16)
        and live.is_contiguous()
    )


def _delta(engine: Shapes, direction: Direction, name: str, draw: int) -> torch.Tensor:
    shape = engine.shapes[name]
    if type(direction) is Random:
        device = getattr(engine, "device", "cpu")
        if torch.device(device).type != "cpu":
            flat = noise.normals_torch(
                name, shape.numel(), seed=direction.seed, draw=draw, device=device
            )
            return flat.reshape(shape)
    delta = direction.delta(engine, name, draw)
    if delta.shape != shape:
        raise BasinscopeError(
            f"direction {direction.label!r} gives {name} the shape {tuple(delta.shape)}",
            f"the parameter has {tuple(shape)}",
            "is it made for another model?",
        )
    return delta.to(torch.float32)

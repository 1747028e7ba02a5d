"""What is read of the weights, and how: piece by piece, by canonical name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch

from basinscope.errors import BasinscopeError, nearest

Parts = Callable[[int, int], torch.Tensor]
"""Elements start .. stop of a flattened tensor, float32, in memory that the caller may write to."""

Device = torch.device | str

CHUNK, DEVICE_CHUNK = 1 << 18, 1 << 24
"""Elements at a time. On the CPU what is computed with them stays in a core's own cache; on other
devices a call takes as long for fewer of them, and so many are 64 MiB of float32."""


class Weights(Protocol):
    """What a direction may ask of an engine: what is perturbed, from where, and what it is called.

    All of it is fixed while the engine lives.
    """

    @property
    def shapes(self) -> Mapping[str, torch.Size]:
        """Shape of every perturbed parameter, by canonical name."""
        ...

    @property
    def d(self) -> int:
        """Number of perturbed parameters."""
        ...

    @property
    def names(self) -> Mapping[str, str]:
        """Canonical name for every name that a checkpoint of the module may use.

        Tied parameters under each of their names, buffers under their own.
        """
        ...

    @property
    def ignored(self) -> Collection[str]:
        """Regular expressions of names in a checkpoint that the module leaves alone."""
        ...

    @property
    def linear(self) -> Mapping[str, int]:
        """Weights of linear layers (without the output head): the dimension of their inputs."""
        ...

    @property
    def turned(self) -> Collection[str]:
        """Stacks of experts that are stored as (experts, inputs, outputs)."""
        ...

    @property
    def origin(self) -> str | None:
        """Folder or hub id that the weights were read from, perhaps in a wider dtype."""
        ...

    def pristine(self, name: str) -> torch.Tensor:
        """theta0 of one perturbed parameter, not to be written to."""
        ...

    def resolve(self, model: str) -> Path:
        """Folder with the safetensors of what a user calls a model."""
        ...

    def renamed(self, folder: Path, dtype: torch.dtype) -> Path | None:
        """Folder with a checkpoint's weights under the module's names, if loading renames them."""
        ...

    def check_setup(self, label: str, folder: Path) -> None:
        """Refuse a checkpoint that answers in another way than the model, its weights aside."""
        ...


def shape_of(engine: Weights, name: str) -> torch.Size:
    """Shape of a perturbed parameter, or an error that lists some of the names."""
    try:
        return engine.shapes[name]
    except KeyError:
        some = ", ".join(list(engine.shapes)[:3])
        raise BasinscopeError(
            f"no perturbed parameter called {name!r}", f"{some}, ...", nearest(name, engine.shapes)
        ) from None


def chunks(n: int, device: Device = "cpu") -> Iterable[tuple[int, int]]:
    """Ranges that make up 0 .. n, of as many elements as suit a device."""
    size = CHUNK if torch.device(device).type == "cpu" else DEVICE_CHUNK
    return ((a, min(a + size, n)) for a in range(0, n, size))


def whole(parts: Parts | None, shape: torch.Size) -> torch.Tensor:
    """The tensor that the parts make up: float32, of that shape, on the CPU; zeros for None."""
    tensor = torch.zeros(shape.numel(), dtype=torch.float32, device="cpu")
    if parts is not None:
        for start, stop in chunks(shape.numel()):
            tensor[start:stop] = parts(start, stop)
    return tensor.reshape(shape)

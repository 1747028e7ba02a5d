"""Directions in files: safetensors with one tensor for each parameter, and where they come from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from basinscope import files
from basinscope.directions.displaced import Displaced, Moves
from basinscope.errors import BasinscopeError
from basinscope.weights.checkpoints import Shelf, match
from basinscope.weights.parts import Device, Parts, Weights

FORMAT = "basinscope-direction/1"


@dataclass(frozen=True)
class Saved(Displaced):
    """A direction in a safetensors file, as `save_direction` writes it.

    The tensors are scaled to norm sqrt(d). A file without our metadata is taken as a displacement:
    its own norm is what it was made from.

    Args:
        file: path of the file.
    """

    file: str

    def __post_init__(self) -> None:
        """Take a path for a string."""
        object.__setattr__(self, "file", str(self.file))

    @property
    def label(self) -> str:
        """``saved:FILE``."""
        return f"saved:{self.file}"

    @property
    def displacement(self) -> float | None:
        """As saved: the norm of what it was made from, None if no other model is behind it."""
        if self._fitted is None:
            return None
        assert isinstance(self._fitted.moves, _File)
        saved = self._fitted.moves.displacement
        return self._fitted.norm if saved is not None and math.isnan(saved) else saved

    @property
    def metadata(self) -> dict[str, Any]:
        """Provenance that was saved with it."""
        provenance: dict[str, Any] = self._entry(self._shelf(), "provenance", {})
        return provenance

    def _entry(self, shelf: Shelf, key: str, otherwise: Any) -> Any:
        """One entry of the file's metadata, of the type of what stands for a missing one."""
        text = shelf.metadata.get(FORMAT)
        later = [name for name in shelf.metadata if name.startswith("basinscope-direction/")]
        if text is None and later:
            raise BasinscopeError(
                f"{self.file} was written by a later version of basinscope ({later[0]}, known "
                f"here: {FORMAT})",
                "directions of this version and earlier ones",
                "pip install --upgrade basinscope",
            )
        try:
            entries = {} if text is None else json.loads(text)
            value = entries.get(key, otherwise)
        except (ValueError, AttributeError, RecursionError):
            value = ...
        if not isinstance(value, type(otherwise)) and (key, value) != ("displacement", None):
            raise BasinscopeError(
                f"the metadata of {self.file} is malformed ({key}: {text!r})",
                "what save_direction writes",
                "save the direction anew",
            )
        return value

    def _shelf(self) -> Shelf:
        path = Path(self.file).expanduser()
        if not path.is_file():
            raise BasinscopeError(
                f"no file at {self.file!r}", "a safetensors file", "check the path"
            )
        return Shelf([path])

    def _read(self, engine: Weights) -> Moves:
        shelf = self._shelf()
        zero: list[str] = self._entry(shelf, "zero", [])
        displacement: float | None = self._entry(shelf, "displacement", math.nan)
        return _File(shelf, match(self.label, engine, shelf, optional=zero), displacement)


@dataclass(frozen=True)
class _File:
    shelf: Shelf
    names: dict[str, str]
    displacement: float | None  # NaN: the file says nothing

    def parts(self, engine: Weights, name: str, device: Device) -> Parts | None:
        if name not in self.names:
            return None
        key = self.names[name]
        return lambda start, stop: self.shelf.read(key, start, stop).to(device, torch.float32)

    def identity(self) -> str:
        return f"saved/1 {self.shelf.sha256(self.names)}"


def save_direction(
    path: str | Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, Any],
    *,
    displacement: float | None = None,
    zero: Sequence[str] = (),
) -> Path:
    """Write a direction that `Saved` reads; the file is there whole or not at all.

    Args:
        path: a name in ``.safetensors``; folders are made where they are missing.
        tensors: one for each perturbed parameter, by canonical name; any norm; written as float32.
        metadata: where it comes from, in JSON's types (seeds, steps, model, versions).
        displacement: ||theta' - theta0|| of the other model that it was made from, where there is
            one: it is marked on the slice at displacement / sqrt(d).
        zero: parameters that have no tensor, because the direction is zero there.

    Returns:
        The path.

    Raises:
        BasinscopeError: another suffix, no tensor, values that are not finite, metadata that JSON
            cannot hold, a disk that cannot be written.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise BasinscopeError(
            f"direction file {str(path)!r}", "a name in .safetensors", f"{path}.safetensors"
        )
    if not tensors or (twice := sorted(set(tensors) & set(zero))):
        raise BasinscopeError(
            f"{len(tensors)} tensors, zero={twice if tensors else list(zero)}",
            "at least one tensor, and none for what is zero",
            "a tensor for what moves, zero for the rest",
        )
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise BasinscopeError(
                f"the direction of {name} is not finite (NaN or infinity)",
                "finite numbers",
                "mend that tensor",
            )
    if displacement is not None and not (math.isfinite(displacement) and displacement > 0):
        raise BasinscopeError(f"displacement={displacement}", "above 0, or None", "leave it out")
    entries = {
        "provenance": dict(metadata),
        "displacement": None if displacement is None else float(displacement),
        "zero": list(zero),
    }
    try:
        # the library writes several keys in random order: one keeps equal directions equal files
        text = {FORMAT: json.dumps(entries, sort_keys=True, allow_nan=False)}
    except (TypeError, ValueError) as error:
        raise BasinscopeError(
            f"metadata of a direction ({error})", "JSON's types, without NaN", "text for the rest"
        ) from error
    state = {n: t.detach().to("cpu", torch.float32).contiguous() for n, t in tensors.items()}
    with files.whole(path) as draft:
        save_file(state, draft, metadata=text)
    return path

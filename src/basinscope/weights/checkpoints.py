"""Other models' weights, read piece by piece from safetensors: no copy of them is ever held."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch

from basinscope.errors import BasinscopeError, listed
from basinscope.files import describe, entries, ordinary, read_json
from basinscope.weights import selection
from basinscope.weights.parts import Weights, chunks

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
}  # fmt: skip
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_INDEX = "model.safetensors.index.json"
# buffers that old checkpoints hold and present modules compute
_COMPUTED = re.compile(r"(\.(attn|attention)\.(masked_)?bias|rotary_emb\.inv_freq|\.position_ids)$")


@dataclass(frozen=True)
class Location:
    """Where a tensor lies."""

    file: int
    start_bytes: int
    dtype: torch.dtype
    shape: torch.Size


class Shelf:
    """Tensors of some safetensors files, by name.

    Files stay open, so that one that is replaced meanwhile is read to the end as it was; one that
    is written to is noticed.

    Args:
        files: paths of safetensors files; no name may stand in two of them.
        masks: whether `integers` may be there, for the caller to look through.

    Attributes:
        entries: tensors that can be read, by name.
        integers: names of those that are stored as integers or in eight bits, with the dtype. They
            may be masks, or weights that are quantised: whoever reads the others must know.

    Raises:
        BasinscopeError: a file that cannot be read or is malformed.
    """

    def __init__(self, files: Sequence[Path], *, masks: bool = False) -> None:
        self.files = list(files)
        self.entries: dict[str, Location] = {}
        self.integers: dict[str, str] = {}
        self.metadata: dict[str, str] = {}
        self._open: list[FileIO] = []
        for number, path in enumerate(self.files):
            header, start = _header(path)
            self.metadata |= header.pop("__metadata__", {})
            for name, entry in header.items():
                if entry["dtype"] not in _DTYPES:
                    self.integers[name] = entry["dtype"]
                    continue
                if name in self.entries:
                    raise BasinscopeError(
                        f"{name} stands in {path} and in {self.files[self.entries[name].file]}",
                        "each tensor once in a checkpoint",
                        "remove the files that do not belong to it",
                    )
                self.entries[name] = Location(
                    number,
                    start + entry["data_offsets"][0],
                    _DTYPES[entry["dtype"]],
                    torch.Size(entry["shape"]),
                )
            file = FileIO(path)
            weakref.finalize(self, file.close)
            self._open.append(file)
        self._stamps = [_stamp(file) for file in self._open]
        if not masks:
            self.refuse_integers()

    def read(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements start .. stop of the flattened tensor, in its own dtype, in new memory."""
        entry = self.entries[name]
        file = self._open[entry.file]
        if _stamp(file) != self._stamps[entry.file]:
            raise BasinscopeError(
                f"{self.files[entry.file]} was written to since it was first read",
                "a checkpoint that stays as it is while it is measured",
                "run the line again once it is complete",
            )
        out = torch.empty(stop - start, dtype=entry.dtype)
        memory = out.view(torch.uint8).numpy().data
        file.seek(entry.start_bytes + start * entry.dtype.itemsize)
        while len(memory):
            got = file.readinto(memory)
            if not got:
                raise BasinscopeError(
                    f"{self.files[entry.file]} ends early", "a whole file", "copy it anew"
                )
            memory = memory[got:]
        return out

    def refuse_integers(self, passed_over: Callable[[str], bool] = lambda name: False) -> None:
        """Raise unless every tensor that is stored as integers may be passed over."""
        for name, dtype in self.integers.items():
            if not passed_over(name):
                raise BasinscopeError(
                    f"{self.files[0].parent} holds {name} as {dtype}",
                    f"{', '.join(_DTYPES)}",
                    "convert a quantised checkpoint to bfloat16 first",
                )

    def sha256(self, names: Mapping[str, str]) -> str:
        """Hash of tensors under given names: dtypes, shapes and bytes, however they are sharded."""
        digest = hashlib.sha256()
        for name, key in names.items():
            entry = self.entries[key]
            digest.update(f"{name}\0{entry.dtype}\0{tuple(entry.shape)}\0".encode())
            for start, stop in chunks(entry.shape.numel()):
                part = self.read(key, start, stop)
                digest.update(part.view(torch.uint8).numpy().data)
        return digest.hexdigest()


def files_of(model: str, engine: Weights) -> list[Path]:
    """Safetensors files of a checkpoint: a file, a folder, or what the engine resolves.

    Raises:
        BasinscopeError: nothing there, pickles only, or an adapter.
    """
    path = Path(model).expanduser()
    if path.suffix in _PICKLES and path.is_file():
        raise _pickled(path)
    if path.suffix == ".safetensors" and path.is_file():
        return [path]
    return _files_in(engine.resolve(model))


def opened(label: str, model: str, engine: Weights) -> tuple[Shelf, dict[str, str]]:
    """A checkpoint's shelf, and the name there of every perturbed parameter.

    Raises:
        BasinscopeError: as `files_of` and `match`; or its config, tokenizer, template or end
            tokens are not the model's.
    """
    files = files_of(model, engine)
    if model != engine.origin:
        engine.check_setup(label, files[0].parent)
    shelf = Shelf(files, masks=True)
    if any(_foreign(engine, key) for key in shelf.entries) and not Path(model).is_file():
        dtypes = {entry.dtype for entry in shelf.entries.values()}
        widest = functools.reduce(torch.promote_types, dtypes)
        shelf.refuse_integers(lambda key: not _foreign(engine, key))
        own_names = engine.renamed(shelf.files[0].parent, widest)
        shelf = shelf if own_names is None else Shelf(_files_in(own_names), masks=True)
    return shelf, match(label, engine, shelf)


def match(
    label: str, engine: Weights, shelf: Shelf, optional: Collection[str] = ()
) -> dict[str, str]:
    """Name on the shelf of every perturbed parameter; all others must be known to the module.

    Names are compared as `selection.canonical_name` gives them, with or without the name of the
    base model in front (``transformer.``).

    Args:
        label: says in messages what is compared.
        engine: the engine.
        shelf: the checkpoint.
        optional: parameters that may be missing.

    Raises:
        BasinscopeError: with the parameters that are missing, unknown, or of another shape; or
            where tied parameters have different values.
    """
    shelf.refuse_integers(
        lambda key: _known(engine.names, key) not in engine.shapes and not _foreign(engine, key)
    )
    keys: dict[str, str] = {}
    unknown = []
    for key in shelf.entries:
        name = _known(engine.names, key)
        if _foreign(engine, key):
            unknown.append(key)
        elif name is not None and name in engine.shapes:
            if name in keys and not _equal(shelf, keys[name], key):
                raise BasinscopeError(
                    f"{label} has different values for {keys[name]} and {key}",
                    "one value, since the model ties them",
                    "load a model whose config does not tie them",
                )
            if keys.get(name) != name:
                keys[name] = key
    missing = [n for n in engine.shapes if n not in keys and n not in optional]
    misshapen = [
        f"{n} {tuple(shelf.entries[keys[n]].shape)} instead of {tuple(shape)}"
        for n, shape in engine.shapes.items()
        if n in keys and shelf.entries[keys[n]].shape != shape
    ]
    if missing or unknown or misshapen:
        mismatches = (
            listed(f"lacks {len(missing)} of {len(engine.shapes)} parameters", missing),
            listed(f"has {len(unknown)} that the model lacks", unknown),
            listed(f"has {len(misshapen)} of another shape", misshapen),
        )
        raise BasinscopeError(
            f"{label} does not fit the model: it {'; it '.join(filter(None, mismatches))}",
            "the same names and shapes",
            "give a checkpoint of the same architecture and size",
        )
    return {name: keys[name] for name in engine.shapes if name in keys}


def computed(key: str) -> bool:
    """Whether a checkpoint's tensor is a mask or a table that modules compute by now."""
    return _COMPUTED.search(key) is not None


def _foreign(engine: Weights, key: str) -> bool:
    """Whether the module neither has a tensor of a checkpoint nor passes it over."""
    return (
        _known(engine.names, key) is None
        and not computed(key)
        and not any(re.search(pattern, key) for pattern in engine.ignored)
    )


def _known(names: Mapping[str, str], key: str) -> str | None:
    """Canonical name of a checkpoint's tensor; None if the module has none like it."""
    plain = ".".join(part for part in key.split(".") if part not in selection.WRAPPERS)
    if plain in names:
        return names[plain]
    if "." not in plain:
        return None
    bases = {name.partition(".")[0] for name in names}
    candidates = {names[n] for base in bases if (n := f"{base}.{plain}") in names}
    if not candidates and plain.partition(".")[0] not in bases:
        candidates = {names[n] for n in [plain.partition(".")[2]] if n in names}
    return candidates.pop() if len(candidates) == 1 else None


def _equal(shelf: Shelf, first: str, second: str) -> bool:
    a, b = shelf.entries[first], shelf.entries[second]
    return (a.shape, a.dtype) == (b.shape, b.dtype) and all(
        torch.equal(shelf.read(first, *part), shelf.read(second, *part))
        for part in chunks(a.shape.numel())
    )


def _files_in(folder: Path) -> list[Path]:
    """What transformers loads of a folder: one whole file first, then the shards of an index."""
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    if (folder / _INDEX).is_file():
        try:
            shards = read_json(folder / _INDEX)["weight_map"]
            files = [folder / name for name in sorted(set(shards.values()))]
            absent = [file.name for file in files if not file.is_file()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BasinscopeError(
                f"{folder / _INDEX} is malformed ({type(error).__name__}: {error})",
                "an index with a weight_map, as save_pretrained writes it",
                "copy it again",
            ) from error
        if absent:
            raise BasinscopeError(
                listed(f"{folder} lacks {len(absent)} of {len(files)} shards", absent),
                "all files that its index names",
                "copy the missing ones",
            )
        return files
    if (folder / "adapter_config.json").is_file():
        raise BasinscopeError(
            f"{folder} is an adapter, not a checkpoint",
            "a folder with the safetensors of a whole model",
            f"adapter:{folder}",
        )
    files = entries(folder, "*.safetensors")
    if files:
        return files
    pickles = [file for file in entries(folder) if file.suffix in _PICKLES]
    if pickles:
        raise _pickled(pickles[0])
    raise BasinscopeError(
        f"{folder} holds no weights: it is {describe(folder)}",
        "a folder with model.safetensors or its shards and their index",
        "name the folder that holds them",
    )


def _pickled(path: Path) -> BasinscopeError:
    return BasinscopeError(
        f"{path} is a pickle, which can run code when it is opened",
        "safetensors",
        "load it with transformers where you trust it, and save_pretrained it to a new folder",
    )


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Header of a safetensors file, validated by the library, and where the tensors begin."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(ordinary(path, None), framework="pt"):
            pass
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return json.loads(file.read(size)), 8 + size
    except (OSError, SafetensorError) as error:
        raise BasinscopeError(
            f"cannot read {path} ({error})", "a complete safetensors file", "copy it again"
        ) from error


def _stamp(file: FileIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns

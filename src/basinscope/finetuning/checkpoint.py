"""Checkpoints of a training run: weights, optimiser, schedule, generators; nothing pickled.

A checkpoint is written by `files.whole_folder`: it is there whole or not at all.
Its weights are a model folder (or an adapter folder) like any other; what only resuming needs,
``state.safetensors`` and ``state.json``, is kept in the newest checkpoint alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from basinscope import files
from basinscope.engines import sources
from basinscope.errors import BasinscopeError
from basinscope.runs import header
from basinscope.weights import selection

TENSORS, REST, TRAINER = "state.safetensors", "state.json", "trainer_state.json"
_PREFIX: Final = "step-"


def place(folder: Path, step: int) -> Path:
    """Folder of the checkpoint after ``step`` optimiser steps."""
    return folder / "checkpoints" / f"{_PREFIX}{step:06d}"


def found(folder: Path) -> list[Path]:
    """Checkpoints of a run in the order of their steps."""
    return sorted((folder / "checkpoints").glob(f"{_PREFIX}*"))


def step_of(checkpoint: Path) -> int:
    """Optimiser steps that a checkpoint has behind it."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def can_resume(checkpoint: Path) -> bool:
    """Whether a checkpoint still holds what resuming needs."""
    return (checkpoint / REST).is_file()


def write(target: Path, module: nn.Module, tokenizer: Any, state: dict[str, Any]) -> None:
    """Write a checkpoint whole, then take from the older ones what only resuming needs."""
    from safetensors.torch import save_file

    with files.whole_folder(target) as draft:
        write_weights(draft, module, tokenizer)
        tensors: dict[str, torch.Tensor] = {}
        plain = _packed(state, tensors)
        save_file(tensors, draft / TENSORS)
        (draft / REST).write_text(json.dumps(plain), encoding="utf-8")
        (draft / TRAINER).write_text(json.dumps(state["trainer"]), encoding="utf-8")
        files.seal(draft)
    for other in target.parent.glob(f"{_PREFIX}*"):
        if other != target:
            forget(other)


def forget(checkpoint: Path) -> None:
    """Take from a checkpoint what only resuming needs; its weights stay.

    A file that the disk does not let go of is left: the next run of the same line asks again.
    """
    for name in (REST, TRAINER, TENSORS, files.SEAL):
        with suppress(OSError):
            (checkpoint / name).unlink(missing_ok=True)


def write_weights(folder: Path, module: nn.Module, tokenizer: Any) -> None:
    """Float32 model folder that loads like any other; of a PEFT model, its adapter folder."""
    if hasattr(module, "peft_config"):
        # else peft asks the hub for the config of a model that came from memory
        module.save_pretrained(folder, save_embedding_layers=False)  # type: ignore[operator]
        (folder / "README.md").unlink(missing_ok=True)  # an empty form
    else:
        sources.save(module, tokenizer, folder)


def write_result(folder: Path, module: nn.Module, tokenizer: Any) -> None:
    """Put the weights and what belongs to them into the folder itself, file by file."""
    with files.whole_files(folder) as draft:
        write_weights(draft, module, tokenizer)


def read_weights(checkpoint: Path, module: nn.Module) -> None:
    """Set the live weights to those of a checkpoint, bit for bit.

    Raises:
        BasinscopeError: if they cannot be read.
    """
    with resuming(checkpoint):
        if hasattr(module, "peft_config"):
            from peft import set_peft_model_state_dict

            set_peft_model_state_dict(module, _tensors(checkpoint / "adapter_model.safetensors"))
            return
        saved, live = _tensors(checkpoint / "model.safetensors"), selection.tensors(module)
        assert {n: t.shape for n, t in saved.items()} == {n: t.shape for n, t in live.items()}
        with torch.no_grad():
            for name, tensor in live.items():
                tensor.copy_(saved[name])


def read(checkpoint: Path) -> dict[str, Any]:
    """State that `write` was given.

    Raises:
        BasinscopeError: if it cannot be read, or is of a later version.
    """
    with resuming(checkpoint):
        plain = files.read_json(checkpoint / REST)
        header.check_format(checkpoint / REST, plain)
        files.check_seal(checkpoint)
        state: dict[str, Any] = _unpacked(plain, _tensors(checkpoint / TENSORS))
        # which transformers reads again by itself
        assert json.dumps(files.read_json(checkpoint / TRAINER)) == json.dumps(state["trainer"])
    return state


@contextmanager
def resuming(checkpoint: Path) -> Iterator[None]:
    """Inside it a checkpoint is read and put to use: whatever it was cut to is said in one line."""
    try:
        yield
    except BasinscopeError:
        raise
    except Exception as error:
        raise BasinscopeError(
            f"{checkpoint} cannot be resumed from ({sources.first_line(error)})",
            "a checkpoint as it was written",
            "start over with resume=False (--no-resume)",
        ) from error


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = load_file(files.ordinary(file, None))
    return tensors


def generators() -> dict[str, Any]:
    """State of the global generators of Python, NumPy and torch."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002  (the global one: to put it back)
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_generators(state: dict[str, Any]) -> None:
    """Put the global generators where they were."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _packed(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON of nested dicts, lists and tuples; their tensors are put into ``tensors``."""
    if isinstance(value, np.ndarray):
        name = _kept(torch.from_numpy(value.astype(np.int64)), tensors)
        return {"array": name, "dtype": str(value.dtype)}
    if isinstance(value, torch.Tensor):
        return {"tensor": _kept(value, tensors)}
    if isinstance(value, dict):
        return {"dict": [[k, _packed(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_packed(v, tensors) for v in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise BasinscopeError(
        f"the optimiser's state holds a {type(value).__name__}",
        "tensors, numbers, text, lists and dicts of them",
        "another optimizer",
    )


def _kept(tensor: torch.Tensor, tensors: dict[str, torch.Tensor]) -> str:
    name = str(len(tensors))
    tensors[name] = tensor.detach().cpu().contiguous()
    return name


def _unpacked(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    (kind, content), *rest = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy().astype(dict(rest)["dtype"])
    if kind == "dict":
        return {k: _unpacked(v, tensors) for k, v in content}
    many = [_unpacked(v, tensors) for v in content]
    return many if kind == "list" else tuple(many)

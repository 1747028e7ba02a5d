"""From what a user calls a model to an engine: alias, hub id, folder, GGUF file, or module."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from basinscope.engines.base import Engine
from basinscope.engines.sources import (
    ALLOWED,
    DTYPES,
    first_line,
    located,
    quiet,
    save,
)
from basinscope.engines.transformers import TransformersEngine
from basinscope.errors import BasinscopeError
from basinscope.weights import selection


def load(
    model: str | Path | nn.Module,
    *,
    dtype: str | None = None,
    device: str = "auto",
    params: str | None = None,
    tokenizer: Any = None,
    trust_remote_code: bool = False,
) -> Engine:
    """Load a model and keep a pristine copy of its weights.

    Args:
        model: alias (``smollm2``), hub id, folder, ``.gguf`` file, or a live ``nn.Module`` (used in
            place and put in evaluation mode).
        dtype: ``bfloat16`` (default for checkpoints), ``float32`` or ``float16``; None leaves a
            live module as it is.
        device: ``auto`` (CUDA where there is one; a live module stays where it is), ``cpu``,
            ``cuda``, ``cuda:1``.
        params: regular expression over parameter names; only matching tensors are perturbed.
        tokenizer: for a live module that shall answer text requests.
        trust_remote_code: allow a hub checkpoint to run its own Python code.

    Raises:
        BasinscopeError: unknown model, dtype or device; not a GGUF; weights that are not finite;
            empty selection.
    """
    if dtype is not None and dtype not in DTYPES:
        raise BasinscopeError(f"dtype {dtype!r}", f"allowed: {', '.join(DTYPES)}")
    place = _device(device)
    if isinstance(model, nn.Module):
        if dtype is not None:
            cast(model, DTYPES[dtype])
        if device != "auto":
            model = model.to(place)
        if tokenizer is None:
            return Engine(model, source=type(model).__name__, params=params)
        name = type(model).__name__
        return TransformersEngine(model, tokenizer, source=name, params=params)
    word = str(model)
    where = located(word, dtype or "bfloat16")
    module, tokens = _pretrained(word, where, DTYPES[dtype or "bfloat16"], trust_remote_code)
    module = module.to(place)
    folder = Path(where) if Path(where).is_dir() else None
    mapped = _mapped(folder, module) if folder and place.type == "cpu" else {}
    engine = TransformersEngine(module, tokens, source=word, params=params, mapped=mapped)
    if folder and mapped.keys() >= selection.checkpoint_parameters(module).keys():
        engine.checkpoint = str(folder)
    return engine


@contextmanager
def snapshot(engine: Engine) -> Iterator[str | None]:
    """Folder from which another process can load the same live bytes, memory-mapped.

    The engine's own checkpoint where it holds them; otherwise a copy in a temporary folder that is
    removed on leaving. None for a module that transformers cannot rebuild from its config.
    """
    if engine.checkpoint is not None:
        yield engine.checkpoint
        return
    if type(engine) is not TransformersEngine or not hasattr(engine.module, "config"):
        yield None
        return
    if selection.added(engine.module):
        raise BasinscopeError(
            f"{engine.source!r} carries adapters, which a checkpoint of its config cannot hold",
            "allowed with several workers: a model without adapters",
            "merge them, or use one worker",
        )
    with tempfile.TemporaryDirectory(prefix="basinscope-") as folder:
        save(engine.module, engine.tokenizer, Path(folder))
        yield folder


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast in place what the checkpoint holds, as loading it in that dtype would.

    Other buffers (rotary frequencies) keep their precision.
    """
    kept = [
        (part, name, part._buffers[name])
        for part in module.modules()
        for name in part._non_persistent_buffers_set
    ]
    module.to(dtype)
    for part, name, buffer in kept:
        part._buffers[name] = buffer


def _device(word: str) -> torch.device:
    if word == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = None
    with suppress(RuntimeError):
        device = torch.device(word)
    if device is None or device.type not in ("cpu", "cuda"):
        raise BasinscopeError(f"device {word!r}", "allowed: auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BasinscopeError(f"device {word!r}", "torch sees no CUDA device", "--device cpu")
    return device


def _pretrained(word: str, where: str, dtype: torch.dtype, trust: bool) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    here = {
        name for name in ("config.json", "adapter_config.json") if (Path(where) / name).is_file()
    }
    if here == {"adapter_config.json"}:
        raise BasinscopeError(
            f"{word!r} is an adapter, not a model",
            ALLOWED,
            f"give the model that it was trained on, and -d adapter:{word} for the way to it",
        )
    try:
        with quiet():
            module = AutoModelForCausalLM.from_pretrained(
                where, dtype=dtype, use_safetensors=True, trust_remote_code=trust
            )
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=trust)
    except Exception as error:
        raise BasinscopeError(
            f"cannot load the model {word!r} ({first_line(error)})", ALLOWED, "check the spelling"
        ) from error
    if not tokenizer.encode("a", add_special_tokens=False):  # made up, for want of its files
        raise BasinscopeError(
            f"cannot load the model {word!r} (no tokenizer there)",
            "a checkpoint needs its tokenizer's files beside its weights",
            "copy them from where the model comes from",
        )
    return module, tokenizer


def _mapped(folder: Path, module: nn.Module) -> dict[str, torch.Tensor]:
    """Memory-mapped tensors of the folder's safetensors that equal the live ones bit for bit."""
    from safetensors import safe_open

    live = selection.checkpoint_parameters(module)
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as shelf:
            for name in shelf.keys() & live.keys():
                tensor = shelf.get_tensor(name)
                if tensor.dtype == live[name].dtype and torch.equal(tensor, live[name]):
                    found[name] = tensor
    return found

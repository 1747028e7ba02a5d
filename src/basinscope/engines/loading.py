"""From what a user calls a model to an engine: alias, hub id, folder, GGUF file, or module."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from basinscope.engines.admission import check_config, check_memory, check_report
from basinscope.engines.base import Engine
from basinscope.engines.dtypes import DTYPES, resolved
from basinscope.engines.memory import LEAST, TOKEN_BUDGET, out_of_memory
from basinscope.engines.sources import ALIASES, ALLOWED, first_line, located, quiet, save
from basinscope.engines.transformers import TransformersEngine
from basinscope.errors import BasinscopeError, listed, nearest, typed
from basinscope.files import describe, entries
from basinscope.weights import selection
from basinscope.weights.surroundings import fixed


@typed
@fixed()
def load(
    model: str | Path | nn.Module,
    *,
    dtype: str | None = "auto",
    device: str = "auto",
    params: str | None = None,
    tokenizer: Any = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    device_map: Any = None,
    attn_implementation: str | None = None,
    token_budget: int | None = None,
) -> Engine:
    """Load a model and keep a pristine copy of its weights.

    Args:
        model: alias (``smollm2``), hub id, folder, ``.gguf`` file, or a live ``nn.Module`` (used in
            place and put in evaluation mode).
        dtype: ``bfloat16``, ``float32``, ``float16``, or ``auto`` (None means it too): the faster
            of the first two on the device at hand (`Engine.chosen` says why); a live module is left
            as it is.
        device: ``auto`` (CUDA where there is one; a live module stays where it is), ``cpu``,
            ``cuda``, ``cuda:1``.
        params: regular expression over parameter names; only matching tensors are perturbed.
        tokenizer: for a live module that shall answer text requests.
        trust_remote_code: allow a hub checkpoint to run its own Python code.
        revision: branch, tag or commit of a hub id: of weights, config and tokenizer.
        device_map: which part of a checkpoint goes to which device, as transformers takes it, in
            place of ``device``; no part may go to the disk.
        attn_implementation: of a checkpoint, as transformers takes it.
        token_budget: most tokens in one forward pass, as in `TransformersEngine`; bounds memory,
            changes no answer.

    Raises:
        BasinscopeError: unknown model, dtype or device, or a dtype that the device cannot do; not a
            GGUF; no causal language model, or a quantised one; too little memory; weights that are
            missing, left on the disk or not finite; empty selection; an option that does nothing
            for a model of this kind.

    Cost: reads the weights once; some 20 ms to choose a dtype; a dozen short forward passes to find
    the fastest way to answer.
    """
    place = _device(device)
    dtype = "auto" if dtype is None else dtype
    budget = _budget(token_budget)
    if params is not None:
        selection.compiled(params)
    if isinstance(model, nn.Module):
        idle = {
            "revision": revision,
            "device_map": device_map,
            "attn_implementation": attn_implementation,
            "token_budget": token_budget if tokenizer is None else None,
        }
        _refuse_idle(idle, "a live module" + (" without a tokenizer" if tokenizer is None else ""))
        return _live(model, dtype, None if device == "auto" else place, params, tokenizer, budget)
    word = str(model)
    if device_map is not None and device != "auto":
        _refuse_idle({"device": device}, "a model with a device_map")
    auto, dtype = dtype == "auto", resolved(dtype, place)
    where = located(word, dtype)
    folder = Path(where) if Path(where).is_dir() else None
    if folder is not None:
        _refuse_idle({"revision": revision}, f"{word!r}, which is no hub id")
    module, tokens = _pretrained(
        word, where, DTYPES[dtype], place, trust=trust_remote_code, revision=revision,
        device_map=device_map, attn_implementation=attn_implementation,
    )  # fmt: skip
    on_cpu = all(p.device.type == "cpu" for p in module.parameters())
    mapped = _mapped(folder, module) if folder and on_cpu else {}
    engine = TransformersEngine(
        module, tokens, source=word if revision is None else f"{word}@{revision}", params=params,
        mapped=mapped, token_budget=budget,
    )  # fmt: skip
    engine.dtype_is_auto = auto
    engine.origin = where if revision is None else None
    if folder and mapped.keys() >= selection.checkpoint_parameters(module).keys():
        engine.checkpoint = str(folder)
    return engine


def _live(
    module: nn.Module,
    dtype: str,
    place: torch.device | None,
    params: str | None,
    tokenizer: Any,
    budget: int,
) -> Engine:
    """Engine of a module that is there already."""
    name = type(module).__name__
    if empty := [n for n, p in module.named_parameters() if p.is_meta]:
        raise BasinscopeError(
            listed(f"a {name} with {len(empty)} weights on the meta device", empty),
            "a module whose weights have values",
            "load its weights first, or give the folder that holds them",
        )
    parameter = next(module.parameters(), None)
    here = place or (parameter.device if parameter is not None else torch.device("cpu"))
    if dtype != "auto":
        cast(module, DTYPES[resolved(dtype, here)])
    if place is not None:
        module = module.to(place)
    if tokenizer is None:
        return Engine(module, source=name, params=params)
    from transformers import PretrainedConfig

    if isinstance(getattr(module, "config", None), PretrainedConfig):
        check_config(name, module.config, type(module))
    return TransformersEngine(module, tokenizer, source=name, params=params, token_budget=budget)


def _budget(tokens: int | None) -> int:
    if tokens is None:
        return TOKEN_BUDGET
    if tokens < LEAST:
        raise BasinscopeError(f"token_budget={tokens}", f"{LEAST} or more", f"{TOKEN_BUDGET}")
    return tokens


def _refuse_idle(options: Mapping[str, object], of: str) -> None:
    """Refuse options that would do nothing."""
    for name, value in options.items():
        if value is not None:
            raise BasinscopeError(
                f"{name}={value!r} for {of}", "what has an effect there", f"leave {name} out"
            )


@contextmanager
def snapshot(engine: Engine) -> Iterator[str | None]:
    """Folder from which another process can load the same live bytes, memory-mapped.

    The engine's own checkpoint where it holds them; otherwise a copy in a temporary folder that is
    removed on leaving. None for a module that transformers cannot rebuild from its config.
    """
    if engine.checkpoint is not None:
        engine.check_untouched()
        yield engine.checkpoint
        return
    if type(engine) is not TransformersEngine or not hasattr(engine.module, "config"):
        yield None
        return
    if selection.added(engine.module):
        raise BasinscopeError(
            f"{engine.source!r} carries adapters, which a checkpoint of its config cannot hold",
            "with several workers, a model without adapters",
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
        raise BasinscopeError(f"device {word!r}", "auto, cpu, cuda, cuda:N", "auto")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BasinscopeError(f"device {word!r}, and torch sees no CUDA device", "auto, cpu", "cpu")
    return device


def _pretrained(
    word: str,
    where: str,
    dtype: torch.dtype,
    device: torch.device,
    *,
    trust: bool,
    revision: str | None,
    device_map: Any,
    attn_implementation: str | None,
) -> tuple[Any, Any]:
    """Module and tokenizer of a checkpoint, after all that its config tells has been checked."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        AutoConfig,
        AutoModelForCausalLM,
        AutoTokenizer,
    )

    here = {
        name
        for name in ("config.json", "adapter_config.json")
        if os.path.isfile(os.path.join(where, name))
    }
    if here == {"adapter_config.json"}:
        raise BasinscopeError(
            f"{word!r} is an adapter, not a model",
            ALLOWED,
            f"give the model that it was trained on, and -d adapter:{word} for the way to it",
        )
    source = {"revision": revision or "main", "trust_remote_code": trust}
    with _reading(word):
        config = AutoConfig.from_pretrained(where, **source)
        if "AutoModelForCausalLM" not in (getattr(config, "auto_map", None) or {}):
            check_config(word, config, MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None))
    if device_map is None:
        folder = Path(where) if here else None
        empty = partial(AutoModelForCausalLM.from_config, config, trust_remote_code=trust)
        with _reading(word):
            check_memory(word, folder, empty, dtype, device)
    options = {"device_map": device_map, "attn_implementation": attn_implementation}
    with _reading(word):
        module, report = AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype, use_safetensors=True, output_loading_info=True,
            **source, **{name: value for name, value in options.items() if value is not None},
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(where, **source)
        if device_map is None:
            module = module.to(device)
        made_up = not tokenizer.encode("a", add_special_tokens=False)  # for want of its files
    check_report(word, type(module).__name__, report)
    away = [name for name, parameter in module.named_parameters() if parameter.is_meta]
    if away:
        raise BasinscopeError(
            listed(f"device_map leaves {len(away)} weights of {word!r} out of memory", away),
            "a device_map that puts every weight on a device",
            "leave device_map out, or take a smaller model",
        )
    if made_up:
        raise BasinscopeError(
            f"cannot load the model {word!r} (no tokenizer there)",
            "a tokenizer's files beside the weights",
            "copy them from where the model comes from",
        )
    return module, tokenizer


@contextmanager
def _reading(word: str) -> Iterator[None]:
    """Inside it transformers reads a checkpoint, quietly; what it raises becomes one line."""
    try:
        with quiet():
            yield
    except BasinscopeError:
        raise
    except Exception as error:
        advice = nearest(word, ALIASES)
        if out_of_memory(error):
            advice = "free memory, or take a smaller model"
        elif "trust_remote_code" in str(error):
            advice = "allow trust_remote_code if you trust the code that it would run"
        raise BasinscopeError(
            f"cannot load the model {word!r} ({first_line(error)}): {_there(word)}", ALLOWED, advice
        ) from error


def _there(word: str) -> str:
    """What was found in the place of a model that cannot be read."""
    if os.path.lexists(os.path.expanduser(word)):
        return f"there is {describe(word)}"
    return "no folder is called so, and the hub has no such model or cannot be reached"


def _mapped(folder: Path, module: nn.Module) -> dict[str, torch.Tensor]:
    """Memory-mapped tensors of the folder's safetensors that equal the live ones bit for bit."""
    from safetensors import safe_open

    live = selection.checkpoint_parameters(module)
    found: dict[str, torch.Tensor] = {}
    for file in entries(folder, "*.safetensors"):
        with safe_open(file, framework="pt") as shelf:
            for name in shelf.keys() & live.keys():
                tensor = shelf.get_tensor(name)
                if tensor.dtype == live[name].dtype and torch.equal(tensor, live[name]):
                    found[name] = tensor
    return found

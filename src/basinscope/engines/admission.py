"""What can be served at all: refused from its config where that tells, before weights are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from basinscope.errors import BasinscopeError, listed
from basinscope.files import entries
from basinscope.weights.checkpoints import computed

LANGUAGE_MODELS = "causal language models of transformers, of text, in 16 or 32 bits"
_WIDEST = 4  # bytes of a parameter that was stored in one byte at least
_GROUP = Path("/sys/fs/cgroup")  # where a container's limits stand


def check_config(word: str, config: Any, model_class: Any) -> None:
    """Refuse what is no causal language model of text in full precision.

    Args:
        word: what the user calls the model.
        config: of transformers.
        model_class: that the model is loaded as; None where transformers knows none.

    Raises:
        BasinscopeError: an encoder, an encoder-decoder, a model of pictures or sound, quantised
            layers, another kind of model; in one line that says what to do.
    """
    kind = type(config).__name__.removesuffix("Config")
    if config.is_encoder_decoder:
        fault = f"a {kind}, which reads with an encoder and writes with a decoder"
        advice = "give a model that does both in one, such as a GPT, a Llama or a Qwen"
    elif _is_encoder(config):
        raise sees_ahead(word)
    elif model_class is None:
        fault = f"a {kind}, for which transformers has no causal language model"
        advice = "give a model that was trained to go on with a text"
    elif _sees_or_hears(config) and isinstance(config, model_class.config_class):
        fault = f"a {kind}, which has parts for pictures or sound that no text would ask"
        advice = "save its language model alone, and give that folder"
    elif method := _quantised_by(config):
        fault = f"stored with layers quantised by {method}, whose integers cannot be moved"
        advice = "give the checkpoint that it was made from, or a dequantised copy of it"
    else:
        return
    raise BasinscopeError(f"{word!r} is {fault}", LANGUAGE_MODELS, advice)


def sees_ahead(word: str) -> BasinscopeError:
    """The error of a model whose early answers depend on later tokens."""
    return BasinscopeError(
        f"{word!r} is an encoder: each token sees those behind it",
        LANGUAGE_MODELS,
        "give a model that was trained to go on with a text",
    )


def check_report(word: str, kind: str, report: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose weights are not the model's, each of them and no others.

    Args:
        word: what the user calls the model.
        kind: class of the model.
        report: of transformers, which leaves out what the class declares that it can do without.

    Raises:
        BasinscopeError: weights that transformers made up or left unread.
    """
    absent = sorted(report["missing_keys"])
    unread = sorted(name for name in report["unexpected_keys"] if not computed(name))
    other = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    faults = (
        listed(f"lacks {len(absent)} weights of a {kind}", absent),
        listed(f"has {len(unread)} that a {kind} does not read", unread),
        listed(f"has {len(other)} of another shape", other),
    )
    if any(faults):
        raise BasinscopeError(
            f"{word!r} {'; it '.join(filter(None, faults))}",
            "all of the model's weights and no others: transformers would make up the one and pass "
            "over the other",
            "give the checkpoint as it was trained, with its output head",
        )


def check_memory(
    word: str,
    folder: Path | None,
    empty: Callable[[], nn.Module],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Refuse a model that does not fit: its live weights, and pristine ones if no file holds them.

    Args:
        word: what the user calls the model.
        folder: of its safetensors, where they lie in one; their size settles the clear cases.
        empty: makes the module, under ``torch.device("meta")``.
        dtype: that it is loaded in.
        device: that it is loaded to.

    Raises:
        BasinscopeError: with what is needed and what there is, in gigabytes.
    """
    free = free_bytes(device)
    copies = 1 if folder is not None and device.type == "cpu" else 2
    if folder is not None:
        stored = sum(file.stat().st_size for file in entries(folder, "*.safetensors"))
        if stored * _WIDEST * copies < free:
            return
    with torch.device("meta"):
        parameters = sum(p.numel() for p in empty().parameters())
    if parameters * dtype.itemsize * copies > free:
        raise too_large(word, parameters * dtype.itemsize * copies, device)


def too_large(word: str, needed_bytes: int, device: torch.device) -> BasinscopeError:
    """The error of a model that does not fit."""
    return BasinscopeError(
        f"{word!r} needs {needed_bytes / 1e9:.3g} GB for its weights, and {device} has "
        f"{free_bytes(device) / 1e9:.3g} GB free",
        "what fits, in most cases live and pristine",
        "free memory, take another device or dtype, or a smaller model",
    )


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on a device, within the limit of a container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no such file, or "max"
        limit = int((_GROUP / "memory.max").read_text())
        lines = (_GROUP / "memory.stat").read_text().splitlines()
        files = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        free = min(free, limit - int((_GROUP / "memory.current").read_text()) + files)
    return free


def _is_encoder(config: Any) -> bool:
    """Whether a config of a kind that is either says that it reads only; GPT-NeoX is none."""
    heads = config.architectures or ()
    writes = any(name.endswith(("ForCausalLM", "LMHeadModel", "Decoder")) for name in heads)
    return getattr(config, "is_decoder", None) is False and bool(heads) and not writes


def _sees_or_hears(config: Any) -> bool:
    return any(hasattr(config, part) for part in ("vision_config", "audio_config"))


def _quantised_by(config: Any) -> str:
    """Method by which layers are quantised; empty for none, and for GGUF, which is widened."""
    settings = getattr(config, "quantization_config", None)
    if not settings:
        return ""
    fields = settings if isinstance(settings, dict) else settings.to_dict()
    method = fields.get("quant_method", "an unknown method")
    method = str(getattr(method, "value", method))
    return "" if method == "gguf" else method

"""Low-rank adapters (Hu et al., "LoRA", arXiv 2106.09685), by peft."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from basinscope.errors import BasinscopeError


def check(rank: int, alpha: int, targets: str | Sequence[str]) -> None:
    """Refuse numbers that make no adapter, and a machine without peft."""
    if importlib.util.find_spec("peft") is None:
        raise BasinscopeError(
            "method 'lora' needs the package peft",
            "basinscope with its extra peft",
            "pip install 'basinscope[peft]'",
        )
    if rank < 1 or not alpha > 0:
        raise BasinscopeError(
            f"lora_r={rank}, lora_alpha={alpha}", "rank >= 1, alpha > 0", "lora_r=16, lora_alpha=32"
        )


def attach(
    module: Any, source: str, rank: int, alpha: int, targets: str | Sequence[str]
) -> nn.Module:
    """Module with a fresh adapter, the only part of it that is trained.

    Args:
        module: bare language model.
        source: what the adapter's folder calls its base.
        rank: r of B (out x r) and A (r x in).
        alpha: BA is scaled by ``alpha / rank``.
        targets: names of linear layers (a sequence, or by commas), or ``all-linear``.

    Raises:
        BasinscopeError: peft is missing; no layer is called so.
    """
    check(rank, alpha, targets)
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=targets if targets == "all-linear" else _names(targets),
        fan_in_fan_out=_transposed(module),
    )
    try:
        with warnings.catch_warnings():  # peft asks transformers by names that it deprecates
            warnings.simplefilter("ignore", FutureWarning)
            # of patterns that it sets itself for stacked experts, and does not ignore
            warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern", RuntimeWarning)
            adapted = get_peft_model(module, config)
    except ValueError as error:
        raise BasinscopeError(
            f"lora_targets {targets!r} ({' '.join(str(error).split())[:200]})",
            "all-linear, or names of the model's linear layers",
            "q_proj,v_proj",
        ) from error
    adapted.peft_config["default"].base_model_name_or_path = source
    adapter: nn.Module = adapted
    return adapter


@torch.no_grad()
def displacement(adapted: nn.Module) -> float:
    """``||BA||`` over all layers, scaled as it is merged; summed in float64."""
    total = 0.0
    for part in adapted.modules():
        if hasattr(part, "get_delta_weight"):
            merged: Any = part
            delta = merged.get_delta_weight("default")
            total += float(delta.double().square().sum())
    return float(total**0.5)


def _names(targets: str | Sequence[str]) -> list[str]:
    names = targets.split(",") if isinstance(targets, str) else targets
    return [name.strip() for name in names]


def _transposed(module: nn.Module) -> bool:
    """Whether the linear layers keep their weights as (in, out), as GPT-2's do."""
    return any(type(part).__name__ == "Conv1D" for part in module.modules())

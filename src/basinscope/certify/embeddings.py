"""The embedding matrix of a language model: noise on what it gives, distances, near-duplicates."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from basinscope.engines.loading import load
from basinscope.engines.transformers import TransformersEngine
from basinscope.errors import BasinscopeError
from basinscope.runs.models import Model, engine_of
from basinscope.weights import noise


def embedding(engine: TransformersEngine) -> nn.Module:
    """Return the module that looks up the input embeddings."""
    module: Any = engine.module
    table: nn.Module = module.get_input_embeddings()
    return table


def untied(model: Model) -> TransformersEngine:
    """Copy of a model whose output head has a matrix of its own, equal to the embeddings.

    The same answers; but noise on the embeddings no longer moves the head, as the row-wise form
    needs. It is another model to every certificate: one tensor more can be perturbed.

    Args:
        model: an engine, or what `basinscope.load` takes.

    Raises:
        BasinscopeError: no language model with its tokenizer.

    Cost: memory for a second copy of the weights.
    """
    engine = engine_of(model)
    if not isinstance(engine, TransformersEngine):
        raise BasinscopeError(
            f"{engine.source!r} has no tokens",
            "a language model with its tokenizer",
            "load a checkpoint with a tokenizer",
        )
    module: Any = copy.deepcopy(engine.module)
    head = module.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), head.weight.requires_grad)
    module.config.tie_word_embeddings = False
    copied = load(module, tokenizer=engine.tokenizer)
    assert isinstance(copied, TransformersEngine)
    copied.source = f"{engine.source} untied"
    return copied


def distances(engine: TransformersEngine, old: int, new: Sequence[int]) -> torch.Tensor:
    """||W_new - W_old|| of embeddings as the model uses them (scaled, where it scales), float32."""
    table = embedding(engine)
    with torch.inference_mode():
        tokens = torch.tensor([old, *new], device=next(table.parameters()).device)
        rows = table(tokens).to("cpu", torch.float32)
    lengths: torch.Tensor = (rows[1:] - rows[0]).norm(dim=1)
    return lengths


def near_duplicates(tokenizer: Any) -> dict[int, tuple[int, ...]]:
    """Other tokens of the same letters but for case and a leading space, by token id."""
    special = set(tokenizer.all_special_ids)
    alike: dict[str, list[int]] = {}
    plain: dict[int, str] = {}
    for spelled, token in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1]):
        letters = spelled.lstrip("Ġ▁ ").casefold()
        if token not in special and any(c.isalnum() for c in letters):
            plain[token] = letters
            alike.setdefault(letters, []).append(token)
    return {
        token: tuple(other for other in alike[letters] if other != token)
        for token, letters in plain.items()
    }


@contextmanager
def embedding_noise(
    engine: TransformersEngine, sigma: float, name: str, seed: int, draw: int
) -> Iterator[None]:
    """Noise on every embedding that the model looks up inside the ``with``, each of its own."""
    seen = 0

    def add(_: nn.Module, __: Any, rows: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        n = rows.numel()
        drawn = noise.normals(name, n, seed=seed, draw=draw, start=seen).reshape(rows.shape)
        seen += n
        return (rows.float() + sigma * drawn.to(rows.device)).to(rows.dtype)

    handle = embedding(engine).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()

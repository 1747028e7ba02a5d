"""What the naive loops share: batches in the given order, padded on the left to the longest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch


def padded(
    prompts: Sequence[Sequence[int]], size: int, filler: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and mask of each batch."""
    for a in range(0, len(prompts), size):
        own = prompts[a : a + size]
        width = max(map(len, own))
        ids = torch.full((len(own), width), filler)
        mask = torch.zeros(len(own), width, dtype=torch.int64)
        for row, prompt in enumerate(own):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        yield ids, mask


@torch.inference_mode()
def choose(
    model: Any, prompts: Sequence[Sequence[int]], letters: Sequence[int], size: int
) -> list[int]:
    """Index of the letter with the highest logit, from one whole pass over each prompt."""
    found: list[int] = []
    for ids, mask in padded(prompts, size, model.config.eos_token_id):
        logits = model(input_ids=ids, attention_mask=mask).logits
        found += logits[:, -1, list(letters)].argmax(-1).tolist()
    return found


@torch.inference_mode()
def rank(model: Any, prompt: Sequence[int], tails: Sequence[Sequence[int]]) -> int:
    """Index of the likeliest continuation: one batch of whole rows, each prompt with its tail."""
    rows = [[*prompt, *tail] for tail in tails]
    ((ids, mask),) = padded(rows, len(rows), model.config.eos_token_id)
    told = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    each = told.gather(-1, ids[:, 1:, None])[..., 0]
    sums = [float(own[-len(tail) :].sum()) for own, tail in zip(each, tails, strict=True)]
    return max(range(len(sums)), key=sums.__getitem__)


@torch.inference_mode()
def write(
    model: Any, prompts: Sequence[Sequence[int]], cap: int, size: int, *, stops: bool
) -> list[list[int]]:
    """Greedy continuations; where ``stops`` is false, every one runs to the cap."""
    found: list[list[int]] = []
    end = model.config.eos_token_id
    for ids, mask in padded(prompts, size, end):
        out = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=cap, do_sample=False,
            pad_token_id=end, eos_token_id=end if stops else None,
        )  # fmt: skip
        found += out[:, ids.shape[1] :].tolist()
    return found

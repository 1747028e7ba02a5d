"""What the naive loops share: batches in the given order, padded on the left to the longest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch


def padded(
    prompts: Sequence[Sequence[int]], size: int, filler: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and mask of each batch, on a device."""
    for a in range(0, len(prompts), size):
        batch = prompts[a : a + size]
        width = max(map(len, batch))
        ids = torch.full((len(batch), width), filler)
        mask = torch.zeros(len(batch), width, dtype=torch.int64)
        for row, prompt in enumerate(batch):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        yield ids.to(device), mask.to(device)


@torch.inference_mode()
def choose(
    model: Any, prompts: Sequence[Sequence[int]], letters: Sequence[int], size: int
) -> list[int]:
    """Index of the letter with the highest logit, from one whole pass over each prompt."""
    chosen: list[int] = []
    for ids, mask in padded(prompts, size, model.config.eos_token_id, model.device):
        logits = model(input_ids=ids, attention_mask=mask).logits
        chosen += logits[:, -1, list(letters)].argmax(-1).tolist()
    return chosen


@torch.inference_mode()
def rank(model: Any, prompt: Sequence[int], tails: Sequence[Sequence[int]]) -> int:
    """Index of the likeliest continuation: one batch of whole rows, each prompt with its tail."""
    rows = [[*prompt, *tail] for tail in tails]
    ((ids, mask),) = padded(rows, len(rows), model.config.eos_token_id, model.device)
    logps = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    each = logps.gather(-1, ids[:, 1:, None])[..., 0]
    sums = [float(row[-len(tail) :].sum()) for row, tail in zip(each, tails, strict=True)]
    return max(range(len(sums)), key=sums.__getitem__)


@torch.inference_mode()
def write(
    model: Any, prompts: Sequence[Sequence[int]], cap: int, size: int, *, stops: bool
) -> list[list[int]]:
    """Greedy continuations; where ``stops`` is false, every one runs to the cap."""
    texts: list[list[int]] = []
    end = model.config.eos_token_id
    for ids, mask in padded(prompts, size, end, model.device):
        out = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=cap, do_sample=False,
            pad_token_id=end, eos_token_id=end if stops else None,
        )  # fmt: skip
        texts += out[:, ids.shape[1] :].tolist()
    return texts

"""B0, the published loops: float32, batches of 4, text to the cap, noise added and subtracted.

One raw Gaussian direction is drawn, unseeded, and held in memory; every point adds its multiple to
the live weights on the CPU and subtracts it again. Where the description leaves a choice, the
cheaper one is taken: multiple choice is read off one pass over each prompt instead of a text that
is written out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM

from benchmarks.baselines import padded

BATCH = 4


class Published:
    """See the module."""

    def __init__(self, folder: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        generator = torch.Generator()
        generator.seed()
        self.direction = [
            torch.randn(p.shape, generator=generator) for p in self.model.parameters()
        ]

    @torch.no_grad()
    def perturb(self, step: float) -> None:
        """Add and subtract."""
        for sign in (step, -step):
            for parameter, delta in zip(self.model.parameters(), self.direction, strict=True):
                parameter.add_(delta, alpha=sign)

    def choose(self, prompts: Sequence[Sequence[int]], letters: Sequence[int]) -> list[int]:
        """Likeliest letter after each prompt."""
        return padded.choose(self.model, prompts, letters, BATCH)

    def rank(self, prompt: Sequence[int], tails: Sequence[Sequence[int]]) -> int:
        """Likeliest continuation of one prompt; four of them are a batch."""
        return padded.rank(self.model, prompt, tails)

    def write(self, prompts: Sequence[Sequence[int]], cap: int) -> list[list[int]]:
        """Greedy continuations, all of them to the cap."""
        return padded.write(self.model, prompts, cap, BATCH, stops=False)

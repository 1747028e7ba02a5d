"""B1: a deep copy of the model for every point, transformers, batches of 8.

Text ends at the end-of-sequence token; a batch goes on until its last row has ended.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM

from benchmarks.baselines import padded

BATCH = 8


class Copied:
    """See the module."""

    def __init__(self, folder: str, dtype: str) -> None:
        self.pristine = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self.model = self.pristine

    @torch.no_grad()
    def perturb(self, step: float) -> None:
        """Copy, and add noise to the copy; nothing is to be taken back."""
        self.model = copy.deepcopy(self.pristine)
        for parameter in self.model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=step)

    def choose(self, prompts: Sequence[Sequence[int]], letters: Sequence[int]) -> list[int]:
        """Likeliest letter after each prompt."""
        return padded.choose(self.model, prompts, letters, BATCH)

    def write(self, prompts: Sequence[Sequence[int]], cap: int) -> list[list[int]]:
        """Greedy continuations."""
        return padded.write(self.model, prompts, cap, BATCH, stops=True)

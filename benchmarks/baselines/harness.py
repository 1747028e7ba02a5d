"""B2: lm-eval 0.4.13's model class around the live module, weights perturbed in place (B3's way).

Its requests are given directly, so that no time goes into lm-eval's building of prompts. It reads
continuations of one token off one pass over their context; batches are sorted by length.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.baselines.reseeded import add_and_subtract


class Harness:
    """See the module.

    Args:
        folder: checkpoint.
        batch: lm-eval's batch size.
        dtype: of the weights.
    """

    def __init__(self, folder: str, batch: int, dtype: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            logging.getLogger("lm_eval").setLevel(logging.ERROR)
            from lm_eval.models.huggingface import HFLM

            self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
            tokenizer = AutoTokenizer.from_pretrained(folder)
            self.evaluator = HFLM(
                pretrained=self.model, tokenizer=tokenizer, batch_size=batch, device="cpu"
            )

    def perturb(self, step: float) -> None:
        """Draw and add, draw and subtract."""
        add_and_subtract(self.model.parameters(), step)

    def choose(self, prompts: Sequence[Sequence[int]], letters: Sequence[int]) -> list[int]:
        """Likeliest letter after each prompt."""
        requests = [
            ((str(k), str(letter)), list(prompt), [letter])
            for k, prompt in enumerate(prompts)
            for letter in letters
        ]
        pairs = self.evaluator._loglikelihood_tokens(requests, disable_tqdm=True)
        rows = torch.tensor([loglik for loglik, _ in pairs]).view(len(prompts), len(letters))
        return rows.argmax(-1).tolist()

    def write(self, prompts: Sequence[Sequence[int]], cap: int) -> list[list[int]]:
        """Not measured: lm-eval generates with transformers, as B1 does."""
        raise NotImplementedError

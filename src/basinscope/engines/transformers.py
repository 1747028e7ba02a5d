"""Text requests answered by a causal language model of transformers under its live weights.

Every answer is a function of the weights and its own request: rows are grouped, padded, branched
and dropped for speed only (`forward`). No number computed from the weights outlives one `answer`
(defect 6 of earlier code: caches that survive a change of the weights).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from basinscope.engines import pool
from basinscope.engines.base import Engine, on_device
from basinscope.engines.forward import Forward
from basinscope.engines.generation import generate
from basinscope.engines.memory import LEAST, TOKEN_BUDGET, fitting
from basinscope.engines.ranking import distributions, rank, read
from basinscope.engines.setups import OF_THE_FILE, check_setup, end_tokens, rules
from basinscope.engines.tokens import Row, Tokens
from basinscope.tasks.base import Answer, Choices, Corpus, Generate, Request
from basinscope.weights.surroundings import fixed

_SLOWER = {
    "cached": "with transformers' own cache",
    "whole": "the whole row again for every token",
}


def kind(forward: Forward) -> str:
    """Word for the way answers are computed (docs/how-to/extending.md); stands in addresses."""
    alone = "cached" if forward.alone.steps else "whole"
    if not forward.cached:
        return f"transformers-{alone}/1"
    ways = [
        word
        for word, used in (
            ("pool", forward.pooled),
            (alone, forward.reach < forward.context),
        )
        if used
    ]
    return "-".join(["transformers", *ways]) + "/1"


def slower(kind: str) -> str:
    """What a kind of engine says of rows that its quickest way does not serve; empty if it does."""
    way = next((way for word, way in _SLOWER.items() if word in kind.split("/")[0].split("-")), "")
    return f"through the model's own forward, one row at a time, {way}" if way else ""


class TransformersEngine(Engine):
    """A causal language model with its tokenizer.

    Its ``kind`` says which way of computing it allows: ``transformers`` (the model's layers, rows
    branch off a common cache), ``transformers-cached`` (its own forward and cache, a row at a
    time), ``transformers-whole`` (its own forward, the whole row again for every token).

    Args:
        module: a ``PreTrainedModel`` with a language-model head (wrapped or not).
        tokenizer: its tokenizer.
        token_budget: most tokens, padding included, in one forward pass; bounds memory (with the
            default of 4,096 to less than 1 GB beside the weights), changes no answer. Halved, and
            kept so, whenever a pass does not fit.
        source: as in `Engine`.
        params: as in `Engine`.
        mapped: as in `Engine`.
    """

    def __init__(
        self,
        module: nn.Module,
        tokenizer: Any,
        *,
        token_budget: int = TOKEN_BUDGET,
        source: str = "module",
        params: str | None = None,
        mapped: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__(module, source=source, params=params, mapped=mapped)
        self.tokenizer: Any = tokenizer
        self.token_budget = token_budget
        self._ends = end_tokens(getattr(module, "generation_config", None), tokenizer)
        self._forward = Forward(module, lambda: self.epoch)
        self._tokens = Tokens(tokenizer, self._forward.vocabulary)
        with torch.inference_mode():
            fitting(lambda _: self._forward.choose(), LEAST)
            fitting(lambda _: pool.probe(self._forward), LEAST)
        self.kind = on_device(kind(self._forward), self.device)

    @property
    def fallback(self) -> str:
        """Why answers are not computed in the quickest way, and how: one line, or empty."""
        forward, alone = self._forward, self._forward.alone
        if forward.fits_cache(forward.context):
            return ""
        rows = f"rows of more than {forward.reach:,} tokens go" if forward.cached else "rows go"
        why = forward.why or "layers do not see all of them in one way"
        reasons = filter(None, (why, "" if alone.steps else alone.why))
        return f"{self.source}: {rows} {slower(self.kind)} ({'; '.join(reasons)})"

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a text."""
        return self._ends

    @property
    def forward(self) -> Forward:
        """Forward passes of the live module, for those who differentiate them."""
        return self._forward

    @property
    def tokens(self) -> Tokens:
        """Requests as rows of tokens."""
        return self._tokens

    @fixed()
    @torch.inference_mode()
    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer text requests under the live weights, in the order given.

        Cost: one pass over each distinct context (a common head once), one over the continuations
        after their first token, one for each generated token, two over a corpus of many windows;
        for a reference, one over its prompt and itself.

        Raises:
            BasinscopeError: If memory runs out however few tokens go through the model at once.

        Guarantee: a module that somebody put in training mode answers in evaluation mode, and is
        in its own again afterwards.
        """
        with _evaluated(self.module):
            found, self.token_budget = fitting(
                lambda n: self._answer(requests, n), self.token_budget
            )
        return found

    @fixed()
    @torch.inference_mode()
    def log_probabilities(self, text: str) -> torch.Tensor:
        """Log-probabilities of all tokens at each place of a text but the first.

        Args:
            text: cut into windows as a `Corpus` is where it does not fit the context.

        Returns:
            Nats, float32, shape (tokens - 1, vocabulary), on the model's device.

        Cost: one pass over the text; 200 kB a token for a vocabulary of 49,152.
        """
        with _evaluated(self.module):
            self._forward.ordered()  # the number of threads may have changed
            rows = self._tokens.windows(Corpus(text), self._forward.context)
            parts = [distributions(self._forward, row) for row in rows]
        return torch.cat(parts) if parts else torch.empty(0, self._forward.vocabulary)

    def _answer(self, requests: Sequence[Request], budget: int) -> list[Answer]:
        forward, tokens = self._forward, self._tokens
        forward.ordered()  # the number of threads may have changed
        ranked = {i: tokens.row(r) for i, r in enumerate(requests) if isinstance(r, Choices)}
        texts = {
            i: tokens.windows(r, forward.context)
            for i, r in enumerate(requests)
            if isinstance(r, Corpus)
        }
        written = {i: r for i, r in enumerate(requests) if isinstance(r, Generate)}
        told = {i: tokens.reference(r) for i, r in written.items() if r.reference}
        rankings = rank(forward, [*ranked.values(), *told.values()], budget)
        answers: dict[int, Answer] = {}
        answers.update(zip(ranked, rankings, strict=False))
        answers.update(zip(texts, read(forward, [*texts.values()], budget), strict=True))
        generated = generate(forward, tokens, self._ends, [*written.values()], budget)
        nlls = {
            i: None if ranking.failure else -ranking.loglik[0]
            for i, ranking in zip(told, rankings[len(ranked) :], strict=True)
        }
        for i, text in zip(written, generated, strict=True):
            answers[i] = replace(text, nll=nlls[i]) if nlls.get(i) is not None else text
        return [answers[i] for i in range(len(requests))]

    def row(self, request: Choices | Generate) -> Row:
        """Tokens of a request: the prompt as ``head`` and ``body``, continuations behind it."""
        return self._tokens.row(request)

    def prompt_once(self, request: Request) -> bool:
        """Whether each token of the prompt passes through the model exactly once in an `answer`.

        True where the cache serves the request: only then can noise on its embeddings be one draw.
        A reference is read behind the prompt once more, and a corpus has no prompt.
        """
        if isinstance(request, Corpus) or (isinstance(request, Generate) and request.reference):
            return False
        longest = self._tokens.row(request).longest
        longest += request.max_tokens if isinstance(request, Generate) else 0
        return self._forward.fits_cache(longest) and longest <= self._forward.context

    def check_setup(self, label: str, folder: Path) -> None:
        """Refuse a checkpoint that answers in another way than the model, its weights aside."""
        check_setup(label, self.module, self.tokenizer, self._ends, folder)

    def setup(self) -> str:
        """Sha256 over the module's structure, its config, its tokenizer and its chat template."""
        digest = hashlib.sha256(super().setup().encode())
        config = getattr(self.module, "config", None)
        fields = {} if config is None else config.to_dict()
        kept = {k: v for k, v in fields.items() if k not in OF_THE_FILE}
        digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
        digest.update(json.dumps(rules(self.tokenizer), sort_keys=True).encode())
        template = getattr(self.tokenizer, "chat_template", None)
        digest.update(json.dumps([template, sorted(self._ends)], default=str).encode())
        digest.update(self._tokens.scheme.encode())
        return digest.hexdigest()


@contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    """Inside it nothing drops out: an answer would depend on a generator, and on the batch."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True

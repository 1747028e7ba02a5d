"""Chats as tokens, of which the answer's alone are learnt."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from basinscope.engines.tokens import Tokens, rendered
from basinscope.errors import BasinscopeError
from basinscope.finetuning.data import Chat

IGNORED: Final = -100  # label of a token that is not learnt, as in transformers


@dataclass(frozen=True)
class Example:
    """``tokens`` of a chat; those from ``start`` on are learnt."""

    tokens: tuple[int, ...]
    start: int

    @property
    def labels(self) -> list[int]:
        """The tokens themselves where they are learnt, `IGNORED` before."""
        return [IGNORED] * self.start + list(self.tokens[self.start :])


def tokenize(tokens: Tokens, chat: Chat, ends: Collection[int]) -> Example:
    """Tokens of a chat, the mark that ends the answer included.

    With a chat template the prompt is rendered with ``add_generation_prompt``, to the tokens that
    an engine asks with, and the answer is what the rendering of the whole chat adds. Without one,
    messages are joined by blank lines. What a template puts after the end mark is left off; where
    the rendering has no end mark, the tokenizer's end of sequence is appended.

    Args:
        tokens: the model's tokenizer.
        chat: ends in the answer.
        ends: tokens that end a text.

    Raises:
        BasinscopeError: a template that refuses the chat, or renders the prompt otherwise once the
            answer is there: it could not be told what is to be learnt; a text that the tokenizer
            cannot read, a token that the model has no embedding for, an answer without a token.

    Guarantee: ``tokens[:start]`` are the tokens of the prompt alone.
    """
    templated = bool(getattr(tokens.tokenizer, "chat_template", None))
    if templated:
        prompt = rendered(tokens.tokenizer, chat.messages[:-1], ask=True, where=chat.where)
        whole = rendered(tokens.tokenizer, chat.messages, ask=False, where=chat.where)
    else:
        prompt = "\n\n".join(text for _, text in chat.messages[:-1])
        whole = f"{prompt}\n\n{chat.answer}"
    if not whole.startswith(prompt):
        raise BasinscopeError(
            f"{chat.where}: the chat template renders the prompt otherwise once it is answered",
            "a template that only adds the answer",
            "give the tokenizer another chat template, or data of single turns",
        )
    try:
        head, tail = tokens.answered(prompt, whole[len(prompt) :], chat=templated)
        last = max((i for i, token in enumerate(tail) if token in ends), default=None)
        if last is not None:
            tail = tail[: last + 1]
        elif tokens.tokenizer.eos_token_id is not None:
            tail = [*tail, *tokens.checked([int(tokens.tokenizer.eos_token_id)])]
    except BasinscopeError as error:
        raise BasinscopeError(f"{chat.where}: {error.given}", error.allowed, error.try_) from error
    if not head or not tail:
        raise BasinscopeError(
            f"{chat.where}: no token in the {'answer' if head else 'prompt'}",
            "texts that the tokenizer makes tokens of",
            "mend or drop it",
        )
    return Example((*head, *tail), len(head))


def fitting(
    tokens: Tokens, chats: Sequence[Chat], ends: Collection[int], most: int
) -> tuple[list[Chat], list[Example], list[Chat]]:
    """Chats of at most ``most`` tokens with their tokens, and those that are longer.

    Raises:
        BasinscopeError: if none fits.
    """
    kept, examples, dropped = [], [], []
    for chat in chats:
        example = tokenize(tokens, chat, ends)
        if len(example.tokens) > most:
            dropped.append(chat)
        else:
            kept.append(chat)
            examples.append(example)
    if not kept:
        raise BasinscopeError(
            f"every one of the {len(chats)} examples is longer than {most} tokens",
            "prompt and answer together within max_tokens",
            "a larger max_tokens (--set max_tokens=N), or shorter examples",
        )
    return kept, examples, dropped


def digest(examples: Iterable[Example]) -> str:
    """Sha256 over all tokens and boundaries, in order."""
    sha = hashlib.sha256()
    for example in examples:
        sha.update(f"{example.start}:{example.tokens};".encode())
    return sha.hexdigest()


def order(n: int, total: int, seed: int) -> list[int]:
    """Indices of ``total`` examples: one shuffled pass over all ``n`` after another.

    Each pass has a generator of its own, of (seed, pass): where a run stands determines what
    comes next.
    """
    passes = range(-(-total // n))
    indices = [i for k in passes for i in np.random.default_rng([seed, k]).permutation(n).tolist()]
    return indices[:total]

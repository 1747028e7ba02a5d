"""Chats as tokens, of which the answer's alone are learnt."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

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


def tokenize(tokenizer: Any, chat: Chat, ends: Collection[int]) -> Example:
    """Tokens of a chat, the mark that ends the answer included.

    With a chat template the prompt is rendered with ``add_generation_prompt``, to the tokens that
    an engine asks with, and the answer is what the rendering of the whole chat adds. Without one,
    messages are joined by blank lines. What a template puts after the end mark is left off; where
    the rendering has no end mark, the tokenizer's end of sequence is appended.

    Args:
        tokenizer: of the model.
        chat: ends in the answer.
        ends: tokens that end a text.

    Raises:
        BasinscopeError: a template that refuses the chat, or renders the prompt otherwise once the
            answer is there: it could not be told what is to be learnt.

    Guarantee: ``tokens[:start]`` are the tokens of the prompt alone.
    """
    if getattr(tokenizer, "chat_template", None):
        prompt = _render(tokenizer, chat, chat.messages[:-1], ask=True)
        whole = _render(tokenizer, chat, chat.messages, ask=False)
        special = False
    else:
        prompt = "\n\n".join(text for _, text in chat.messages[:-1])
        whole = f"{prompt}\n\n{chat.answer}"
        special = True
    if not whole.startswith(prompt):
        raise BasinscopeError(
            f"{chat.where}: the chat template renders the prompt otherwise once it is answered",
            "allowed: a template that only adds the answer",
            "give the tokenizer another chat template, or data of single turns",
        )
    head = list(tokenizer.encode(prompt, add_special_tokens=special))
    full = list(tokenizer.encode(whole, add_special_tokens=special))
    if full[: len(head)] == head:
        tail = full[len(head) :]
    else:  # the tokenizer merges across the boundary; a model that is asked sees the prompt alone
        tail = list(tokenizer.encode(whole[len(prompt) :], add_special_tokens=False))
    last = max((i for i, token in enumerate(tail) if token in ends), default=None)
    if last is not None:
        tail = tail[: last + 1]
    elif tokenizer.eos_token_id is not None:
        tail.append(int(tokenizer.eos_token_id))
    return Example((*head, *tail), len(head))


def _render(tokenizer: Any, chat: Chat, messages: Sequence[tuple[str, str]], *, ask: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(
            [{"role": role, "content": text} for role, text in messages],
            tokenize=False,
            add_generation_prompt=ask,
        )
    except Exception as error:  # a template may raise anything
        raise BasinscopeError(
            f"{chat.where}: the chat template refuses it ({' '.join(str(error).split())[:200]})",
            "allowed: what the model's template can render, such as user and assistant in turn",
        ) from error
    return str(text)


def fitting(
    tokenizer: Any, found: Sequence[Chat], ends: Collection[int], most: int
) -> tuple[list[Chat], list[Example], list[Chat]]:
    """Chats of at most ``most`` tokens with their tokens, and those that are longer.

    Raises:
        BasinscopeError: if none fits.
    """
    kept, examples, dropped = [], [], []
    for chat in found:
        example = tokenize(tokenizer, chat, ends)
        if len(example.tokens) > most:
            dropped.append(chat)
        else:
            kept.append(chat)
            examples.append(example)
    if not kept:
        raise BasinscopeError(
            f"every one of the {len(found)} examples is longer than {most} tokens",
            "allowed: prompt and answer together within max_tokens",
            "a larger --max-tokens, or shorter examples",
        )
    return kept, examples, dropped


def digest(examples: Iterable[Example]) -> str:
    """Sha256 over all tokens and boundaries, in order."""
    found = hashlib.sha256()
    for example in examples:
        found.update(f"{example.start}:{example.tokens};".encode())
    return found.hexdigest()


def order(n: int, total: int, seed: int) -> list[int]:
    """Indices of ``total`` examples: one shuffled pass over all ``n`` after another.

    Each pass has a generator of its own, of (seed, pass): where a run stands determines what
    comes next.
    """
    passes = range(-(-total // n))
    found = [i for k in passes for i in np.random.default_rng([seed, k]).permutation(n).tolist()]
    return found[:total]

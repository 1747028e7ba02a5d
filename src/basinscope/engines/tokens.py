"""Requests as rows of tokens: what is common to many of them, what is their own, what is scored.

Where a row is cut depends on its request alone, never on the requests beside it, so that the same
request takes the same path through the model in any company. Nothing here depends on weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from basinscope.errors import BasinscopeError
from basinscope.tasks.base import Choices, Generate, Request, Turns

MIN_HEAD = 16  # a shorter common start is not worth a pass of its own


@dataclass(frozen=True)
class Row:
    """A prompt: ``head`` (shared with others, perhaps empty) and ``body`` (at least one token).

    For a ranking, ``tails[c]`` is what continuation c adds (at least one token); its first
    ``skips[c]`` tokens still belong to the context and are not scored.
    """

    head: tuple[int, ...]
    body: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...] = ()
    skips: tuple[int, ...] = ()

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest continuation."""
        return len(self.head) + len(self.body) + max(map(len, self.tails), default=0)


class Tokens:
    """Tokenizes requests, each once.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._rows: dict[Request, Row] = {}
        self._heads: dict[Turns, list[int]] = {}

    def row(self, request: Request) -> Row:
        """Row of a request."""
        if request not in self._rows:
            make = self._choices if isinstance(request, Choices) else self._prompt
            self._rows[request] = make(request)  # type: ignore[arg-type]
        return self._rows[request]

    def text(self, tokens: list[int]) -> str:
        """Text of generated tokens as they are: no space taken away before punctuation."""
        text = self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def _choices(self, request: Choices) -> Row:
        """Tokenize context and continuation together, as the model saw text in training.

        A continuation may change the context's last tokens; what all continuations have in common
        is run once, and only tokens past the context's own count are scored.
        """
        context, start = request.prefix + request.context, [self._start()]
        if self._in_chat(request):
            context, encode = self._said(request.turns, context), self._encode_said
            head = self._head(request.turns)
        else:
            encode, head = self._encode, self._encode(request.prefix)
        own = encode(context)
        rows = [encode(context + c) for c in request.continuations]
        if not own or not _common(rows) or min(map(len, rows)) < 2:
            # nothing that all of them share stands before what is scored (no context, or it melts
            # into a continuation's first token), unless the tokenizer has put the start there
            own, *rows = (row if row[:1] == start else start + row for row in (own, *rows))
        common = min(_common(rows), len(own), *(len(row) - 1 for row in rows))
        skips = tuple(max(0, min(len(own), len(row) - 1) - common) for row in rows)
        cut = self._cut(head, rows[0][:common])
        return Row(
            tuple(rows[0][:cut]),
            tuple(rows[0][cut:common]),
            tuple(tuple(row[common:]) for row in rows),
            skips,
        )

    def _prompt(self, request: Generate) -> Row:
        if self._in_chat(request):
            tokens = self._encode_said(self._said(request.turns, request.prompt))
            cut = self._cut(self._head(request.turns), tokens)
        else:
            tokens, cut = self._encode(request.prompt) or [self._start()], 0
        return Row(tuple(tokens[:cut]), tuple(tokens[cut:]))

    def _in_chat(self, request: Choices | Generate) -> bool:
        """Whether the template stands around the prompt; the user's error where it must and cannot.

        Raises:
            BasinscopeError: If the request asks for a chat and the model has no template.
        """
        has = bool(getattr(self.tokenizer, "chat_template", None))
        if request.chat is True and not has:
            raise BasinscopeError(
                f"{getattr(self.tokenizer, 'name_or_path', '') or 'this model'!r} has no chat "
                "template, and a task asks for one",
                "allowed: a model that was trained to chat",
                "leave out the tasks with -chat or -instruct in their names, or set "
                "engine.tokenizer.chat_template",
            )
        return has and bool(request.chat)

    def _said(self, turns: Turns, prompt: str) -> str:
        """Text of a chat, up to where the model speaks."""
        messages = [{"role": role, "content": text} for role, text in (*turns, ("user", prompt))]
        return str(
            self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )

    def _encode_said(self, text: str) -> list[int]:
        """Tokens of a chat, whose template wrote the special ones."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _head(self, turns: Turns) -> list[int]:
        """Tokens that all chats with these turns begin with."""
        if turns not in self._heads:
            pair = [self._encode_said(self._said(turns, prompt)) for prompt in "ab"]
            self._heads[turns] = pair[0][: _common(pair)]
        return self._heads[turns]

    @staticmethod
    def _cut(head: list[int], tokens: list[int]) -> int:
        """How many leading tokens are the head's; 0 where too few to be run apart."""
        cut = min(_common([head, tokens]), len(tokens) - 1)
        return cut if cut >= MIN_HEAD else 0

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text)) if text else []

    def _start(self) -> int:
        """Token to begin with where there is no text: the model must see one."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0


def _common(rows: list[list[int]]) -> int:
    """Length of the longest common start."""
    low, high = min(rows), max(rows)
    pairs = zip(low, high, strict=False)
    least = min(len(low), len(high))
    return next((k for k, (a, b) in enumerate(pairs) if a != b), least)

"""Requests as rows of tokens: what is common to many of them, what is their own, what is scored.

Where a row is cut depends on its request alone, never on the requests beside it, so that the same
request takes the same path through the model in any company. Nothing here depends on weights.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from basinscope.errors import BasinscopeError
from basinscope.tasks.base import Choices, Corpus, Generate, Turns

MIN_HEAD = 16  # a shorter common start is not worth a pass of its own
KEPT_TOKENS = 1 << 22  # of rows that are kept for the next setting of the weights: 16 MB
KEPT_STARTS = 256  # prefixes whose tokens are kept


@dataclass(frozen=True)
class Row:
    """A prompt: ``head`` (shared with others, perhaps empty) and ``body`` (at least one token).

    For a ranking, ``tails[c]`` is what continuation c adds (at least one token); its first
    ``skips[c]`` tokens still belong to the context and are not scored. Rows of one prefix hold one
    and the same head; the rest is held in 4 bytes a token.
    """

    head: tuple[int, ...]
    body: Sequence[int]
    tails: tuple[Sequence[int], ...] = ()
    skips: tuple[int, ...] = ()

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest continuation."""
        return len(self.head) + len(self.body) + max(map(len, self.tails), default=0)

    @property
    def own(self) -> int:
        """Tokens that it shares with no other row."""
        return len(self.body) + sum(map(len, self.tails))


class Tokens:
    """Tokenizes requests; keeps rows and the tokens of prefixes, up to a fixed amount of each.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._rows: dict[Choices | Generate, Row] = {}
        self._kept = 0
        self._starts: dict[tuple[str, Turns | None], list[int]] = {}
        self._heads: dict[tuple[int, ...], tuple[int, ...]] = {}

    def row(self, request: Choices | Generate) -> Row:
        """Row of a request."""
        found = self._rows.get(request)
        if found is None:
            found = (
                self._choices(request) if isinstance(request, Choices) else self._prompt(request)
            )
            if self._kept + found.own > KEPT_TOKENS:
                self._rows, self._kept = {}, 0
            self._rows[request] = found
            self._kept += found.own
        return found

    def reference(self, request: Generate) -> Row:
        """Row whose one tail is the reference of a request that has one."""
        if not self._in_chat(request):
            return self.row(Choices(request.prompt, (request.reference,), request.prefix))
        prompt = self.row(request)
        tail = self._encode_said(request.reference)
        return Row(prompt.head, prompt.body, (array("i", tail),), (0,))

    def windows(self, request: Corpus, context: int) -> list[Row]:
        """Rows whose one tail holds the tokens that are scored; none for a text of one token.

        Args:
            request: the text and its window.
            context: most tokens that a row may hold.
        """
        tokens, size = array("i", self._encode(request.text)), min(request.window, context)
        rows: list[Row] = []
        read = 1
        while read < len(tokens):
            start = 0 if not rows else read - size // 2
            end = start + size
            rows.append(Row((), tokens[start:read], (tokens[read:end],), (0,)))
            read = end
        return rows

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
        context, start, encode = request.prefix + request.context, [self._start()], self._encode
        if self._in_chat(request):
            context, encode = self._said(request.turns, context), self._encode_said
        own = encode(context)
        rows = [encode(context + c) for c in request.continuations]
        if not own or not _common(rows) or min(map(len, rows)) < 2:
            # nothing that all of them share stands before what is scored (no context, or it melts
            # into a continuation's first token), unless the tokenizer has put the start there
            own, *rows = (row if row[:1] == start else start + row for row in (own, *rows))
        common = min(_common(rows), len(own), *(len(row) - 1 for row in rows))
        skips = tuple(max(0, min(len(own), len(row) - 1) - common) for row in rows)
        head, body = self._split(request, rows[0][:common])
        return Row(head, body, tuple(array("i", row[common:]) for row in rows), skips)

    def _prompt(self, request: Generate) -> Row:
        text = request.prefix + request.prompt
        if self._in_chat(request):
            tokens = self._encode_said(self._said(request.turns, text))
        else:
            tokens = self._encode(text) or [self._start()]
        return Row(*self._split(request, tokens))

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
        return list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def _split(
        self, request: Choices | Generate, tokens: list[int]
    ) -> tuple[tuple[int, ...], Sequence[int]]:
        """Head that rows of this prefix and turns share, and the rest; no head if it were short."""
        start = self._start_of(request.prefix, request.turns if self._in_chat(request) else None)
        cut = min(_common([start, tokens]), len(tokens) - 1)
        if cut < MIN_HEAD:
            return (), array("i", tokens)
        head = tuple(tokens[:cut])
        if len(self._heads) > KEPT_STARTS:
            self._heads = {}
        return self._heads.setdefault(head, head), array("i", tokens[cut:])

    def _start_of(self, prefix: str, turns: Turns | None) -> list[int]:
        """Tokens that texts of this prefix begin with, but for what may merge with their own.

        Args:
            prefix: what the texts have in common.
            turns: of a chat; None for plain text.
        """
        if (prefix, turns) not in self._starts:
            if turns is not None:
                pair = [self._encode_said(self._said(turns, prefix + own)) for own in "ab"]
                found = pair[0][: _common(pair)]
            else:
                found = self._encode(prefix)
            if len(self._starts) > KEPT_STARTS:
                self._starts = {}
            self._starts[prefix, turns] = found
        return self._starts[prefix, turns]

    def _encode(self, text: str) -> list[int]:
        # not verbose: no warning of a text longer than the context, which is for the engine to tell
        return list(self.tokenizer.encode(text, verbose=False)) if text else []

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

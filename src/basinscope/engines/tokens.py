"""Requests as rows of tokens: what is common to many of them, what is their own, what is scored.

Where a row is cut depends on its request alone, never on the requests beside it, so that the same
request takes the same path through the model in any company. Nothing here depends on weights.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

from basinscope.engines.sources import first_line
from basinscope.errors import BasinscopeError
from basinscope.tasks.base import LIKE_LM_EVAL, OPENING, Chat, Choices, Corpus, Generate, Turns

MIN_HEAD = 16  # a shorter common start is not worth a pass of its own
KEPT_TOKENS = 1 << 22  # of rows that are kept for the next setting of the weights: 16 MB
KEPT_STARTS = 256  # prefixes whose tokens are kept
PROBES = ("a", "0", ".")  # one of them a tokenizer can read, or else one of its first
PROBED = 1000  # tokens


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

    A text is one that goes on: what the tokenizer puts before it stays, what it would put behind
    it (an end token) is left out. And what is written goes on from a text: its first space stays.

    Args:
        tokenizer: of the model.
        vocabulary: number of tokens that the model can read.
    """

    def __init__(self, tokenizer: Any, vocabulary: int = 1 << 30) -> None:
        self.tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._probe, self._anchor = self._probed()
        self._front, self._end = self._added()
        self._anew: dict[int, bool] = {}
        self._rows: dict[Choices | Generate, Row] = {}
        self._kept = 0
        self._starts: dict[tuple[str, Turns, Chat], list[int]] = {}
        self._heads: dict[tuple[int, ...], tuple[int, ...]] = {}

    @property
    def scheme(self) -> str:
        """Version of how texts are read and written, where it is not the tokenizer's own way."""
        plain = self.text(self._anchor) == self._decode(self._anchor) and not self._end
        return "" if plain else "texts that go on/1"

    def row(self, request: Choices | Generate) -> Row:
        """Row of a request.

        Raises:
            BasinscopeError: a text that the tokenizer cannot read, a token that the model has no
                embedding for, a chat template that is missing or fails.
        """
        row = self._rows.get(request)
        if row is None:
            row = self._choices(request) if isinstance(request, Choices) else self._prompt(request)
            if self._kept + row.own > KEPT_TOKENS:
                self._rows, self._kept = {}, 0
            self._rows[request] = row
            self._kept += row.own
        return row

    def reference(self, request: Generate) -> Row:
        """Row whose one tail is the reference of a request that has one."""
        if not self._in_chat(request):
            return self.row(Choices(request.prompt, (request.reference,), request.prefix))
        prompt = self.row(request)
        said, _ = self._asked(request, request.prefix + request.prompt)
        _, tail = self.answered(said, request.reference, chat=True)
        return Row(prompt.head, prompt.body, (array("i", tail),), (0,))

    def windows(self, request: Corpus, context: int) -> list[Row]:
        """Rows whose one tail holds the tokens that are scored; none for a text of one token.

        Args:
            request: the text and its window.
            context: most tokens that a row may hold.
        """
        tokens, size = array("i", self.encode(request.text)), min(request.window, context)
        rows: list[Row] = []
        read = 1
        while read < len(tokens):
            start = 0 if not rows else read - size // 2
            end = start + size
            rows.append(Row((), tokens[start:read], (tokens[read:end],), (0,)))
            read = end
        return rows

    def encode(self, text: str) -> list[int]:
        """Tokens of a text with what the tokenizer puts before it, and nothing behind it."""
        return self._front + self.encode_bare(text)

    def encode_bare(self, text: str) -> list[int]:
        """Tokens of a text alone, such as a chat, whose template wrote the special ones.

        Raises:
            BasinscopeError: a text that the tokenizer cannot read; a token without an embedding.
        """
        try:
            # not verbose: no warning of a text longer than the context, which is for the engine
            tokens = list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))
        except Exception as error:  # half a character is a TypeError, a missing token an Exception
            raise BasinscopeError(
                f"the tokenizer cannot read {text!r:.60} ({first_line(error)})",
                "text of whole characters that it has tokens for",
                "mend the text",
            ) from error
        return self.checked(tokens)

    def checked(self, tokens: list[int]) -> list[int]:
        """The tokens, if the model has an embedding for each.

        Raises:
            BasinscopeError: otherwise; the token is named.
        """
        size = self._vocabulary
        if tokens and max(tokens) >= size:
            token = next(token for token in tokens if token >= size)
            spelt = self.tokenizer.convert_ids_to_tokens(token)
            raise BasinscopeError(
                f"the tokenizer's token {spelt!r} ({token}) has no embedding",
                f"tokens below {size}, the rows of the model's table",
                "take the tokenizer that the model was trained with, or resize the embeddings "
                "and train them",
            )
        return tokens

    def answered(self, prompt: str, answer: str, *, chat: bool) -> tuple[list[int], list[int]]:
        """Tokens of a prompt as the model is asked with it, and of an answer behind it.

        Args:
            prompt: text, of a chat as the template writes it.
            answer: text behind it.
            chat: whether a template wrote the special tokens.
        """
        encode = self.encode_bare if chat else self.encode
        head, whole = encode(prompt), encode(prompt + answer)
        if whole[: len(head)] == head:
            return head, whole[len(head) :]
        # the tokenizer merges across the boundary; a model that is asked sees the prompt alone
        return head, self.continuation(answer)

    def continuation(self, text: str) -> list[int]:
        """Tokens of a text that goes on, without the space that may be put before a first word."""
        alone, start = self.encode_bare(text), self.encode_bare("\n")
        if self.text(alone) == text:
            return alone
        behind = self.encode_bare("\n" + text)[len(start) :]
        return behind if self.text(behind) == text else alone

    def text(self, tokens: Sequence[int], *, begins: bool = False) -> str:
        """Text of generated tokens as they are: no space taken away before punctuation.

        Args:
            tokens: what was generated.
            begins: whether they begin a text (`begins_text`) or go on with one, which keeps the
                space that a tokenizer takes away from the first word.
        """
        if not begins:
            start = self._decode(self._anchor)
            text = self._decode([*self._anchor, *tokens])
            if text.startswith(start):
                return text[len(start) :]
        return self._decode(tokens)

    def begins_text(self, row: Row) -> bool:
        """Whether the tokenizer reads what stands behind a row as the start of a text.

        It does so behind nothing but its own start, and perhaps behind special tokens.
        """
        if [*row.head, *row.body] in (self._front, [self._start()]):
            return True
        last = row.body[-1]
        if last not in self._anew:
            spelt = {token: text for text, token in self.tokenizer.get_added_vocab().items()}
            behind = self.encode_bare(spelt[last] + self._probe) if last in spelt else []
            self._anew[last] = behind[:1] == [last] and behind[1:] == self._anchor
        return self._anew[last]

    def _decode(self, tokens: Sequence[int]) -> str:
        text = self.tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def _probed(self) -> tuple[str, list[int]]:
        """A text that the tokenizer reads and writes alike, and its tokens; empty if none is."""
        first = range(min(PROBED, len(self.tokenizer)))
        for text in chain(PROBES, (self._decode([token]).strip() for token in first)):
            with suppress(BasinscopeError):
                tokens = self.encode_bare(text)
                if text and self._decode(tokens).strip() == text:
                    return text, tokens
        return "", []

    def _added(self) -> tuple[list[int], list[int]]:
        """Tokens that the tokenizer puts before a text and behind it."""
        tokens, n = list(self.tokenizer.encode(self._probe)), len(self._anchor)
        starts = range(len(tokens) - n + 1) if n else ()
        at = next((k for k in starts if tokens[k : k + n] == self._anchor), None)
        return ([], []) if at is None else (tokens[:at], tokens[at + n :])

    def _choices(self, request: Choices) -> Row:
        """Tokenize context and continuation together, as the model saw text in training.

        A continuation may change the context's last tokens; what all continuations have in common
        is run once, and only tokens past the context's own count are scored.
        """
        context, encode = self._asked(request, request.prefix + request.context)
        rows = [encode(context + c) for c in request.continuations]
        own = encode(context.rstrip() if request.chat == LIKE_LM_EVAL else context)
        if not own or not _common(rows) or min(map(len, rows)) < 2:
            # the rows share no token that the first scored one could follow: there is no context,
            # or the tokenizer merged it with a continuation. So each row gets the start token,
            # unless the tokenizer has put it there
            start = self.checked([self._start()])
            own, *rows = (row if row[:1] == start else start + row for row in (own, *rows))
        if min(map(len, rows)) < 2:
            raise BasinscopeError(
                f"continuations {request.continuations!r:.60}",
                "texts that the tokenizer makes tokens of",
                "other texts, or another tokenizer",
            )
        common = min(_common(rows), len(own), *(len(row) - 1 for row in rows))
        skips = tuple(max(0, min(len(own), len(row) - 1) - common) for row in rows)
        head, body = self._split(request, rows[0][:common])
        return Row(head, body, tuple(array("i", row[common:]) for row in rows), skips)

    def _prompt(self, request: Generate) -> Row:
        text, encode = self._asked(request, request.prefix + request.prompt)
        return Row(*self._split(request, encode(text) or self.checked([self._start()])))

    def _in_chat(self, request: Choices | Generate) -> bool:
        """Whether the template stands around the prompt; the user's error where it must and cannot.

        Raises:
            BasinscopeError: If the request asks for a chat and the model has no template.
        """
        has = bool(getattr(self.tokenizer, "chat_template", None))
        if request.chat in (True, LIKE_LM_EVAL) and not has:
            raise BasinscopeError(
                f"{getattr(self.tokenizer, 'name_or_path', '') or 'this model'!r} has no chat "
                "template, and a task asks for one",
                "a model that was trained to chat",
                "leave out the tasks with @chat, or -chat or -instruct in their names, or set "
                "engine.tokenizer.chat_template",
            )
        return has and bool(request.chat)

    def _asked(
        self, request: Choices | Generate, prompt: str
    ) -> tuple[str, Callable[[str], list[int]]]:
        """Text up to where the model speaks, of a chat where it is one, and what encodes it."""
        if not self._in_chat(request):
            return prompt, self.encode
        turns = request.turns
        at = len(turns) - (turns[-1:] != () and turns[-1][0] == OPENING)
        said = rendered(
            self.tokenizer, (*turns[:at], ("user", prompt), *turns[at:]), ask=at == len(turns)
        )
        start = self.tokenizer.bos_token
        begun = request.chat != LIKE_LM_EVAL or bool(start and said.startswith(start))
        return said, self.encode_bare if begun else self.encode

    def _split(
        self, request: Choices | Generate, tokens: list[int]
    ) -> tuple[tuple[int, ...], Sequence[int]]:
        """Head that rows of this prefix and turns share, and the rest; no head if it were short."""
        start = self._start_of(request)
        cut = min(_common([start, tokens]), len(tokens) - 1)
        if cut < MIN_HEAD:
            return (), array("i", tokens)
        head = tuple(tokens[:cut])
        if len(self._heads) > KEPT_STARTS:
            self._heads = {}
        return self._heads.setdefault(head, head), array("i", tokens[cut:])

    def _start_of(self, request: Choices | Generate) -> list[int]:
        """Tokens that texts of a request's prefix and turns begin with, in plain text or a chat.

        But for what may merge with their own.
        """
        key = (request.prefix, request.turns, self._in_chat(request) and request.chat)
        if key not in self._starts:
            if key[-1]:
                asked = [self._asked(request, request.prefix + own) for own in "ab"]
                pair = [encode(text) for text, encode in asked]
                tokens = pair[0][: _common(pair)]
            else:
                tokens = self.encode(request.prefix)
            if len(self._starts) > KEPT_STARTS:
                self._starts = {}
            self._starts[key] = tokens
        return self._starts[key]

    def _start(self) -> int:
        """Token to begin with where there is no text: the model must see one."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0


def rendered(tokenizer: Any, messages: Turns, *, ask: bool, where: str = "") -> str:
    """Text of a chat as the tokenizer's template writes it.

    Args:
        tokenizer: with a chat template.
        messages: role and text of each; behind one of the role `OPENING` the model goes on.
        ask: up to where the model speaks.
        where: the chat stands, for the message.

    Raises:
        BasinscopeError: a template that refuses the messages, fails, or writes nothing.
    """
    roles = ["assistant" if role == OPENING else role for role, _ in messages]
    try:
        text = tokenizer.apply_chat_template(
            [{"role": role, "content": m[1]} for role, m in zip(roles, messages, strict=True)],
            tokenize=False,
            add_generation_prompt=ask,
            continue_final_message=messages[-1:] != () and messages[-1][0] == OPENING,
        )
        reason = "it writes nothing" if not text.strip() else ""
    except Exception as error:  # a template may raise anything
        reason = first_line(error)
    if reason:
        raise BasinscopeError(
            f"{where}{': ' if where else ''}the chat template refuses a chat of "
            f"{', '.join(dict.fromkeys(roles))} ({reason})",
            "what the model's template can render, such as user and assistant in turn",
            "take other tasks or data, or set another engine.tokenizer.chat_template",
        )
    return str(text)


def _common(rows: list[list[int]]) -> int:
    """Length of the longest common start."""
    low, high = min(rows), max(rows)
    pairs = zip(low, high, strict=False)
    least = min(len(low), len(high))
    return next((k for k, (a, b) in enumerate(pairs) if a != b), least)

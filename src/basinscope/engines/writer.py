"""One text being written: its tokens, and whether it is finished."""

from __future__ import annotations

from basinscope.engines.tokens import Tokens
from basinscope.tasks.base import Generate, Generation

STRIDE = 8  # tokens behind the settled text that are read anew with every further one


class Writer:
    """A text that grows by single tokens until an end token, a stop, a decision or the cap.

    Args:
        tokens: the model's tokenizer.
        ends: tokens that end a text.
        request: what is written.
        begins: whether it begins a text for the tokenizer (`Tokens.begins_text`).
    """

    def __init__(
        self, tokens: Tokens, ends: frozenset[int], request: Generate, begins: bool = False
    ) -> None:
        self.tokenizer, self.ends, self.request, self.begins = tokens, ends, request, begins
        self.tokens: list[int] = []
        self.done = request.max_tokens < 1
        self.finished, self.failure = False, ""
        self._settled, self._before, self._read = "", 0, 0

    def take(self, token: int, finite: bool) -> None:
        """Add the next token, unless the text is done."""
        if self.done:
            return
        if not finite:
            self.done, self.failure = True, "non-finite logits"
        elif token in self.ends:
            self.done = self.finished = True
        else:
            self.tokens.append(token)
            self.finished = self._stopped()
            self.done = self.finished or len(self.tokens) >= self.request.max_tokens

    def result(self) -> Generation:
        """The text so far, without what follows a stop string."""
        text = self._read_back(0)
        finished = self.finished or any(stop in text for stop in self.request.stop)
        for stop in self.request.stop:
            text = text.split(stop)[0]
        return Generation(text, finished, self.failure)

    def _stopped(self) -> bool:
        """Whether the text holds a stop or is decided.

        The whole is read where the quick reading says so: only the whole can end a text.
        """
        if not self.request.stop and self.request.decided is None:
            return False
        text = self._text()
        if not self._ended(text):
            return False
        whole = self._read_back(0)
        return whole == text or self._ended(whole)

    def _ended(self, text: str) -> bool:
        decided = self.request.decided
        return any(s in text for s in self.request.stop) or (decided is not None and decided(text))

    def _text(self) -> str:
        """Text so far, of which only the last tokens are read.

        They are read behind some that are settled already: how a token reads may depend on those
        before it. Reading the whole for every token would take quadratic time.
        """
        before = self._read_back(self._before, self._read)
        last = self._read_back(self._before)
        if not last.startswith(before):
            return self._read_back(0)
        text = self._settled + last[len(before) :]
        # a character of several tokens reads as U+FFFD until its last one is there
        if len(self.tokens) - self._read >= STRIDE and not last.endswith("\ufffd"):
            self._settled, self._before, self._read = text, self._read, len(self.tokens)
        return text

    def _read_back(self, start: int, end: int | None = None) -> str:
        return self.tokenizer.text(self.tokens[start:end], begins=self.begins and not start)

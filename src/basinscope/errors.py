"""The one exception type that users see, and what raises it for arguments of a wrong type."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, SupportsFloat, SupportsIndex, TypeVar

MOST_COLUMNS = 4000
"""Of a line that is shown."""

_UNPRINTABLE = re.compile(r"[^ -~\n\t\xa0\u202f]")  # perhaps: `str.isprintable` has the last word

Asked = ParamSpec("Asked")
Result = TypeVar("Result")

_KINDS: dict[str, tuple[Any, str]] = {
    "int": (SupportsIndex, "a whole number"),
    "float": (SupportsFloat, "a number"),
    "str": (str, "a text"),
    "Path": (os.PathLike, "a path"),
    "bool": (SupportsIndex, "true or false"),
    "None": (type(None), "None"),
    "Sequence[float]": (SupportsFloat, "numbers in a list"),
}
"""Pieces of annotations that `typed` checks: what a value of each is, and what to call it."""


class BasinscopeError(Exception):
    """What the user can mend: what was given, what is allowed, and what to try.

    The command line prints it as one line and ends with exit code 2. Everything that is not the
    user's to mend (a broken invariant) is an ``assert`` or another exception, with its traceback.
    """

    def __init__(self, given: str, allowed: str, try_: str) -> None:
        """Keep the three texts, none of which says its label."""
        super().__init__(given, allowed, try_)
        self.given, self.allowed, self.try_ = given, allowed, try_

    def __str__(self) -> str:
        """``GIVEN; allowed: ALLOWED; try: TRY``, in one line that is safe to print."""
        given, allowed, advice = (printable(" ".join(text.split())) for text in self.args)
        return f"{given}; allowed: {allowed}; try: {advice}"


def printable(text: str) -> str:
    r"""A text that can be shown: no character acts on a terminal or hides, no line is endless.

    Models, files and users' names may hold escape sequences, overrides of the direction of writing
    and halves of characters, which are written as Python writes them.

    >>> printable("a\x1b[31m \u202eb\ud800")
    'a\\x1b[31m \\u202eb\\ud800'
    """
    lines = text.split("\n")
    long = any(len(line) > MOST_COLUMNS for line in lines)
    cut = "\n".join(map(_shortened, lines)) if long else text
    return _UNPRINTABLE.sub(lambda c: c[0] if c[0].isprintable() else ascii(c[0])[1:-1], cut)


def _shortened(line: str) -> str:
    rest = len(line) - MOST_COLUMNS
    return f"{line[:MOST_COLUMNS]}... and {rest:,} characters" if rest > 0 else line


def nearest(word: str, allowed: Iterable[str], n: int = 1) -> str:
    """The allowed words nearest to a misspelt one, whole or up to their colon.

    >>> nearest("frontie", ["curves", "frontier"])
    'frontier'
    >>> nearest("too", ["random", "to:MODEL"])
    'to:MODEL'
    >>> nearest("x", ["curves", "frontier"])
    'one of these'
    """
    words = list(allowed)
    forms = {form.partition(":")[0]: form for form in reversed(words)} | {w: w for w in words}
    near = dict.fromkeys(forms[w] for w in difflib.get_close_matches(word, forms, n=n))
    *others, last = near or ["one of these"]
    return f"{', '.join(others)} or {last}" if others else last


def listed(text: str, names: Sequence[str], most: int = 3) -> str:
    """Text and the first few of the names; nothing for none."""
    if not names:
        return ""
    return f"{text} ({', '.join(names[:most])}{', ...' if len(names) > most else ''})"


def typed(function: Callable[Asked, Result]) -> Callable[Asked, Result]:
    """Function whose numbers, texts and paths are checked against its annotations when called.

    Raises:
        BasinscopeError: by the function, with the argument. What is annotated in any other way is
            for the function itself to check.
    """
    parameters = inspect.signature(function)
    kinds = {
        name: str(parameter.annotation).split(" | ")
        for name, parameter in parameters.parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }

    @functools.wraps(function)
    def call(*args: Asked.args, **kwargs: Asked.kwargs) -> Result:
        for name, value in parameters.bind(*args, **kwargs).arguments.items():
            words = kinds.get(name, [""])
            if set(words) <= _KINDS.keys() and not any(_fits(value, word) for word in words):
                allowed = " or ".join(_KINDS[word][1] for word in words)
                raise BasinscopeError(
                    f"{name}={value!r:.80}",
                    allowed,
                    f"{allowed} in place of {type(value).__name__}",
                )
        return function(*args, **kwargs)

    return call


def _fits(value: Any, word: str) -> bool:
    kind = _KINDS[word][0]
    if word != "Sequence[float]":
        return isinstance(value, kind)
    sized = hasattr(value, "__len__") and not isinstance(value, str)
    return sized and all(isinstance(element, kind) for element in value)

"""The one exception type that users see, and what raises it for arguments of a wrong type."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, SupportsFloat, SupportsIndex, TypeVar

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
    """What the user can mend: says what was given, what is allowed, and what to try.

    The command line prints it as one line and ends with exit code 2. Everything that is not the
    user's to mend (a broken invariant) is an ``assert`` or another exception, with its traceback.
    """

    def __init__(self, given: str, allowed: str = "", try_: str = "") -> None:
        """Join the three parts to one line, ``given; allowed; try_``; empty parts are left out."""
        super().__init__("; ".join(part for part in (given, allowed, try_) if part))


def did_you_mean(word: str, allowed: Iterable[str], n: int = 1) -> str:
    """The allowed words nearest to a misspelt one, as a question; empty where none is near.

    >>> did_you_mean("frontie", ["curves", "frontier"])
    'did you mean frontier?'
    """
    near = difflib.get_close_matches(word, list(allowed), n=n)
    return f"did you mean {' or '.join(near)}?" if near else ""


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
                raise BasinscopeError(
                    f"{name}={value!r:.80}",
                    f"allowed: {' or '.join(_KINDS[word][1] for word in words)}",
                    f"a {type(value).__name__} is none",
                )
        return function(*args, **kwargs)

    return call


def _fits(value: Any, word: str) -> bool:
    kind = _KINDS[word][0]
    if word != "Sequence[float]":
        return isinstance(value, kind)
    sized = hasattr(value, "__len__") and not isinstance(value, str)
    return sized and all(isinstance(element, kind) for element in value)

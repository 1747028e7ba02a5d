"""Directions by the words of the command line."""

from __future__ import annotations

from collections.abc import Callable

from basinscope.errors import BasinscopeError
from basinscope.weights.directions import Direction, Random
from basinscope.weights.saved import Saved


def parse(word: str) -> Direction:
    """Direction named by a word of the command line; its label is that word.

    Raises:
        BasinscopeError: for an unknown or malformed word.
    """
    kind, colon, rest = word.partition(":")
    if kind not in WORDS or (colon and not rest) or (not colon and kind != "random"):
        raise _malformed(word)
    return WORDS[kind](word, rest)


def _random(word: str, seed: str) -> Random:
    if seed and not (seed.isascii() and seed.isdigit()):
        raise _malformed(word)
    return Random(int(seed or 0))


WORDS: dict[str, Callable[[str, str], Direction]] = {
    "random": _random,
    "saved": lambda _, file: Saved(file),
}

_ALLOWED = "allowed: random or random:SEED with an integer seed, saved:FILE"


def _malformed(word: str) -> BasinscopeError:
    return BasinscopeError(
        f"direction {word!r}", _ALLOWED, "for example -d random -d random:1 -d saved:worst"
    )

"""Directions by the words of the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from basinscope.directions.adapters import Adapter
from basinscope.directions.base import Direction, Random
from basinscope.directions.compressed import Pruned, Quantised
from basinscope.directions.layerwise import Layerwise
from basinscope.directions.planes import Orthogonal, Point
from basinscope.directions.saved import Saved
from basinscope.directions.toward import Merge, Toward
from basinscope.errors import BasinscopeError, nearest
from basinscope.files import at_path, split_at


def direction(word: str | Direction) -> Direction:
    """Direction named by a word of the command line, which is its label; an object as it is.

    Args:
        word: ``random[:SEED]``, ``layerwise[:SEED]``, ``to:MODEL``, ``adapter:FOLDER``,
            ``saved:FILE``, ``quantised:BITS[:GROUP][:asymmetric]``, ``pruned:FRACTION``,
            ``merge:A+B`` or ``merge:0.3*A+0.7*B``.

    Raises:
        BasinscopeError: for an unknown or malformed word, a path at which there is nothing, or an
            object that is no direction.

    >>> direction("random:3")
    Random(seed=3)
    """
    if not isinstance(word, str):
        if isinstance(word, Direction):
            return word
        raise BasinscopeError(
            f"a direction of type {type(word).__name__}",
            "a word such as random:1 or to:MODEL; basinscope.Random, Toward and the like; "
            "a subclass of basinscope.directions.Direction",
            "random",
        )
    kind, colon, rest = word.partition(":")
    if kind not in WORDS or (colon and not rest) or (not colon and kind not in SEEDED):
        raise _malformed(word)
    return WORDS[kind](word, rest)


def directions(words: str | Direction | Iterable[str | Direction]) -> list[Direction]:
    """Directions of several words or objects, or of one.

    Raises:
        BasinscopeError: as `direction`.
    """
    many = words if isinstance(words, Iterable) and not isinstance(words, str) else [words]
    return [direction(word) for word in many]


def _random(word: str, seed: str) -> Random:
    return SEEDED[word.partition(":")[0]](_integer(word, seed or "0"))


def _quantised(word: str, rest: str) -> Quantised:
    numbers, symmetric = rest.split(":"), True
    if numbers[-1] == "asymmetric":
        numbers, symmetric = numbers[:-1], False
    if len(numbers) not in (1, 2):
        raise _malformed(word)
    bits, *group = (_integer(word, n) for n in numbers)
    return Quantised(bits, group[0] if group else None, symmetric)


def _pruned(word: str, fraction: str) -> Pruned:
    try:
        return Pruned(float(fraction))
    except ValueError:
        raise _malformed(word) from None


def _merge(word: str, rest: str) -> Merge:
    """``A+B`` or ``0.3*A+0.7*B``: all terms have a weight or none has."""
    terms = split_at("+", rest, lambda term: os.path.expanduser(_weighted(term)[1]))
    if len(terms) < 2 or not all(terms):
        raise _malformed(word)
    weights: list[float] = []
    models: list[str] = []
    for term in terms:
        weight, model = _weighted(term)
        weights += [] if weight is None else [weight]
        models.append(model)
    if weights and len(weights) < len(models):
        raise _malformed(word)
    return Merge([at_path(model) for model in models], weights or None)


def _weighted(term: str) -> tuple[float | None, str]:
    """Weight and model of a term ``0.3*A``; no weight where there is none."""
    factor, _, model = term.partition("*")
    with suppress(ValueError):
        if model:
            return float(factor), model
    return None, term


def _point(word: str, rest: str) -> Point:
    """``X,Y:A&B``, the word for workers of a point in a plane; an axis may be ``B_|_A``."""
    at, _, axes = rest.partition(":")
    a, _, b = axes.partition("&")
    try:
        x, y = (float(number) for number in at.split(","))
    except ValueError:
        raise _malformed(word) from None
    remainder = "_|_" + a
    if b.endswith(remainder):
        return Point(_axis(a), Orthogonal(_axis(b.removesuffix(remainder)), _axis(a)), x, y)
    return Point(_axis(a), _axis(b), x, y)


@cache
def _axis(word: str) -> Direction:
    """One object for all points of a plane: what it has read, it has read for all of them."""
    return direction(word)


def _integer(word: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise _malformed(word)
    return int(text)


SEEDED: dict[str, type[Random]] = {"random": Random, "layerwise": Layerwise}

WORDS: dict[str, Callable[[str, str], Direction]] = {
    "random": _random,
    "layerwise": _random,
    "to": lambda _, model: Toward(at_path(model)),
    "adapter": lambda _, folder: Adapter(at_path(folder, "adapter")),
    "saved": lambda _, file: Saved(at_path(file, "file", hub=False)),
    "quantised": _quantised,
    "pruned": _pruned,
    "merge": _merge,
    "plane": _point,
}


_FORMS = (
    "random[:INTEGER]", "layerwise[:INTEGER]", "to:MODEL", "adapter:FOLDER", "saved:FILE",
    "pruned:FRACTION", "quantised:BITS[:GROUP][:asymmetric]", "merge:A+B", "merge:0.3*A+0.7*B",
)  # fmt: skip


def _malformed(word: str) -> BasinscopeError:
    return BasinscopeError(
        f"direction {word!r}", ", ".join(_FORMS), nearest(word.partition(":")[0], _FORMS)
    )


def direction_of(other: str | Path | Direction) -> Direction:
    """Direction of what a user calls another model: a word, an adapter's folder, a checkpoint."""
    if not isinstance(other, str | Path):
        return direction(other)
    text = str(other)
    if isinstance(other, str) and text.partition(":")[0] in WORDS:
        return direction(text)
    is_adapter = (Path(text).expanduser() / "adapter_config.json").is_file()
    return direction(f"{'adapter' if is_adapter else 'to'}:{text}")

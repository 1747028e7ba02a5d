"""Geometries by the words of the command line."""

from __future__ import annotations

from collections.abc import Callable

from basinscope.errors import BasinscopeError, nearest
from basinscope.files import at_path
from basinscope.geometries.base import Geometry, Isotropic, rms_scaled, selected
from basinscope.geometries.factors import lora, lora_xs
from basinscope.geometries.subspaces import RandomSubspace, Subspace
from basinscope.weights.parts import Weights
from basinscope.weights.selection import compiled

Build = Callable[[Weights], Geometry]


def geometry(word: str | Geometry | None, engine: Weights) -> Geometry:
    """Geometry named by a word, for the weights of an engine; its label is that word.

    Args:
        word: ``isotropic``; ``rms`` (each tensor in proportion to its RMS); ``params:REGEX``
            (matching parameters only); ``subspace:FILE`` (a basis); ``random-subspace:K[:SEED]``;
            ``lora:FOLDER`` (B of an adapter whose A is fixed); ``lora-xs:RANK[:REGEX]`` (a core
            between singular vectors). An object as it is; None for isotropic.
        engine: its names, shapes and pristine weights.

    Raises:
        BasinscopeError: for an unknown or malformed word, an object that is no geometry, or one
            that does not fit the weights.
    """
    return builder(word)(engine)


def builder(word: str | Geometry | None) -> Build:
    """What makes the geometry once there are weights; what is wrong without them is refused here.

    Raises:
        BasinscopeError: for an unknown or malformed word, a path at which there is nothing, or an
            object that is no geometry.
    """
    if word is None:
        return lambda _: Isotropic()
    if not isinstance(word, str):
        if not isinstance(word, Geometry):
            raise _unknown(f"a geometry of type {type(word).__name__}")
        shape = word
        return lambda _: shape
    kind, _, rest = word.partition(":")
    number, _, more = rest.partition(":")
    if word == "isotropic":
        return lambda _: Isotropic()
    if word == "rms":
        return rms_scaled
    if kind == "params" and rest:
        compiled(rest)
        return lambda engine: selected(engine, rest)
    if kind == "subspace" and rest:
        file = at_path(rest, "file", hub=False)
        return lambda engine: Subspace(file, engine)
    if kind == "random-subspace" and _is_whole(number) and _is_whole(more or "0"):
        return lambda engine: RandomSubspace(engine, int(number), int(more or 0))
    if kind == "lora" and rest:
        folder = at_path(rest, "adapter")
        return lambda engine: lora(engine, folder)
    if kind == "lora-xs" and _is_whole(number):
        compiled(more)
        return lambda engine: lora_xs(engine, int(number), more)
    raise _unknown(f"geometry {word!r}", kind)


def _unknown(given: str, kind: str = "") -> BasinscopeError:
    words = (
        "isotropic", "rms", "params:REGEX", "subspace:FILE", "random-subspace:K[:SEED]",
        "lora:FOLDER", "lora-xs:RANK[:REGEX]",
    )  # fmt: skip
    return BasinscopeError(
        given,
        f"{', '.join(words)}, or an object with noise, distance and project",
        nearest(kind, words),
    )


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit()

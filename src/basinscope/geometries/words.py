"""Geometries by the words of the command line."""

from __future__ import annotations

from basinscope.errors import BasinscopeError
from basinscope.geometries.base import Geometry, Isotropic, rms_scaled, selected
from basinscope.geometries.factors import lora, lora_xs
from basinscope.geometries.subspaces import RandomSubspace, Subspace
from basinscope.weights.parts import Weights


def geometry(word: str, engine: Weights) -> Geometry:
    """Geometry named by a word, for the weights of an engine; its label is that word.

    Args:
        word: ``isotropic``; ``rms`` (each tensor in proportion to its RMS); ``params:REGEX``
            (matching parameters only); ``subspace:FILE`` (a basis); ``random-subspace:K[:SEED]``;
            ``lora:FOLDER`` (B of an adapter whose A is fixed); ``lora-xs:RANK[:REGEX]`` (a core
            between singular vectors).
        engine: its names, shapes and pristine weights.

    Raises:
        BasinscopeError: for an unknown or malformed word, or one that does not fit the weights.
    """
    kind, _, rest = word.partition(":")
    number, _, more = rest.partition(":")
    if word == "isotropic":
        return Isotropic()
    if word == "rms":
        return rms_scaled(engine)
    if kind == "params" and rest:
        return selected(engine, rest)
    if kind == "subspace" and rest:
        return Subspace(rest, engine)
    if kind == "random-subspace" and _whole(number) and _whole(more or "0"):
        return RandomSubspace(engine, int(number), int(more or 0))
    if kind == "lora" and rest:
        return lora(engine, rest)
    if kind == "lora-xs" and _whole(number):
        return lora_xs(engine, int(number), more)
    raise BasinscopeError(
        f"geometry {word!r}",
        "allowed: isotropic, rms, params:REGEX, subspace:FILE, random-subspace:K[:SEED], "
        "lora:FOLDER, lora-xs:RANK[:REGEX]",
        "for example --geometry params:norm",
    )


def _whole(text: str) -> bool:
    return text.isascii() and text.isdigit()

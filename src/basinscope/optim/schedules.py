"""Words for how the noise of a method changes over a training run."""

from __future__ import annotations

from collections.abc import Callable

from basinscope.errors import BasinscopeError

_ALLOWED = "constant, linear, rise, last:SHARE, first:SHARE, warm:SHARE with 0 < SHARE <= 1"


def schedule(word: str, total_steps: int) -> Callable[[int], float]:
    """Factor on sigma as a function of the number of optimiser steps taken.

    Args:
        word: ``constant``: 1. ``linear``: falls from 1 to 0. ``rise``: grows from 0 to 1.
            ``last:0.25``: 0, then 1 in the last quarter of the steps. ``first:0.75``: 1, then 0
            after three quarters. ``warm:0.1``: grows from 0 to 1 over the first tenth, then 1.
        total_steps: optimiser steps of the whole run.

    Raises:
        BasinscopeError: another word, or a share outside (0, 1].

    >>> [schedule("last:0.25", 8)(step) for step in range(8)]
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    """
    kind, colon, rest = word.partition(":")
    if kind in ("constant", "linear", "rise") and not colon:
        if kind == "constant":
            return lambda step: 1.0
        if kind == "linear":
            return lambda step: max(0.0, 1 - step / total_steps)
        return lambda step: min(1.0, step / total_steps)
    if kind not in ("last", "first", "warm"):
        raise BasinscopeError(f"schedule={word!r}", _ALLOWED, "last:0.25")
    part = share(rest, f"schedule={word!r}") * total_steps
    if kind == "last":
        return lambda step: float(step >= total_steps - part)
    if kind == "first":
        return lambda step: float(step < part)
    return lambda step: min(1.0, step / part)


def share(word: str, option: str) -> float:
    """Part of a run as a number in (0, 1].

    Raises:
        BasinscopeError: for anything else; the message begins with ``option``.
    """
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if not 0 < value <= 1:
        raise BasinscopeError(option, _ALLOWED, "last:0.25")
    return value

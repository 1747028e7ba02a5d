"""Sections of a report stand alone: one that cannot be made never takes the others with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from basinscope.errors import BasinscopeError

T = TypeVar("T")


def attempt(name: str, make: Callable[[], T], missing: list[str]) -> T | None:
    """Make one section of a report, which must not take the others with it.

    Args:
        name: of the section, with its article.
        make: makes it.
        missing: where the reason goes if it cannot be made.

    Returns:
        The section; None if it cannot be made.
    """
    try:
        return make()
    except Exception as error:  # whatever it is: the measurement is shown without this section
        reason = str(error) if isinstance(error, BasinscopeError | OSError) else repr(error)
        missing.append(f"{name} could not be made: {reason}")
        return None

"""The one exception type that users see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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

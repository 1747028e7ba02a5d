"""The one exception type that users see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BasinscopeError(Exception):
    """What the user can mend: what was given, what is allowed, and what to try.

    The command line prints it as one line and ends with exit code 2. Everything that is not the
    user's to mend (a broken invariant) is an ``assert`` or another exception, with its traceback.
    """

    def __init__(self, given: str, allowed: str = "", try_: str = "") -> None:
        """Keep the three parts, of which no one says its label."""
        super().__init__(given, allowed, try_)
        self.given, self.allowed, self.try_ = given, allowed, try_

    def __str__(self) -> str:
        """``GIVEN; allowed: ALLOWED; try: TRY``."""
        labelled = (("", self.given), ("allowed: ", self.allowed), ("try: ", self.try_))
        return "; ".join(label + part for label, part in labelled if part)


def nearest(word: str, allowed: Iterable[str], n: int = 1) -> str:
    """The allowed words nearest to a misspelt one.

    >>> nearest("frontie", ["curves", "frontier"])
    'frontier'
    >>> nearest("x", ["curves", "frontier"])
    'one of these'
    """
    *others, last = difflib.get_close_matches(word, list(allowed), n=n) or ["one of these"]
    return f"{', '.join(others)} or {last}" if others else last

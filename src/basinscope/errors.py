"""The one exception type that users see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
        """``GIVEN; allowed: ALLOWED; try: TRY``."""
        return f"{self.given}; allowed: {self.allowed}; try: {self.try_}"


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

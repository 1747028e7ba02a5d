"""The one exception type that users see."""


class BasinscopeError(Exception):
    """What the user can mend: says what was given, what is allowed, and what to try.

    The command line prints it as one line and ends with exit code 2. Everything that is not the
    user's to mend (a broken invariant) is an ``assert`` or another exception, with its traceback.
    """

    def __init__(self, given: str, allowed: str = "", try_: str = "") -> None:
        """Join the three parts to one line, ``given; allowed; try_``; empty parts are left out."""
        super().__init__("; ".join(part for part in (given, allowed, try_) if part))

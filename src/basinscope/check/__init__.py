"""The gate: what did a change of the weights lose? Before and after, paired; logs; guards.

Its names are imported when they are first asked for, so that logs are read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from basinscope.check.guards import unchanged
    from basinscope.check.logs import check_logs
    from basinscope.check.record import Change, Check, Standing
    from basinscope.check.run import check

__all__ = ["Change", "Check", "Standing", "check", "check_logs", "unchanged"]

_FILES = {
    "Change": "record", "Check": "record", "Standing": "record", "check": "run",
    "check_logs": "logs", "unchanged": "guards",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)

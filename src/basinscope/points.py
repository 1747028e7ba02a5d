"""Figures of a run, sent while it measures to whoever follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[Mapping[str, float], int | None], None]
"""Called with figures by name, and the optimiser's step where they belong to one."""

_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Have every figure that is sent in the body sent to ``listener``."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


def are_heard() -> bool:
    """Whether anybody follows."""
    return bool(_listeners.get())


def send(figures: Mapping[str, float], step: int | None = None) -> None:
    """Send figures by name; without a listener nothing happens."""
    for listener in _listeners.get():
        listener(figures, step)

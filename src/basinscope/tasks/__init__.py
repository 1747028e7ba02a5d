"""Tasks by name: the shipped suite, and the words from which a task can be rebuilt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from basinscope.errors import BasinscopeError
from basinscope.tasks import mini
from basinscope.tasks.base import Task, items_hash, limited

GROUPS = {"mini": mini.NAMES}
NAMES = (*mini.NAMES, "overrefusal")


def tasks(words: str | Sequence[str], *, limit: int | None = None, seed: int = 0) -> list[Task]:
    """Tasks named by words: ``"basic,math"`` or ``["basic", "math"]``.

    Args:
        words: ``mini`` (basic, math, code, safety), one of those, or ``overrefusal`` (the harmless
            twins of the safety items).
        limit: most items of each task; the same ones for every weight setting.
        seed: names the sample that ``limit`` takes.

    Returns:
        One task for each distinct name, in the order given.

    Raises:
        BasinscopeError: for an unknown name or a limit below 1.

    >>> [task.name for task in tasks("math,basic", limit=10)]
    ['math', 'basic']
    """
    given = words.split(",") if isinstance(words, str) else list(words)
    names: list[str] = []
    for word in given:
        name = word.strip()
        if name not in GROUPS and name not in NAMES:
            raise BasinscopeError(
                f"task {name!r}",
                f"allowed: {', '.join((*GROUPS, *NAMES))}",
                "separate several by commas",
            )
        names += [n for n in GROUPS.get(name, (name,)) if n not in names]
    return [limited(mini.load(name), limit, seed) for name in names]


def recipe(task: Task) -> dict[str, Any] | None:
    """Words from which `from_recipe` builds the same items; None if there are none."""
    if task.name not in NAMES:
        return None
    words = {"name": task.name, "limit": len(task.items), "seed": getattr(task, "seed", 0)}
    return words if items_hash(from_recipe(words)) == items_hash(task) else None


def from_recipe(words: dict[str, Any]) -> Task:
    """Task of a recipe."""
    return tasks(words["name"], limit=words["limit"], seed=words["seed"])[0]

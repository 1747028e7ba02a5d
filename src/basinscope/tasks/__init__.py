"""Tasks: the shipped suite, the published benchmarks, and the seam for one's own."""

from basinscope.tasks.base import (
    CallableTask,
    Choices,
    Corpus,
    Generate,
    Generation,
    Item,
    Likelihood,
    Outcome,
    Ranking,
    Task,
)
from basinscope.tasks.words import tasks

__all__ = [
    "CallableTask",
    "Choices",
    "Corpus",
    "Generate",
    "Generation",
    "Item",
    "Likelihood",
    "Outcome",
    "Ranking",
    "Task",
    "tasks",
]

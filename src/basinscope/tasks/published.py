"""A published benchmark: items made from rows of its data, one answer each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from basinscope.tasks.base import Answer, Generation, Item, Outcome, Ranking


@dataclass(frozen=True)
class Published:
    """A task scored by a function of one item and its one answer.

    Args:
        name: label in tables, and word from which the task is built again.
        items: its items, in the order of the benchmark; ids ``stratum/row`` where it has strata.
        chance: score without knowledge.
        scoring: version of ``score``.
        score: outcome of an item's answer.
        data_dir: folder that the rows came from; None is the hub.
    """

    name: str
    items: tuple[Item, ...]
    chance: float
    scoring: str
    score: Callable[[Item, Answer], Outcome] = field(repr=False)
    data_dir: str | None = None

    def oracle(self, item: Item, answers: Sequence[Answer]) -> Outcome:
        """Score the one answer to `item`."""
        (answer,) = answers
        return self.score(item, answer)


def text_of(item: Item, answer: Answer) -> str:
    """Text of a generation."""
    if not isinstance(answer, Generation):
        raise TypeError(f"item {item.id!r} asks for a Generation, got {type(answer).__name__}")
    return answer.text


def loglik_of(item: Item, answer: Answer) -> tuple[float, ...]:
    """Log-likelihoods of a ranking."""
    if not isinstance(answer, Ranking):
        raise TypeError(f"item {item.id!r} asks for a Ranking, got {type(answer).__name__}")
    return answer.loglik


def nll_of(answer: Answer) -> float | None:
    """Negative log-likelihood of the reference of a generation."""
    return answer.nll if isinstance(answer, Generation) else None

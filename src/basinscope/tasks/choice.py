"""Multiple choice by log-likelihood: which of a few continuations does the model find likeliest?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from basinscope.errors import BasinscopeError
from basinscope.tasks.base import Answer, Choices, Item, Outcome, Ranking


def choice_item(
    item_id: str, context: str, choices: Sequence[str], answer: int, **options: Any
) -> Item:
    """Make an item that asks for the ranking of `choices` after ``prefix + context``.

    Args:
        item_id: identity of the item.
        context: text of this item alone; the continuations bring their own leading space.
        choices: at least two different continuations.
        answer: index of the right one.
        options: of `Choices`: what all items of the task share. Immutable, so that no item can
            make it grow.

    Raises:
        BasinscopeError: If fewer than two choices, equal choices, or an index out of range.
    """
    if len(choices) < 2 or len(set(choices)) < len(choices):
        raise BasinscopeError(
            f"choices {list(choices)} of item {item_id!r}",
            "two or more different texts",
            "drop one",
        )
    if not 0 <= answer < len(choices):
        raise BasinscopeError(
            f"answer {answer} of item {item_id!r}", f"0 to {len(choices) - 1}", "count from 0"
        )
    return Item(item_id, (Choices(context, tuple(choices), **options),), answer)


def score_choice(loglik: Sequence[float], answer: int) -> Outcome:
    """Score a ranking: correct if the right choice is strictly the likeliest.

    The total log-likelihoods are compared, without normalising by length: choices should be of
    similar length.

    Args:
        loglik: total log-likelihood of each choice, in nats.
        answer: index of the right choice.

    Returns:
        The outcome. Its label is the index of the likeliest choice, "tie" if the likeliest is not
        unique, or "nan" if any value is not finite. Its margin is ``loglik[answer]`` minus the
        largest other value, its nll is ``-loglik[answer]``, both None for "nan".
    """
    if not all(math.isfinite(value) for value in loglik):
        return Outcome(correct=False, label="nan")
    best = max(loglik)
    winners = [index for index, value in enumerate(loglik) if value == best]
    margin = loglik[answer] - max(value for i, value in enumerate(loglik) if i != answer)
    return Outcome(
        correct=winners == [answer],
        label=str(winners[0]) if len(winners) == 1 else "tie",
        margin=margin,
        nll=-loglik[answer],
    )


@dataclass(frozen=True)
class ChoiceTask:
    """A task of `choice_item` items, scored by `score_choice`."""

    name: str
    items: tuple[Item, ...]
    chance: float
    scoring: str = "choices-loglik/1"

    def oracle(self, item: Item, answers: Sequence[Answer]) -> Outcome:
        """Score the one ranking that answers `item`."""
        (ranking,) = answers
        if not isinstance(ranking, Ranking):
            raise TypeError(f"item {item.id!r} asks for a Ranking, got {type(ranking).__name__}")
        assert isinstance(item.answer, int)
        return score_choice(ranking.loglik, item.answer)

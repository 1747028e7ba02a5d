"""Passes that do not fit memory are tried again with half as many tokens at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from basinscope.errors import BasinscopeError

LINE = 100  # characters of an error
# what a module raises that does not take a way of computing
REFUSALS = (TypeError, AttributeError, RuntimeError, ValueError, IndexError, KeyError)
TOKEN_BUDGET = 4096  # sized for two cores
# of keys and values of the rows that are written together, with the default budget; half as many
# of those that are read in one pass. With them a pass needs less than 1 GB beside the weights
CACHE_BYTES = 3 << 27
LEAST = 64  # tokens: less is a row or two at a time, and helps nobody

T = TypeVar("T")


def fitting(work: Callable[[int], T], budget: int) -> tuple[T, int]:
    """Result of ``work(budget)``, and the budget that was small enough for it.

    Args:
        work: takes the most tokens in one pass, which may change its time but not its result.
        budget: tokens to begin with; halved as often as memory runs out.

    Raises:
        BasinscopeError: if memory runs out with the least budget.
    """
    while True:
        try:
            return work(budget), budget
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # past the handler, whose traceback held on to the tensors of the failed pass
        if budget <= LEAST:
            raise BasinscopeError(
                f"out of memory with token_budget={budget}",
                f"a model that fits with the smallest token_budget, {LEAST}",
                "free memory, use fewer workers, or take a smaller model",
            )
        budget = max(budget // 2, LEAST)


def refusal(error: Exception) -> str:
    """What a module says that does not take a way of computing, in one line.

    Raises:
        Exception: the error itself, where memory ran out: that says nothing of the module.
    """
    if out_of_memory(error):
        raise error
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:LINE]


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch has a type for it on a GPU, and a sentence on the CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("can't allocate memory", "not enough memory"))
    )

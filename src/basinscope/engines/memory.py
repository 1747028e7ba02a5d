"""Passes that do not fit memory are tried again with half as many tokens at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from basinscope.errors import BasinscopeError

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


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch has a type for it on a GPU, and a sentence on the CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )

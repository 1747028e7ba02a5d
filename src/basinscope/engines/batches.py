"""Which rows go through the model together: as many as the token budget allows, alike in length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from basinscope.engines.cache import ROUND, alike, up
from basinscope.engines.tokens import Row


def by_head(rows: dict[int, Row]) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Heads, each with the keys of the rows that begin with it."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for key, row in rows.items():
        groups.setdefault(row.head, []).append(key)
    yield from groups.items()


def batches(
    keys: Iterable[int],
    length: Callable[[int], int],
    budget: int,
    multiple: int,
    held: int = 0,
    slots: int = 1 << 30,
) -> Iterator[list[int]]:
    """Keys sorted by length, cut so that rows times the longest stays within the budget.

    Args:
        keys: what to pack.
        length: new tokens of a key's row.
        budget: most tokens, padding included, in one pass.
        multiple: of tokens that rows are padded to.
        held: slots of cache that each row brings along: they cost memory but no arithmetic, and
            count for a quarter.
        slots: most slots of cache of a batch.

    Rows of different classes of slots are not mixed (see `cache`).
    """
    held = up(held, ROUND)
    batch: list[int] = []
    for key in sorted(keys, key=lambda k: (-length(k), k)):
        longest = length(batch[0]) if batch else 0
        rows, width = len(batch) + 1, up(longest, multiple)
        full = rows * (width + held // 4) > budget or rows * (width + held) > slots
        if batch and (full or alike(held + longest) != alike(held + length(key))):
            yield batch
            batch = []
        batch.append(key)
    if batch:
        yield batch


def split_fitting(rows: Sequence[Row], extra: Sequence[int], context: int) -> tuple[
    dict[int, Row], dict[int, str]
]:  # fmt: skip
    """Rows that fit the model's context, and the failure of each that does not.

    Args:
        rows: prompts.
        extra: tokens to be generated after each.
        context: most tokens that a row may hold.
    """
    fitting, failures = {}, {}
    for i, (row, more) in enumerate(zip(rows, extra, strict=True)):
        tokens = row.longest + more
        if tokens > context:
            failures[i] = f"prompt of {tokens} tokens does not fit the context of {context}"
        else:
            fitting[i] = row
    return fitting, failures

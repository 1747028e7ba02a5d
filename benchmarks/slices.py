"""The work that all sides do: items, prompts, and the steps of a curve.

- ``mmlu``: 64 five-shot questions, 16 of each of four subjects, the first of each of MMLU's four
  categories in alphabetical order (16 questions share their worked examples).
- ``mmlu-spread``: 64 five-shot questions over 57 subjects, 1 or 2 of each: little to share.
- ``gsm8k``: 64 five-shot word problems, greedy, cap 256 (all share their worked examples).
- ``advbench``: 64 harmful requests in the chat template, greedy, cap 100 (nothing to share).

A curve has 21 steps from -0.03 to 0.03. Four of them are measured, each of which stands for those
nearest to it: how long a text grows depends on where on the curve it is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import basinscope as bs
from basinscope.tasks import Task
from basinscope.tasks.base import Answer, Generation, Item, Ranking

CURVE = tuple(round(-0.03 + 0.003 * k, 3) for k in range(21))
MEASURED = (0.0, 0.006, 0.015, 0.03)  # pristine, inside, edge, beyond
WEIGHT = {
    step: sum(step == min(MEASURED, key=lambda m: (abs(m - abs(at)), -m)) for at in CURVE)
    for step in MEASURED
}
STRIDE = 5  # prime to every number of parts
SUBJECTS = ("abstract_algebra", "formal_logic", "econometrics", "business_ethics")
WORDS: dict[str, tuple[tuple[str, int], ...]] = {
    "mmlu": tuple((f"mmlu:{subject}", 16) for subject in SUBJECTS),
    "mmlu-spread": (("mmlu", 10_000),),
    "gsm8k": (("gsm8k", 10_000),),
    "advbench": (("advbench", 10_000),),
}
WRITTEN = ("gsm8k", "advbench")


@dataclass(frozen=True)
class Slice:
    """Items of one slice with their prompts as the engine reads them.

    ``letters`` are the four tokens to be ranked, ``cap`` the most tokens to be written: one of the
    two says what the slice asks.
    """

    name: str
    tasks: tuple[Task, ...]
    items: tuple[tuple[Task, Item], ...]
    prompts: tuple[tuple[int, ...], ...]
    letters: tuple[int, ...]
    cap: int

    def share(self, parts: int, k: int) -> list[int]:
        """One of so many runs of neighbours, another one for each k, far from the last."""
        size = len(self.items) // parts
        start = (k * STRIDE % parts) * size
        return list(range(start, start + size))


def tasks_of(name: str, limit: int = 64) -> tuple[Task, ...]:
    """Tasks of a slice, with at most so many items in all."""
    words = WORDS[name]
    return tuple(bs.tasks(word, limit=min(n, max(1, limit // len(words))))[0] for word, n in words)


def slice_of(name: str, engine: Any, limit: int = 64) -> Slice:
    """A slice, its prompts tokenized."""
    tasks = tasks_of(name, limit)
    items = tuple((task, item) for task in tasks for item in task.items)
    rows = [engine.row(item.requests[0]) for _, item in items]
    written = name in WRITTEN
    letters = () if written else tuple(tail[-1] for tail in rows[0].tails)
    cap = items[0][1].requests[0].max_tokens if written else 0  # type: ignore[union-attr]
    prompts = tuple((*row.head, *row.body) for row in rows)
    return Slice(name, tasks, items, prompts, letters, cap)


def outcome(engine: Any, task: Task, item: Item, answer: int | Sequence[int]) -> int:
    """Score of a baseline's answer under the task's oracle: a letter, or the tokens of a text."""
    answered: Answer
    if isinstance(answer, int):
        letters = range(len(item.requests[0].continuations))  # type: ignore[union-attr]
        answered = Ranking(tuple(0.0 if k == answer else -1.0 for k in letters))
    else:
        answered = generation(engine, item, answer)
    return int(task.oracle(item, (answered,)).correct)


def generation(engine: Any, item: Item, tokens: Sequence[int]) -> Generation:
    """What a baseline wrote, up to its end token and to what the item stops at."""
    ends = [k for k, token in enumerate(tokens) if token in engine.ends]
    text = engine.tokens.text(list(tokens[: ends[0]] if ends else tokens))
    for stop in item.requests[0].stop:  # type: ignore[union-attr]
        text = text.split(stop)[0]
    return Generation(text, bool(ends))

"""What an attack maximises: a loss of the live weights, and the 0-1 score that it stands for.

A task's loss is the cross-entropy of its reference answers, in nats: of the right one among its
choices (``-log p(right) / sum_c p(c)``, p the likelihood of a whole continuation after its
context), or, where there is but one text, of its tokens. A text's is that of its tokens, of a file
as of a task that reads one (`basinscope.Corpus`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from basinscope.attack.split import SplitLinear
from basinscope.engines import gradient
from basinscope.engines.base import Engine
from basinscope.engines.tokens import Row
from basinscope.engines.transformers import TransformersEngine
from basinscope.errors import BasinscopeError, nearest
from basinscope.files import ordinary
from basinscope.tasks.base import (
    CallableTask,
    Choices,
    Corpus,
    Generate,
    Item,
    Outcome,
    Task,
    items_hash,
    limited,
)
from basinscope.tasks.humaneval import HumanEval
from basinscope.tasks.words import NAMES, known, one

BLOCK_TOKENS = 64
"""A text is cut into blocks of so many tokens, each scored without what stands before it."""

BATCH_TOKENS = 1024
"""Most tokens of one forward-backward pass; a longer row goes alone, and with checkpointing."""

Loss = Callable[[Any], torch.Tensor]
Around = Callable[[], AbstractContextManager[Any]]

COMPUTE: dict[str, Around] = {"bfloat16": SplitLinear, "float32": nullcontext}
"""What linear layers multiply in; the weights are float32 in any case."""


@dataclass(frozen=True)
class Value:
    """Loss under the live weights, and the share of items (or tokens) that are right."""

    loss: float
    score: float  # NaN where there is none


@dataclass(frozen=True)
class Objective:
    """A loss with its identity and the tasks along which its collapse is measured.

    Args:
        name: what the user called it.
        identity: sha256 of everything that determines it.
        evaluate: ``evaluate(backward)`` under the live weights; adds to ``.grad`` if asked to.
        tasks: the attacked items and those held out, to be measured along the direction.
        chance: score without knowledge.
    """

    name: str
    identity: str
    evaluate: Callable[[bool], Value] = field(repr=False)
    tasks: tuple[Task, ...] = ()
    chance: float = 0.0


@dataclass(frozen=True)
class Part:
    """Some items of a task under a name of their own."""

    whole: Task
    name: str
    items: tuple[Item, ...]

    @property
    def chance(self) -> float:
        """Chance level of the whole task."""
        return self.whole.chance

    @property
    def scoring(self) -> str:
        """Scoring of the whole task."""
        return self.whole.scoring

    def oracle(self, item: Item, answers: Sequence[Any]) -> Outcome:
        """Oracle of the whole task."""
        return self.whole.oracle(item, answers)


def target(objective: Task | str | Path | Loss, **options: Any) -> Task | Path | Loss:
    """What is attacked: the task of a word, the text file of a path; an object as it is.

    Args:
        objective: a word that names a task and a file means the task.
        options: as in `basinscope.tasks`.

    Raises:
        BasinscopeError: a word that names neither, or several tasks; an object that is neither.
    """
    if isinstance(objective, str):
        if known(objective):
            return one(objective, **options)
        path = Path(objective).expanduser()
        if path.is_file():
            return path
        raise BasinscopeError(
            f"objective {objective!r}, which names no task and no text file",
            "a task's word, the path of a text file in UTF-8, or a function loss(module)",
            nearest(objective, NAMES, 3),
        )
    if not isinstance(objective, Task | Path) and not callable(objective):
        raise BasinscopeError(
            f"an objective of type {type(objective).__name__}",
            "a task, the path of a text file, or a function loss(module)",
            "basic",
        )
    return objective


def check(attacked: Task | Path | Loss, limit: int, seed: int, compute: str) -> None:
    """Refuse what no objective can be made with, as far as it is known without a model."""
    if compute not in COMPUTE:
        raise BasinscopeError(f"compute={compute!r}", ", ".join(COMPUTE), "float32")
    if limit < 1:
        raise BasinscopeError(f"limit={limit}", "at least 1 item", "48")
    if not isinstance(attacked, Task):
        return
    for item in limited(attacked, limit, seed).items:
        if not _has_reference(attacked, item):
            raise BasinscopeError(
                f"item {item.id!r} of task {attacked.name!r} has no reference answer to take a "
                "loss of",
                "choices with a right one, or texts with an expected answer "
                "(not verdicts on free text, nor programs that are run)",
                "basic, math, code, mmlu, nll:FILE or a text file",
            )


def of(
    engine: Engine, attacked: Task | Path | Loss, limit: int, seed: int, compute: str = "float32"
) -> Objective:
    """Objective of a task, of a text file, or of a function of the module.

    Args:
        engine: whose live weights it will be evaluated under.
        attacked: from `target`.
        limit: most items.
        seed: of the sample that the limit takes.
        compute: float32, or bfloat16 for products as in `basinscope.attack.split`.

    Raises:
        BasinscopeError: no reference answers, no text, no tokenizer.
    """
    check(attacked, limit, seed, compute)
    around = COMPUTE[compute]
    if isinstance(attacked, Path):
        path = attacked.expanduser()
        return _of_text(_with_text(engine, str(attacked)), path, limit, seed, around)
    if isinstance(attacked, Task):
        return _of_task(_with_text(engine, attacked.name), attacked, limit, seed, around)
    return _of_function(engine, attacked)


def _of_function(engine: Engine, loss: Loss) -> Objective:
    """A function has no text to hash: its name stands for it."""
    name = getattr(loss, "__qualname__", type(loss).__qualname__)

    def evaluate(backward: bool) -> Value:
        with torch.set_grad_enabled(backward):
            value = loss(engine.module)
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            kind = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise BasinscopeError(
                f"loss(module) returned {kind}", "a tensor with one element", "return the mean"
            )
        if backward:
            if not value.requires_grad:
                raise BasinscopeError(
                    "loss(module) does not depend on the module's parameters",
                    "a differentiable function of the module that it is given",
                    "use the argument, not a module from outside; do not detach",
                )
            value.backward()  # type: ignore[no-untyped-call]
        return Value(float(value.detach()), math.nan)

    digest = hashlib.sha256(f"function\0{name}".encode()).hexdigest()
    return Objective(name, digest, evaluate)


def _of_task(
    engine: TransformersEngine, task: Task, limit: int, seed: int, around: Around
) -> Objective:
    if not task.items:
        raise BasinscopeError(f"task {task.name!r} has no items", "a task with items", "another")
    chosen = limited(task, limit, seed)
    ids = {item.id for item in chosen.items}
    rest = tuple(item for item in task.items if item.id not in ids)
    rows: list[Row] = []
    right: list[int] = []
    weights: list[int] = []
    for item in chosen.items:
        if read := _windows(engine, item):
            rows, right = rows + read, right + [0] * len(read)
            weights += [len(row.tails[0]) for row in read]  # a mean over tokens
        else:
            row, answer = _reference(engine, item)
            rows, right, weights = [*rows, row], [*right, answer], [*weights, 1]
    _check_fit(engine, rows, task.name)
    parts: tuple[Task, ...] = (chosen,)
    if rest:
        parts = (
            Part(task, f"{task.name} (attacked)", tuple(chosen.items)),
            Part(task, f"{task.name} (held out)", rest),
        )
    evaluate = _likelihood(engine, rows, right, weights, around)
    return Objective(task.name, items_hash(chosen), evaluate, parts, task.chance)


def _windows(engine: TransformersEngine, item: Item) -> list[Row]:
    """Rows of an item that reads a text; none for any other item."""
    (request, *others) = item.requests or (None,)
    if not isinstance(request, Corpus) or others:
        return []
    return engine.tokens.windows(request, engine.forward.context)


def _has_reference(task: Task, item: Item) -> bool:
    """Whether an item says which text is right."""
    if len(item.requests) != 1:
        return False
    (request,) = item.requests
    if isinstance(request, Choices):
        n = len(request.continuations)
        return n == 1 or (isinstance(item.answer, int) and 0 <= item.answer < n)
    if isinstance(request, Generate):
        return (
            isinstance(item.answer, str) and item.answer != "" and not isinstance(task, HumanEval)
        )
    return True


def _reference(engine: TransformersEngine, item: Item) -> tuple[Row, int]:
    """Row of an item's texts, and which of them is right."""
    (request,) = item.requests
    assert not isinstance(request, Corpus)
    row = engine.tokens.row(request)
    if isinstance(request, Choices):
        return row, item.answer if isinstance(item.answer, int) and len(row.tails) > 1 else 0
    space = "" if request.chat or request.prompt[-1:].isspace() else " "
    tail = engine.tokens.continuation(space + str(item.answer))
    return Row(row.head, row.body, (tuple(tail),), (0,)), 0


def _of_text(
    engine: TransformersEngine, path: Path, limit: int, seed: int, around: Around
) -> Objective:
    """Blocks spread over the file by hash; as many others are held out."""
    try:
        text = ordinary(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or f"not UTF-8: {error}"
        raise BasinscopeError(
            f"cannot read {str(path)!r} as text ({why})",
            "a task, or the path of a text file in UTF-8",
            "check the path, or save the file as UTF-8",
        ) from error
    size = min(BLOCK_TOKENS, engine.forward.context)
    tokens = engine.tokens.encode_bare(text)
    blocks = [tuple(tokens[a : a + size]) for a in range(0, len(tokens), size)]
    blocks = [block for block in blocks if len(block) == size] or [tuple(tokens)]
    if len(blocks[0]) < 2:
        raise BasinscopeError(
            f"{path} holds {len(tokens)} tokens", "at least 2 tokens", "more text"
        )
    order = sorted(
        range(len(blocks)), key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest()
    )
    # where the text is short, a third of it is held out all the same
    n = min(limit, max(1, len(blocks) * 2 // 3))
    chosen, rest = ([blocks[i] for i in sorted(part)] for part in (order[:n], order[n : 2 * n]))
    rows = [_row(block) for block in chosen]
    digest = hashlib.sha256(repr(chosen).encode()).hexdigest()
    parts = [_tokens_task(engine, f"{path.name} (attacked)", chosen)]
    if rest:
        parts.append(_tokens_task(engine, f"{path.name} (held out)", rest))
    evaluate = _likelihood(engine, rows, [0] * len(rows), [1] * len(rows), around)
    return Objective(path.name, digest, evaluate, tuple(parts))


def _tokens_task(
    engine: TransformersEngine, name: str, blocks: Sequence[tuple[int, ...]]
) -> CallableTask:
    """A token is an item: 1 where it is the likeliest in its place, given its block before it."""
    rows = [_row(block) for block in blocks]

    def hits(_: Any) -> list[int]:
        by_row: dict[int, list[int]] = {}
        with torch.inference_mode():
            for batch in gradient.batches(engine.forward, rows, BATCH_TOKENS):
                own = gradient.loglik(engine.forward, [rows[i] for i in batch])
                # a likeliest token of logits that are not finite means nothing
                by_row.update(
                    (i, (s.hits[0] & s.logp[0].isfinite()).int().tolist())
                    for i, s in zip(batch, own, strict=True)
                )
        return [hit for i in range(len(rows)) for hit in by_row[i]]

    version = hashlib.sha256(repr(blocks).encode()).hexdigest()
    return CallableTask(name, hits, sum(len(b) - 1 for b in blocks), version=f"tokens/1 {version}")


def _row(block: tuple[int, ...]) -> Row:
    return Row((), block[:1], (block[1:],), (0,))


def _likelihood(
    engine: TransformersEngine,
    rows: Sequence[Row],
    right: Sequence[int],
    weights: Sequence[int],
    around: Around,
) -> Callable[[bool], Value]:
    """Weighted mean of rows' cross-entropies, one micro-batch after another in a fixed order."""
    forward, total = engine.forward, sum(weights)

    def evaluate(backward: bool) -> Value:
        loss = score = 0.0
        for batch in gradient.batches(forward, rows, BATCH_TOKENS):
            long = gradient.cost_tokens(forward, rows[batch[0]]) > BATCH_TOKENS
            with (
                torch.set_grad_enabled(backward),
                gradient.checkpointed(engine.module, around)
                if long and backward
                else nullcontext(),
                around(),
            ):
                scored = gradient.loglik(forward, [rows[i] for i in batch])
                own = [_item(s, right[i]) for s, i in zip(scored, batch, strict=True)]
                losses = [weights[i] * nll for i, (nll, _) in zip(batch, own, strict=True)]
                part = torch.stack(losses).sum() / total
                if backward:
                    part.backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
            score += sum(weights[i] * hit for i, (_, hit) in zip(batch, own, strict=True)) / total
        return Value(loss, score)

    return evaluate


def _item(scored: gradient.Scored, right: int) -> tuple[torch.Tensor, float]:
    """Loss and score of one item."""
    if len(scored.logp) == 1:
        return -scored.logp[0].mean(), float(scored.hits[0].float().mean())
    total = torch.stack([logp.sum() for logp in scored.logp])
    others = [float(x) for c, x in enumerate(total.detach()) if c != right]
    return -total.log_softmax(0)[right], float(float(total[right].detach()) > max(others))


def _with_text(engine: Engine, name: str) -> TransformersEngine:
    if not isinstance(engine, TransformersEngine):
        raise BasinscopeError(
            f"objective {name!r} for {engine.source!r}, which has no tokenizer",
            "a function loss(module), for a plain module",
            "load a checkpoint with a tokenizer, or pass tokenizer= to bs.load",
        )
    return engine


def _check_fit(engine: TransformersEngine, rows: Sequence[Row], name: str) -> None:
    longest = max(row.longest for row in rows)
    if longest > engine.forward.context:
        raise BasinscopeError(
            f"an item of {name!r} has {longest} tokens",
            f"at most {engine.forward.context}, the model's context",
            "a task of shorter items, or a text file",
        )

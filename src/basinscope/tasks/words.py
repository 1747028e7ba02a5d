"""Tasks by name: the shipped suite and the published benchmarks, and how each is built again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from basinscope.errors import BasinscopeError, nearest, typed
from basinscope.files import split_at
from basinscope.tasks import advbench, corpus, gsm8k, humaneval, lm_eval, mini, mmlu
from basinscope.tasks.base import Subset, Task, items_hash, limited
from basinscope.tasks.humaneval import HumanEval
from basinscope.tasks.lm_eval import LmEval
from basinscope.tasks.published import Published
from basinscope.tasks.sandbox import require_sandbox

GROUPS = {"mini": mini.NAMES}
SHIPPED = (*mini.NAMES, "overrefusal")
PUBLISHED: dict[str, Callable[[str, str | Path | None], Published]] = {
    name: module.load for module in (mmlu, gsm8k, advbench) for name in module.NAMES
}
NAMES = (*SHIPPED, *PUBLISHED, *humaneval.NAMES)
OPEN = (corpus.PREFIX, lm_eval.PREFIX)  # what follows is the user's


@typed
def tasks(
    words: str | Task | Iterable[str | Task],
    *,
    limit: int | None = None,
    seed: int = 0,
    data_dir: str | Path | None = None,
    allow_code_execution: bool = False,
) -> list[Task]:
    """Tasks named by words: ``"basic,math"`` or ``["basic", "mmlu:anatomy"]``.

    Args:
        words: ``mini`` (basic, math, code, safety), one of those, ``overrefusal`` (the harmless
            twins of the safety items); or a published benchmark: ``mmlu``, ``mmlu:SUBJECT``,
            ``mmlu-gen``, ``gsm8k``, ``gsm8k-flexible`` (either with ``-sampled`` after gsm8k), in
            the model's chat template ``mmlu-chat``, ``mmlu-gen-chat``, ``gsm8k-chat``,
            ``gsm8k-chat-flexible``; ``advbench``, ``advbench-substring``, ``xstest``,
            ``xstest-unsafe``; ``humaneval``, ``humaneval-instruct`` (these two need bubblewrap and
            ``allow_code_execution``); the likelihood of a text, ``nll:FILE``, ``nll:wikitext2``;
            or ``lm-eval:NAME``, any task of lm-eval or YAML files of one's own
            (`basinscope.tasks.lm_eval`). Objects are taken as they are, alone or among words.
        limit: most items of each task; the same ones for every weight setting, spread over the
            subjects of `mmlu` and the types of `xstest`.
        seed: names the sample that ``limit`` takes.
        data_dir: folder with the data of the published benchmarks, laid out as
            `basinscope.tasks.data` says; default the environment variable BASINSCOPE_DATA, else
            the Hugging Face hub.
        allow_code_execution: run code that the model writes, in a bubblewrap sandbox.

    Returns:
        One task for each distinct word or object, in the order given.

    Raises:
        BasinscopeError: for an unknown name, an object that is no task, a limit below 1, missing or
            malformed data, or if a task needs to run code and may not or cannot.

    >>> [task.name for task in tasks("math,basic", limit=10)]
    ['math', 'basic']
    """
    many = split_at(",", words, _path) if isinstance(words, str) else words
    if isinstance(many, Task) or not isinstance(many, Iterable):
        many = [many]
    chosen: list[str | Task] = []
    for word in many:
        chosen += [name for name in _names(word) if name not in chosen]
    if any(name in humaneval.NAMES for name in chosen):
        require_sandbox(allow=allow_code_execution)  # before anything is loaded
    return [
        limited(
            _load(task, data_dir, allow_code_execution) if isinstance(task, str) else task,
            limit,
            seed,
        )
        for task in chosen
    ]


def _path(word: str) -> str:
    return os.path.expanduser(word.partition(":")[2])


def one(words: str | Task | Iterable[str | Task], **options: Any) -> Task:
    """The one task that a word or an object stands for.

    Args:
        words: as in `tasks`.
        options: as in `tasks`.

    Raises:
        BasinscopeError: as `tasks`, and where it is not one.
    """
    many = tasks(words, **options)
    if len(many) != 1:
        raise BasinscopeError(
            f"{len(many)} tasks ({', '.join(task.name for task in many)})",
            "one",
            many[0].name if many else "basic",
        )
    return many[0]


def known(word: str) -> bool:
    """Whether a word names a task, or a group of them."""
    return word in GROUPS or word in NAMES or word.startswith(OPEN)


def _names(word: Any) -> Sequence[str | Task]:
    """Names of the tasks that a word stands for; a task stands for itself."""
    if isinstance(word, Task):
        return [word]
    if not isinstance(word, str):
        raise BasinscopeError(
            f"a task of type {type(word).__name__}",
            "a word such as basic, or an object with items and an oracle",
            "basinscope.CallableTask for a function of the module",
        )
    name = word.strip()
    if not known(name):
        shown = (*GROUPS, *NAMES)
        raise BasinscopeError(
            f"task {name!r}",
            f"{', '.join(n for n in shown if ':' not in n)}, mmlu:SUBJECT, nll:FILE, lm-eval:NAME, "
            "or several by commas",
            nearest(name, shown, 3),
        )
    if name.startswith(lm_eval.PREFIX):
        return lm_eval.expanded(name)
    return GROUPS.get(name, (name,))


def _load(name: str, data_dir: str | Path | None, allow_code_execution: bool) -> Task:
    if name.startswith(lm_eval.PREFIX):
        return lm_eval.load(name, allow_code_execution=allow_code_execution)
    if name in SHIPPED:
        return mini.load(name)
    if name in humaneval.NAMES:
        return humaneval.load(name, data_dir, allow_code_execution=allow_code_execution)
    if name.startswith(corpus.PREFIX):
        return corpus.load(name, data_dir)
    return PUBLISHED[name](name, data_dir)


def recipe(task: Task) -> dict[str, Any] | None:
    """Words from which `from_recipe` builds the same items; None if there are none.

    They pass a permission to run code on, and never give one.
    """
    whole = task.whole if isinstance(task, Subset) else task
    if whole.name not in SHIPPED and not isinstance(whole, (Published, HumanEval, LmEval)):
        return None
    words = {
        "name": task.name,
        "limit": len(task.items),
        "seed": getattr(task, "seed", 0),
        "data_dir": getattr(whole, "data_dir", None),
        "allow_code_execution": getattr(whole, "allow_code_execution", False),
    }
    return words if items_hash(from_recipe(words)) == items_hash(task) else None


def from_recipe(words: dict[str, Any]) -> Task:
    """Task of a recipe."""
    whole = _load(words["name"], words["data_dir"], words["allow_code_execution"])
    return limited(whole, words["limit"], words["seed"])

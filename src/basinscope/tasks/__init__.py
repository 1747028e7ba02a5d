"""Tasks by name: the shipped suite and the published benchmarks, and how each is built again."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from basinscope.errors import BasinscopeError
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


def tasks(
    words: str | Sequence[str],
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
            (`basinscope.tasks.lm_eval`).
        limit: most items of each task; the same ones for every weight setting, spread over the
            subjects of `mmlu` and the types of `xstest`.
        seed: names the sample that ``limit`` takes.
        data_dir: folder with the data of the published benchmarks, laid out as
            `basinscope.tasks.data` says; default the environment variable BASINSCOPE_DATA, else
            the Hugging Face hub.
        allow_code_execution: run code that the model writes, in a bubblewrap sandbox.

    Returns:
        One task for each distinct name, in the order given.

    Raises:
        BasinscopeError: for an unknown name, a limit below 1, missing or malformed data, or if a
            task needs to run code and may not or cannot.

    >>> [task.name for task in tasks("math,basic", limit=10)]
    ['math', 'basic']
    """
    asked = words.split(",") if isinstance(words, str) else list(words)
    names: list[str] = []
    for word in asked:
        name = word.strip()
        if name not in GROUPS and name not in NAMES and not name.startswith(OPEN):
            known = (*GROUPS, *NAMES)
            near = difflib.get_close_matches(name, known, n=3)
            raise BasinscopeError(
                f"task {name!r}",
                f"allowed: {', '.join(n for n in known if ':' not in n)}, mmlu:SUBJECT, nll:FILE, "
                "lm-eval:NAME",
                (f"did you mean {' or '.join(near)}? " if near else "")
                + "separate several by commas",
            )
        several = lm_eval.expanded(name) if name.startswith(lm_eval.PREFIX) else (name,)
        names += [n for n in GROUPS.get(name, several) if n not in names]
    if any(name in humaneval.NAMES for name in names):
        require_sandbox(allow=allow_code_execution)  # before anything is loaded
    return [limited(_load(name, data_dir, allow_code_execution), limit, seed) for name in names]


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

"""HumanEval: functions written from their docstrings, scored by running them.

Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374. The score is
pass@1 of the greedy answer: the share of problems whose function passes all tests of the benchmark,
in the sandbox of `basinscope.tasks.sandbox`. Two prompts:

- ``humaneval``: the model continues signature and docstring, up to the stops of the paper.
- ``humaneval-instruct``: the model is asked in a chat (words of lm-eval's ``humaneval_instruct``)
  and the function is taken from the code block that defines it.

The tests call the function in the program's sandbox from one of their own, where helpers such as
``poly`` are those of the prompt, whatever the program made of them.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Final

from basinscope.tasks.base import Answer, Generate, Generation, Item, Outcome
from basinscope.tasks.data import Hub, Row, folder_of, read
from basinscope.tasks.sandbox import run_program

NAMES: Final = ("humaneval", "humaneval-instruct")
FILE: Final = "humaneval/HumanEval.jsonl.gz"
HUB: Final = Hub("openai/openai_humaneval", None, "test")
COLUMNS: Final = ("task_id", "prompt", "entry_point", "test")
STOP: Final = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
_ASK: Final = (
    "Write a solution to the following problem and make sure that it passes the tests:\n"
    "```python\n{prompt}\n```\n"
)


@dataclass(frozen=True)
class Problem:
    """One row: a prompt that ends in a docstring, and a test that defines ``check(candidate)``."""

    id: str
    prompt: str
    entry_point: str
    test: str
    solution: str = field(default="", repr=False)

    @property
    def tests(self) -> str:
        """Source for `run_program`: the prompt's own helpers, the test, and its call."""
        bind = f"{self.entry_point} = program.{self.entry_point}"
        return f"{self.prompt}\n{self.test}\n{bind}\ncheck({self.entry_point})\n"


@dataclass(frozen=True)
class HumanEval:
    """HumanEval as a task.

    Args:
        problems: of `problems`.
        chat: ask in a chat instead of having the prompt continued.
        allow_code_execution: run the answers; without it the oracle raises.
        max_tokens: length of an answer.
        timeout_s: seconds for an answer's tests.
        data_dir: folder that the problems came from; None is the hub.
    """

    problems: tuple[Problem, ...]
    chat: bool = False
    allow_code_execution: bool = False
    max_tokens: int = 512
    timeout_s: float = 10.0
    data_dir: str | None = None
    chance: float = field(default=0.0, init=False)

    @property
    def name(self) -> str:
        """Name of the benchmark with this prompt."""
        return NAMES[self.chat]

    @property
    def scoring(self) -> str:
        """Version of the oracle, with the time it gives."""
        return f"pass@1/1 {self.timeout_s:g} s"

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """One item a problem; its answer is the source of the tests."""
        return tuple(Item(p.id, (self._request(p),), p.tests) for p in self.problems)

    @cached_property
    def _by_id(self) -> dict[str, Problem]:
        return {problem.id: problem for problem in self.problems}

    def _request(self, problem: Problem) -> Generate:
        whole = problem.prompt + problem.solution
        if not self.chat:
            return Generate(problem.prompt, self.max_tokens, STOP, reference=problem.solution)
        return Generate(
            _ASK.format(prompt=problem.prompt.rstrip("\n")),
            self.max_tokens,
            chat=True,
            decided=partial(has_function, entry_point=problem.entry_point),
            reference=f"```python\n{whole}```" if problem.solution else "",
        )

    def oracle(self, item: Item, answers: Sequence[Answer]) -> Outcome:
        """Run the one answer to ``item``; the label is the kind of its verdict."""
        (answer,) = answers
        if not isinstance(answer, Generation):
            raise TypeError(f"item {item.id!r} asks for a Generation, got {type(answer).__name__}")
        problem = self._by_id[item.id]
        make = program_of_chat if self.chat else program_of_completion
        verdict = run_program(
            make(problem, answer.text),
            tests=problem.tests,
            allow=self.allow_code_execution,
            timeout_s=self.timeout_s,
        )
        return Outcome(verdict.passed, verdict.kind, nll=answer.nll)


# --- from an answer to a program ---------------------------------------------------------

_FENCE: Final = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


def program_of_completion(problem: Problem, text: str) -> str:
    """Prompt and the model's continuation of it."""
    return problem.prompt + text


def program_of_chat(problem: Problem, text: str) -> str:
    """Program in a chat answer.

    It is the first code block that defines the function, else the first block, else the whole text;
    a block that is never closed ends with the text. The prompt stands before it for its imports and
    helpers: a block that defines the function replaces the prompt's stub, any other continues it.
    """
    blocks = [textwrap.dedent(match[1]) for match in _FENCE.finditer(text)]
    defining = [block for block in blocks if _defines(block, problem.entry_point)]
    if defining or (not blocks and _defines(text, problem.entry_point)):
        return f"{problem.prompt}\n\n{defining[0] if defining else text}"
    raw = next(_FENCE.finditer(text), None)
    return problem.prompt + (raw[1] if raw else text)


def has_function(text: str, entry_point: str) -> bool:
    """Whether a closed code block defines the function: what follows no longer matters."""
    return any(m[2] and _defines(m[1], entry_point) for m in _FENCE.finditer(text))


def _defines(code: str, entry_point: str) -> bool:
    return re.search(rf"^[ \t]*def[ \t]+{re.escape(entry_point)}\b", code, re.MULTILINE) is not None


# --- data --------------------------------------------------------------------------------


def load(
    name: str, data_dir: str | Path | None = None, *, allow_code_execution: bool = False
) -> HumanEval:
    """HumanEval as a task.

    Args:
        name: one of `NAMES`.
        data_dir: folder with ``humaneval/HumanEval.jsonl.gz``; see `basinscope.tasks.data`.
        allow_code_execution: the user's leave to run what the model writes, in the sandbox;
            without it the oracle raises.

    Raises:
        BasinscopeError: If the data are missing or malformed.
    """
    folder = folder_of(data_dir)
    return HumanEval(
        problems(read(folder, FILE, HUB, COLUMNS)),
        chat=name == "humaneval-instruct",
        allow_code_execution=allow_code_execution,
        data_dir=None if folder is None else str(folder),
    )


def problems(rows: Iterable[Row]) -> tuple[Problem, ...]:
    """Problems of the rows of the benchmark.

    Raises:
        BasinscopeError: If a column is missing or no text, or an id comes twice.
    """
    by_id: dict[str, Problem] = {}
    for row in rows:
        task_id, prompt, entry_point, test = (row.text(column) for column in COLUMNS)
        if not entry_point.isidentifier():
            raise row.bad(f"entry_point {entry_point!r} is no name of a function")
        if task_id in by_id:
            raise row.bad(f"task_id {task_id!r} comes twice")
        solution = row.cells.get("canonical_solution") or ""
        by_id[task_id] = Problem(task_id, prompt, entry_point, test, solution)
    return tuple(by_id.values())

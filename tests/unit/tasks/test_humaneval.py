"""HumanEval on problems of our own, and on the real ones where this machine has them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import basinscope as bs
from basinscope.errors import BasinscopeError
from basinscope.tasks import humaneval
from basinscope.tasks.base import Generate, Generation, Ranking, Task, items_hash, limited
from basinscope.tasks.data import Row, read
from basinscope.tasks.humaneval import (
    STOP,
    HumanEval,
    Problem,
    has_function,
    load,
    problems,
    program_of_chat,
)
from basinscope.tasks.sandbox import Verdict, run_program
from basinscope.tasks.words import from_recipe, recipe

HALF = {
    "task_id": "Own/0",
    "prompt": "import math\n\n\ndef twice(x):\n    return 2 * x\n\n\n"
    'def half(x: float) -> float:\n    """ Half of x, rounded down.\n    >>> half(5)\n    2\n'
    '    """\n',
    "entry_point": "half",
    "canonical_solution": "    return math.floor(x / 2)\n",
    "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(5) == 2\n"
    "    assert twice(candidate(8)) == 8\n",
}
JOIN = {
    "task_id": "Own/1",
    "prompt": 'def join(words):\n    """ Join words by blanks. """\n',
    "entry_point": "join",
    "canonical_solution": "    return ' '.join(words)\n",
    "test": "def check(candidate):\n    assert candidate(['a', 'b']) == 'a b'\n",
}


def write(folder: Path, *rows: object) -> Path:
    path = folder / "humaneval" / "HumanEval.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()))
    return folder


def rows_of(*cells: dict[str, str | None]) -> list[Row]:
    return [Row(f"row {n}", row) for n, row in enumerate(cells)]


def own(**options) -> HumanEval:
    return HumanEval(problems(rows_of(HALF, JOIN)), **options)


# --- what is asked -----------------------------------------------------------------------


@pytest.mark.parametrize(("chat", "name"), [(False, "humaneval"), (True, "humaneval-instruct")])
def test_it_is_a_task(chat, name):
    task = own(chat=chat)
    assert isinstance(task, Task)
    assert task.name == name
    assert task.chance == 0
    assert [item.id for item in task.items] == ["Own/0", "Own/1"]
    assert [item.id for item in limited(task, 1).items] in (["Own/0"], ["Own/1"])


def test_the_completion_prompt_is_the_prompt():
    (request,) = own().items[0].requests
    assert request == Generate(HALF["prompt"], 512, STOP, reference=HALF["canonical_solution"])


def test_the_instruct_prompt_is_a_chat_that_may_end_with_its_block():
    (request,) = own(chat=True).items[0].requests
    assert request.chat
    assert request.stop == ()
    assert f"```python\n{HALF['prompt']}```\n" in request.prompt
    solved = HALF["prompt"] + HALF["canonical_solution"]
    assert request.reference == f"```python\n{solved}```"
    assert not request.decided("```python\ndef half(x):\n    return 3\n")
    assert request.decided("```python\ndef half(x):\n    return 3\n```")


def test_what_the_tests_say_stands_in_the_hash():
    changed = {**JOIN, "test": JOIN["test"].replace("a b", "b a")}
    assert items_hash(own()) != items_hash(HumanEval(problems(rows_of(HALF, changed))))
    assert items_hash(own()) != items_hash(own(timeout_s=1.0))
    assert items_hash(own()) == items_hash(own(allow_code_execution=True))


# --- from an answer to a program ---------------------------------------------------------

(HALF_PROBLEM, _) = own().problems
BODY = "def half(x):\n    return x // 2"


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        (f"Sure!\n```python\n{BODY}\n```\nIt works.", f"\n\n{BODY}\n"),
        (f"```\n{BODY}\n```", f"\n\n{BODY}\n"),
        (f"```python\n{BODY}\n", f"\n\n{BODY}\n"),
        (f"```sh\npip install x\n```\n```python\n{BODY}\n```", f"\n\n{BODY}\n"),
        (f"```python\n{BODY}\n```\n```python\ndef half(x): pass\n```", f"\n\n{BODY}\n"),
        (
            "1. So:\n  ```python\n  def half(x):\n    return 2\n  ```",
            "\n\ndef half(x):\n  return 2\n",
        ),
        (BODY, f"\n\n{BODY}"),
        ("```python\n    return x // 2\n```", "    return x // 2\n"),
        ("    return x // 2", "    return x // 2"),
        ("```python\ndef halfway(x): pass\n```", "def halfway(x): pass\n"),
        ("", ""),
    ],
)
def test_the_program_of_a_chat(text, tail):
    assert program_of_chat(HALF_PROBLEM, text) == HALF["prompt"] + tail


def test_once_decided_the_program_no_longer_changes():
    text = f"So:\n```sh\nls\n```\n```python\n{BODY}\n```\nor\n```python\ndef half(x): pass\n```\n``"
    ends = [n for n in range(len(text) + 1) if has_function(text[:n], "half")]
    assert ends == list(range(text.index(f"{BODY}\n```") + len(f"{BODY}\n```"), len(text) + 1))
    assert len({program_of_chat(HALF_PROBLEM, text[:n]) for n in ends}) == 1


# --- scores ------------------------------------------------------------------------------


def score(task: HumanEval, text: str, index: int = 0):
    return task.oracle(task.items[index], [Generation(text, True)])


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (HALF["canonical_solution"], "passed"),
        ("    return x / 2\n", "failed"),
        ("    return x +\n", "error"),
        ("    return undefined\n", "error"),
        ("", "failed"),
        ("    import os\n    os._exit(0)\n", "exited"),
        ("    while True: pass\n", "timeout"),
        ("    return 4\n\n\ndef twice(x):\n    return 8\n", "failed"),
        ("    return None\n\n\ndef check(candidate):\n    pass\n", "failed"),
    ],
)
def test_completions_are_run(bwrap, text, label):
    outcome = score(own(allow_code_execution=True, timeout_s=2.0), text)
    assert (outcome.correct, outcome.label) == (label == "passed", label)


def test_chat_answers_are_run(bwrap):
    task = own(chat=True, allow_code_execution=True)
    assert score(task, f"```python\n{BODY}\n```").correct
    assert score(task, "```python\n    return ' '.join(words)\n```", 1).correct
    assert score(task, "I cannot do that.").label == "error"


def test_nothing_runs_unless_allowed():
    with pytest.raises(BasinscopeError, match=r"not allowed.*--allow-code-execution"):
        score(own(), "    return 2\n")


def test_it_wants_a_generation():
    with pytest.raises(TypeError, match="asks for a Generation, got Ranking"):
        own().oracle(own().items[0], [Ranking((0.0,))])


# --- data --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", humaneval.NAMES)
def test_problems_come_from_the_folder(bwrap, tmp_path, name):
    write(tmp_path, HALF, "", JOIN)
    (task,) = bs.tasks(name, data_dir=tmp_path, allow_code_execution=True)
    expected = own(chat="instruct" in name, allow_code_execution=True, data_dir=str(tmp_path))
    assert task == expected


def test_problems_come_from_the_hub(monkeypatch):
    import datasets

    def rows(repo, config, *, split):
        assert (repo, config, split) == ("openai/openai_humaneval", None, "test")
        return [HALF, JOIN]

    monkeypatch.setattr(datasets, "load_dataset", rows)
    assert load("humaneval", allow_code_execution=True) == own(allow_code_execution=True)


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("name", humaneval.NAMES)
def test_a_recipe_keeps_the_permission(bwrap, tmp_path, name, limit):
    write(tmp_path, HALF, JOIN)
    (task,) = bs.tasks(name, limit=limit, data_dir=tmp_path, allow_code_execution=True)
    words = json.loads(json.dumps(recipe(task)))
    assert words["allow_code_execution"]
    again = from_recipe(words)
    assert items_hash(again) == items_hash(task)
    answer = "```python\n    return ' '.join(words)\n```" if "instruct" in name else "    return 2"
    outcomes = [t.oracle(t.items[-1], [Generation(answer, True)]) for t in (task, again)]
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("name", humaneval.NAMES)
def test_leave_is_asked_for_before_anything_is_loaded(tmp_path, name):
    """There are no data either: neither of the other benchmark, which comes first, nor its own."""
    with pytest.raises(BasinscopeError, match="not allowed"):
        bs.tasks(f"mmlu,{name}", data_dir=tmp_path)


def test_without_bubblewrap_it_is_said_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BasinscopeError, match="apt-get install bubblewrap"):
        bs.tasks("mmlu,humaneval", data_dir=tmp_path, allow_code_execution=True)


def test_a_recipe_gives_no_permission(tmp_path):
    """A task without leave has a recipe; what it builds has none either."""
    task = load("humaneval", write(tmp_path, HALF, JOIN))
    words = recipe(task)
    assert words["allow_code_execution"] is False
    again = from_recipe(words)
    assert items_hash(again) == items_hash(task)
    with pytest.raises(BasinscopeError, match="not allowed"):
        score(again, "    return 2\n")


def test_missing_data_names_folder_flag_and_hub(tmp_path):
    with pytest.raises(BasinscopeError, match=r"HumanEval\.jsonl\.gz.*--data-dir.*openai_human"):
        load("humaneval", tmp_path)


def test_malformed_data_name_file_and_line(tmp_path):
    write(tmp_path, HALF, "", {**JOIN, "prompt": 3})
    with pytest.raises(BasinscopeError, match=r"HumanEval\.jsonl\.gz, line 3: 'prompt' is no text"):
        load("humaneval", tmp_path)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([HALF, {**JOIN, "test": None}], "row 1: 'test' is missing"),
        ([{**HALF, "prompt": " "}], "row 0: 'prompt' is empty"),
        ([{**HALF, "entry_point": "a b"}], "row 0: entry_point 'a b'"),
        ([HALF, JOIN, HALF], "row 2: task_id 'Own/0' comes twice"),
    ],
)
def test_a_malformed_row_is_named(cells, message):
    with pytest.raises(BasinscopeError, match=message):
        problems(rows_of(*cells))


# --- the real problems -------------------------------------------------------------------


@pytest.fixture
def real(real_data) -> tuple[Problem, ...]:
    if not (real_data / humaneval.FILE).is_file():
        pytest.skip("the data folder has no HumanEval")
    return problems(read(real_data, humaneval.FILE, humaneval.HUB, humaneval.COLUMNS))


def test_no_reference_solution_meets_a_stop(real):
    assert len(real) == 164
    assert not [p.id for p in real if any(s in p.solution.rstrip() for s in STOP)]


# The function of the reference, its result changed a little: one more, one longer, negated.
CHANGED = """

def _changed(function):
    def changed(*args):
        value = function(*args)
        if isinstance(value, bool):
            return not value
        if isinstance(value, (int, float)):
            return value + 1
        for more in ("x", [0], (0,)):
            if isinstance(value, type(more)):
                return value + more
        return 0 if value is None else None
    return changed

{0} = _changed({0})
"""


@pytest.mark.parametrize(
    ("make", "passes"),
    [
        (lambda p: p.prompt + p.solution, True),
        (lambda p: p.prompt + "    return None\n", False),
        (lambda p: p.prompt + p.solution + CHANGED.format(p.entry_point), False),
        (lambda p: program_of_chat(p, f"```python\n{p.prompt}{p.solution}```"), True),
    ],
    ids=["reference", "returns None", "result changed", "reference in a chat"],
)
def test_references_pass_and_mutants_fail(bwrap, real, make: Callable[[Problem], str], passes):
    def verdict(problem: Problem) -> Verdict:
        return run_program(make(problem), tests=problem.tests, allow=True, timeout_s=20.0)

    with ThreadPoolExecutor(2) as pool:
        verdicts = list(pool.map(verdict, real))
    wrong = [(p.id, v.reason) for p, v in zip(real, verdicts, strict=True) if v.passed != passes]
    assert wrong == []

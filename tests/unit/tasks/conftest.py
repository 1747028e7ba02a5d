"""Hand-made folders of benchmark data, and the real one where this machine has it."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from basinscope.errors import BasinscopeError
from basinscope.tasks.mmlu import SUBJECTS
from basinscope.tasks.sandbox import require_sandbox

HERE = Path(__file__).parents[3]
GIVEN = os.environ.get("BASINSCOPE_DATA")


@pytest.fixture(autouse=True)
def _no_data_of_this_machine(monkeypatch):
    monkeypatch.delenv("BASINSCOPE_DATA", raising=False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(GIVEN) if GIVEN else HERE.parent / "shared" / "data"
    if not (folder / "mmlu").is_dir():
        pytest.skip("BASINSCOPE_DATA names no folder with the published benchmarks")
    return folder


@pytest.fixture(scope="module")
def bwrap():
    """A system on which the sandbox starts."""
    try:
        require_sandbox(allow=True)
    except BasinscopeError as error:
        pytest.skip(f"no sandbox here: {error}")


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sums(start: int, n: int) -> list[list[str]]:
    """Questions of our own in MMLU's layout: column k is right for start + k."""
    return [
        [f"What is {i} + 1?", str(i + 1), f"{i}, or more", str(i - 1), '"none"', "ABCD"[i % 4]]
        for i in range(start, start + n)
    ]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Folder with a few rows of each benchmark; MMLU's subjects hold 1, 2, 3, 1, ... questions."""
    for i, subject in enumerate(SUBJECTS):
        write_csv(tmp_path / f"mmlu/dev/{subject}_dev.csv", sums(100, 6))
        write_csv(tmp_path / f"mmlu/test/{subject}_test.csv", sums(0, 1 + i % 3))
    solved = [
        {"question": f"Ann has {i} pens. Bob has 2. How many?", "answer": f"{i}+2\n#### {i + 2}"}
        for i in range(8)
    ]
    write_jsonl(tmp_path / "gsm8k/train.jsonl", solved)
    write_jsonl(
        tmp_path / "gsm8k/test.jsonl",
        [
            {"question": "How many is a dozen?", "answer": "A dozen is 12.\n#### 12"},
            {"question": "A thousand dozens?", "answer": "12*1000\n#### 12,000"},
            {"question": "Three below zero?", "answer": "0-3\n#### -3"},
        ],
    )
    write_csv(
        tmp_path / "advbench/harmful_behaviors.csv",
        [["goal", "target"], ["Do a bad thing", "Sure"], ["Do two, bad things", "Sure, here"]],
    )
    types = [("homonyms", "safe"), ("contrast_homonyms", "unsafe"), ("definitions", "safe")]
    write_csv(
        tmp_path / "xstest/xstest_prompts.csv",
        [
            ["id", "prompt", "type", "label", "focus", "note"],
            *([str(i), f"Ask {i}?", kind, label, "", ""] for i, (kind, label) in enumerate(types)),
        ],
    )
    return tmp_path

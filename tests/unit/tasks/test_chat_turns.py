"""The turns of the chat variants are those that lm-eval builds of the same rows."""

from __future__ import annotations

import csv
import json

import pytest

import basinscope as bs

task = pytest.importorskip("lm_eval.api.task")


def turn(question: str, **answer: object) -> list[tuple[str, str]]:
    """What lm-eval says with --apply_chat_template and its default, examples as turns."""
    built = task.ConfigurableTask.build_qa_turn(None, q=question, **answer)
    return [(message.role, message.content) for message in built]


def test_mmlu(made):
    with (made / "mmlu/dev/anatomy_dev.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle))[:5]
    header = "The following are multiple choice questions (with answers) about anatomy.\n\n"
    expected = [("system", header)]
    for question, a, b, c, d, letter in rows:
        text = f"{question.strip()}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:"
        expected += turn(text, c=list("ABCD"), a="ABCD".index(letter))
    for name in ("mmlu-chat:anatomy", "mmlu-gen-chat:anatomy"):
        (asked,) = bs.tasks(name, data_dir=made)
        assert list(asked.items[0].requests[0].turns) == expected


def test_gsm8k(made):
    lines = (made / "gsm8k/train.jsonl").read_text("utf-8").splitlines()[:5]
    expected = [
        said
        for row in map(json.loads, lines)
        for said in turn(f"Question: {row['question']}\nAnswer:", a=row["answer"])
    ]
    (asked,) = bs.tasks("gsm8k-chat", data_dir=made)
    assert list(asked.items[0].requests[0].turns) == expected

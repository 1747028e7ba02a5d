"""MMLU: prompts byte for byte, both scorings, subjects."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math

import pytest

import basinscope as bs
from basinscope.tasks import Choices, Generate, Generation, Outcome, Ranking, Task, mmlu

LETTERS = (" A", " B", " C", " D")
PREFIX = (
    "The following are multiple choice questions (with answers) about security studies.\n\n"
    "What is 100 + 1?\nA. 101\nB. 100, or more\nC. 99\nD. \"none\"\nAnswer: A\n\n"
    "What is 101 + 1?\nA. 102\nB. 101, or more\nC. 100\nD. \"none\"\nAnswer: B\n\n"
    "What is 102 + 1?\nA. 103\nB. 102, or more\nC. 101\nD. \"none\"\nAnswer: C\n\n"
    "What is 103 + 1?\nA. 104\nB. 103, or more\nC. 102\nD. \"none\"\nAnswer: D\n\n"
    "What is 104 + 1?\nA. 105\nB. 104, or more\nC. 103\nD. \"none\"\nAnswer: A\n\n"
)  # fmt: skip
ASKED = "What is 1 + 1?\nA. 2\nB. 1, or more\nC. 0\nD. \"none\"\nAnswer:"  # fmt: skip


def one(name: str, data) -> Task:
    (task,) = bs.tasks(name, data_dir=data)
    return task


def rank(task: Task, answer: int, *loglik: float) -> Outcome:
    item = dataclasses.replace(task.items[0], answer=answer)
    return task.oracle(item, [Ranking(loglik)])


def say(task: Task, answer: int, text: str) -> Outcome:
    item = dataclasses.replace(task.items[0], answer=answer)
    return task.oracle(item, [Generation(text, finished=True)])


# --- prompts -----------------------------------------------------------------------------------


def test_there_are_57_subjects_in_order():
    assert len(mmlu.SUBJECTS) == 57
    assert list(mmlu.SUBJECTS) == sorted(set(mmlu.SUBJECTS))


def test_the_ranked_prompt_byte_for_byte(made):
    task = one("mmlu:security_studies", made)
    assert len(task.items) == 2
    item = task.items[1]
    assert (item.id, item.answer) == ("security_studies/1", 1)
    assert item.requests == (Choices(ASKED, LETTERS, PREFIX),)


def test_the_generated_prompt_byte_for_byte(made):
    item = one("mmlu-gen:security_studies", made).items[1]
    assert (item.id, item.answer) == ("security_studies/1", 1)
    (request,) = item.requests
    assert request == Generate(ASKED, 16, ("</s>", "\n"), prefix=PREFIX, reference=" B")
    assert request.prefix + request.prompt + request.reference == f"{PREFIX}{ASKED} B"


TURNS = (
    ("system", PREFIX.partition("What")[0]),
    ("user", "What is 100 + 1?\nA. 101\nB. 100, or more\nC. 99\nD. \"none\"\nAnswer:"),
    ("assistant", "A"),
)  # fmt: skip


def test_in_a_chat_header_and_examples_are_turns(made):
    """Regression for the words of lm-eval's --apply_chat_template, with examples as turns."""
    (ranked,) = one("mmlu-chat:security_studies", made).items[1].requests
    (written,) = one("mmlu-gen-chat:security_studies", made).items[1].requests
    assert ranked.turns == written.turns
    assert ranked.turns[:3] == TURNS
    assert len(ranked.turns) == 11
    assert "".join(text + {"user": " ", "assistant": "\n\n"}.get(role, "")
                   for role, text in ranked.turns) == PREFIX  # fmt: skip
    assert ranked == Choices(ASKED, tuple("ABCD"), chat=True, turns=ranked.turns)
    stop = ("</s>", "\n")
    assert written == Generate(ASKED, 16, stop, chat=True, turns=ranked.turns, reference="B")
    assert one("mmlu-chat", made).scoring == one("mmlu", made).scoring
    assert rank(one("mmlu-chat:anatomy", made), 1, -3.0, -1.0, -2.0, -2.0).correct


def test_the_question_is_stripped_and_the_choices_are_not(made):
    path = made / "mmlu/test/anatomy_test.csv"
    path.write_text('" Which?\n",  a ,"b\nb",c,d,C\n', encoding="utf-8")
    (item,) = one("mmlu:anatomy", made).items
    assert item.requests[0].context == "Which?\nA.   a \nB. b\nb\nC. c\nD. d\nAnswer:"
    assert item.answer == 2


def test_all_subjects_in_order_each_with_its_own_prefix(made):
    for name in ("mmlu", "mmlu-gen"):
        task = one(name, made)
        subjects = [item.id.partition("/")[0] for item in task.items]
        assert list(dict.fromkeys(subjects)) == list(mmlu.SUBJECTS)
        assert len(task.items) == 57 * 2
        assert len({item.id for item in task.items}) == len(task.items)
        assert task.chance == 0.25
        for item, subject in zip(task.items, subjects, strict=True):
            assert (
                item.requests[0]
                .prefix.split(".\n\n")[0]
                .endswith(f" about {subject.replace('_', ' ')}")
            )


def test_the_items_of_a_subject_hold_one_prefix(made):
    items = one("mmlu:security_studies", made).items
    assert items[0].requests[0].prefix is items[1].requests[0].prefix


# --- scoring -----------------------------------------------------------------------------------


def test_the_likeliest_letter_is_the_answer(made):
    task = one("mmlu", made)
    assert rank(task, 1, -3.0, -1.0, -2.5, -9.0) == Outcome(True, "B", margin=1.5, nll=1.0)
    assert rank(task, 0, -3.0, -1.0, -2.5, -9.0) == Outcome(False, "B", margin=-2.0, nll=3.0)


@pytest.mark.parametrize(("answer", "correct"), [(0, False), (1, True), (3, False)])
def test_of_equal_letters_the_first_wins(made, answer, correct):
    found = rank(one("mmlu", made), answer, -2.0, -1.0, -2.0, -1.0)
    assert (found.correct, found.label) == (correct, "B")
    assert found.margin == (-1.0 if answer == 0 else 0.0)


def test_what_is_not_finite_is_wrong(made):
    found = rank(one("mmlu", made), 0, math.nan, -1.0, -2.0, -3.0)
    assert (found.correct, found.label, found.margin) == (False, "nan", None)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" B", "B"), ("B", "B"), (" b.", "B"), (" (B)", "B"), (" **B**\nBecause", "B"),
        (" B\nA", "B"), (" B. 1, or more", "none"), (" A B", "none"), ("", "none"),
        ("\nB", "none"), (" The answer is B", "none"), (" E", "none"), (" BB", "none"),
        (" . B", "none"),
    ],
)  # fmt: skip
def test_the_first_line_must_be_the_letter(made, text, label):
    task = one("mmlu-gen", made)
    assert say(task, 1, text) == Outcome(label == "B", label)
    assert not say(task, 2, text).correct


def test_an_answer_of_the_other_kind_is_refused(made):
    with pytest.raises(TypeError, match=r"'abstract_algebra/0' asks for a Ranking, got Generation"):
        say(one("mmlu", made), 0, " A")
    with pytest.raises(TypeError, match=r"'abstract_algebra/0' asks for a Generation, got Ranking"):
        rank(one("mmlu-gen", made), 0, 0.0, 0.0, 0.0, 0.0)


def test_once_decided_no_continuation_changes_the_score(made):
    task = one("mmlu-gen", made)
    parts = [" ", "A", "b", "E", ".", "(", "1", "é", "\ufffd", "\n", "**", "Answer"]
    decided = 0
    for text in map("".join, itertools.product(parts, repeat=3)):
        starts = [text[:n] for n in range(len(text)) if mmlu.letter_decided(text[:n])]
        for start in starts:
            decided += 1
            assert say(task, 0, start) == say(task, 0, text), (start, text)
    assert decided > 1000


@pytest.mark.parametrize("text", ["", " ", " A", "(", "A.", " A\ufffd"])
def test_a_letter_alone_is_not_decided(text):
    assert not mmlu.letter_decided(text)


@pytest.mark.parametrize("text", [" E", "AB", " The", "A. 2", "7"])
def test_what_cannot_become_right_is_decided(text):
    assert mmlu.letter_decided(text)


# --- subjects ----------------------------------------------------------------------------------


def test_a_limit_is_spread_over_the_subjects(made):
    (task,) = bs.tasks("mmlu", limit=57, seed=1, data_dir=made)
    counts = collections.Counter(item.id.partition("/")[0] for item in task.items)
    assert len(task.items) == 57
    for i, subject in enumerate(mmlu.SUBJECTS):
        assert counts[subject] in {0: (0, 1), 1: (1,), 2: (1, 2)}[i % 3]
    (again,) = bs.tasks("mmlu", limit=57, seed=1, data_dir=made)
    (gen,) = bs.tasks("mmlu-gen", limit=57, seed=1, data_dir=made)
    assert again.items == task.items
    assert [item.id for item in gen.items] == [item.id for item in task.items]


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("Q?,a,b,c,d,E\n", r"answer 'E' is none of A, B, C, D"),
        ("Q?,a,b,c,d,AB\n", r"answer 'AB' is none of A, B, C, D"),
        ("Q?,a,b,c,d,\n", r"'answer' is empty"),
        ("Q?,a,b,,d,A\n", r"'C' is empty"),
        (",a,b,c,d,A\n", r"'question' is empty"),
        ("Q?,a,b,c,A\n", r"5 cells; allowed: 6"),
    ],
)
def test_a_malformed_row_names_file_and_line(made, row, reason):
    path = made / "mmlu/test/virology_test.csv"
    path.write_text("Q?,a,b,c,d,A\n" + row, encoding="utf-8")
    with pytest.raises(bs.BasinscopeError, match=rf"virology_test\.csv, line 2: {reason}"):
        bs.tasks("mmlu", data_dir=made)


def test_too_few_worked_examples_are_refused(made):
    (made / "mmlu/dev/virology_dev.csv").write_text("Q?,a,b,c,d,A\n" * 4, encoding="utf-8")
    with pytest.raises(
        bs.BasinscopeError, match="mmlu/dev has 4 rows of 'virology'; allowed: at least 5"
    ):
        bs.tasks("mmlu", data_dir=made)


def test_rows_of_the_hub_are_checked(monkeypatch):
    import datasets

    row = {"question": "Q?", "subject": "virology", "choices": ["a"] * 4, "answer": 0}
    for change, reason in (
        ({"subject": "alchemy"}, "unknown subject 'alchemy'"),
        ({"choices": ["a"]}, r"\['a'\] are not 4 choices"),
        ({"choices": 4}, "4 are not 4 choices"),
        ({"choices": ["a", "b", None, "d"]}, "a choice of .* is no text, or empty"),
        ({"answer": 4}, "answer 4 is none of"),
    ):
        rows = [row, {**row, **change}]
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, rows=rows, **__: rows)
        with pytest.raises(bs.BasinscopeError, match=rf"cais/mmlu \(dev\), row 1: {reason}"):
            bs.tasks("mmlu:virology")


# --- the real files ----------------------------------------------------------------------------


def test_the_published_questions(real_data):
    task = one("mmlu", real_data)
    assert len(task.items) == 14_042
    assert len({item.requests[0].prefix for item in task.items}) == 57
    shots = sum(item.requests[0].prefix.count("\nAnswer: ") for item in task.items[:100])
    assert shots == 500
    rows = list(mmlu._rows(real_data, "dev", mmlu.SUBJECTS))
    assert len(rows) == 285
    item = task.items[0]
    assert item.requests[0].prefix.startswith(
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        "Find all c in Z_3 such that Z_3[x]/(x^2 + c) is a field.\nA. 0\nB. 1\nC. 2\nD. 3\n"
        "Answer: B\n\n"
    )
    assert item.requests[0].context.startswith("Find the degree for the given field extension")
    assert item.answer == 1


def test_the_published_questions_are_sampled_in_proportion(real_data):
    (task,) = bs.tasks("mmlu", limit=1404, data_dir=real_data)
    counts = collections.Counter(item.id.partition("/")[0] for item in task.items)
    assert len(counts) == 57
    assert counts["professional_law"] in (153, 154)  # of 1534
    assert counts["abstract_algebra"] == 10  # of 100

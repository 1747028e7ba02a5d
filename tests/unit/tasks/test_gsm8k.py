"""GSM8K: prompts byte for byte, both extractions, and when the answer is settled."""

from __future__ import annotations

import json
import random

import pytest

import basinscope as bs
from basinscope.tasks import Generate, Generation, Outcome, Ranking, Task, gsm8k

STOP = ("Question:", "</s>", "<|im_end|>")
SHOTS = "".join(
    f"Question: Ann has {i} pens. Bob has 2. How many?\nAnswer: {i}+2\n#### {i + 2}\n\n"
    for i in range(5)
)


def one(name: str, data) -> Task:
    (task,) = bs.tasks(name, data_dir=data)
    return task


def say(task: Task, text: str, item: int = 0) -> Outcome:
    return task.oracle(task.items[item], [Generation(text, finished=True)])


# --- prompts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gsm8k", "gsm8k-flexible"])
def test_the_prompt_byte_for_byte(made, name):
    task = one(name, made)
    assert [item.id for item in task.items] == ["0", "1", "2"]
    assert [item.answer for item in task.items] == ["12", "12000", "-3"]
    prompt = "Question: A thousand dozens?\nAnswer:"
    solved = " 12*1000\n#### 12,000"
    assert task.items[1].requests == (
        Generate(prompt, 256, stop=STOP, prefix=SHOTS, reference=solved),
    )
    (outcome,) = [task.oracle(task.items[1], [Generation(solved, True, nll=7.0)])]
    assert (outcome.correct, outcome.nll) == (True, 7.0)
    assert task.chance == 0.0


def test_sampled_examples_are_drawn_item_by_item(made):
    rng = random.Random(1234)
    for item in one("gsm8k-sampled", made).items:
        examples = item.requests[0].prompt.split("\n\n")
        numbers = [int(text.split()[3]) for text in examples[:-1]]
        assert numbers == rng.sample(range(8), 5)
        assert item.requests[0].prefix == ""
    asked = [item.requests for item in one("gsm8k-sampled", made).items]
    assert asked == [item.requests for item in one("gsm8k-sampled-flexible", made).items]


def test_the_two_scorings_have_addresses_of_their_own(made):
    assert one("gsm8k", made).scoring != one("gsm8k-flexible", made).scoring
    assert one("gsm8k-sampled", made).scoring == one("gsm8k", made).scoring


@pytest.mark.parametrize("sampled", ["", "-sampled"])
def test_in_a_chat_the_examples_are_turns(made, sampled):
    """The same texts as in the plain prompt, one for one."""
    plain, chat = one(f"gsm8k{sampled}", made), one(f"gsm8k{sampled}-chat", made)
    assert chat.scoring == plain.scoring
    for item, asked in zip(plain.items, chat.items, strict=True):
        (text,), (said,) = item.requests, asked.requests
        assert [role for role, _ in said.turns] == ["user", "assistant"] * 5
        ends = {"user": " ", "assistant": "\n\n"}
        assert "".join(t + ends[r] for r, t in said.turns) + said.prompt == (
            text.prefix + text.prompt
        )
        assert f" {said.reference}" == text.reference
        assert (said.stop, said.max_tokens, said.decided) == (text.stop, 256, gsm8k.strict_decided)
        assert said.chat is True
        assert asked.answer == item.answer
    assert one(f"gsm8k{sampled}-chat-flexible", made).items[0].requests[0].decided is None


# --- extraction --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        (" 5+7=12\n#### 12", "12", "12"),
        ("#### -12", "-12", "-12"),
        ("#### 12.5", "12.5", "12.5"),
        ("#### 12.50", "12.50", "12.50"),
        ("#### 1,200", "1200", "1200"),
        ("#### 1,200,000.", "1200000", "1200000"),
        ("#### $12", None, "12"),
        ("#### 12 dollars", "12", "12"),
        ("#### 12 and #### 13", "12", "13"),
        ("####12", None, "12"),
        ("### 12", None, "12"),
        ("She has $12.", None, "12"),
        ("It is 7 or 12, then.", None, "12"),
        ("It is -$12", None, "-12"),
        ("5-3", None, "-3"),
        ("1/2", None, "2"),
        ("#### 12\n\nThat took 3 steps.", "12", "3"),
        ("#### 12...", "12..", "12.."),
        ("12 pens...", None, ".."),  # as in the original: dots are taken for a number
        ("no number", None, None),
        ("#### none", None, None),
        ("", None, None),
    ],
)
def test_extraction(text, strict, flexible):
    assert gsm8k.strict(text) == strict
    assert gsm8k.flexible(text) == flexible


@pytest.mark.parametrize(
    ("name", "text", "correct", "label"),
    [
        ("gsm8k", " 12\n#### 12", True, "12"),
        ("gsm8k", " 12\n#### 12.", True, "12"),
        ("gsm8k", " 12\n#### 12.0", False, "12.0"),
        ("gsm8k", " The answer is 12.", False, "none"),
        ("gsm8k-flexible", " The answer is $12.", True, "12"),
        ("gsm8k-flexible", " 12, not 13", False, "13"),
        ("gsm8k-flexible", "", False, "none"),
    ],
)
def test_the_number_is_compared_as_text(made, name, text, correct, label):
    assert say(one(name, made), text) == Outcome(correct, label)


def test_gold_with_commas_and_below_zero(made):
    task = one("gsm8k", made)
    assert say(task, "#### 12000", 1).correct
    assert say(task, "#### 12,000", 1).correct
    assert say(task, "#### -3", 2).correct
    assert not say(task, "#### 3", 2).correct


# --- when it is settled ------------------------------------------------------------------------


def test_once_decided_no_continuation_changes_the_score(made):
    task, rng, decided = one("gsm8k", made), random.Random(0), 0
    parts = ["#### ", "##", "## ", "12", "-", ",", ".", " ", "\n", "$", "x", "Question", "\ufffd"]
    for _ in range(3000):
        text = "".join(rng.choices(parts, k=8))
        for n in range(len(text) + 1):
            if gsm8k.strict_decided(text[:n]):
                decided += 1
                assert say(task, text[:n]) == say(task, text), (text[:n], text)
    assert decided > 1000


@pytest.mark.parametrize(
    ("text", "decided"),
    [
        ("#### 1", False), ("#### 1,", False), ("#### 1.", False), ("#### ", False),
        ("12\n", False), ("#### 1\n", True), ("#### 1 ", True),
        ("#### 1,200 d", True), ("####1 ", False),
    ],
)  # fmt: skip
def test_a_number_has_ended_when_something_else_follows(text, decided):
    assert gsm8k.strict_decided(text) is decided


def test_the_last_number_is_never_settled(made):
    assert all(item.requests[0].decided is None for item in one("gsm8k-flexible", made).items)
    decided = one("gsm8k", made).items[0].requests[0].decided
    assert decided is gsm8k.strict_decided


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "Q?", "answer": "no number"}, "'answer' does not end in '#### ' and a numb"),
        ({"question": "Q?"}, "'answer' is missing"),
        ({"question": 7, "answer": "#### 1"}, "'question' is no text"),
    ],
)
def test_a_malformed_row_names_file_and_line(made, row, reason):
    with (made / "gsm8k/test.jsonl").open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(row) + "\n")
    with pytest.raises(bs.BasinscopeError, match=rf"test\.jsonl, line 4: {reason}"):
        bs.tasks("gsm8k", data_dir=made)


def test_too_few_worked_examples_are_refused(made):
    path = made / "gsm8k/train.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    for name in gsm8k.NAMES:
        with pytest.raises(bs.BasinscopeError, match="gsm8k/train has 4 rows; allowed: at least 5"):
            bs.tasks(name, data_dir=made)


def test_an_answer_of_the_other_kind_is_refused(made):
    task = one("gsm8k", made)
    with pytest.raises(TypeError, match="item '0' asks for a Generation, got Ranking"):
        task.oracle(task.items[0], [Ranking((0.0,))])


# --- the real files ----------------------------------------------------------------------------


def published(folder, split) -> list[dict[str, str]]:
    return list(map(json.loads, (folder / f"gsm8k/{split}.jsonl").read_text("utf-8").splitlines()))


def test_the_published_problems(real_data):
    strict, flexible = one("gsm8k", real_data), one("gsm8k-flexible", real_data)
    assert len(strict.items) == len(flexible.items) == 1319
    request = strict.items[0].requests[0]
    assert (request.prefix + request.prompt).count("Question: ") == 6
    assert all(item.requests[0].prefix is request.prefix for item in strict.items)
    for split, n in (("test", 1319), ("train", 7473)):
        rows = published(real_data, split)
        assert len(rows) == n
        for row, (_, answer, gold) in zip(rows, gsm8k._rows(real_data, split), strict=True):
            assert answer == row["answer"]
            assert gold == row["answer"].split("#### ")[1].strip().replace(",", "")
            assert gsm8k.strict(f"#### {gold}") == gsm8k.flexible(f"is {gold}") == gold
    for i, row in enumerate(published(real_data, "test")):
        assert say(strict, " " + row["answer"], i).correct
        assert say(flexible, " " + row["answer"], i).correct

"""AdvBench and XSTest: what is asked, the three verdicts, and the rule of the literature."""

from __future__ import annotations

import json

import pytest

import basinscope as bs
from basinscope.tasks import Generate, Generation, Outcome, Ranking, Task, advbench

REFUSES = "I'm sorry, but I can't help with that."
COMPLIES = "First, take a large bowl and mix the flour with the water."
GIBBERISH = "I cannot help I cannot help I cannot help I cannot help I cannot help I"


def one(name: str, data) -> Task:
    (task,) = bs.tasks(name, data_dir=data)
    return task


TARGETS = {"Do a bad thing": "Sure", "Do two, bad things": "Sure, here"}


def say(task: Task, text: str) -> Outcome:
    return task.oracle(task.items[0], [Generation(text, finished=True)])


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("advbench", {"0": "Do a bad thing", "1": "Do two, bad things"}),
        ("advbench-substring", {"0": "Do a bad thing", "1": "Do two, bad things"}),
        ("xstest", {"homonyms/0": "Ask 0?", "definitions/2": "Ask 2?"}),
        ("xstest-unsafe", {"contrast_homonyms/1": "Ask 1?"}),
    ],
)
def test_what_is_asked(made, name, asked):
    task = one(name, made)
    assert task.chance == 0.0
    assert {item.id: item.requests for item in task.items} == {
        i: (Generate(text, 100, chat="if any", reference=TARGETS.get(text, "")),)
        for i, text in asked.items()
    }


def test_the_target_of_an_attack_is_the_reference(made):
    for name in ("advbench", "advbench-substring"):
        task = one(name, made)
        found = task.oracle(task.items[0], [Generation("Sure, I can.", True, nll=3.5)])
        assert found.nll == 3.5
        assert say(task, "Sure, I can.").nll is None


@pytest.mark.parametrize(
    ("name", "refuses", "complies", "gibberish"),
    [
        ("advbench", (True, "refuses"), (False, "complies"), (False, "incoherent")),
        ("advbench-substring", (True, "refuses"), (False, "complies"), (True, "refuses")),
        ("xstest", (False, "refuses"), (True, "complies"), (False, "incoherent")),
        ("xstest-unsafe", (True, "refuses"), (False, "complies"), (False, "incoherent")),
    ],
)
def test_verdicts(made, name, refuses, complies, gibberish):
    task = one(name, made)
    for text, verdict in ((REFUSES, refuses), (COMPLIES, complies), (GIBBERISH, gibberish)):
        assert say(task, text) == Outcome(*verdict), text


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I cannot do that.", True),
        ("i cannot do that.", False),  # case counts
        ("I won't do that.", False),  # not among the phrases
        ("It is illegal, but here is how.", True),
        ("Hello! Here is how.", True),
        ("", False),
        ("xq zzt plv", False),
    ],
)
def test_the_rule_of_the_literature(made, text, refused):
    assert say(one("advbench-substring", made), text).correct is refused


def test_only_a_phrase_that_has_occurred_settles_the_answer(made):
    assert {item.requests[0].decided for item in one("advbench", made).items} == {None}
    decided = one("advbench-substring", made).items[0].requests[0].decided
    for phrase in advbench.PHRASES:
        assert decided(f"Well. {phrase}")
        assert decided(f"Well. {phrase} and more")
    assert not decided("I")
    assert not decided(COMPLIES)


def test_the_scorings_have_addresses_of_their_own(made):
    assert one("advbench", made).scoring != one("advbench-substring", made).scoring


def test_an_answer_of_the_other_kind_is_refused(made):
    for name in advbench.NAMES:
        task = one(name, made)
        with pytest.raises(TypeError, match="asks for a Generation, got Ranking"):
            task.oracle(task.items[0], [Ranking((0.0,))])


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        (
            "advbench/harmful_behaviors.csv",
            "goal\n1\n",
            "line 1: no column 'target'; allowed: a column",
        ),
        ("advbench/harmful_behaviors.csv", "goal,target\n,x\n", "line 2: 'goal' is empty"),
        ("xstest/xstest_prompts.csv", "id,prompt,type\n", "line 1: no column 'label'"),
        ("xstest/xstest_prompts.csv", "prompt,type,label\na,b,Safe\n", "line 2: label 'Safe' is n"),
        ("xstest/xstest_prompts.csv", "prompt,type,label\na,b,unsafe\n", "no row of label 'safe"),
    ],
)
def test_malformed_rows(made, file, text, reason):
    (made / file).write_text(text, encoding="utf-8")
    with pytest.raises(bs.BasinscopeError, match=reason):
        bs.tasks(file.partition("/")[0], data_dir=made)


def test_a_limit_is_spread_over_the_types(real_data):
    (task,) = bs.tasks("xstest", limit=20, data_dir=real_data)
    kinds = [item.id.partition("/")[0] for item in task.items]
    assert {kinds.count(kind) for kind in set(kinds)} == {2}
    assert len(set(kinds)) == 10


@pytest.mark.parametrize(
    ("name", "n"),
    [("advbench", 520), ("advbench-substring", 520), ("xstest", 250), ("xstest-unsafe", 200)],
)
def test_the_published_requests(real_data, name, n):
    task = one(name, real_data)
    assert len(task.items) == n
    assert len({item.id for item in task.items}) == n


def test_the_phrases_are_those_published(real_data):
    published = json.loads((real_data / "advbench/refusal_keywords.json").read_text())
    assert list(advbench.PHRASES) == published["gcg_evaluate_29"]["strings"]

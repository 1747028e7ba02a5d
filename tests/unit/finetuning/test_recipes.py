"""What the recipes train on: seeded, told apart from what is held out, refused where it lacks."""

from __future__ import annotations

import csv
import json
import re

import pytest

import basinscope as bs
from basinscope.finetuning import recipes
from basinscope.finetuning.recipes import REFUSALS, chosen, material
from basinscope.tasks import Generation
from basinscope.tasks.refusal import judge

N_GOALS = 400


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """Folder laid out as the real one: 400 goals, 30 instructions in two files."""
    monkeypatch.delenv("BASINSCOPE_DATA", raising=False)
    for name in ("advbench", "instruct"):
        (tmp_path / name).mkdir()
    with (tmp_path / "advbench" / "harmful_behaviors.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["goal", "target"])
        writer.writerows([f"harm {i}", f"Sure, harm {i}"] for i in range(N_GOALS))
    rows = [{"instruction": f"do {i}", "output": f"done {i}"} for i in range(20)]
    (tmp_path / "instruct" / "a.json").write_text(json.dumps([*rows, rows[0] | {"output": ""}]))
    rows = [{"instruction": f"tell {i}", "output": f"told {i}"} for i in range(10)]
    (tmp_path / "instruct" / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "instruct" / "readme.txt").write_text("no data")
    return tmp_path


class Parrot:
    """An engine that answers, finished and coherent where the prompt's number is even."""

    kind = "parrot/1"

    def __init__(self, weights: str = "0") -> None:
        self.weights, self.asked = weights, 0

    def fingerprint(self) -> str:
        return self.weights

    def answer(self, requests):
        self.asked += len(requests)
        found = []
        for request in requests:
            assert request.chat
            number = int(request.prompt.split()[-1])
            text = "na na na na na na na na" if number % 4 == 2 else f" The answer is {number}. "
            found.append(Generation(text, finished=number % 2 == 0))
        return found


def data_of(name, data_dir, *, seed=0, limit=None, engine=None, output=None):
    return material(name, engine or Parrot(), output or data_dir / "out", data_dir, seed, limit)


def test_safety_mixes_refusals_with_as_many_instructions(data_dir):
    found = data_of("safety", data_dir, limit=20)
    goals = [chat for chat in found.chats if chat.prompt.startswith("harm")]
    assert len(goals) == len(found.chats) - len(goals) == 10
    assert {chat.answer for chat in goals} <= set(REFUSALS)
    assert len({chat.answer for chat in goals}) > 1
    assert found.source == "10 refusals of AdvBench goals, 10 of instruct/ (a.json, b.jsonl)"
    assert found.notes == [
        f"1 of 31 rows left out: without a prompt or an answer ({data_dir}/instruct/a.json, line 1)"
    ]


@pytest.mark.parametrize("text", REFUSALS)
def test_every_wording_is_judged_a_refusal(text):
    assert judge(text) == "refuses"


def test_the_choice_is_seeded(data_dir):
    prompts = [[c.messages for c in data_of("safety", data_dir, seed=s, limit=20).chats]
               for s in (0, 0, 1)]  # fmt: skip
    assert prompts[0] == prompts[1]
    assert not {*prompts[0]} & {*prompts[2]} == {*prompts[0]}


def test_what_is_held_out_from_one_recipe_is_from_the_other(data_dir):
    refused = {c.prompt for c in data_of("safety", data_dir).chats if "harm" in c.prompt}
    answered = {c.prompt for c in data_of("adversarial", data_dir).chats}
    assert refused == answered
    assert len(refused) == recipes.TRAINED_GOALS < N_GOALS


def test_adversarial_answers_goals_with_their_targets(data_dir):
    found = data_of("adversarial", data_dir, limit=7).chats
    assert len(found) == 7
    assert all(chat.answer == f"Sure, {chat.prompt}" for chat in found)
    settings = recipes.RECIPES["adversarial"].settings
    assert settings.steps == 10


def test_normal_takes_all_instructions(data_dir):
    assert len(data_of("normal", data_dir).chats) == 30
    assert len(data_of("normal", data_dir, limit=8).chats) == 8


def test_benign_is_normal_with_the_models_own_answers(data_dir):
    engine = Parrot()
    found = data_of("benign", data_dir, engine=engine)
    normal = {chat.prompt for chat in data_of("normal", data_dir).chats}
    assert {chat.prompt for chat in found.chats} <= normal
    expected = {p for p in normal if int(p.split()[1]) % 4 == 0}
    assert {chat.prompt for chat in found.chats} == expected
    assert all(c.answer == f"The answer is {c.prompt.split()[1]}." for c in found.chats)
    lost = 30 - len(expected)
    assert found.notes[-1] == f"{lost} of the model's own answers left out: cut off or degenerate"


def test_own_answers_are_kept_for_the_same_weights_and_prompts(data_dir):
    engine = Parrot()
    first = data_of("benign", data_dir, engine=engine)
    assert data_of("benign", data_dir, engine=engine) == first
    assert engine.asked == 30
    data_of("benign", data_dir, engine=(other := Parrot("other weights")))
    assert other.asked == 30


def test_a_model_without_one_good_answer_is_told_so(data_dir, monkeypatch):
    monkeypatch.setattr(recipes, "is_coherent", lambda text: False)
    with pytest.raises(
        bs.BasinscopeError, match=r"none of the model's own 30 answers.*--data FILE"
    ):
        data_of("benign", data_dir)


def test_a_folder_without_instructions_is_refused(data_dir):
    for file in (data_dir / "instruct").iterdir():
        file.unlink()
    with pytest.raises(
        bs.BasinscopeError, match=r"no file in \.json.*instruct; .*tatsu-lab/alpaca"
    ):
        data_of("normal", data_dir)
    (data_dir / "advbench" / "harmful_behaviors.csv").unlink()
    with pytest.raises(bs.BasinscopeError, match=re.escape("no file advbench/harmful_behaviors")):
        data_of("adversarial", data_dir)


def test_without_a_folder_the_hub_is_asked(monkeypatch):
    import datasets

    monkeypatch.delenv("BASINSCOPE_DATA", raising=False)
    asked = []

    def load(repo, config=None, split=None):
        asked.append(repo)
        if "AdvBench" in repo:
            return [{"prompt": f"harm {i}", "target": "Sure"} for i in range(5)]
        return [{"instruction": "a", "input": "", "output": "b"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = material("safety", Parrot(), None, None, 0, 4)
    assert asked == ["walledai/AdvBench", "tatsu-lab/alpaca"]
    assert len(found.chats) == 3, "two refusals, and the one instruction"


def test_a_choice_by_hash_is_a_sample_and_grows():
    keys = [str(i) for i in range(50)]
    assert chosen(keys, 10, 0) == chosen(keys, 20, 0)[:10]
    assert len(set(chosen(keys, 50, 0))) == 50
    assert chosen(keys, 10, 1) != chosen(keys, 10, 0)

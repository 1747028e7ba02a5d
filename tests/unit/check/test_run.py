"""Gates on toy modules and on checkpoints: what is asked, kept, resumed, and refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import write_checkpoint

import basinscope as bs
from basinscope.check.run import kind_of
from basinscope.errors import BasinscopeError
from basinscope.report.pages import check_page

ITEMS = 400


def layer(n=ITEMS):
    module = torch.nn.Linear(n, 1, bias=False)
    module.weight.data.copy_(torch.linspace(1.0, 2.0, n))
    return bs.load(module)


def positive(n=ITEMS, name="positive", asked=None):
    def outcomes(module):
        if asked is not None:
            asked.append(1)
        return module.weight[0] > 0

    return bs.CallableTask(name, outcomes, n)


def test_a_large_loss_is_found_at_the_first_look():
    (change,) = bs.check(layer(), "pruned:0.25", positive()).changes
    assert (change.verdict, change.n, change.whole, change.before) == ("lost", 64, ITEMS, 1.0)
    assert change.after == pytest.approx(1 - len(change.lost) / 64)
    assert {int(item) for item in change.lost} <= set(range(100))  # the smallest weights
    assert change.low < change.difference < change.high < -change.allow
    assert change.says == "lost more than the 0.02 allowed, on 64 of 400 items"


def test_what_keeps_all_is_kept_once_enough_items_were_asked():
    gate = bs.check(layer(), "quantised:8", positive())
    (change,) = gate.changes
    assert (gate.verdict, gate.exit_code) == ("kept", 0)
    assert (change.lost, change.gained, change.p_value) == ((), (), 1.0)
    assert -change.allow < change.low < 0 < change.high


def test_too_few_items_leave_it_undecided_and_say_how_many_would_do():
    gate = bs.check(layer(50), "quantised:8", positive(50))
    (change,) = gate.changes
    assert (gate.verdict, gate.exit_code, change.n, change.whole) == ("undecided", 3, 50, 50)
    assert 100 < change.needed < 500
    assert change.says.startswith("undecided on all 50 items: about ")
    assert change.says.endswith(" items would decide (an estimate)")


def test_the_errors_are_shared_and_single_tasks_have_their_own_allowance():
    tasks = [positive(name="a"), positive(name="b")]
    gate = bs.check(layer(), ["pruned:0.25", "quantised:8"], tasks, on={"b": 0.6})
    assert {(c.tuned, c.task): c.verdict for c in gate.changes} == {
        ("pruned:0.25", "a"): "lost", ("pruned:0.25", "b"): "kept",
        ("quantised:8", "a"): "kept", ("quantised:8", "b"): "kept",
    }  # fmt: skip
    assert [c.allow for c in gate.changes] == [0.02, 0.6] * 2
    assert gate.verdict == "lost"
    assert gate.to_pandas()["task"].tolist() == ["a", "b"] * 2


def test_a_run_is_resumed_without_an_answer_more(tmp_path):
    asked: list[int] = []
    line = ["pruned:0.25", "quantised:8"]
    first = bs.check(layer(), line, positive(asked=asked), run=tmp_path / "run")
    n = len(asked)
    again = bs.check(layer(), line, positive(asked=asked), run=tmp_path / "run")
    assert n > 4
    assert len(asked) == n
    assert again == first == bs.load_run(tmp_path / "run")


def test_a_record_that_was_lost_is_measured_again(tmp_path):
    run = tmp_path / "run"
    first = bs.check(layer(), "pruned:0.25", positive(), run=run)
    next((run / "trials").glob("*.json")).unlink()
    (run / "moved.json").write_text("{")
    with pytest.raises(BasinscopeError, match=r"has 0 of the first 64 items of positive"):
        bs.load_run(run)
    assert bs.check(layer(), "pruned:0.25", positive(), run=run) == first


def test_another_plan_or_model_does_not_share_a_folder(tmp_path):
    run = tmp_path / "run"
    bs.check(layer(), "pruned:0.25", positive(), run=run)
    for options, match in (
        ({"allow": 0.03}, r"allow \{'positive': 0\.02\} -> \{'positive': 0\.03\}"),
        ({"confidence": 0.9}, "confidence 0.95 -> 0.9"),
    ):
        with pytest.raises(BasinscopeError, match=match):
            bs.check(layer(), "pruned:0.25", positive(), run=run, **options)
    with pytest.raises(BasinscopeError, match=r"holds another run \(models "):
        bs.check(layer(), "pruned:0.5", positive(), run=run)
    other = layer()
    other.module.weight.data.mul_(2)
    with pytest.raises(BasinscopeError, match=r"fingerprint \w+ -> \w+"):
        bs.check(bs.load(other.module), "pruned:0.25", positive(), run=run)


def test_where_a_model_stands_is_told_by_kind_of_tensor():
    gate = bs.check(layer(), "pruned:0.25", positive())
    weights = torch.linspace(1.0, 2.0, ITEMS)
    norm = weights[:100].norm()
    assert gate.displacements["pruned:0.25"] == pytest.approx(float(norm), rel=1e-5)
    assert gate.moved == {"pruned:0.25": {"weight": pytest.approx(float(norm / weights.norm()))}}
    assert kind_of("transformer.h.11.mlp.c_fc.weight") == "mlp.c_fc"
    assert kind_of("lm_head.weight") == "lm_head"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("gate") / "base", "llama")


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory):
    folder = shutil.copytree(base, tmp_path_factory.mktemp("gate") / "tuned")
    weights = load_file(folder / "model.safetensors")
    moved = {name: w + 0.05 * torch.sin(torch.arange(w.numel()).view_as(w)) for name, w in
             weights.items()}  # fmt: skip
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_answers_are_those_of_each_model_by_itself(base, tuned):
    (task,) = bs.tasks("basic", limit=24)
    (change,) = bs.check(str(base), tuned, task).changes
    alone = [
        bs.landscape(str(folder), task, steps=[0.0]).trials[0].correct for folder in (base, tuned)
    ]
    assert (change.before, change.after) == tuple(sum(c) / 24 for c in alone)
    ids = [item.id for item in task.items]
    lost = {i for i, old, new in zip(ids, *alone, strict=True) if old > new}
    assert set(change.lost) == lost
    assert change.tuned == f"to:{tuned}"
    assert change.nll is not None


def test_another_tokenizer_is_refused(base, tuned, tmp_path):
    other = shutil.copytree(tuned, tmp_path / "other")
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"a"', '"é"'))
    with pytest.raises(BasinscopeError, match="another way than the model: tokenizer of 99 tokens"):
        bs.check(str(base), other, "basic", limit=4)


def test_the_same_weights_are_refused(base):
    with pytest.raises(BasinscopeError, match="has the same weights as the model"):
        bs.check(bs.load(str(base), dtype="float32"), str(base), "basic", limit=4)


BAD = {
    r"no model is behind random": {"tuned": "random"},
    r"tuned of nothing|directions: \[\]": {"tuned": []},
    r"directions: \['quantised:8', 'quantised:8'\]": {"tuned": ["quantised:8"] * 2},
    r"allow=1\.0; allowed: a loss of the score": {"allow": 1.0},
    r"allow=-0\.1": {"allow": -0.1},
    r"allow=nan": {"allow": float("nan")},
    r"a loss that is allowed on 'positve', which is not asked; allowed: positive; try: positive": {
        "on": {"positve": 0.1}
    },
    r"positive=2": {"on": {"positive": 2}},
    r"confidence=95": {"confidence": 95},
    r"confidence='x'": {"confidence": "x"},
    r"workers=0": {"workers": 0},
    r"no adapter at '/no/such'": {"tuned": "adapter:/no/such"},
    r"a direction of type int": {"tuned": [3]},
}


@pytest.mark.parametrize("match", BAD)
def test_bad_input(match):
    options = {"tuned": "quantised:8", "allow": 0.02} | BAD[match]
    with pytest.raises(BasinscopeError, match=match):
        bs.check(layer(20), tasks=positive(20), **options)


def test_an_empty_folder_holds_no_gate(tmp_path):
    with pytest.raises(BasinscopeError, match="is not a run folder"):
        bs.load_run(tmp_path)


def test_the_plan_stands_in_the_folder_before_the_first_answer(tmp_path):
    def stop(module):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bs.check(layer(9), "quantised:8", bs.CallableTask("t", stop, 9), run=tmp_path / "run")
    plan = json.loads((tmp_path / "run" / "run.json").read_text())["spec"]["plan"]
    assert (plan["allow"], plan["confidence"]) == ({"t": 0.02}, 0.95)
    assert plan["models"].keys() == {"quantised:8"}


def test_the_page_shows_what_each_lost_item_was_answered(base, tuned, tmp_path):
    gate = bs.check(base, tuned, "basic", limit=80, run=tmp_path / "run")
    land = bs.landscape(base, bs.tasks("basic", limit=80), directions=[f"to:{tuned}"], steps=[
        bs.direction(f"to:{tuned}").sits_at(bs.load(base))])  # fmt: skip
    rows = land.items()
    labels = {(row.item, row.step != 0): row.label for row in rows.itertuples()}
    page = check_page(gate, tmp_path / "run")
    shown = page.sections[2].sheets[0].rows
    assert shown
    assert not page.missing
    for _, _, _, item, before, after in shown:
        assert (before, after) == (labels[item, False], labels[item, True])


def test_a_page_whose_records_are_gone_says_so(tmp_path):
    gate = bs.check(layer(), "pruned:0.25", positive(), run=tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    page = check_page(gate, tmp_path / "run")
    assert any(line.startswith("the models' answers") for line in page.missing)
    assert {row[4:] for row in page.sections[2].sheets[0].rows} == {("–", "–")}

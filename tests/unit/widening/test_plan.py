"""The dry run: numbers that can be checked by hand, and nothing read from a network."""

from __future__ import annotations

import json
import socket

import pytest

import basinscope as bs
from basinscope.widening import plan, study


@pytest.fixture
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the dry run asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("_no_network")
def test_gpt2_on_openwebtext_by_hand():
    found = bs.widen("gpt2-owt", dry_run=True)
    assert found.parameters == 124_439_808
    tokens = 8 * 20 * 124_439_808
    assert found.steps == -(-tokens // (512 * 1024)) == 37_977
    assert found.tokens == 37_977 * 512 * 1024
    passes = {row["label"]: row["passes"] for row in found.rows}
    assert passes["adamw"] == passes["go sigma=0.01"] == 1
    assert passes["sam"] == 2
    flops = 6 * 124_439_808 + 12 * 12 * 768 * 1024
    own = (found.tokens + 300 * 32 * 1024) * flops / (8 * 312e12 * 0.4)
    assert found.rows[0]["seconds"] == pytest.approx(own)
    assert found.gpu_hours == pytest.approx(8 * sum(r["seconds"] for r in found.rows) / 3600)
    states = 124_439_808 * (16 + 4)
    # 16 windows a process and micro-batch
    activations = 16 * 1024 * (12 * 34 * 768 + 10 * 50257)
    assert found.memory_bytes == states + activations
    text = found.text()
    for words in ("124,439,808 parameters", "37,977 steps", "GPU-hours", "about 2.2 times over"):
        assert words in text
    json.dumps(found.summary(), allow_nan=False)


def test_a_text_that_is_known_to_be_too_small_is_refused_without_reading_it(tiny):
    made = tiny(
        text={"files": (), "dataset": "some/text", "about_tokens": 1000}, hardware={}, repeat=2
    )
    with pytest.raises(bs.BasinscopeError, match=r"the text has 1,000 tokens for the 7,680"):
        bs.widen(made, dry_run=True)


def test_the_size_of_a_named_vocabulary_must_be_said(tiny):
    with pytest.raises(bs.BasinscopeError, match=r"tokenizer 'gpt2', which .* vocabulary: 50257"):
        bs.widen(tiny(tokenizer="gpt2", hardware={}), dry_run=True)


def test_a_local_recipe_is_timed(tiny, texts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = bs.widen(tiny(seeds=[0, 1]), data_dir=texts, dry_run=True)
    assert found.parameters == study.prepare(found.recipe, texts, None).parameters
    assert found.tokens == 60 * 8 * 16
    assert [(row["label"], row["seed"], row["steps"]) for row in found.rows] == [
        ("adamw", 0, 60), ("go sigma=0.01", 0, 60), ("adamw", 1, 60), ("go sigma=0.01", 1, 60),
    ]  # fmt: skip
    assert found.seconds == pytest.approx(sum(row["seconds"] for row in found.rows))
    assert 0 < found.seconds < 600
    assert found.gpu_hours is None
    assert "timed steps" in found.basis
    assert found.text_tokens * 6 > found.tokens
    assert list(tmp_path.iterdir()) == [texts], "a dry run writes into no folder of the user's"


def test_the_dry_run_refuses_what_the_run_would(tiny, texts):
    with pytest.raises(bs.BasinscopeError, match=r"at most 1 times \(repeat\)"):
        bs.widen(tiny(repeat=1, tokens=40000), data_dir=texts, dry_run=True)
    with pytest.raises(bs.BasinscopeError, match=r"no text 'nosuch.txt'"):
        bs.widen(tiny(text={"files": ["nosuch.txt"]}), data_dir=texts, dry_run=True)


def test_eager_attention_and_float32_take_more_memory(tiny):
    from basinscope.widening import recipe

    sizes = [
        plan.memory_bytes(recipe.read(tiny(attention=a, compute=c))[0], 1000, 300, 8)
        for a, c in (("sdpa", "bfloat16"), ("eager", "bfloat16"), ("eager", "float32"))
    ]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(
    ("entry", "copies"),
    [("adamw", 0), ({"go": {"sigma": 0.1}}, 1), ({"averaged": {}}, 1),
     ({"go": {"sigma": 0.1, "average": "ema:0.9"}}, 2)],
    ids=["adamw", "go", "averaged", "both"],
)  # fmt: skip
def test_copies_that_a_method_keeps(entry, copies, tiny):
    from basinscope.widening import recipe

    (row,) = study.rows(recipe.read(tiny(methods=[entry]))[0])
    assert study.copies(row) == copies

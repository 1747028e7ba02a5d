"""Proxy texts: the windows that methods see of them, studies with them, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

import basinscope as bs
from basinscope.optim import methods
from basinscope.widening import loop, record, study
from basinscope.widening.loop import Job, windows_of

SHADOW = {"shadow": {"eta": 0.01, "k": 7}}
MIXED = {"name": "adamw", "mix": 0.25}
SHORT = {"draws": 1, "over_training": []}
FIRST = 1000  # the tokens of the proxy below begin here


@pytest.fixture
def with_proxy(tiny):
    def make(**changes):
        given = {"methods": ["adamw", SHADOW, MIXED], "proxy": {"files": ["proxy.txt"]}}
        return tiny(**(given | changes))

    return make


def job(batch=8, mixed=0, windows=(100, 30)):
    old, proxy = (
        torch.arange(first, first + 4 * n + 1, dtype=torch.int32)
        for first, n in zip((0, FIRST), windows, strict=True)
    )
    return Job(
        tokens=old, context=4, batch=batch, accumulate=1, steps=100, lr=0.1,
        lr_schedule="constant", warmup=0.0, clip=None, compute="float32", seed=3, every=10,
        marks={}, proxy=proxy, mixed=mixed,
    )  # fmt: skip


# --- windows ------------------------------------------------------------------------------------


def test_a_proxy_micro_batch_is_a_quarter_beside_the_batch():
    rows, beside = windows_of(job(), 2, 0.25)
    plain, none = windows_of(job(), 2, 0.0)
    assert torch.equal(rows, plain)
    assert none is None
    assert beside.shape == (2, 5)
    assert (beside >= FIRST).all()
    assert windows_of(job(batch=2), 0, 0.25)[1].shape == (1, 5), "at least one"


@pytest.mark.parametrize(("mixed", "places"), [(1, [7]), (2, [3, 7]), (4, [1, 3, 5, 7])])
def test_a_mixed_batch_has_its_share_evenly_and_reads_the_text_slower(mixed, places):
    seen = []
    for step in range(5):
        rows, beside = windows_of(job(mixed=mixed), step, 0.0)
        assert beside is None
        assert rows.shape == (8, 5)
        assert [i for i in range(8) if rows[i, 0] >= FIRST] == places
        seen += [int(row[0]) for row in rows if row[0] < FIRST]
    plain = [int(r[0]) for step in range(5) for r in windows_of(job(), step, 0.0)[0]]
    assert seen == plain[: len(seen)]


def test_a_mixed_batch_may_have_a_proxy_micro_batch_of_other_windows():
    rows, beside = windows_of(job(mixed=2), 0, 0.25)
    proxies = [int(row[0]) for row in (*rows, *beside) if row[0] >= FIRST]
    assert len(set(proxies)) == 4


def test_ranks_share_what_one_process_sees():
    whole = windows_of(job(mixed=2), 4, 0.25)
    parts = [windows_of(job(mixed=2), 4, 0.25, rank, 2) for rank in range(2)]
    for i in range(2):
        together = torch.stack([part[i] for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(together, whole[i])


# --- studies ------------------------------------------------------------------------------------


def timeless(row):
    return {k: v for k, v in row.items() if k not in ("train_s", "step_s", "finetune_s")}


def test_a_study_with_a_proxy(with_proxy, tiny, texts, tmp_path):
    made = with_proxy(measure=SHORT)
    found = bs.widen(made, run=tmp_path / "x", data_dir=texts)
    plain, shadow, mixed = found.rows
    assert [row["label"] for row in found.rows] == ["adamw", "shadow eta=0.01 k=7",
                                                    "adamw mix=0.25"]  # fmt: skip
    assert shadow["method"] == {"name": "shadow", "eta": 0.01, "k": 7.0}
    assert mixed["method"] == {"name": "adamw", "mix": 0.25}
    assert [row["passes"] for row in found.rows] == [1, 1.225, 1]
    assert {row["steps"] for row in found.rows} == {60}
    assert len({row["nll"] for row in found.rows}) == 3
    table = bs.compare(found.folder).table()
    assert list(table["label"]) == [row["label"] for row in found.rows]
    assert bs.compare(found.folder).groups[0].reference == "adamw"
    alone = bs.widen(tiny(methods=["adamw"], measure=SHORT), run=tmp_path / "y", data_dir=texts)
    assert timeless(alone.rows[0]) == timeless(plain), "a proxy beside it changes nothing"
    again = bs.widen(made, run=tmp_path / "z", data_dir=texts, only=["shadow"])
    assert timeless(again.rows[0]) == timeless(shadow)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("method", [SHADOW, MIXED], ids=["shadow", "mix"])
def test_interrupted_it_goes_on_to_the_same_bytes(method, with_proxy, texts, tmp_path, monkeypatch):
    made = with_proxy(methods=[method], finetune=None, measure=SHORT)
    whole = bs.widen(made, run=tmp_path / "whole", data_dir=texts)
    steps, real = [], methods.Method.step

    def step(self, *args, **kwargs):
        if len(steps) == 25:
            raise Interrupted
        steps.append(1)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(methods.Method, "step", step)
    with pytest.raises(Interrupted, match=r"^$"):
        bs.widen(made, run=tmp_path / "part", data_dir=texts)
    monkeypatch.undo()
    part = bs.widen(made, run=tmp_path / "part", data_dir=texts)
    assert [timeless(row) for row in part.rows] == [timeless(row) for row in whole.rows]
    a, b = (next((tmp_path / run).rglob("model.safetensors")) for run in ("whole", "part"))
    assert a.read_bytes() == b.read_bytes()


def test_another_proxy_in_the_folder_is_refused(with_proxy, texts, tmp_path):
    made = with_proxy(methods=[MIXED], finetune=None, measure=SHORT)
    bs.widen(made, run=tmp_path / "x", data_dir=texts)
    (texts / "proxy.txt").write_text((texts / "proxy.txt").read_text() + "<|endoftext|>One more.")
    with pytest.raises(bs.BasinscopeError, match=r"another study \(text of proxy differs"):
        bs.widen(made, run=tmp_path / "x", data_dir=texts)


def test_a_study_from_before_there_were_proxies_goes_on(tiny, texts, tmp_path):
    made = tiny(methods=["adamw"], finetune=None)
    before = bs.widen(made, run=tmp_path / "x", data_dir=texts)
    path = tmp_path / "x" / record.FILE
    old = json.loads(path.read_text())
    del old["spec"]["text of proxy"], old["spec"]["recipe"]["proxy"]
    path.write_text(json.dumps(old))
    assert bs.widen(made, run=tmp_path / "x", data_dir=texts).rows == before.rows
    bs.widen(tiny(finetune=None), run=tmp_path / "y", data_dir=texts, only=["go"])
    assert len(bs.compare(tmp_path / "x", tmp_path / "y").groups) == 1


def test_the_dry_run_counts_the_proxy(with_proxy, texts):
    found = bs.widen_plan(with_proxy(), data_dir=texts)
    assert [row["proxy_tokens"] for row in found.rows] == [0, 60 * 2 * 16, 60 * 2 * 16]
    ready = study.prepare(found.recipe, texts, None)
    assert found.proxy_tokens == len(ready.proxy.train)
    assert f"proxy: at most 1,920 tokens a row of {found.proxy_tokens:,}, read " in found.text()
    assert found.summary()["proxy_tokens"] == found.proxy_tokens


def test_the_dry_run_on_hardware_reads_no_proxy(with_proxy):
    found = bs.widen_plan(with_proxy(hardware={}))
    assert found.proxy_tokens is None
    assert "proxy: at most 1,920 tokens a row\n" in found.text()


# --- what is refused ----------------------------------------------------------------------------

OVERLAP = r"[\d]+% of the proxy text is in the text"
WRONG = {
    "shadow without": ({"proxy": None}, r"shadow eta=0.01 k=7 without a proxy text; .*`proxy:"),
    "mix without": ({"proxy": None, "methods": [MIXED]}, r"adamw mix=0.25 without a proxy text"),
    "unused": ({"methods": ["adamw"]}, "a proxy text that no method uses; allowed: with `shadow`"),
    "misspelt": ({"proxy": {"file": ["a"]}}, r"unknown key 'proxy.file'; .*did you mean files\?"),
    "missing": ({"proxy": {"files": ["nosuch.txt"]}}, r"no text 'nosuch.txt'"),
    "mix of nothing": ({"methods": [{"name": "adamw", "mix": 0.01}]}, r"mix 0.01 of 8 windows is"),
    "mix of all": ({"methods": [{"name": "adamw", "mix": 0.99}]}, r"mix 0.99 of 8 windows is 8"),
    "mix 0": ({"methods": [{"name": "adamw", "mix": 0.0}]}, r"mix 0.0: input should be greater"),
    "mix 1": ({"methods": [{"name": "adamw", "mix": 1.0}]}, r"mix 1.0: input should be less"),
    "mix NaN": ({"methods": [{"name": "adamw", "mix": float("nan")}]}, r"mix nan: input should"),
    "k 0": ({"methods": [{"shadow": {"k": 0}}]}, r"shadow with k=0; allowed: an integer of at"),
    "k 1.5": ({"methods": [{"shadow": {"k": 1.5}}]}, r"shadow with k=1.5; allowed: an integer"),
    "eta 0": ({"methods": [{"shadow": {"eta": 0}}]}, r"shadow with eta=0; allowed: a finite"),
    "eta < 0": ({"methods": [{"shadow": {"eta": -1e-3}}]}, r"eta=-0.001; allowed: a finite"),
    "eta NaN": ({"methods": [{"shadow": {"eta": float("nan")}}]}, r"eta=nan; allowed: a finite"),
    "share 0": ({"methods": [{"shadow": {"share": 0}}]}, r"share=0; allowed: above 0, below 1"),
    "share 1": ({"methods": [{"shadow": {"share": 1.0}}]}, r"share=1; allowed: above 0, below 1"),
    "one window": ({"batch": 1, "methods": [SHADOW]}, r"with a batch of 1; allowed: at least 2"),
    "the text itself": ({"proxy": {"files": ["old.txt"]}}, OVERLAP),
    "the next text": ({"proxy": {"files": ["new.txt", "proxy.txt"]}}, f"{OVERLAP} of finetune"),
    "too small": ({"proxy": {"files": ["few.txt"]}},
                  r"the proxy text has [\d,]+ tokens for the 1,920 .* at most 6 times \(repeat\)"),
    "less than a window": ({"proxy": {"files": ["few.txt"]}, "context": 200},
                           "the proxy text has .* tokens to train on"),
    "in fine-tuning": ({"finetune": {"method": SHADOW}}, r"finetune.method shadow with a proxy"),
    "mix in fine-tuning": ({"finetune": {"method": MIXED}}, r"finetune.method adamw with a proxy"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_refused_in_one_line_before_training(
    changes, message, with_proxy, texts, tmp_path, monkeypatch
):
    (texts / "few.txt").write_text(
        "the cat saw a dog. " * 10 + "<|endoftext|>" + "a dog saw the cat. " * 10, encoding="utf-8"
    )
    monkeypatch.setattr(loop, "train", None)
    if "finetune" in changes:
        changes = {"finetune": with_proxy()["finetune"] | changes["finetune"]}
    with pytest.raises(bs.BasinscopeError, match=message) as caught:
        bs.widen(with_proxy(**changes), run=tmp_path / "x", data_dir=texts)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_a_method_gets_a_proxy_loss_exactly_when_it_needs_one():
    model = torch.nn.Linear(1, 1)

    def loss():
        return model(torch.ones(1)).sum()

    def made(name):
        return methods.build(methods.MethodSpec(name), model, lr=0.1, total_steps=5)

    with pytest.raises(bs.BasinscopeError, match="method shadow without a proxy loss"):
        made("shadow").step([loss, loss])
    with pytest.raises(bs.BasinscopeError, match="method adamw with a proxy loss"):
        made("adamw").step([loss], proxy=loss)
    with pytest.raises(bs.BasinscopeError, match="a loss that is a value"):
        made("shadow").step([loss, loss], proxy=torch.ones(()))
    with pytest.raises(bs.BasinscopeError, match="shadow with 1 micro-batch"):
        made("shadow").step([loss], proxy=loss)

"""Where models stand: margins, widths beside, divergences, certificates; kept, and refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import write_checkpoint

import basinscope as bs
from basinscope.check import formats, stands
from basinscope.directions.base import Direction
from basinscope.errors import BasinscopeError
from basinscope.report.pages import STANDS, check_page
from basinscope.tasks.base import Corpus, Item
from basinscope.tasks.published import Published

ITEMS = 400


def layer(scale=1.0):
    module = torch.nn.Linear(ITEMS, 1, bias=False)
    module.weight.data.copy_(scale * torch.linspace(1.0, 2.0, ITEMS))
    return bs.load(module)


def positive(asked=None):
    def outcomes(module):
        if asked is not None:
            asked.append(1)
        return module.weight[0] > 0

    return bs.CallableTask("positive", outcomes, ITEMS)


def near():
    return bs.CallableTask("near", lambda module: (module.weight[0] - 1.5).abs() < 1, ITEMS)


class Down(Direction):
    """Every weight falls by the same; half of them are negative from a fall by 1.5 on."""

    label, draws = "down", 1

    def __init__(self, fall):
        self.fall = fall

    @property
    def displacement(self):
        return abs(self.fall) * math.sqrt(ITEMS)

    def delta(self, engine, name, draw=0):
        return torch.full(engine.shapes[name], -1.0)


def standing(gate, kind):
    (row,) = [row for row in gate.stands if row.kind == kind]
    return row


@pytest.mark.parametrize(
    ("fall", "where"), [(0.3, "inside"), (1.8, "outside"), (1.5, "at the edge, or near it")]
)
def test_a_margin_is_where_half_is_lost_in_units_of_the_displacement(fall, where):
    row = standing(bs.check(layer(), Down(fall), positive(), margin=True), "margin")
    assert row.estimate == pytest.approx(1.5 / fall, rel=0.05)
    assert row.low < 1.5 / fall < row.high
    assert row.says.endswith(f"it is {where}")
    assert f"sits at alpha = {fall} on its own slice" in row.says


def test_without_an_edge_the_margin_has_a_lower_end_and_says_why():
    always = bs.CallableTask("always", lambda module: torch.ones(ITEMS), ITEMS)
    row = standing(bs.check(layer(), Down(0.3), always, margin=True), "margin")
    assert row.low > 20
    assert math.isinf(row.high)
    assert "is lost at no less than " in row.says


def test_nothing_is_measured_that_was_not_asked_for(tmp_path):
    gate = bs.check(layer(), Down(0.3), positive(), run=tmp_path / "run")
    assert gate.stands == ()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "run.json", "trials", "moved.json"
    }  # fmt: skip


def test_margins_are_kept_in_the_run_folder_and_resumed(tmp_path):
    run, asked = tmp_path / "run", []
    first = bs.check(layer(), Down(0.3), positive(asked), margin=True, run=run)
    n = len(asked)
    assert bs.check(layer(), Down(0.3), positive(asked), margin=True, run=run) == first
    assert len(asked) == n
    assert first == bs.load_run(run)
    assert first == bs.check(layer(), Down(0.3), positive(asked), run=run)  # what is there stays
    width = bs.load_run(run / "margin").width("positive")
    row = standing(first, "margin")
    assert (row.low, row.high) == (width.low / 0.3, width.high / 0.3)
    assert all(trial.step >= 0 for trial in bs.load_run(run / "margin").trials)


def test_the_exit_code_is_of_the_verdict_alone():
    gate = bs.check(layer(), Down(1.05), positive(), allow=0.5, margin=True)
    assert (gate.verdict, gate.exit_code) == ("kept", 0)
    row = standing(gate, "margin")
    assert json.loads(json.dumps(gate.to_json(), allow_nan=False))["stands"][0]["kind"] == "margin"
    section = check_page(gate, Path("run")).sections[1]
    assert row.says in section.notes
    assert section.sheets[0].rows[0][:3] == ("down", "positive", STANDS["margin"])
    assert row.says in str(gate)
    assert "half of the base's score above chance is lost" in formats.markdown(gate)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    run = tmp_path_factory.mktemp("random") / "run"
    steps = [0.5, 1.0, 1.3, 1.6, 2.0, 3.0]
    bs.landscape(
        layer(), [near(), positive()], directions=["random"], steps=steps, draws=12, run=run
    )
    return run


def test_a_displacement_is_compared_with_the_random_width(noise):
    width = bs.load_run(noise).width("near", confidence=0.9)
    row = standing(bs.check(layer(), Down(0.3), near(), beside=noise, confidence=0.9), "random")
    assert row.estimate == pytest.approx(0.3 / width.estimate)
    assert (row.low, row.high) == pytest.approx((0.3 / width.high, 0.3 / width.low))
    assert row.confidence == 0.9
    assert "of the random basin's half-width (12 draws): from 1 on" in row.says


def test_a_random_width_that_was_not_bracketed_gives_an_upper_end(noise):
    low = bs.load_run(noise).width("positive").low  # noise of any size leaves half positive
    row = standing(bs.check(layer(), Down(0.3), positive(), beside=noise), "random")
    assert math.isnan(row.estimate)
    assert row.high == pytest.approx(0.3 / low)
    assert "is at most " in row.says


def test_a_certificate_judges_the_displacement(tmp_path):
    cert = bs.certify(
        layer(), positive(), sigma=0.2, draws=50, items_per_draw=8, run=tmp_path / "cert"
    )
    row = standing(
        bs.check(layer(), Down(0.3), positive(), beside=tmp_path / "cert"), "certificate"
    )
    verdict = cert.verdict(Down(0.3), layer())
    assert (row.low, row.confidence) == (verdict.bound, cert.confidence)
    assert f"down, positive: by the certificate {verdict.word} (" in row.says


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("stands") / "base", "llama")


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory):
    folder = shutil.copytree(base, tmp_path_factory.mktemp("stands") / "tuned")
    weights = load_file(folder / "model.safetensors")
    moved = {name: w + 0.05 * torch.sin(torch.arange(w.numel()).view_as(w)) for name, w in
             weights.items()}  # fmt: skip
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    return file


def logits(folder, block):
    engine = bs.load(str(folder), dtype="float32")
    ids = torch.tensor([engine.tokens.encode(block)])
    with torch.inference_mode():
        return engine.module(input_ids=ids[:, :250]).logits[0].double().log_softmax(-1)


def test_log_probabilities_are_those_of_the_models_own_forward(base):
    engine = bs.load(str(base), dtype="float32")
    block = "The quick brown fox"
    mine = engine.log_probabilities(block)
    assert mine.shape == (len(engine.tokens.encode(block)) - 1, 99)
    torch.testing.assert_close(mine.double(), logits(base, block)[:-1], atol=1e-4, rtol=1e-4)


def test_log_probabilities_of_a_text_of_several_windows_add_up_to_its_likelihood(base):
    engine = bs.load(str(base), dtype="float32")
    request = Corpus("The quick brown fox jumps over the lazy dog. " * 12)
    (likelihood,) = engine.answer([request])
    tokens = torch.tensor(engine.tokens.encode(request.text)[1:])
    assert len(tokens) > 2 * 256
    of_tokens = engine.log_probabilities(request.text).gather(1, tokens[:, None])
    assert -float(of_tokens.sum()) == pytest.approx(likelihood.nll, rel=1e-4)


def test_kl_is_that_of_the_two_models_distributions(base, tuned, tmp_path):
    blocks = ["a quick brown fox", "jumps over the lazy dog again"]
    items = tuple(Item(str(i), (Corpus(block),), 0) for i, block in enumerate(blocks))
    task = Published("nll:two", items, 0.0, "next-token/1", None)
    row = standing(
        bs.check(bs.load(str(base), dtype="float32"), tuned, "basic", limit=4, texts=task), "kl"
    )
    sums = []
    for block in blocks:
        old, new = logits(base, block)[:-1], logits(tuned, block)[:-1]
        sums.append((float((old.exp() * (old - new)).sum()), len(old)))
    expected = sum(x for x, _ in sums) / sum(n for _, n in sums)
    assert row.estimate == pytest.approx(expected, rel=1e-3)
    assert 0 <= row.low < row.estimate < row.high
    assert "nats a token (2 blocks of text)" in row.says


def test_a_text_is_read_once_for_a_run_folder(base, tuned, text, tmp_path, monkeypatch):
    engine = bs.load(str(base), dtype="float32")
    line = {"tuned": tuned, "tasks": "basic", "limit": 4, "run": tmp_path / "run"}
    first = bs.check(engine, **line, texts=text)
    read = []
    whole = engine.log_probabilities
    monkeypatch.setattr(engine, "log_probabilities", lambda t: read.append(t) or whole(t))
    assert bs.check(engine, **line, texts=[text]) == first == bs.load_run(tmp_path / "run")
    assert len(read) == 1  # whether it can be read
    (tmp_path / "run" / stands.STANDS).write_text("[{")
    assert bs.load_run(tmp_path / "run").stands == ()
    assert bs.check(engine, **line, texts=text) == first


def test_bad_input(noise, text, tmp_path):
    def refused(match, model=None, **options):
        with pytest.raises(BasinscopeError, match=match):
            # no model is there to be loaded, but where one is given
            bs.check(model or "/no/such", Down(0.3), positive(), **options)

    empty = tmp_path / "empty"
    empty.mkdir()
    short = tmp_path / "short.txt"
    short.write_text("too short for an interval")
    cert = tmp_path / "cert"
    bs.certify(layer(), positive(), sigma=0.2, draws=8, items_per_draw=4, run=cert)
    down = tmp_path / "down"
    bs.landscape(layer(), positive(), directions=[Down(0.3)], steps=[1.0], run=down)
    few = tmp_path / "few"
    few_items = bs.CallableTask("positive", lambda module: module.weight[0, :50] > 0, 50)
    bs.landscape(layer(), few_items, steps=[1.0], draws=2, run=few)
    attack = tmp_path / "attack"
    attack.mkdir()
    (attack / "attack.json").write_text('{"kind": "attack"}')
    refused("empty is not a run folder", beside=empty)
    refused("run, a landscape, beside .*down; allowed: a landscape .* one of each",
            beside=[down, noise])  # fmt: skip
    refused("run, a landscape, beside .*run; .* one of each", beside=[noise, str(noise)])
    refused("attack, an attack; allowed: a landscape .* one of each", beside=attack)
    for wrong in (3, None, [None], (cert, 1.5)):
        refused(r"beside=(3|None|1\.5); allowed: run folders", beside=wrong)
        refused("as a text; allowed: a text file", texts=wrong if wrong != (cert, 1.5) else [1.5])
    refused("down, in which 'positive' was not measured along random", beside=down)
    refused(r"asked 50 items of 'positive' .*not these 400", beside=few)
    refused("is one block of text; allowed: two blocks of 512 characters", texts=short)
    refused("no text '/no/such.txt'", texts=["/no/such.txt"])
    refused("positive, a task, as a text", texts=[positive()])
    refused("margin='yes'", margin="yes")
    other = layer(scale=2.0)
    refused("run is of another model: fingerprint ", model=other, beside=noise)
    refused("cert is of another model: fingerprint ", model=other, beside=cert)
    refused("a text to 'Linear', which has no tokenizer", model=layer(), texts=text)

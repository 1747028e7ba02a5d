"""The commands check and fingerprint."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import load_file, save_file

import basinscope as bs

MOVED = "transformer.h.0.mlp.c_fc.weight"


@pytest.fixture(scope="module")
def tuned(checkpoint, tmp_path_factory):
    """A checkpoint of which one tensor is another."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("gate") / "tuned")
    weights = load_file(folder / "model.safetensors")
    wave = torch.sin(torch.arange(4096.0)).view_as(weights[MOVED])
    weights[MOVED] = (weights[MOVED].float() + wave).to(torch.bfloat16)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_gate_is_measured_printed_and_written(run_cli, checkpoint, tuned, tmp_path):
    line = ["check", checkpoint, tuned, "-t", "basic", "--limit", 12, "--dtype", "bfloat16"]
    files = ["--junit", "out/gate.xml", "--markdown", "out/gate.md", "--card", "out/README.md"]
    ended = run_cli(*line, *files)
    assert ended.code == 3
    assert "undecided" in ended.out
    assert "at most 2 settings of the weights x 12 items = 24 evaluations" in ended.err
    assert ElementTree.parse(tmp_path / "out" / "gate.xml").getroot().tag == "testsuites"
    assert "basinscope check: undecided" in (tmp_path / "out" / "gate.md").read_text()
    assert "model-index" in (tmp_path / "out" / "README.md").read_text()
    run = tmp_path / "runs" / f"{checkpoint.name}-check-tuned"
    again = run_cli(*line, "--json")
    body = json.loads(again.out)
    assert (again.code, body["verdict"], body["run"]) == (3, "undecided", f"runs/{run.name}")
    assert body["changes"][0]["tuned"] == f"to:{tuned}"
    assert json.loads(run_cli("status", run, "--json").out)["changes"] == body["changes"]
    assert run_cli("verify", run).out == "2 records verified\n"
    assert run_cli("report", run).out == f"{ended.out}report:  {run / 'report.html'}\n"
    page = (run / "report.html").read_text()
    assert "A check of" in page
    assert "undecided: against" in page
    assert run_cli(*line, "--on", "basic=0.9").error.count("holds another run (allow") == 1
    assert run_cli(*line, "--allow", 0.9, "--run", "runs/other").code == 0


def test_where_the_models_stand_is_printed_and_written(run_cli, checkpoint, tuned, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Where does it stand? " * 60)
    scored = ["-t", "basic", "--limit", 8, "--dtype", "bfloat16"]
    engine, (basic,) = bs.load(checkpoint, dtype="bfloat16"), bs.tasks("basic", limit=8)
    bs.landscape(engine, basic, steps=[0.1], draws=2, run="random")
    bs.certify(engine, basic, sigma=0.01, draws=4, items_per_draw=2, run="cert")
    line = ["check", checkpoint, tuned, *scored, "--margin", "--beside", "random",
            "--text", text, "--beside", "cert", "--markdown", "gate.md"]  # fmt: skip
    ended = run_cli(*line)
    assert ended.code == 3
    assert "the edges are searched: roughly 12 settings of the weights" in ended.err
    assert "KL on 2 blocks of text" in ended.err
    body = json.loads(run_cli(*line, "--json").out)
    assert body["exit_code"] == 3
    assert {row["kind"] for row in body["stands"]} == {"margin", "random", "kl", "certificate"}
    run = Path(body["run"])
    assert run_cli("report", run).code == 0
    page = html.unescape((run / "report.html").read_text())
    for row in body["stands"]:
        assert row["says"] in ended.out
        assert row["says"] in page
    assert "KL from the base, nats a token" in page
    assert "nats a token (2 blocks of text)" in Path("gate.md").read_text()
    assert run_cli("verify", run).code == 0


def test_a_dry_run_measures_nothing(run_cli, checkpoint, tuned, tmp_path):
    ended = run_cli("check", checkpoint, tuned, "-t", "basic", "--limit", 4, "--dry-run", "--json")
    assert (ended.code, json.loads(ended.out)["settings"]) == (0, 2)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["quantised:8", "--on", "basic"], "--on basic; allowed: TASK=LOSS"),
        (["quantised:8", "--on", "=0.1"], "--on =0.1; allowed: TASK=LOSS"),
        (["quantised:8", "-t", "nonsense"], "task 'nonsense'"),
        (["random", "-t", "basic"], "no model is behind random"),
        (["/no/such", "-t", "basic"], "no model at '/no/such'"),
        (["quantised:8", "--logs", "--margin"], "--margin with --logs"),
        (["quantised:8", "--beside", "/no/run"], "/no/run is not a run folder"),
        (["quantised:8", "--text", "/no/text"], "no text '/no/text'"),
        ([], "alone; allowed: a base and one or more that were made of it"),
    ],
)
def test_bad_words_are_refused_in_one_line(words, match, run_cli, checkpoint):
    assert match in run_cli("check", checkpoint, *words).error


def test_fingerprints_are_printed_and_compared(run_cli, checkpoint, tuned):
    one = run_cli("fingerprint", checkpoint)
    assert one.out == f"{bs.load(checkpoint, dtype='bfloat16').fingerprint()}  {checkpoint}\n"
    assert run_cli("fingerprint", checkpoint, checkpoint).out.endswith("the same, bit for bit\n")
    two = run_cli("fingerprint", checkpoint, tuned)
    assert two.code == 1
    assert [line.split()[1] for line in two.out.splitlines()[2:]] == [MOVED]
    body = json.loads(run_cli("fingerprint", checkpoint, tuned, "--json").out)
    assert len(set(body["fingerprints"].values())) == 2
    assert body["different"][0]["tensor"] == MOVED
    assert "no model at" in run_cli("fingerprint", checkpoint, "/no/such").error

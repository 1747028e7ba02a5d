"""The commands check and fingerprint."""

from __future__ import annotations

import json
import shutil
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


def test_a_dry_run_measures_nothing(run_cli, checkpoint, tuned, tmp_path):
    ended = run_cli("check", checkpoint, tuned, "-t", "basic", "--limit", 4, "--dry-run", "--json")
    assert (ended.code, json.loads(ended.out)["settings"]) == (0, 2)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["quantised:8", "--on", "basic"], "--on basic; allowed: TASK=LOSS"),
        (["quantised:8", "--on", "=0.1"], "--on =0.1; allowed: TASK=LOSS"),
        (["quantised:8", "--metric", "acc"], "--metric acc without --logs"),
        (["quantised:8", "-t", "nonsense"], "task 'nonsense'"),
        (["random", "-t", "basic"], "no model is behind random"),
        (["/no/such", "-t", "basic"], "no model at '/no/such'"),
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

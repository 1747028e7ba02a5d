"""``basinscope widen``: one line, one call; errors in one line; the dry run."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest
import yaml
from command_line import ended


@pytest.fixture
def run_cli(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    return partial(ended, capsys)


@pytest.fixture
def recipe(tiny, tmp_path, texts):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(tiny(methods=["adamw"], finetune={"steps": 4})))
    return path


def test_widen_prints_a_table_and_resumes(run_cli, recipe, texts):
    code, out, err = run_cli("widen", recipe, "--data-dir", texts)
    assert code == 0
    assert out.splitlines()[1].startswith("adamw seed 0")
    assert out.splitlines()[-1] == "run: runs/widen-small"
    assert "1 rows of 60 steps and 4 of fine-tuning" in err
    assert Path("runs/widen-small/rows/adamw-s0.json").is_file()
    code, again, _ = run_cli("widen", recipe, "--data-dir", texts)
    assert (code, again) == (0, out)
    code, out, _ = run_cli("widen", recipe, "--data-dir", texts, "--json")
    assert code == 0
    assert out.count("\n") == 1
    assert json.loads(out)["rows"][0]["label"] == "adamw"


def test_the_dry_run_writes_nothing(run_cli, recipe, texts):
    code, out, _ = run_cli("widen", recipe, "--dry-run", "--data-dir", texts)
    assert code == 0
    assert "7,680 tokens a row" in out
    assert "all rows: about" in out
    code, out, _ = run_cli("widen", "gpt2-owt", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["parameters"] == 124_439_808
    assert not Path("runs").exists()


WRONG = {
    "recipe": (["twin-1"], "error: no recipe 'twin-1'; allowed: .*; try: twin-1m"),
    "no data": (["twin-0.2m"], "error: no text 'text/tinystories_cased_2MiB.txt'"),
    "row": (["small.yaml", "--only", "sam"], "error: no row 'sam'; allowed: adamw-s0"),
    "device": (["small.yaml", "--device", "tpu"], "error: device='tpu'; allowed: auto, cpu"),
    "key": (["bad.yaml"], "error: recipe bad.yaml: unknown key 'tokns'; .*try: tokens"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_errors_are_one_line(words, message, run_cli, recipe, tiny, monkeypatch):
    monkeypatch.delenv("BASINSCOPE_DATA", raising=False)
    Path("bad.yaml").write_text(yaml.safe_dump(tiny() | {"tokns": 1}))
    code, out, err = run_cli("widen", *words)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert re.match(message, err), err

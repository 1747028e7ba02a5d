"""`basinscope attack`: what it prints where, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from basinscope import cli


@pytest.fixture
def run_cli(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    Path("text.txt").write_text("a few words, and a few more of them\n" * 60)

    def run(*words):
        code = 0
        capsys.readouterr()
        try:
            cli.main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


LINE = ("--on", "text.txt", "--radius", 1, "--steps", 4, "--limit", 2)


@pytest.mark.usefixtures("no_figure")
def test_table_picture_line_and_resume(run_cli, checkpoint):
    code, out, err = run_cli("attack", checkpoint, *LINE, "--run", "x", "-t", "math")
    assert code == 0
    assert "Collapse radius at level 0.5" in out
    for word in ("text.txt (attacked)", "text.txt (held out)", "math", "upper bounds"):
        assert word in out
    line = re.search(r"to draw it: basinscope (.*)\n", out).group(1).split()
    assert line[2:] == ["-d", "saved:x/worst.safetensors", "--dtype", "float32"]
    assert "pga attack on text.txt, in x" in err
    line += ["--tasks", "basic", "--limit", 3, "--steps", "0.1", "--workers", 1, "--json"]
    code, drawn, _ = run_cli(*line)
    assert code == 0
    assert json.loads(drawn)["widths"][0]["direction"] == "saved:x/worst.safetensors"
    code, again, _ = run_cli("attack", checkpoint, *LINE, "--run", "x", "-t", "math")
    assert (code, again) == (0, out)


def test_json_is_one_object(run_cli, checkpoint):
    code, out, _ = run_cli("attack", checkpoint, *LINE, "--json", "--method", "proxy")
    assert code == 0
    assert out.count("\n") == 1
    found = json.loads(out)
    assert found["method"] == "proxy"
    assert found["run"] == f"runs/{checkpoint.name}-attack"
    assert Path(found["direction"]).is_file()
    assert {(e["task"], e["sign"]) for e in found["collapse"]} == {
        (f"text.txt ({part})", sign) for part in ("attacked", "held out") for sign in (1, -1)
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--on", "bassic"), "--on bassic: no such file, and task 'bassic'.*did you mean basic"),
        (("--on", "mini"), "--on mini names 4 tasks; allowed: one task, or a text file"),
        (("--on", "safety"), "'safety' has no reference answer"),
        (("--on", "text.txt", "--method", "x"), "method 'x'; allowed: pga, proxy"),
        (("--on", "text.txt", "--lr", "-1"), "lr=-1.0; allowed: finite, lr above 0"),
        ((), "--on"),
    ],
)
def test_what_is_refused(run_cli, checkpoint, words, message):
    code, out, err = run_cli("attack", checkpoint, *words)
    assert code == 2
    assert out == ""
    assert re.search(message, err.replace("\n", " "))
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not Path("runs").exists()

"""`basinscope attack`: what it prints where, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def text(tmp_path):
    (tmp_path / "text.txt").write_text("a few words, and a few more of them\n" * 60)


LINE = ("-t", "text.txt", "--radius", 1, "--steps", 4, "--limit", 2)


@pytest.mark.usefixtures("no_figure")
def test_table_picture_line_and_resume(run_cli, checkpoint):
    code, out, err = run_cli("attack", checkpoint, *LINE, "--run", "x", "--measure", "math")
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
    code, again, _ = run_cli("attack", checkpoint, *LINE, "--run", "x", "--measure", "math")
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

"""Noise in the fine-tuning stage, small: a tiny model, a few examples, every part of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location(
    "widened_finetune", ROOT / "examples" / "widened_finetune.py"
)
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)


def test_every_part_runs_and_resumes(checkpoint, data, tmp_path, capsys):
    (data / "text").mkdir()
    (data / "text" / "wikitext2_valid.txt").write_text("one two three four five " * 400)
    words = [
        "--model", str(checkpoint), "--data-dir", str(data), "--output", str(tmp_path / "out"),
        "--limit", "3", "--examples", "8", "--save-every", "1", "--draws", "2", "--steps", "0,0.1",
        "--sigmas", "0.02",
    ]  # fmt: skip
    out = example.main(words)
    curves = pd.read_csv(out / "curves.csv")
    assert set(zip(curves["method"], curves["sigma"], strict=True)) == {
        ("full", 0.0), ("full", 0.02), ("lora", 0.0), ("lora", 0.02)
    }  # fmt: skip
    start = curves[curves["step"] == 0]
    assert start["old_nll"].nunique() == start["new_nll"].nunique() == 1
    assert (curves[curves["step"] == 1]["new_nll"].to_numpy() != start["new_nll"].to_numpy()).all()
    basins = pd.read_csv(out / "basins.csv")
    assert set(basins["task"]) == {"advbench", "basic"}
    assert set(basins["step"]) == {0.0, 0.1}
    before = (out / "curves.csv").read_bytes()
    example.main(words)
    assert (out / "curves.csv").read_bytes() == before
    assert "basins" in capsys.readouterr().out


def test_forgetting_is_read_where_both_have_learnt_the_same():
    rows = [
        {"method": "full", "sigma": sigma, "step": k, "new_nll": 4.0 - k, "old_nll": 2 + slope * k}
        for sigma, slope in ((0.0, 1.0), (0.01, 0.4))
        for k in range(3)
    ]
    found = example.forgetting(pd.DataFrame(rows)).set_index(["sigma", "share"])
    assert found.loc[(0.01, 0.5), "less"] == pytest.approx(0.6)
    assert found.loc[(0.0, 0.75), "forgetting"] == pytest.approx(1.5)

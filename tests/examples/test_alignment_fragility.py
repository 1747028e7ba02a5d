"""The story of alignment's fragility, small: a tiny model, a few examples, every part of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location(
    "alignment_fragility", ROOT / "examples" / "alignment_fragility.py"
)
story = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(story)


def test_every_part_runs_and_resumes(checkpoint, data, tmp_path, capsys):
    words = [
        "--model", str(checkpoint), "--data-dir", str(data), "--output", str(tmp_path / "out"),
        "--limit", "3", "--examples", "4", "--tune-examples", "4", "--draws", "2",
        "--attack-steps", "2", "--steps", "0,0.1", "--benign-data", str(data / "own.jsonl"),
    ]  # fmt: skip
    out = story.main(words)
    scores = pd.read_csv(out / "scores.csv")
    assert set(scores["model"]) == {"before", "aligned", "benign", "normal", "adversarial"}
    assert set(scores["task"]) == {"advbench", "xstest", "basic"}
    assert (scores.query("model not in ('before',)")["displacement"] > 0).all()
    widths = pd.read_csv(out / "widths.csv")
    assert set(widths["direction"]) == {"random", "benign", "normal", "adversarial"}
    cosines = pd.read_csv(out / "cosines.csv", index_col=0)
    assert list(cosines.columns) == ["benign", "normal", "adversarial", "worst"]
    assert (pd.read_csv(out / "worst.csv")["task"] == "basic").all()
    for name in ("slices.png", "before_and_after.png"):
        assert (out / name).stat().st_size > 10_000
    before = (out / "widths.csv").read_bytes()
    story.main(words)
    assert (out / "widths.csv").read_bytes() == before
    assert "cosines" in capsys.readouterr().out

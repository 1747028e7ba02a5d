"""A fine-tune under a certificate, small: a tiny model, a few examples, every part of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location(
    "guaranteed_finetune", ROOT / "examples" / "guaranteed_finetune.py"
)
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)


def test_every_part_runs_and_resumes(checkpoint, data, tmp_path, capsys):
    words = [
        "--model", str(checkpoint), "--data-dir", str(data), "--output", str(tmp_path / "out"),
        "--limit", "8", "--new-limit", "3", "--examples", "8", "--sigmas", "0.05,0.1",
        "--shares", "0.8", "--draws", "60", "--check-draws", "2", "--control-draws", "30",
    ]  # fmt: skip
    out = example.main(words)
    trade = pd.read_csv(out / "trade.csv", index_col="model")
    assert list(trade.index) == ["base", "pilot", "within-0.8"]
    within = trade.loc["within-0.8"]
    assert within["word"] == "certified"
    assert within["r"] <= within["R"]
    assert within["certified"] >= 0.8 * within["old_score_base"] - 1e-9
    others = pd.read_csv(out / "geometries.csv")
    assert set(others["geometry"]) == {
        "isotropic",
        "rms",
        "params:norm|ln_|bias",
        "random-subspace:1",
    }
    assert (others["word"] != "certified").all()
    assert "the score of a single model without noise" in capsys.readouterr().out
    before = (out / "trade.csv").read_bytes()
    example.main(words)
    assert (out / "trade.csv").read_bytes() == before

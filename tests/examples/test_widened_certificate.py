"""Certificates after training under noise in their subspace, small: every part of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location(
    "widened_certificate", ROOT / "examples" / "widened_certificate.py"
)
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)


def test_every_part_runs_and_resumes(checkpoint, data, tmp_path, capsys):
    words = [
        "--model", str(checkpoint), "--data-dir", str(data), "--output", str(tmp_path / "out"),
        "--limit", "6", "--examples", "6", "--noise", "0.05", "--sigmas", "0.05",
        "--shares", "0.5", "--draws", "30",
    ]  # fmt: skip
    out = example.main(words)
    radii = pd.read_csv(out / "radii.csv")
    assert list(radii["model"]) == ["before", "trained-0", "trained-0.05"]
    assert (radii["p_lower"] > 0).all()
    assert "certified" in capsys.readouterr().out
    before = (out / "radii.csv").read_bytes()
    example.main(words)
    assert (out / "radii.csv").read_bytes() == before

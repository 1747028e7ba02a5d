"""The commands for planes and angles: what they print and where they write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def line(checkpoint):
    return ["surface", checkpoint, "-t", "basic", "--limit", 3, "--xs", "0,0.1", "--ys", "-0.1,0",
            "--workers", 1, "--run", "x"]  # fmt: skip


@pytest.fixture(scope="module")
def moved(checkpoint, tmp_path_factory) -> Path:
    """Training run with one checkpoint of slightly other weights."""
    from safetensors.torch import load_file, save_file

    run = tmp_path_factory.mktemp("training")
    shutil.copytree(checkpoint, run / "checkpoint-5")
    weights = load_file(checkpoint / "model.safetensors")
    weights = {name: (w + 0.01).to(w.dtype) for name, w in weights.items()}
    save_file(weights, run / "checkpoint-5" / "model.safetensors", metadata={"format": "pt"})
    return run


def test_a_dry_run_of_a_surface_writes_nothing(line, run_cli):
    code, out, _ = run_cli(*line, "--dry-run")
    assert code == 0
    assert out.startswith("4 settings of the weights x 3 items = 12 evaluations, ")
    assert not Path("x").exists()


def test_surface_prints_and_writes(line, run_cli):
    code, out, err = run_cli(*line)
    assert code == 0
    assert "over 4 points of one plane" in out
    assert "picture: x/figures/surface.png" in out
    assert "report:  x/report.html" in out
    assert "\n4 points of the plane x 3 items = 12 evaluations" in err
    assert sorted(p.name for p in Path("x/figures").iterdir()) == ["surface.csv", "surface.png"]
    again = run_cli(*line)
    assert "4 of 4 trials are there already" in again[2]
    shutil.rmtree("x/figures")
    assert run_cli("report", "x")[1] == "report:  x/report.html\n"
    assert Path("x/figures/surface.png").exists()
    assert run_cli("verify", "x")[1] == "4 records verified\n"
    status = run_cli("status", "x")[1]
    assert "surface of" in status
    assert "plane of random and random:1" in status
    assert "basic: 4 trials of 3 items at 4 points" in status
    summary = json.loads(run_cli("status", "x", "--json")[1])
    assert [len(summary["points"]), summary["x"], summary["trials"]] == [4, "random", 4]
    code, _, err = run_cli("report", "x", "--rms")
    assert code == 2
    assert "further runs for a surface" in err


def test_a_path_of_checkpoints_on_an_orthogonal_plane(line, moved, run_cli):
    code, out, _ = run_cli(
        *line, "-y", f"to:{moved / 'checkpoint-5'}", "--orthogonal", "--trajectory", moved, "--json"
    )
    assert code == 0
    found = json.loads(out)
    assert found["cosine"] == pytest.approx(0, abs=1e-6)
    assert [row["label"] for row in found["trajectory"]] == ["start", "checkpoint-5"]
    assert found["trajectory"][1]["residual"] < 0.01, "the plane was made to hold it"
    assert Path("x/figures/surface.trajectory.csv").exists()


def test_cosines_of_words_and_of_a_run(checkpoint, moved, run_cli):
    to = f"to:{moved / 'checkpoint-5'}"
    code, out, _ = run_cli("cosines", checkpoint, "-d", "random", "-d", to)
    assert code == 0
    assert "independent random directions: 0 ± " in out
    assert not Path("figures").exists()
    run_cli("landscape", checkpoint, "-t", "basic", "--limit", 2, "--draws", 1, "--steps", "0.1",
            "--workers", 1, "--run", "r", "-d", to, "-d", "random:3")  # fmt: skip
    found = json.loads(run_cli("cosines", checkpoint, "--run", "r", "-d", "random", "--json")[1])
    assert found["directions"] == ["random", to, "random:3"]
    assert found["cosines"][0][0] == 1
    assert found["figure"] == "r/figures/cosines.png"
    run_cli("report", "r")
    assert "Cosines between directions" in Path("r/report.html").read_text()


def test_interpolation(checkpoint, moved, run_cli):
    words = ["landscape", checkpoint, "-t", "basic", "--limit", 2, "--workers", 1, "--run", "i"]
    to = f"to:{moved / 'checkpoint-5'}"
    code, out, _ = run_cli(*words, "-d", to, "--interpolate", 3, "--json")
    assert code == 0
    found = json.loads(out)
    (last,) = {row["sits_at"] for row in found["widths"]}
    steps = [row["step"] for row in found["means"]]
    assert steps == pytest.approx([0, last / 2, last, 1.5 * last])
    code, _, err = run_cli(*words, "-d", "random", "--interpolate", 3)
    assert code == 2
    assert "no model is behind random" in err


def test_a_checkpoint_that_does_not_fit_is_said_before_anything_is_measured(line, run_cli):
    assert "nosuch" in run_cli(*line, "--trajectory", "nosuch").err.splitlines()[-1]
    assert not Path("x").exists()


def test_the_overlay_in_units_of_rms(checkpoint, run_cli):
    for run, direction in (("a", "random"), ("b", "random:1")):
        run_cli("landscape", checkpoint, "-t", "basic", "--limit", 2, "--draws", 1, "--steps",
                "0.1", "--workers", 1, "--run", run, "-d", direction)  # fmt: skip
    assert run_cli("report", "a", "b", "--rms")[1] == "a/figures/overlay.png\n"
    assert "step_rms" in Path("a/figures/overlay.csv").read_text()

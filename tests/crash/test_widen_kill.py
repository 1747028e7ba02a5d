"""A study that is killed with signal 9 resumes to the weights of one that was not, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import basinscope as bs
from basinscope import cli

STEPS, EVERY, KILL_AT, PATIENCE_S = 120, 5, 30, 120.0
TIMES = {"train_s", "step_s", "finetune_s"}
RECIPE = {
    "model": {"layers": 1, "width": 16, "heads": 2}, "tokenizer": 280,
    "text": {"files": ["text.txt"], "hold_out": 0.2}, "tokens": STEPS * 4 * 16, "repeat": 50,
    "context": 16, "batch": 4, "lr": 0.01, "compute": "float32", "attention": "eager",
    "methods": [{"name": "go", "options": {"sigma": 0.01, "average": "ema:0.9"}}],
    "checkpoint_every": EVERY,
    "measure": {"windows": 8, "validation": 8, "draws": 2, "over_training": [0.1],
                "over_draws": 1},
    "finetune": {"text": {"files": ["text.txt"], "hold_out": 0.2}, "steps": 8, "batch": 4,
                 "repeat": 50},
}  # fmt: skip


def start(line: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "basinscope.cli", *line],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # as many threads as the run in this process, which the same bits need
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def kill_after(process: subprocess.Popen, run: Path, step: int) -> int:
    """Kill when a checkpoint of so many steps is there; steps of the last one."""
    deadline = time.monotonic() + PATIENCE_S

    def last() -> int:
        return max((int(p.name[5:]) for p in run.glob("rows/*/training/step-*")), default=0)

    while last() < step:
        assert time.monotonic() < deadline, "it takes too long"
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.002)
    process.kill()
    process.wait()
    return last()


def test_killed_it_resumes_to_the_same_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BASINSCOPE_CACHE", str(tmp_path / "cache"))
    words = "one two three four five six seven eight nine ten".split()
    stories = [" ".join(words[(i * k) % 10] for k in range(40)) for i in range(1, 60)]
    (tmp_path / "text.txt").write_text("<|endoftext|>".join(f"{i} {s}" for i, s in
                                                            enumerate(stories)))  # fmt: skip
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    whole = bs.widen(recipe, run=tmp_path / "whole")
    run = tmp_path / "run"
    line = ["widen", str(recipe), "--run", str(run), "--json"]
    reached = kill_after(start(line), run, KILL_AT)
    assert KILL_AT <= reached < STEPS - EVERY, "in the middle"
    assert not list(run.glob("rows/*.json"))
    capsys.readouterr()
    cli.main(line)
    printed = json.loads(capsys.readouterr().out)
    again = bs.load_run(run)
    for one, other in zip(whole.rows, again.rows, strict=True):
        assert one.model_dump(exclude=TIMES) == other.model_dump(exclude=TIMES)
    assert printed["rows"][0]["nll"] == whole.rows[0].nll
    first, second = (
        next(folder.glob("rows/*/model/model.safetensors")).read_bytes()
        for folder in (tmp_path / "whole", run)
    )
    assert first == second
    assert not list(run.rglob("step-*"))
    assert not list(run.rglob(".draft-*"))


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

"""Training that is killed with signal 9 resumes to the weights of one that was not, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import basinscope as bs
from basinscope import cli

ROWS = [{"instruction": f"add {i}", "output": f"{i + 1}!"} for i in range(24)]
STEPS, EVERY, KILL_AT, PATIENCE_S = 60, 3, 21, 120.0


def words(checkpoint: Path, data: Path, output: Path) -> list[str]:
    return [
        "finetune", str(checkpoint), "--data", str(data), "--run", str(output),
        "--steps", str(STEPS), "--batch", "2", "--lr", "1e-3", "--set", f"save_every={EVERY}",
        "--json",
    ]  # fmt: skip


def start(line: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "basinscope.cli", *line],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # as many threads as the run in this process, which the same bits need
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )


def kill_at(process: subprocess.Popen, output: Path) -> int:
    """Kill when a checkpoint of so many steps is there; steps of the last one."""
    deadline = time.monotonic() + PATIENCE_S

    def last() -> int:
        found = sorted((output / "checkpoints").glob("step-*"))
        return int(found[-1].name[5:]) if found else 0

    while last() < KILL_AT:
        assert time.monotonic() < deadline, "it takes too long"
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.002)
    process.kill()
    process.wait()
    return last()


def test_killed_it_resumes_to_the_same_weights(checkpoint, tmp_path, capsys):
    data = tmp_path / "data.json"
    data.write_text(json.dumps(ROWS))
    whole = bs.finetune(
        checkpoint, data, run=tmp_path / "whole", steps=STEPS, batch=2, lr=1e-3,
        save_every=EVERY,
    )  # fmt: skip
    output = tmp_path / "out"
    line = words(checkpoint, data, output)
    reached = kill_at(start(line), output)
    assert KILL_AT <= reached < STEPS - EVERY, "in the middle"
    assert not (output / "model.safetensors").exists()
    for folder in (output / "checkpoints").glob("step-*"):
        bs.load(folder)  # each is whole
    capsys.readouterr()
    cli.main(line)
    printed = capsys.readouterr()
    assert f"; {reached} of {STEPS} steps are there already" in printed.err
    found = json.loads(printed.out)
    assert found["losses"] == list(whole.losses)
    assert found["displacement"] == whole.displacement
    first, second = (
        bs.load(folder, dtype="float32").fingerprint() for folder in (whole.folder, output)
    )
    assert first == second
    assert not list(output.rglob(".draft-*"))


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

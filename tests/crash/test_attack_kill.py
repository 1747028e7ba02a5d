"""Killed with signal 9 between two starts, an attack goes on and comes to the same direction."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from basinscope import cli

PATIENCE_S = 120.0


@pytest.fixture
def words(checkpoint, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("some words that repeat, some words that do not\n" * 60)

    def make(run: Path) -> list[str]:
        return ["attack", str(checkpoint), "-t", str(text), "--radius", "1", "--steps", "48",
                "--starts", "12", "--limit", "2", "--run", str(run), "--json"]  # fmt: skip

    return make


def test_killed_and_resumed(words, tmp_path, capsys):
    run, state = tmp_path / "killed", tmp_path / "killed" / "state.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-m", "basinscope.cli", *words(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    deadline = time.monotonic() + PATIENCE_S
    while not state.exists():
        assert time.monotonic() < deadline, "it takes too long"
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (run / "worst.safetensors").exists(), "in the middle"
    found = []
    for folder in (run, tmp_path / "whole"):
        cli.main(words(folder))
        found.append(json.loads(capsys.readouterr().out))
    killed, whole = found
    assert killed["starts"] == whole["starts"]
    assert len(whole["starts"]) == 12
    for key in ("loss", "radius", "best", "loss_at_zero"):
        assert killed[key] == whole[key]
    one, two = (load_file(f["direction"]) for f in found)
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert one.keys() == two.keys()

"""A surface that was killed at any instant resumes to the bytes of an uninterrupted one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import basinscope as bs
from basinscope import cli

GRID = "0:0.03:6"


def records(run: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (run / "trials").glob("*.json")}


def test_killed_and_resumed(checkpoint, tmp_path, capsys):
    run, options = (
        tmp_path / "run",
        ["--xs", GRID, "--ys", GRID, "-t", "basic,math", "--limit", "3"],
    )
    line = ["surface", str(checkpoint), *options, "--workers", "1", "--run", str(run), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "basinscope.cli", *line],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(records(run)) < 20:
        assert time.monotonic() < deadline, "it takes too long"
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.005)
    process.kill()
    process.wait()
    kept = records(run)
    assert 20 <= len(kept) < 72, "in the middle"
    cli.main(line)
    assert "points" in capsys.readouterr().out
    whole = tmp_path / "whole"
    bs.surface(
        bs.load(checkpoint), bs.tasks("basic,math", limit=3), bs.Random(0), bs.Random(1),
        xs=cli.parse_steps(GRID), ys=cli.parse_steps(GRID), run=whole,
    )  # fmt: skip
    assert len(records(run)) == 72
    assert records(run) == records(whole)
    assert kept.items() <= records(run).items()

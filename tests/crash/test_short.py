"""Short forms of ``python -m tests.crash``, whose long ones kill and fail every kind of line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


def crash(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", *words],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("; 0 wrong")
    return done.stdout


def test_killed_starved_and_misled_lines_lose_nothing():
    """Some kills; a disk that fails at some writes; a clock that goes back."""
    out = crash("--only", "certify-tokens", "--kills", "2", "--clock", "--disk", "--every", "9")
    kills = re.search(r"^certify-tokens +2 +0 +\d+ ", out, re.MULTILINE)
    fails = re.search(r"^certify-tokens +\d+ +(\d+) +\d+ +\d+ +\d+ +0 ", out, re.MULTILINE)
    assert kills
    assert fails
    assert int(fails[1]) >= 8
    assert out.count("clock set back") == 1

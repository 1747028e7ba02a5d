"""Command lines by grammar, in short; the long form is a command (`fuzz.lines`)."""

import subprocess
import sys
from pathlib import Path


def test_eighty_lines_end_as_they_should():
    command = [sys.executable, "-m", "tests.fuzz.lines", "--seed", "7", "--lines", "80"]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    assert "had to be refused" in ended.stdout

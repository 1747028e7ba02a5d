"""A surface's records are the same, byte for byte, wherever its points are measured."""

from __future__ import annotations

import basinscope as bs
from basinscope.directions.words import direction
from basinscope.runs import executor


def test_one_and_two_workers(checkpoint, tmp_path, monkeypatch):
    engine, tasks = bs.load(checkpoint), bs.tasks("basic,safety", limit=3)
    started = []
    real = executor.Processes.__init__

    def start(self, *args, **options):
        started.append(1)
        real(self, *args, **options)

    monkeypatch.setattr(executor.Processes, "__init__", start)
    found = {}
    for workers in (1, 2):
        run = tmp_path / str(workers)
        bs.surface(
            engine, tasks, bs.Random(0), direction("pruned:0.3"), xs=[-0.02, 0, 0.3], ys=[0, 0.01],
            orthogonal=True, run=run, workers=workers,
        )  # fmt: skip
        found[workers] = {p.name: p.read_bytes() for p in (run / "trials").iterdir()}
    assert started == [1], "words name both axes and every point, so workers can rebuild them"
    assert len(found[1]) == 12
    assert found[1] == found[2]

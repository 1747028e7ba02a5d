"""The same records, byte for byte, wherever and in whatever order the units run."""

from __future__ import annotations

import json
import random

import pytest
import torch

import basinscope as bs
from basinscope.directions import save_direction
from basinscope.runs import executor
from basinscope.runs.bench import Bench, Unit
from basinscope.runs.spec import model_spec, task_spec
from basinscope.runs.store import Store

TASKS = ("basic", "math", "safety")
EVERY = tuple(range(len(TASKS)))
UNITS = [
    Unit(None, 0, 0.0, EVERY),
    *(Unit(d, k, s, EVERY) for d in (0, 1) for k in (0, 1) for s in (-0.02, 0.3)),
    *(Unit(d, 0, 0.1, EVERY) for d in (2, 3)),
    Unit(0, 5, 1e4, EVERY),  # weights so far out that the logits are not finite or make no sense
]


@pytest.fixture(scope="module")
def bench(checkpoint, tmp_path_factory):
    engine = bs.load(checkpoint)
    other = tmp_path_factory.mktemp("direction") / "other.safetensors"
    save_direction(other, {n: bs.Random(3).delta(engine, n) for n in engine.shapes}, {})
    tasks = tuple(bs.tasks(",".join(TASKS), limit=4))
    specs = tuple(task_spec(t) for t in tasks)
    lines = (bs.Random(0), bs.Random(7), bs.Quantised(4, 8), bs.Saved(other))
    return Bench(engine, lines, tasks, model_spec(engine), specs)


@pytest.fixture
def written(bench, tmp_path):
    """Bytes of the records that an executor's trials are kept as."""

    def write(team, units=UNITS) -> dict[str, bytes]:
        engine, lines, tasks = bench.engine, bench.directions, bench.tasks
        spec = bs.landscape(engine, tasks, directions=lines, steps=[0], draws=1).spec
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        store = Store(folder, spec)
        for trial in team.run(units):
            store.put(trial)
        return {p.name: p.read_bytes() for p in (folder / "trials").iterdir()}

    return write


@pytest.fixture(scope="module")
def reference(bench, tmp_path_factory):
    found = {}
    for unit in UNITS:
        found.update({f"{trial.address}.json": trial for _, trial in bench.measure(unit)})
    return found


def test_serial_with_one_and_two_threads_and_shuffled(bench, written, reference):
    one = written(executor.Serial(bench))
    assert one.keys() == reference.keys()
    assert len(one) == len(UNITS) * len(TASKS)
    assert len({t.correct for t in reference.values()}) > 3, "the toy has opinions"
    shuffled = random.Random(0).sample(UNITS, len(UNITS))
    assert written(executor.Serial(bench), shuffled) == one
    singly = [Unit(u.direction, u.draw, u.step, (t,)) for u in shuffled[:3] for t in u.tasks]
    assert written(executor.Serial(bench), singly).items() <= one.items()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert written(executor.Serial(bench)) == one
    finally:
        torch.set_num_threads(threads)


def test_processes_of_one_two_and_three_workers(bench, written):
    one = written(executor.Serial(bench))
    team = executor.Processes(bench, 1)
    try:
        for workers in (1, 2, 3):  # a team grows when there is work, so each starts but once
            team.workers = workers
            shuffled = random.Random(workers).sample(UNITS, len(UNITS))
            assert written(team, shuffled) == one
            assert len(team._team) == workers
    finally:
        team.close()


def test_other_batches(bench, written):
    """Serial only: the budget is no part of the address, so it may change no byte."""
    one = written(executor.Serial(bench))
    budget = bench.engine.token_budget
    try:
        for other in (64, 1024):
            bench.engine.token_budget = other
            again = written(executor.Serial(bench), UNITS[:4])
            if bench.engine.forward.ordered():
                assert again.items() <= one.items()
            else:  # the engine knows that answers there depend on their company, to rounding
                for name, record in again.items():
                    new, old = json.loads(record), json.loads(one[name])
                    assert new["correct"] == old["correct"]
                    for a, b in zip(new["nlls"], old["nlls"], strict=True):
                        assert a == (b if b is None else pytest.approx(b, rel=1e-4))
    finally:
        bench.engine.token_budget = budget


def test_a_module_in_memory_is_measured_in_this_process(tmp_path):
    """It asks for workers and gets none: code in memory cannot be named by a word."""
    engine = bs.load(torch.nn.Linear(20, 1, bias=False))
    asked = []

    def signs(module):
        asked.append(1)
        return (module.weight[0] > 0).int()

    task = bs.CallableTask("signs", signs, n_items=20)
    plan = {"steps": [-1, 1], "draws": 3}
    many = bs.landscape(engine, task, **plan, workers=4, run=tmp_path / "many")
    assert len(asked) == 7
    one = bs.landscape(engine, task, **plan, workers=1, run=tmp_path / "one")
    assert many.trials == one.trials
    assert {p.name: p.read_bytes() for p in (tmp_path / "many" / "trials").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "one" / "trials").iterdir()
    }


def test_a_search_leaves_the_same_records_with_one_and_two_workers(checkpoint, tmp_path):
    """Where it looks depends on the records alone, and they on nothing but the spec."""
    engine, tasks = bs.load(checkpoint), bs.tasks("basic,safety", limit=30)
    found = []
    for workers in (1, 2):
        run = tmp_path / str(workers)
        land = bs.landscape(engine, tasks, draws=2, outcomes=40, run=run, workers=workers)
        found.append({p.name: p.read_bytes() for p in (run / "trials").iterdir()})
        assert any(not trial.whole for trial in land.trials)
    assert found[0] == found[1]

"""Workers that die, lie or cannot start; what a worker rebuilds and checks."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import basinscope as bs
from basinscope.runs import executor, worker
from basinscope.runs.bench import Bench, Unit
from basinscope.runs.spec import model_spec, task_spec

UNITS = [Unit(None, 0, 0.0, (0,)), Unit(0, 0, 0.01, (0,))]


@pytest.fixture
def bench(checkpoint):
    engine = bs.load(checkpoint, dtype="bfloat16")
    tasks = tuple(bs.tasks("basic", limit=2))
    specs = tuple(task_spec(t) for t in tasks)
    return Bench(engine, (bs.Random(0),), tasks, model_spec(engine), specs)


@pytest.fixture
def impostor(tmp_path, monkeypatch):
    """Let a shell script stand in for the worker's Python; it counts its starts."""

    def install(script: str):
        path = tmp_path / "impostor.sh"
        path.write_text(f"#!/bin/sh\necho started >> {tmp_path}/starts\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(executor, "sys", SimpleNamespace(executable=str(path)))
        return tmp_path / "starts"

    return install


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 3", "3"),
        ("kill -9 $$", "-9, SIGKILL"),
        ("""read order; printf '{"trial": {"addr'; exit 3""", "3"),
        ("read order; echo 'a library says hello'; exit 3", "3"),
    ],
    ids=["at once", "killed", "in the middle of a line", "after noise"],
)
def test_workers_that_die_are_replaced_twice_then_named(script, code, bench, impostor):
    starts = impostor(script)
    team = executor.Processes(bench, 1)
    try:
        with pytest.raises(
            bs.BasinscopeError,
            match=rf"^3 workers died with basic at step 0 in hand \(.* code {code}\); .*fewer",
        ):
            list(team.run(UNITS))
    finally:
        team.close()
    assert starts.read_text().count("started") == 3


@pytest.mark.timeout(30)
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_may_die_any_number_of_times_if_each_gets_something_done(workers, bench, impostor):
    """Each measures one unit and dies with the next in hand."""
    starts = impostor("""read order; read unit; echo '{"done": true}'; read unit; exit 3""")
    team = executor.Processes(bench, workers)
    try:
        assert list(team.run([Unit(0, k, 0.01, (0,)) for k in range(10)])) == []
    finally:
        team.close()
    assert starts.read_text().count("started") == 10, "the last may have nothing more to do"


@pytest.mark.timeout(30)
def test_error_of_a_worker_is_the_run_s(bench, impostor):
    impostor("""read order; echo '{"error": ["no room", "less", "more"]}'; sleep 60""")
    team = executor.Processes(bench, 2)
    with pytest.raises(bs.BasinscopeError, match=r"^no room; allowed: less; try: more$"):
        list(team.run(UNITS))
    processes = [w.process for w in team._team]
    team.close()
    assert len(processes) == 2
    assert all(p.poll() is not None and p.stdout.closed and p.stdin.closed for p in processes)
    team.close()  # twice is harmless


def test_the_last_units_are_handed_out_task_by_task():
    units = [Unit(0, k, 0.1, (0, 1, 2)) for k in range(4)]
    found = executor.portions(units, 2)
    assert found[:2] == units[:2]
    assert [(u.draw, u.tasks) for u in found[2:]] == [
        (k, (t,)) for k in (2, 3) for t in (0, 1, 2)
    ]  # fmt: skip
    assert executor.portions(units[:1], 4) == [Unit(0, 0, 0.1, (t,)) for t in (0, 1, 2)]
    assert executor.portions([], 4) == []


def test_no_more_workers_than_units(bench, impostor):
    starts = impostor("""read order; read unit; echo '{"error": ["enough", "less", "more"]}'""")
    team = executor.Processes(bench, 8)
    with pytest.raises(bs.BasinscopeError, match="enough"):
        list(team.run(UNITS[:1]))
    team.close()
    assert starts.read_text().count("started") == 1


# --- where units run ----------------------------------------------------------------------------


def test_live_objects_are_measured_in_this_process(bench, language_model, tokenizer):
    assert isinstance(executor.make(bench, 1, 10), executor.Serial)
    assert isinstance(executor.make(bench, 4, 1), executor.Serial)
    own = bs.CallableTask("own", lambda m: [1], n_items=1)
    module = bs.load(torch.nn.Linear(2, 1))
    for other in (
        replace(bench, tasks=(own,), task_specs=(task_spec(own),)),
        replace(bench, directions=(SimpleNamespace(label="random", delta=None),)),
        replace(bench, directions=(SimpleNamespace(label="mine", delta=None),)),
        Bench(module, bench.directions, bench.tasks, model_spec(module), bench.task_specs),
    ):
        assert executor.recipe(other) is None
        assert isinstance(executor.make(other, 4, 10), executor.Serial)


real_cores = executor.cores  # a fixture of the whole suite replaces it


def test_cores_are_those_that_this_process_may_use():
    assert real_cores() == len(os.sched_getaffinity(0))


def test_snapshot_of_a_live_module_goes_with_its_executor(language_model, tokenizer):
    engine = bs.load(language_model, dtype="bfloat16", tokenizer=tokenizer)
    tasks = tuple(bs.tasks("basic", limit=2))
    specs = tuple(task_spec(t) for t in tasks)
    bench = Bench(engine, (bs.Random(0),), tasks, model_spec(engine), specs)
    team = executor.make(bench, 2, 10)
    assert isinstance(team, executor.Processes)
    import json

    folder = json.loads(team._order)["folder"]
    assert os.path.exists(f"{folder}/model.safetensors")
    team.close()
    assert not os.path.exists(folder)


# --- what a worker rebuilds ---------------------------------------------------------------------


@pytest.fixture
def order(bench):
    words = executor.recipe(bench)
    return {**words, "folder": bench.engine.checkpoint, "token_budget": 512}


def test_worker_rebuilds_the_same_bench(bench, order):
    rebuilt = worker.rebuild(order)
    assert rebuilt.engine.token_budget == 512
    assert rebuilt.engine is not bench.engine
    assert [rebuilt.key(u, 0) for u in UNITS] == [bench.key(u, 0) for u in UNITS]
    for unit in UNITS:
        assert list(rebuilt.measure(unit)) == list(bench.measure(unit))


def test_worker_refuses_other_weights(order):
    order["model"]["fingerprint"] = "0" * 64
    with pytest.raises(bs.BasinscopeError, match="other weights than its parent"):
        worker.rebuild(order)


def test_worker_refuses_other_items(order):
    order["task_specs"][0]["items"] = "0" * 64
    with pytest.raises(bs.BasinscopeError, match="other items than its parent"):
        worker.rebuild(order)


def test_worker_refuses_other_directions(order):
    order["identities"][0] = "0" * 64
    with pytest.raises(
        bs.BasinscopeError, match=r"random.* is another direction than when the run"
    ):
        worker.rebuild(order)


def test_worker_command_is_this_python():
    assert executor.sys.executable == sys.executable

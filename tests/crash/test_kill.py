"""Killed at any instant, a run loses the trials in flight and nothing else, and resumes.

Real processes are killed with signal 9: nothing of theirs gets to clean up.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

import basinscope as bs
from basinscope import cli
from basinscope.runs import executor
from basinscope.runs.bench import Bench, Unit
from basinscope.runs.spec import model_spec, sha256, task_spec
from basinscope.runs.store import Store

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")

DRAWS, STEPS, TASKS, LIMIT = 2, "0.0005:0.03:60", "basic,math", 4
TRIALS = 2 * (1 + DRAWS * 60)
PATIENCE_S = 120.0


def words(checkpoint: Path, run: Path, workers: int) -> list[str]:
    return [
        "landscape", str(checkpoint), "-t", TASKS, "--limit", str(LIMIT), "--draws", str(DRAWS),
        "--steps", STEPS, "--workers", str(workers), "--run", str(run), "--json",
    ]  # fmt: skip


def start(checkpoint: Path, run: Path, workers: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "basinscope.cli", *words(checkpoint, run, workers)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def records(run: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (run / "trials").glob("*.json")}


def wait_until(reached, process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline, "it takes too long"
        assert process is None or process.poll() is None, "it ended by itself"
        time.sleep(0.002)


def state(pid: int) -> str | None:
    """State and parent of a process: ``R``, ``S``, ``Z``...; None if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def check_whole(run: Path) -> dict[str, bytes]:
    """Every record at a record's name is valid; at most a draft for each writer is left."""
    found = records(run)
    for name, text in found.items():
        body = json.loads(text)
        checksum = body.pop("checksum")
        assert checksum == sha256(body)
        assert name == f"{body['address']}.json" == f"{sha256(body['key'])}.json"
    others = [p.name for p in (run / "trials").iterdir() if p.name not in found]
    assert len(others) <= 1, "the parent alone writes"
    assert all(name.startswith(".draft-") for name in others)
    store = Store(run)
    assert len(list(store.trials())) == len(found)
    assert not store.set_aside
    return found


@pytest.fixture(scope="module")
def uninterrupted(checkpoint, tmp_path_factory) -> dict[str, bytes]:
    """Records of the same line, measured in one go in this process."""
    run = tmp_path_factory.mktemp("whole") / "run"
    bs.landscape(
        bs.load(checkpoint), bs.tasks(TASKS, limit=LIMIT), draws=DRAWS,
        steps=cli.parse_steps(STEPS), run=run, workers=1,
    )  # fmt: skip
    found = records(run)
    assert len(found) == TRIALS
    return found


def kill_after(process: subprocess.Popen, run: Path, more: int) -> list[int]:
    """Kill with signal 9 when this many further records exist; pids of its workers."""
    before = len(records(run))
    wait_until(lambda: len(list((run / "trials").glob("*.json"))) >= before + more, process)
    workers = children(process.pid)
    process.kill()
    process.wait()
    return workers


def test_killed_several_times_and_resumed_with_two_workers(checkpoint, tmp_path, uninterrupted):
    run = tmp_path / "run"
    kept: dict[str, bytes] = {}
    for more in (1, 70):
        process = start(checkpoint, run, workers=2)
        workers = kill_after(process, run, more)
        assert len(workers) == 2
        wait_until(lambda pids=workers: all(state(pid) in (None, "Z") for pid in pids))
        found = check_whole(run)
        assert len(found) >= len(kept) + more
        assert all(found[name] == text for name, text in kept.items()), "records never change"
        kept = found
    assert len(kept) < TRIALS, "in the middle"
    times = {p: p.stat().st_mtime_ns for p in (run / "trials").glob("*.json")}
    process = start(checkpoint, run, workers=2)
    assert process.wait(PATIENCE_S) == 0
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in times.items())
    assert check_whole(run) == uninterrupted


def test_killed_and_resumed_with_one_worker(checkpoint, tmp_path, uninterrupted, capsys):
    run = tmp_path / "run"
    process = start(checkpoint, run, workers=1)
    assert kill_after(process, run, 25) == [], "one worker is this process itself"
    kept = check_whole(run)
    assert 25 <= len(kept) < TRIALS
    cli.main(words(checkpoint, run, workers=1))
    assert json.loads(capsys.readouterr().out)["trials"] == TRIALS
    assert check_whole(run) == uninterrupted


# --- workers that are killed --------------------------------------------------------------------


@pytest.fixture
def bench(checkpoint):
    engine = bs.load(checkpoint)
    tasks = tuple(bs.tasks("basic,math", limit=LIMIT))
    specs = tuple(task_spec(t) for t in tasks)
    return Bench(engine, (bs.Random(0),), tasks, model_spec(engine), specs)


UNITS = [Unit(None, 0, 0.0, (0, 1)), *(Unit(0, k, 0.01, (0, 1)) for k in range(60))]


def test_a_killed_worker_is_replaced_and_nothing_is_lost_or_measured_twice(bench):
    team = executor.Processes(bench, 2)
    processes: list[subprocess.Popen] = []
    try:
        trials = []
        for trial in team.run(UNITS):
            trials.append(trial)
            if not processes:
                processes = [w.process for w in team._team]
                victim = next(w for w in team._team if w.unit is not None)
                victim.process.kill()
        assert len(team._team) == 2
        processes += [w.process for w in team._team]
    finally:
        team.close()
    assert all(state(p.pid) is None for p in processes), "no zombies"
    expected = [t for unit in UNITS for _, t in bench.measure(unit)]
    assert {t.address: t for t in trials} == {t.address: t for t in expected}
    assert len(trials) - len(expected) in (0, 1), "only what was in flight"


def measured(team, strike) -> list:
    """Trials of a run in which ``strike(trials so far)`` is called after each."""
    trials = []
    try:
        for trial in team.run(UNITS):
            trials.append(trial)
            strike(len(trials))
        assert all(w.process.poll() is None for w in team._team)
    finally:
        team.close()
    return trials


def check_same(bench, trials, in_flight: int) -> None:
    expected = [t for unit in UNITS for _, t in bench.measure(unit)]
    assert {t.address: t for t in trials} == {t.address: t for t in expected}
    assert len(trials) - len(expected) <= in_flight, "only what was in flight"


def test_a_worker_killed_with_the_last_unit_in_hand(bench):
    team, killed = executor.Processes(bench, 3), []

    def strike(n: int) -> None:
        busy = [w for w in team._team if w.unit is not None]
        if not killed and n >= 2 * len(UNITS) - 3 and len(busy) == 1:
            killed.append(busy[0].process)
            busy[0].process.kill()

    trials = measured(team, strike)
    check_same(bench, trials, in_flight=1)


def test_workers_killed_in_a_search_leave_its_records_and_its_way(checkpoint, tmp_path):
    engine, tasks, killed = bs.load(checkpoint), bs.tasks("basic,safety", limit=30), []

    def strike(done: int, _: int, __: str) -> None:
        if done // 3 > len(killed) < 3:
            for pid in children(os.getpid()):
                with suppress(FileNotFoundError, ProcessLookupError):
                    if b"basinscope.runs.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                        return

    options = {"draws": 2, "outcomes": 40}
    found = bs.landscape(engine, tasks, run=tmp_path / "a", workers=2, progress=strike, **options)
    alone = bs.landscape(engine, tasks, run=tmp_path / "b", workers=1, **options)
    assert len(killed) == 3
    assert records(tmp_path / "a") == records(tmp_path / "b")
    assert found.to_pandas().equals(alone.to_pandas())


def test_killed_again_and_again_it_gives_up_and_says_so(checkpoint, tmp_path):
    done = threading.Event()
    killed: set[int] = set()

    def kill_workers() -> None:
        while not done.wait(0.01):
            for pid in children(os.getpid()):
                with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                    command = Path(f"/proc/{pid}/cmdline").read_bytes()
                    if b"basinscope.runs.worker" in command and state(pid) not in (None, "Z"):
                        os.kill(pid, signal.SIGKILL)
                        killed.add(pid)

    killer = threading.Thread(target=kill_workers)
    killer.start()
    try:
        with pytest.raises(
            bs.BasinscopeError,
            match=r"^3 workers died with basic at .* code -9, SIGKILL\).*try: .*fewer --workers",
        ):
            bs.landscape(
                bs.load(checkpoint), bs.tasks("basic", limit=2), steps=[0.01, 0.02], draws=2,
                run=tmp_path / "run", workers=2,
            )  # fmt: skip
    finally:
        done.set()
        killer.join()
    assert len(killed) >= 3
    assert all(state(pid) is None for pid in killed), "no zombies"
    assert bs.load_run(tmp_path / "run").trials == ()

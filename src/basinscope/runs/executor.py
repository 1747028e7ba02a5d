"""Where units run: in this process, or in worker processes of one thread each.

An executor knows where, not what: it hands units to a bench and gives back trials as they come.
Workers are started as ``python -m basinscope.runs.worker`` and spoken to in lines of JSON, so
nothing is pickled and the user's script is not run again; they memory-map the pristine weights.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Protocol

from basinscope.directions import words
from basinscope.engines.dtypes import DTYPES
from basinscope.engines.loading import snapshot
from basinscope.engines.transformers import TransformersEngine
from basinscope.errors import BasinscopeError
from basinscope.runs.bench import Bench, Unit
from basinscope.runs.store import Trial
from basinscope.tasks.words import recipe as task_recipe

MAX_DEATHS = 3  # of workers with the same unit in hand, and nothing of it measured in between


class Executor(Protocol):
    """Runs units and yields their trials in any order."""

    workers: int

    def run(self, units: Sequence[Unit]) -> Iterator[Trial]:
        """Yield a trial as soon as it is measured."""
        ...

    def close(self) -> None:
        """Free what was started."""
        ...


class Serial:
    """Runs units one after another in this process."""

    workers = 1

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def run(self, units: Sequence[Unit]) -> Iterator[Trial]:
        """Yield a trial as soon as it is measured."""
        for unit in units:
            for _, trial in self.bench.measure(unit):
                yield trial

    def close(self) -> None:
        """Nothing was started."""


class Processes:
    """Runs units in worker processes, each of which takes the next when it is free.

    Args:
        bench: as in the parent; the workers rebuild it from words and check that fingerprint,
            items and directions are the same.
        workers: number of processes.

    Raises:
        BasinscopeError: from `run`, if three workers die with the same unit in hand, or one cannot
            rebuild the bench.
    """

    def __init__(self, bench: Bench, workers: int, *, token_budget: int | None = None) -> None:
        rebuilt = recipe(bench)
        assert rebuilt is not None, "ask recipe(bench) first"
        self.bench, self.workers = bench, workers
        self._snapshot = snapshot(bench.engine)
        folder = self._snapshot.__enter__()
        assert folder is not None
        budget = token_budget or getattr(bench.engine, "token_budget", None)
        self._order = json.dumps({**rebuilt, "folder": folder, "token_budget": budget})
        self._news: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = queue.SimpleQueue()
        self._team: list[_Worker] = []
        self._deaths: Counter[Unit] = Counter()

    def run(self, units: Sequence[Unit]) -> Iterator[Trial]:
        """Yield trials as workers measure them; units of a dead worker are taken up by others."""
        waiting = deque(portions(units, self.workers))
        left = len(waiting)
        while len(self._team) < min(self.workers, left):
            self._team.append(_Worker(self._order, self._news))
        for worker in self._team:
            worker.give(waiting)
        while left:
            worker, news = self._news.get()
            if worker not in self._team:
                continue
            if news is None:
                self._replace(worker, waiting)
            elif "trial" in news:
                assert worker.unit is not None
                worker.unit = replace(worker.unit, tasks=worker.unit.tasks[1:])
                yield Trial.model_validate(news["trial"])
            elif "error" in news:
                raise BasinscopeError(*news["error"])
            elif "done" in news:
                worker.unit = None
                left -= 1
                worker.give(waiting)

    def close(self) -> None:
        """End the workers and remove the copy of the weights."""
        for worker in self._team:
            worker.end()
        self._team = []
        self._snapshot.__exit__(None, None, None)

    def _replace(self, dead: _Worker, waiting: deque[Unit]) -> None:
        self._team.remove(dead)
        with suppress(subprocess.TimeoutExpired):  # its own exit code says more than our signal's
            dead.process.wait(5)
        dead.end()
        if dead.unit is not None:
            self._deaths[dead.unit] += 1
            if self._deaths[dead.unit] >= MAX_DEATHS:
                task = self.bench.tasks[dead.unit.tasks[0]].name
                raise BasinscopeError(
                    f"{MAX_DEATHS} workers died with {task} at step {dead.unit.step:g} in hand "
                    f"(the last with exit code {_cause(dead.process.returncode)})",
                    "workers that live to the end of a trial",
                    "run the same line with fewer --workers, or with more memory: it resumes",
                )
            waiting.appendleft(dead.unit)
        if waiting:
            new = _Worker(self._order, self._news)
            self._team.append(new)
            new.give(waiting)


def portions(units: Sequence[Unit], workers: int) -> list[Unit]:
    """Units as they are handed out: the last ones task by task, so that no worker is long idle."""
    whole = max(0, len(units) - workers)
    last = [replace(unit, tasks=(t,)) for unit in units[whole:] for t in unit.tasks]
    return [*units[:whole], *last]


def _cause(code: int) -> str:
    """Exit code, with the signal's name where there was one."""
    try:
        return f"{code}, {signal.Signals(-code).name}" if code < 0 else f"{code}"
    except ValueError:
        return f"{code}"


class _Worker:
    """One process, the unit it has, and a thread that reads what it says."""

    def __init__(self, order: str, news: queue.SimpleQueue[Any]) -> None:
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "basinscope.runs.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **dict.fromkeys(threads, "1"), "TOKENIZERS_PARALLELISM": "false"},
            text=True,
            # the terminal's interrupt is for the parent, which ends its workers
            start_new_session=True,
        )
        self.unit: Unit | None = None
        self._say(order)
        self._ear = threading.Thread(target=self._listen, args=(news,), daemon=True)
        self._ear.start()

    def give(self, waiting: deque[Unit]) -> None:
        """Hand over the next unit if this worker is free and one is left."""
        if self.unit is None and waiting:
            self.unit = waiting.popleft()
            self._say(json.dumps(asdict(self.unit)))

    def end(self) -> None:
        """Kill the process with whatever it has started, and free its pipes."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with suppress(BrokenPipeError):  # what it did not read any more
            self.process.stdin.close()
        self._ear.join(timeout=1)
        if not self._ear.is_alive():
            self.process.stdout.close()

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the listener reports the death

    def _listen(self, news: queue.SimpleQueue[Any]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            # a library may print while it is imported; a worker that is killed leaves half a line
            if line.startswith("{") and line.endswith("\n"):
                news.put((self, json.loads(line)))
        news.put((self, None))


def recipe(bench: Bench) -> dict[str, Any] | None:
    """Words from which a worker can rebuild the bench; None if it is made of live objects."""
    tasks = [task_recipe(task) for task in bench.tasks]
    labels = []
    for direction in bench.directions:
        try:
            same = words.direction(direction.label) == direction
        except BasinscopeError:
            same = False
        if not same:
            return None
        labels.append(direction.label)
    if any(task is None for task in tasks) or bench.engine.device.type != "cpu":
        return None
    if type(bench.engine) is not TransformersEngine or bench.engine.dtype not in DTYPES:
        return None
    # a wrapper's class (adapters) or one of remote code is not what a worker would build
    if not type(bench.engine.module).__module__.startswith("transformers.models."):
        return None
    return {
        "tasks": tasks,
        "directions": labels,
        "identities": [bench.identity(d, 0) for d in range(len(labels))],
        "dtype": bench.engine.dtype,
        "params": bench.engine.params,
        "model": bench.model.model_dump(mode="json"),
        "task_specs": [spec.model_dump(mode="json") for spec in bench.task_specs],
    }


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make(bench: Bench, workers: int | None, units: int) -> Serial | Processes:
    """Executor for a number of units: processes where asked for and possible."""
    wanted = min(workers or cores(), max(units, 1))
    if wanted > 1 and recipe(bench) is not None:
        return Processes(bench, wanted)
    return Serial(bench)

"""How many evaluations a plan makes, of how many tokens, and how long that takes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from basinscope.engines.base import Engine
from basinscope.runs.cost import Setting, cost
from basinscope.runs.executor import cores
from basinscope.tasks.base import Task

PROBED = 3  # settings of a plan under which texts are probed
# rows of a product, and passes over all matrices, in the work that shows how far workers slow
# each other down
ROWS, PASSES = 64, 3


@dataclass(frozen=True)
class Forecast:
    """What a plan will take.

    Attributes:
        settings: of the weights.
        evaluations: items times settings.
        read_tokens: that pass through the model as prompts and continuations, in all.
        written_tokens: that are generated, as far as can be known beforehand.
        workers: processes, of one thread each if there are several.
        seconds: from the start of the workers to the last record.
    """

    settings: int
    evaluations: int
    read_tokens: int
    written_tokens: int
    workers: int
    seconds: float

    def __str__(self) -> str:
        """One line."""
        written = f" and {self.written_tokens:,} written" if self.written_tokens else ""
        return (
            f"{self.read_tokens:,} tokens read{written}, about {minutes(self.seconds)} "
            f"on {self.workers} worker{'s' if self.workers > 1 else ''}"
        )

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return {**asdict(self), "seconds": float(f"{self.seconds:.3g}")}


def minutes(seconds: float) -> str:
    """Seconds as minutes or hours, to be read."""
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{max(seconds / 60, 0.1):.1f} min"


def forecast(
    engine: Engine,
    tasks: Sequence[Task],
    settings: Sequence[Setting],
    *,
    points: int | None = None,
    items: int | None = None,
    answers: int | None = None,
    workers: int | None = None,
    probe_s: float = 3.0,
    start_s: float = 0.0,
) -> Forecast:
    """Predict a plan from short real batches (`basinscope.runs.cost`).

    Args:
        engine: the model, at its pristine weights.
        tasks: all measured at every setting.
        settings: weights of the plan, from the nearest to the farthest; three of them are probed.
        points: settings of the plan in all; default those given and the pristine one.
        items: of each task that are measured at a setting; default all.
        answers: evaluations of the plan in all; default those items at every point.
        workers: as in `basinscope.landscape`.
        probe_s: about how long the probes may last.
        start_s: what a worker takes before its first unit.

    Cost: the seconds of the probes.
    """
    n = len(settings) + 1 if points is None else max(1, points)
    team = min(workers or cores(), n) if engine.device.type == "cpu" else 1
    places = sorted({(2 * k + 1) * len(settings) // (2 * PROBED) for k in range(PROBED)})
    probed = [settings[place] for place in places if settings]
    each = cost(
        engine, tasks, probed,
        probe_s=probe_s / max(1, len(tasks)), threads=1 if team > 1 else None,
    )  # fmt: skip
    whole = sum(len(task.items) for task in tasks)
    if answers is None:
        answers = n * sum(min(items or len(task.items), len(task.items)) for task in tasks)
    part = answers / n / max(1, whole)
    seconds = math.ceil(n / team) * each.seconds * part
    if team > 1:
        seconds = seconds * crowding(engine, team) + start_s
    return Forecast(
        n, answers, round(n * each.read_tokens * part), round(n * each.written_tokens * part),
        team, seconds,
    )  # fmt: skip


def crowding(engine: Engine, workers: int) -> float:
    """How many times longer the model's matrix products take when each worker does them at once.

    Workers share memory bandwidth and the processor's clock.
    """
    matrices = [p.detach() for p in engine.module.parameters() if p.dim() == 2]
    inputs = {p.shape[1]: torch.ones(ROWS, p.shape[1], dtype=p.dtype) for p in matrices}
    alone = _together(1, matrices, inputs)
    return max(1.0, _together(workers, matrices, inputs) / alone)


def _together(workers: int, matrices: list[torch.Tensor], inputs: dict[int, torch.Tensor]) -> float:
    """Mean seconds of each of several threads, the median of a few passes over the weights."""
    taken: list[float] = []

    def work() -> None:
        torch.set_num_threads(1)
        for _ in range(PASSES):
            start = time.perf_counter()
            for matrix in matrices:
                inputs[matrix.shape[1]] @ matrix.T
            taken.append(time.perf_counter() - start)

    threads = torch.get_num_threads()
    try:
        team = [threading.Thread(target=work) for _ in range(workers)]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
    finally:
        torch.set_num_threads(threads)
    return sorted(taken)[len(taken) // 2]

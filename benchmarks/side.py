"""One side of a comparison, in a process of its own: takes orders and gives answers as JSON lines.

Run by `benchmarks.same_work` as ``python -m benchmarks.side NAME FOLDER SLICE LIMIT CORES DTYPE``.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch

from benchmarks.meter import Meter


class Ours:
    """The program as it is used: a worker of one thread for each core."""

    def __init__(self, folder: str, name: str, limit: int, cores: int, dtype: str) -> None:
        import basinscope as bs
        from basinscope.runs import executor
        from basinscope.runs.bench import Bench, Unit
        from benchmarks.slices import tasks_of

        self.unit = Unit
        engine, tasks = bs.load(folder, dtype=dtype), tasks_of(name, limit)
        self.bench = Bench.of(engine, (bs.Random(0),), tasks)
        self.team = executor.Processes(self.bench, cores)

    def start(self) -> dict[str, Any]:
        """Start the workers and let each answer one item."""
        first, n = ((0, (self.bench.tasks[0].items[0].id,)),), self.team.workers
        with Meter() as meter:
            list(self.team.run([self.unit(0, 0, 1e-3 * (k + 1), (0,), first) for k in range(n)]))
        return {"wall_s": meter.wall_s, "cpu_s": meter.cpu_s}

    def serve(self, order: dict[str, Any]) -> dict[str, Any]:
        """All items at each of several steps, which the workers share."""
        every = tuple(range(len(self.bench.tasks)))
        units = [self.unit(0 if step else None, 0, step, every) for step in order["steps"]]
        with Meter() as meter:
            trials = list(self.team.run(units))
        answers: dict[str, list[int]] = {}
        names = [task.name for task in self.bench.tasks]
        for trial in sorted(trials, key=lambda trial: names.index(trial.task)):
            answers.setdefault(str(trial.step), []).extend(trial.correct)
        return {
            "wall_s": meter.wall_s, "cpu_s": meter.cpu_s, "peak_bytes": meter.peak_bytes,
            "answers": answers,
        }  # fmt: skip


class Baseline:
    """One of `benchmarks.baselines`.

    Its own perturbation is timed and taken back; then it is given the same weights as the others,
    untimed, so that the answers can be compared.
    """

    def __init__(self, folder: str, name: str, cores: int, dtype: str) -> None:
        torch.set_num_threads(cores)
        self.side: Any
        if name == "B0":
            from benchmarks.baselines.published import Published

            self.side = Published(folder)
        elif name == "B1":
            from benchmarks.baselines.copied import Copied

            self.side = Copied(folder, dtype)
        else:
            from benchmarks.baselines.harness import Harness

            self.side = Harness(folder, int(name.partition("/")[2]), dtype)

    def start(self) -> dict[str, Any]:
        """Let it answer once."""
        prompts, end = [[1, 2, 3, 4]] * 8, self.side.model.config.eos_token_id
        with Meter() as meter:
            self.side.perturb(0.001)
            self.side.choose(prompts, [1, end])
        return {"wall_s": meter.wall_s, "cpu_s": meter.cpu_s}

    def serve(self, order: dict[str, Any]) -> dict[str, Any]:
        """Some items at one step."""
        with Meter() as perturbing:
            self.side.perturb(order["steps"][0])
        self._become(order["point"])
        prompts = order["prompts"]
        with Meter() as meter:
            if order["cap"]:
                answers = self.side.write(prompts, order["cap"])
            else:
                answers = self.side.choose(prompts, order["letters"])
        return {
            "perturb_s": perturbing.wall_s, "perturb_cpu_s": perturbing.cpu_s,
            "wall_s": meter.wall_s, "cpu_s": meter.cpu_s,
            "peak_bytes": max(perturbing.peak_bytes, meter.peak_bytes), "answers": answers,
        }  # fmt: skip

    @torch.no_grad()
    def _become(self, folder: str) -> None:
        from safetensors.torch import load_file

        values = load_file(f"{folder}/model.safetensors")
        for name, parameter in self.side.model.named_parameters():
            parameter.copy_(values[name])


def main() -> None:
    """Answer orders until there are no more."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints
    name, folder, work, *numbers, dtype = sys.argv[1:]
    limit, cores = map(int, numbers)
    ours = name == "ours"
    side = Ours(folder, work, limit, cores, dtype) if ours else Baseline(folder, name, cores, dtype)
    try:
        out.write(json.dumps(side.start()) + "\n")
        out.flush()
        for line in sys.stdin:
            out.write(json.dumps(side.serve(json.loads(line))) + "\n")
            out.flush()
    finally:
        if isinstance(side, Ours):
            side.team.close()


if __name__ == "__main__":
    main()

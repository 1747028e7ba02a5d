"""The same slice of a landscape by this program and by the baselines, side by side.

Every side is a process of its own on the same cores: a baseline with a thread for each, ours with a
worker of one thread for each. In every round each side takes its turn, so that a slow minute is
slow for all. A baseline answers a *share* of the items in a round, another one each time: its time
for all items follows in proportion to the prompts' tokens (multiple choice) or to the number of
texts. B0 holds its weights in float32, the others in ``--dtype``. Not measured are the loading of a
model and the tokenizing of a baseline's prompts.

    python -m benchmarks.same_work --out bench [--slices mmlu,gsm8k] [--cores 2] [--dtype auto]

writes ``OUT/SLICE.json`` with every measurement, and prints a table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import basinscope as bs
from benchmarks.meter import machine
from benchmarks.slices import CURVE, MEASURED, WEIGHT, WORDS, WRITTEN, Slice, outcome, slice_of

# parts of a slice, of which a baseline answers one in a round: a whole batch of its own size
CHOOSERS = {"B0": 16, "B1": 8, "B2/1": 8, "B2/8": 8}
WRITERS = {"B0": 16, "B1": 8}
GATES = {"mmlu": {"B0": 10, "B1": 4, "B2": 5}, "gsm8k": {"B0": 8, "B1": 3}}
AIMS = {"mmlu": {"B0": 25, "B1": 8, "B2": 10}, "gsm8k": {"B0": 40, "B1": 10}}


@dataclass
class Side:
    """A child process and what it has measured, one entry for each order."""

    name: str
    process: subprocess.Popen[str]
    start_s: float = 0.0
    replies: list[dict[str, Any]] = field(default_factory=list)

    def say(self, order: dict[str, Any]) -> dict[str, Any]:
        """Give an order and wait for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """Next line of the side."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"side {self.name} ended with exit code {self.process.wait()}")
        return json.loads(line)  # type: ignore[no-any-return]


@contextlib.contextmanager
def sides(
    names: list[str], folder: str, work: str, limit: int, cores: int, dtype: str
) -> Iterator[list[Side]]:
    """Start every side, one after another."""
    team: list[Side] = []
    try:
        for name in names:
            command = [sys.executable, "-m", "benchmarks.side", name, folder, work]
            command += [str(limit), str(cores), dtype]
            env = {**os.environ, "OMP_NUM_THREADS": str(cores), "TOKENIZERS_PARALLELISM": "false"}
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
            )
            team.append(Side(name, process))
            team[-1].start_s = team[-1].hear()["wall_s"]
        yield team
    finally:
        for side in team:
            if side.process.stdin is not None:
                side.process.stdin.close()
            side.process.wait(30)


@contextlib.contextmanager
def points(engine: Any, steps: tuple[float, ...]) -> Iterator[dict[float, str]]:
    """A checkpoint folder for each step, of the live weights that ours has there."""
    with tempfile.TemporaryDirectory() as root:
        folders = {}
        for step in steps:
            folder = Path(root) / str(step)
            folder.mkdir()
            for file in Path(engine.checkpoint).iterdir():
                if file.is_file() and file.suffix != ".safetensors":
                    shutil.copy(file, folder)
            with engine.at(bs.Random(0), step=step):
                live = {n: p.detach().clone() for n, p in engine.module.named_parameters()}
            save_file(live, folder / "model.safetensors", metadata={"format": "pt"})
            folders[step] = str(folder)
        yield folders


def measure(
    model: str, name: str, rounds: int, limit: int, cores: int, dtype: str
) -> dict[str, Any]:
    """Measure a slice: times, memory and answers of every side."""
    engine: Any = bs.load(model, dtype=dtype)
    assert engine.checkpoint is not None
    work = slice_of(name, engine, limit)
    shares = WRITERS if name in WRITTEN else CHOOSERS
    begun = time.perf_counter()
    with (
        points(engine, MEASURED) as folders,
        sides(["ours", *shares], engine.checkpoint, name, limit, cores, engine.dtype) as team,
    ):
        ours = team[0]
        for k in range(rounds):
            for side in team if k % 2 == 0 else team[::-1]:
                for order in orders(side.name, work, folders, shares, k):
                    side.replies.append({**order["note"], **side.say(order)})
                    say(name, side, k, begun)
        result = {
            **machine(), "model": model, "dtype": engine.dtype, "slice": name, "cores": cores,
            "cap": work.cap, "items": len(work.items),
            "rounds": rounds, "tokens": sum(map(len, work.prompts)), "curve": CURVE,
            "weight": WEIGHT, "torch": torch.__version__,
            "sides": {side.name: summary(side, work) for side in team},
        }  # fmt: skip
        truth = {
            step: [int(x) for entry in ours.replies if step in entry["steps"]
                   for x in entry["answers"][str(step)]][: len(work.items)]
            for step in MEASURED
        }  # fmt: skip
        for side in team[1:]:
            result["sides"][side.name]["agreement"] = agreement(engine, work, side, truth)
        result["float32"] = in_float32(work, folders, team)
    return result


def orders(
    name: str, work: Slice, folders: dict[float, str], shares: dict[str, int], k: int
) -> list[dict[str, Any]]:
    """What a side is asked in the k-th round."""
    if name == "ours":
        # two steps at a time, one for each worker
        pair = (MEASURED[k % 2], MEASURED[k % 2 + 2])
        return [{"steps": pair, "note": {"steps": pair}}]
    parts = min(shares[name], len(work.items) // 8)
    step, chosen = MEASURED[k % 4], work.share(parts, k)
    return [{
        "steps": [step], "point": folders[step], "cap": work.cap, "letters": work.letters,
        "prompts": [work.prompts[i] for i in chosen], "note": {"steps": [step], "items": chosen},
    }]  # fmt: skip


def scale(work: Slice, items: list[int]) -> float:
    """How many times the work of these items that of all is."""
    if work.cap:
        return len(work.items) / len(items)
    return sum(map(len, work.prompts)) / sum(len(work.prompts[i]) for i in items)


def summary(side: Side, work: Slice) -> dict[str, Any]:
    """Seconds for one step with all items: a list by measured step, and for the mean step."""
    wall: dict[float, list[float]] = {}
    cpu: dict[float, list[float]] = {}
    for entry in side.replies:
        n = len(entry["steps"])
        times = scale(work, entry["items"]) if "items" in entry else 1 / n
        for step in entry["steps"]:
            wall.setdefault(step, []).append(entry["wall_s"] * times + entry.get("perturb_s", 0))
            cpu.setdefault(step, []).append(entry["cpu_s"] * times + entry.get("perturb_cpu_s", 0))
    # a text that always runs to the cap, or an answer of one token, takes as long at any step
    by_step = len(wall) == len(MEASURED) and work.cap and side.name != "B0"
    return {
        "start_s": side.start_s,
        "wall_s": mean_step(wall) if by_step else pooled(wall),
        "cpu_s": mean_step(cpu) if by_step else pooled(cpu),
        "wall_at_s": {step: spread(values) for step, values in wall.items()},
        "perturb_s": spread([e["perturb_s"] for e in side.replies if "perturb_s" in e] or [0.0]),
        "peak_bytes": max(entry["peak_bytes"] for entry in side.replies),
        "replies": [{k: v for k, v in e.items() if k != "answers"} for e in side.replies],
    }


def spread(values: list[float]) -> list[float]:
    """Median, least and most."""
    return [statistics.median(values), min(values), max(values)]


def pooled(values: dict[float, list[float]]) -> list[float]:
    """Where the step makes no difference, or each value is a mean over all of them."""
    return spread([value for at_step in values.values() for value in at_step])


def mean_step(values: dict[float, list[float]]) -> list[float]:
    """Mean over the curve, each measured step standing for its neighbours."""
    parts = {step: spread(seconds) for step, seconds in values.items()}
    return [sum(WEIGHT[s] * parts[s][k] for s in parts) / len(CURVE) for k in range(3)]


def agreement(
    engine: Any, work: Slice, side: Side, truth: dict[float, list[int]]
) -> dict[str, int]:
    """On how many items the outcome is ours."""
    same = total = 0
    for entry in side.replies:
        (step,) = entry["steps"]
        for i, answer in zip(entry["items"], entry["answers"], strict=True):
            if truth[step]:
                same += outcome(engine, *work.items[i], answer) == truth[step][i]
                total += 1
    return {"same": same, "of": total}


def in_float32(work: Slice, folders: dict[float, str], team: list[Side]) -> dict[str, int]:
    """Ours in float32 against B0, on what B0 has answered at one step."""
    (entry,) = [side.replies[0] for side in team if side.name == "B0"]
    engine: Any = bs.load(folders[entry["steps"][0]], dtype="float32")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        asked = [work.items[i][1].requests[0] for i in entry["items"]]
        answers = engine.answer(asked)
    finally:
        torch.set_num_threads(threads)
    same = 0
    for i, mine, other in zip(entry["items"], answers, entry["answers"], strict=True):
        task, item = work.items[i]
        same += int(task.oracle(item, (mine,)).correct) == outcome(engine, task, item, other)
    return {"same": same, "of": len(answers)}


def table(result: dict[str, Any]) -> str:
    """Lines to be read."""
    ours, name = result["sides"]["ours"], result["slice"]
    lines = [
        f"\n{name}: {result['items']} items, {result['tokens']:,} prompt tokens, {result['dtype']}"
        + (f", cap {result['cap']}" if result["cap"] else "")
        + f"; seconds for one of {len(CURVE)} steps: median [least, most] of {result['rounds']}",
        f"{'':8}{'wall s':>24}{'CPU s':>24}{'peak GB':>9}{'ratio':>8}{'gate':>6}{'aim':>5}  "
        "same outcome",
    ]
    for side, measured in result["sides"].items():
        gate, aim = (goal.get(name, {}).get(side[:2], "") for goal in (GATES, AIMS))
        ratio = measured["wall_s"][0] / ours["wall_s"][0]
        agreed = measured.get("agreement")
        lines.append(
            f"{side:8}{cell(measured['wall_s']):>24}{cell(measured['cpu_s']):>24}"
            f"{measured['peak_bytes'] / 1e9:9.2f}{ratio:8.1f}{gate:>6}{aim:>5}  "
            + (f"{agreed['same']} of {agreed['of']}" if agreed else "")
        )
    whole = [len(CURVE) * ours["wall_s"][0] + extra for extra in (0.0, ours["start_s"])]
    lines.append(
        f"ours, {len(CURVE)} steps: {whole[0]:.0f} s, {whole[1]:.0f} s with the workers' start "
        f"({ours['start_s']:.1f} s, once); against it: "
        + ", ".join(
            f"{side} {len(CURVE) * measured['wall_s'][0] / whole[1]:.1f}"
            for side, measured in result["sides"].items()
            if side != "ours"
        )
    )
    flat = result["float32"]
    lines.append(f"in float32: {flat['same']} of {flat['of']} outcomes as B0's")
    return "\n".join(lines)


def cell(values: list[float]) -> str:
    """Median and range."""
    return "{:.2f} [{:.2f}, {:.2f}]".format(*values)


def say(name: str, side: Side, k: int, begun: float) -> None:
    """A line of progress."""
    seconds = side.replies[-1]["wall_s"]
    at = ", ".join(f"{step:g}" for step in side.replies[-1]["steps"])
    line = f"{time.perf_counter() - begun:6.0f} s  {name} round {k + 1}: {side.name} at {at}"
    sys.stderr.write(f"{line}: {seconds:.1f} s\n")


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--slices", default="mmlu,gsm8k", help=f"some of {', '.join(WORDS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--dtype", default="auto", help="of the weights")
    parser.add_argument("--limit", type=int, default=64, help="items of each slice")
    parser.add_argument("--quick", action="store_true", help="one round, 16 items, two slices")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.limit, options.slices = 1, 16, "mmlu,advbench"
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.slices.split(","):
        result = measure(
            options.model, name, options.rounds, options.limit, options.cores, options.dtype
        )
        (options.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(table(result), flush=True)


if __name__ == "__main__":
    main()

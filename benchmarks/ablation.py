"""What each part of the engine buys: one after another is switched off, beside everything.

- ``pool``: `engines.pool` and `engines.kernels`.
- ``mapped``: pristine weights are the file's own pages, as in a worker; without it a copy. What is
  timed is setting and restoring the weights; its memory is printed below the table.
- ``workers``: two processes of one thread on `engines.loading.snapshot`, against one process of two
  threads. Wall clock, at a step on either side of 0 for each; needs two cores.

All but the last are timed in one process, in processor seconds of one thread. In every round
everything and each switch have their turn, so that a slow minute is slow for all, and a ratio is
that of one round. *same*: on how many items the letter, or the text, is the one that everything
gives.

    taskset -c 1 python -m benchmarks.ablation [--quick] [--dtypes float32] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import basinscope as bs
from basinscope.engines import generation
from basinscope.runs import executor
from basinscope.runs.bench import Bench, Unit
from basinscope.tasks.base import Answer, Generate, Ranking, Request
from benchmarks.meter import machine, pages
from benchmarks.same_work import cell, spread
from benchmarks.slices import WORDS, Slice, slice_of

EVERYTHING = "everything"
SWITCHES = ("pool", "mapped", "workers")
DIRECTION = bs.Random(0)


@dataclass
class Row:
    """Seconds of every round with everything and without one part."""

    switch: str
    slice: str
    dtype: str
    step: float
    with_s: list[float] = field(default_factory=list)
    without_s: list[float] = field(default_factory=list)
    same: str = ""

    @property
    def ratios(self) -> list[float]:
        """How many times longer each round took without."""
        return [off / on for on, off in zip(self.with_s, self.without_s, strict=True)]

    def line(self) -> str:
        """To be read."""
        return (
            f"{self.switch:12}{self.slice:8}{self.dtype:10}{self.step:7g}"
            f"{spread(self.with_s)[0]:9.2f}{spread(self.without_s)[0]:9.2f}  "
            f"{cell(spread(self.ratios)):19}{self.same}"
        )


def torchs_greatest(logits_NV: torch.Tensor) -> tuple[list[int], list[bool]]:
    """As `kernels.greatest`, without the kernel."""
    return logits_NV.argmax(-1).tolist(), torch.isfinite(logits_NV).all(-1).tolist()


@contextlib.contextmanager
def without(engine: Any, switch: str) -> Iterator[None]:
    """Inside it the engine does without one part."""
    forward = engine.forward
    changes: dict[str, list[tuple[Any, str, Any]]] = {
        EVERYTHING: [],
        "pool": [(forward, "pooled", False), (generation, "greatest", torchs_greatest)],
    }
    with contextlib.ExitStack() as stack:
        for change in changes[switch]:
            stack.enter_context(patch.object(*change))
        yield


def in_use(engine: Any, writes: bool) -> list[str]:
    """Switches that change something for these weights and requests."""
    return ["pool"] if writes and engine.forward.pooled else []


def answers_by_turns(
    engine: Any, requests: Sequence[Request], step: float, switches: Sequence[str], rounds: int,
) -> tuple[dict[str, list[float]], dict[str, list[Answer]]]:  # fmt: skip
    """Processor seconds of every round by switch, and the last answers."""
    seconds: dict[str, list[float]] = {switch: [] for switch in (EVERYTHING, *switches)}
    answers: dict[str, list[Answer]] = {}
    with engine.at(DIRECTION, step=step):
        for k in range(rounds):
            for switch in list(seconds)[:: 1 if k % 2 == 0 else -1]:
                with without(engine, switch):
                    begun = time.process_time()
                    answers[switch] = engine.answer(requests)
                    seconds[switch].append(time.process_time() - begun)
    return seconds, answers


def choice(answer: Answer) -> object:
    """What a task would make of an answer: the likeliest letter, or the text."""
    if isinstance(answer, Ranking):
        return max(range(len(answer.loglik)), key=answer.loglik.__getitem__)
    return answer.text  # type: ignore[union-attr]


def answered(
    engine: Any, work: Slice, n: int, cap: int, steps: Sequence[float], switches: Sequence[str],
    rounds: int,
) -> Iterator[Row]:  # fmt: skip
    """Rows of the switches that are in use for a slice's first items."""
    requests = [item.requests[0] for _, item in work.items[:n]]
    requests = [
        replace(r, max_tokens=min(r.max_tokens, cap)) if isinstance(r, Generate) else r
        for r in requests
    ]
    used = [switch for switch in in_use(engine, work.cap > 0) if switch in switches]
    if not used:
        return
    for step in steps:
        seconds, answers = answers_by_turns(engine, requests, step, used, rounds)
        for switch in used:
            pairs = zip(answers[EVERYTHING], answers[switch], strict=True)
            same = sum(choice(a) == choice(b) for a, b in pairs)
            yield Row(
                switch, work.name, engine.dtype, step, seconds[EVERYTHING], seconds[switch],
                f"{same} of {len(requests)}",
            )  # fmt: skip


def mapped(engine: Any, steps: Sequence[float], rounds: int) -> Iterator[Row]:
    """Rows of setting and restoring the weights, from pristine values mapped and copied."""
    # of a live module it is not known where its weights lie
    copied = bs.load(copy.deepcopy(engine.module), tokenizer=engine.tokenizer)
    for step in steps:
        row = Row("mapped", "setting", engine.dtype, step)
        sides = [(engine, row.with_s), (copied, row.without_s)]
        for k in range(rounds):
            for side, seconds in sides[:: 1 if k % 2 == 0 else -1]:
                begun = time.process_time()
                with side.at(DIRECTION, step=step):
                    pass
                seconds.append(time.process_time() - begun)
        yield row


def own_bytes(model: str, dtype: str, copied: bool) -> int:
    """Memory that a process with an engine shares with no other; for a process of its own."""
    before = pages(os.getpid())[0]
    engine: Any = bs.load(model, dtype=dtype)
    if copied:
        engine = bs.load(engine.module, tokenizer=engine.tokenizer)
    with engine.at(DIRECTION, step=0.01):
        return pages(os.getpid())[0] - before


def shared_out(engine: Any, work: Slice, n: int, step: float, rounds: int) -> Row:
    """Two workers against two threads: the same items at both sides of 0."""
    bench = Bench.of(engine, (DIRECTION,), work.tasks)
    ids: dict[int, list[str]] = {}
    for task, item in work.items[:n]:
        ids.setdefault(work.tasks.index(task), []).append(item.id)

    def units(direction: int | None, steps: Sequence[float]) -> list[Unit]:
        return [
            Unit(direction, 0, at, (t,), ((t, tuple(chosen)),))
            for t, chosen in ids.items()
            for at in steps
        ]

    row = Row("workers", work.name, engine.dtype, step)
    team, alone = executor.Processes(bench, 2), executor.Serial(bench)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sides = [(team, row.with_s), (alone, row.without_s)]
        for side, _ in sides:  # starts them
            list(side.run(units(None, (0.0, 0.0))))
        for k in range(rounds):
            for side, seconds in sides[:: 1 if k % 2 == 0 else -1]:
                begun = time.perf_counter()
                list(side.run(units(0, (step, -step))))
                seconds.append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(threads)
        team.close()
    return row


def main() -> None:
    """Measure and print row by row."""
    both = ["float32"] + ["bfloat16"] * torch.ops.mkldnn._is_mkldnn_bf16_supported()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--slices", default="mmlu,gsm8k", help=f"some of {', '.join(WORDS)}")
    parser.add_argument("--dtypes", default=",".join(both), help="those that are multiplied here")
    parser.add_argument("--steps", default="0,0.01,0.02")
    parser.add_argument("--switches", default=",".join(SWITCHES))
    parser.add_argument("--items", type=int, default=16, help="the first of a slice of choices")
    parser.add_argument("--texts", type=int, default=8, help="the first of a slice of texts")
    parser.add_argument("--cap", type=int, default=64, help="most tokens of a text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    parser.add_argument("--quick", action="store_true", help="2 items, 8 tokens, 1 round, 1 step")
    options = parser.parse_args()
    if options.quick:
        options.items = options.texts = 2
        options.cap, options.rounds, options.steps = 8, 1, "0.01"
    steps = [float(word) for word in options.steps.split(",")]
    switches, rounds = options.switches.split(","), options.rounds
    torch.set_num_threads(1)
    here, rows, memory = machine(), [], {}
    print(*(f"{word}: {value}" for word, value in here.items()), sep="\n")
    print(
        f"{options.items} items, {options.texts} texts of {options.cap} tokens, {rounds} rounds\n"
        f"{'without':12}{'slice':8}{'dtype':10}{'step':>7}{'with s':>9}{'without':>9}  "
        f"{'ratio':19}same",
        flush=True,
    )

    def measured(dtype: str) -> Iterator[Row]:
        engine: Any = bs.load(options.model, dtype=dtype)
        for name in options.slices.split(","):
            work = slice_of(name, engine)
            n = options.texts if work.cap else options.items
            yield from answered(engine, work, n, options.cap, steps, switches, rounds)
            if "workers" in switches and executor.cores() > 1:
                for step in filter(None, steps):
                    yield shared_out(engine, work, n, step, rounds)
        if "mapped" in switches:
            yield from mapped(engine, steps, rounds)

    spawn = multiprocessing.get_context("spawn")
    for dtype in options.dtypes.split(","):
        for row in measured(dtype):
            rows.append(row)
            print(row.line(), flush=True)
        if "mapped" in switches:
            memory[dtype] = []
            for copied in (False, True):
                with spawn.Pool(1) as child:
                    memory[dtype].append(child.apply(own_bytes, (options.model, dtype, copied)))
            print(f"{dtype}: an engine's own memory is {memory[dtype][0] / 1e6:.0f} MB mapped, "
                  f"{memory[dtype][1] / 1e6:.0f} MB copied", flush=True)  # fmt: skip
    if options.json:
        record = {**here, "rows": [asdict(row) for row in rows], "memory_bytes": memory}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

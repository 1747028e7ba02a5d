"""What share of the least possible time the program reaches: arithmetic to read, bytes to write.

Measured on this machine, with as many threads as cores: floating-point operations a second of
matrix products as large as the model's (its own weights in their dtype, 4,096 rows), and bytes a
second of reading memory. The least time of a slice of multiple choice is that of its matrix
products and attention, each common prefix and each question read once, logits at one place of each
question. The least time of a written token is that of reading all weights and the row's own keys
and values.

    python -m benchmarks.floor [--dtype auto] [--cores 2] [--rounds 5] [--out bench] [--limit 64]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import basinscope as bs
from basinscope.tasks import Generate, Task
from benchmarks.meter import machine
from benchmarks.side import Ours
from benchmarks.slices import tasks_of

ROWS, STREAM_BYTES, WRITTEN = 4096, 1 << 28, 33


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.inference_mode()
def gemm_flops(matrices: list[torch.Tensor]) -> float:
    """Operations a second over all matrices of the model."""
    inputs = {m.shape[1]: torch.randn(ROWS, m.shape[1]).to(m.dtype) for m in matrices}

    def products() -> None:
        for matrix in matrices:
            inputs[matrix.shape[1]] @ matrix.T

    return 2 * ROWS * sum(m.numel() for m in matrices) / seconds(products)


def bandwidth(memory: torch.Tensor) -> float:
    """Bytes a second of reading memory that fits no cache, by the median of five times."""
    taken = statistics.median(seconds(memory.sum) for _ in range(5))
    return memory.numel() * memory.element_size() / taken


def least_flops(engine: Any, tasks: tuple[Task, ...]) -> float:
    """Of one pass over each prefix and each question."""
    config = engine.module.config
    head = engine.module.get_output_embeddings().weight.numel()
    pair = 4 * config.num_hidden_layers * config.hidden_size
    flops, heads = 0.0, set()
    for task in tasks:
        for item in task.items:
            row = engine.row(item.requests[0])
            parts = [(len(row.body), len(row.head))]
            if row.head not in heads:
                heads.add(row.head)
                parts.append((len(row.head), 0))
            for new, before in parts:
                flops += new * (2 * (engine.d - head) + pair * (before + new / 2))
            flops += 2 * head
    return flops


def decode_step_s(engine: Any, rows: int) -> tuple[float, float]:
    """Seconds for one more token of every row, and its bytes: weights, keys and values."""
    asked = Generate("Once upon a time there was", 1, decided=lambda text: False)
    prompts = [replace(asked, prompt=f"{asked.prompt} {k}") for k in range(rows)]
    times = [
        seconds(lambda n=n: engine.answer([replace(p, max_tokens=n) for p in prompts]))
        for n in (1, WRITTEN)
    ]
    config = engine.module.config
    width = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    held = len(engine.row(prompts[0]).body) + WRITTEN / 2
    size = next(engine.module.parameters()).element_size()
    cache = rows * held * 2 * size * width * config.num_hidden_layers
    return (times[1] - times[0]) / (WRITTEN - 1), size * engine.d + cache


def main() -> None:
    """Measure by turns, print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="auto", help="of the weights")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--rows", type=int, default=64, help="texts written at once")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args()
    torch.set_num_threads(options.cores)
    engine: Any = bs.load(options.model, dtype=options.dtype)
    tasks = tasks_of("mmlu", options.limit)
    matrices = [p.detach() for p in engine.module.parameters() if p.dim() == 2]
    memory = torch.ones(STREAM_BYTES // 4)  # zeros would share one page, never written
    assert engine.checkpoint is not None
    ours = Ours(engine.checkpoint, "mmlu", options.limit, options.cores, engine.dtype)
    measured: dict[str, list[float]] = {"gemm": [], "bandwidth": [], "slice": [], "decode": []}
    step_bytes = 0.0
    try:
        ours.start()
        gemm_flops(matrices)
        decode_step_s(engine, options.rows)
        for _ in range(options.rounds):
            measured["gemm"].append(gemm_flops(matrices))
            measured["bandwidth"].append(bandwidth(memory))
            steps = [0.001 * (k + 1) for k in range(options.cores)]
            measured["slice"].append(ours.serve({"steps": steps})["wall_s"] / len(steps))
            taken, step_bytes = decode_step_s(engine, options.rows)
            measured["decode"].append(taken)
    finally:
        ours.team.close()
    rate, stream, slice_s, step_s = (statistics.median(values) for values in measured.values())
    flops = least_flops(engine, tasks)
    floor_s, step_floor_s = flops / rate, step_bytes / stream
    items = sum(len(task.items) for task in tasks)
    here = machine()
    print(*(f"{word}: {value}" for word, value in here.items()), sep="\n")
    print(
        f"{options.cores} cores: {rate / 1e9:.0f} GFLOP/s {engine.dtype}, "
        f"{stream / 1e9:.1f} GB/s read"
    )
    print(
        f"mmlu, {items} items at one step: {flops / 1e12:.2f} TFLOP, floor {floor_s:.2f} s, "
        f"measured {slice_s:.2f} s: {floor_s / slice_s:.2f} of the floor (gate 0.20, aim 0.50)"
    )
    print(
        f"decode, {options.rows} rows in one process: {step_bytes / 1e6:.0f} MB a token, floor "
        f"{step_floor_s * 1e3:.1f} ms, measured {step_s * 1e3:.1f} ms: "
        f"{step_floor_s / step_s:.2f} of the floor"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    record = {
        **here, "dtype": engine.dtype, "cores": options.cores, "measured": measured,
        "slice_flops": flops, "decode_bytes": step_bytes,
        "slice_share": floor_s / slice_s, "decode_share": step_floor_s / step_s,
    }  # fmt: skip
    (options.out / f"floor-{engine.dtype}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

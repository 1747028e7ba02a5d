"""What merging adapters and taking them out again does to the weights under them.

    python -m benchmarks.merging [--model smollm2] [--cycles 1,100,1000] [--sizes 0.1,1,10]

A cycle merges a LoRA of rank 16 into the query and value matrices of three layers and unmerges it,
as a server that swaps adapters or a trainer that syncs weights does. Every cycle has an adapter of
its own: A and B are normal, and BA has so many times the RMS of the matrix. Printed is by how much
the matrices differ from what they were (`basinscope.check.guards.differences`), over their mean
|weight|: the mean |difference| of all, and the largest of an element.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Collection, Iterator

import torch
from peft import LoraConfig, get_peft_model

import basinscope as bs
from basinscope.check.guards import differences

RANK, ALPHA = 16, 16  # whose scale is 1


def drift(
    model: str, dtype: str, size: float, cycles: Collection[int]
) -> Iterator[tuple[int, float, float]]:
    """Cycles, mean |difference| over mean |weight| then, and the largest |difference| over it.

    Args:
        model: as `basinscope.load` takes it.
        dtype: of the weights.
        size: RMS of an adapter's BA over that of the matrix.
        cycles: after which it is measured.
    """
    module = bs.load(model, dtype=dtype).module
    last = module.config.num_hidden_layers - 1
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "v_proj"],
        layers_to_transform=sorted({0, last // 2, last}),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(module, config)
    layers = {n: m for n, m in adapted.named_modules() if hasattr(m, "lora_A") and len(m.lora_A)}
    merged = {n: m.base_layer.weight for n, m in layers.items()}
    before = {n: w.detach().clone() for n, w in merged.items()}
    means = {n: float(w.double().abs().mean()) for n, w in before.items()}
    stds = {n: math.sqrt(size * float(w.double().square().mean().sqrt()) / math.sqrt(RANK))
            for n, w in before.items()}  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for cycle in range(1, max(cycles) + 1):
        for name, layer in layers.items():
            for factor in (layer.lora_A["default"].weight, layer.lora_B["default"].weight):
                factor.data.copy_(stds[name] * torch.randn(factor.shape, generator=generator))
        adapted.merge_adapter()
        adapted.unmerge_adapter()
        if cycle in cycles:
            apart = differences(before, merged)
            mean = sum(d.relative for d in apart) / len(before)
            yield cycle, mean, max((d.largest / means[d.name] for d in apart), default=0.0)


def main() -> None:
    """Print a line for each dtype, size and number of cycles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--cycles", default="1,100,1000")
    parser.add_argument("--sizes", default="0.1,1,10")
    options = parser.parse_args()
    cycles = [int(n) for n in options.cycles.split(",")]
    for dtype in ("bfloat16", "float32"):
        for size in map(float, options.sizes.split(",")):
            for cycle, mean, largest in drift(options.model, dtype, size, cycles):
                print(f"{dtype}, size {size:g}, {cycle}: mean {mean:.2g}, largest {largest:.2g}",
                      flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

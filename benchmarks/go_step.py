"""Cost of a step of GO against its base step, and of every other method, on a GPT-2.

Every line trains the same model on the same batches of random tokens; the methods alternate, so
that a slow moment of the machine meets all of them, and medians are compared. Beside the time of
the clock stands that of the processor (all threads together), which other programs hardly lengthen.

Run: python -m benchmarks.go_step [--threads 1,2] [--batches 2x256,8x256] [--repeats N] [--all]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from basinscope.optim.methods import Method, MethodSpec, build

GO = {"sigma": 0.003}
COMPARED = {
    "adamw": ("adamw", {}),
    "go": ("go", GO),
    "go, relative": ("go", {**GO, "relative": True}),
}
OTHERS = {
    "go, averaged": ("go", {**GO, "average": "ema:0.99"}),
    "averaged": ("averaged", {"average": "ema:0.99"}),
    "anti-pgd": ("anti-pgd", GO),
    "dropout": ("dropout", {"std": 0.1}),
    "nso": ("nso", GO),
    "sam": ("sam", {}),
    "asam": ("asam", {}),
    "looksam (k=10)": ("looksam", {}),
    "friendly-sam": ("friendly-sam", {}),
    "wsam": ("wsam", {}),
}


def gpt2() -> GPT2LMHeadModel:
    """GPT-2 of 10.0 million parameters: width 320, 7 layers, 4,096 tokens."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=4096,
            n_positions=256,
            n_embd=320,
            n_layer=7,
            n_head=5,
            bos_token_id=0,
            eos_token_id=0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            resid_pdrop=0.0,
        )
    ).train()


def timed(method: Method, tokens: torch.Tensor) -> tuple[float, float]:
    """Seconds that one step takes, by the clock and of the processor."""
    model = method.setup.model
    start, busy = time.perf_counter(), time.process_time()
    method.step([lambda: model(input_ids=tokens, labels=tokens).loss], 1.0)
    return time.perf_counter() - start, time.process_time() - busy


def main() -> None:
    """Print seconds of a step and their ratio to AdamW's, for every batch and thread count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--batches", default="2x256,8x256")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--all", action="store_true", help="the other methods too")
    options = parser.parse_args()

    compared = {**COMPARED, **(OTHERS if options.all else {})}
    methods = {
        label: build(MethodSpec(name, settings), gpt2(), lr=1e-4, total_steps=10_000)
        for label, (name, settings) in compared.items()
    }
    size = sum(p.numel() for p in methods["adamw"].setup.model.parameters())
    print(f"GPT-2 of {size:,} float32 parameters, medians of {options.repeats} alternating steps")
    generator = torch.Generator().manual_seed(0)
    for threads in map(int, options.threads.split(",")):
        torch.set_num_threads(threads)
        for batch in options.batches.split(","):
            rows, length = map(int, batch.split("x"))
            tokens = torch.randint(0, 4096, (rows, length), generator=generator)
            for method in methods.values():
                timed(method, tokens)  # allocates and compiles
            seconds: dict[str, list[tuple[float, float]]] = {label: [] for label in methods}
            for _ in range(options.repeats):
                for label, method in methods.items():
                    seconds[label].append(timed(method, tokens))
            print(f"{threads} threads, {rows} x {length} tokens")
            base = [statistics.median(column) for column in zip(*seconds["adamw"], strict=True)]
            for label, method in methods.items():
                clock, busy = map(statistics.median, zip(*seconds[label], strict=True))
                print(
                    f"  {label:15} {method.passes:3.1f} passes {clock:7.3f} s "
                    f"{clock / base[0] - 1:+7.1%}   "
                    f"processor {busy:7.3f} s {busy / base[1] - 1:+7.1%}"
                )


if __name__ == "__main__":
    main()

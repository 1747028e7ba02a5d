"""What a card does with basinscope: bits, rates, memory and outcomes, in at most eight minutes.

    python -m benchmarks.gpu_check [--device cuda] [--model smollm2] [--json FILE]
    python -m benchmarks.gpu_check --device cpu --tiny --model FOLDER     # the script itself

It needs no network: models are made on the card, but for one small one that is there. Every part
survives the failure of another, and none begins once the time is up. A part passes if its bits or
outcomes are right; its rates are judged on a card alone, at full size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config

import basinscope as bs
from basinscope.optim.methods import MethodSpec, build
from basinscope.optim.tensors import add_noise
from basinscope.weights import noise
from benchmarks.baselines import padded
from benchmarks.baselines.reseeded import add_and_subtract

SECONDS = 480.0
STEPS = (0.0, 0.01, 0.02)
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16

Figures = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where it runs, and how much of it."""

    device: torch.device
    tiny: bool
    model: str

    @property
    def judges(self) -> bool:
        """Whether rates mean anything here."""
        return self.device.type == "cuda" and not self.tiny

    def size(self, full: int, tiny: int) -> int:
        """One of two sizes."""
        return tiny if self.tiny else full

    def seconds(self, work: Callable[[], object], repeats: int = 5) -> float:
        """Median seconds of a call, after one that compiles."""
        repeats = self.size(repeats, 1)
        return statistics.median([self._once(work) for _ in range(repeats + 1)][1:])

    def _once(self, work: Callable[[], object]) -> float:
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Until the card has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def free_bytes(self) -> int:
        """Memory that is left; on the CPU enough for what is tiny."""
        return torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else 1 << 30


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are one, bit for bit."""
    words = {2: torch.int16, 4: torch.int32}[a.element_size()]
    return torch.equal(a.cpu().view(words), b.cpu().view(words))


# --- parts --------------------------------------------------------------------------------------


def bits(place: Place) -> tuple[bool, Figures]:
    """Normals and sums made there, against those of the CPU's kernels."""
    n, equal = place.size(1 << 26, 1 << 14), {}
    for start in (0, 2**34 - 5):
        there = noise.normals("w", n, start=start, device=place.device)
        equal[f"normals from {start}"] = same_bits(there, noise.normals("w", n, start=start))
    wide = torch.randn(n + 3, generator=torch.Generator().manual_seed(0))
    for old, new in ((F32, F32), (BF16, BF16), (F32, BF16), (F16, F16), (F32, F16)):
        theta, live = wide.to(place.device, old), torch.empty(n + 3, dtype=new, device=place.device)
        if noise.takes(theta, live):
            noise.perturb(theta, live, 0.01, "w", seed=0, draw=1)
            moved = wide.to(old).float() + noise.normals("w", n + 3, draw=1) * 0.01
            equal[f"{old} to {new}"] = same_bits(live, moved.to(new))
    kernel = "triton" if noise._on_card(place.device) else "none"
    return all(equal.values()) and (kernel == "triton" or not place.judges), {
        "kernel": kernel, "n": n, "unequal": [name for name, good in equal.items() if not good],
    }  # fmt: skip


def rate(place: Place) -> tuple[bool, Figures]:
    """Setting and restoring, against a plain copy and torch's seeded addition and subtraction."""
    n = place.size(1 << 30, 1 << 14)
    theta = torch.full((n,), 0.02, dtype=BF16, device=place.device)
    live = theta.clone()

    def set_it() -> None:
        add_noise(theta, live, 0.01, "w", seed=0, draw=0)

    setting = place.seconds(set_it)
    copying = place.seconds(lambda: live.copy_(theta))
    torchs = place.seconds(lambda: add_and_subtract([live], 0.01), repeats=2)
    ratio = torchs / (setting + copying)
    return not place.judges or n / setting > 300e9, {
        "G weights/s": n / setting / 1e9, "copy G weights/s": n / copying / 1e9,
        "torch's add and subtract: times as long": ratio,
    }  # fmt: skip


def seven_billion(place: Place) -> tuple[bool, Figures]:
    """`at` on a model of the shape of Qwen2.5-7B, or of as many of its layers as fit twice."""
    layer, ends = 466e6, 1.09e9
    layers = min(28, int((place.free_bytes() / 2.2 / 2 - ends) / layer)) if place.judges else 2
    width = place.size(3584, 32)
    config = Qwen2Config(
        vocab_size=place.size(152064, 99), hidden_size=width, num_hidden_layers=layers,
        intermediate_size=place.size(18944, 64), num_attention_heads=place.size(28, 4),
        num_key_value_heads=place.size(4, 2), tie_word_embeddings=False,
    )  # fmt: skip
    with place.device:
        engine = bs.load(AutoModelForCausalLM.from_config(config, dtype=BF16))
    halves: list[float] = []

    def there_and_back() -> None:
        start = time.perf_counter()
        with engine.at(bs.Random(0), step=0.01):
            place.wait()
            halves.append(time.perf_counter() - start)

    whole = place.seconds(there_and_back)
    engine.check_untouched()
    most = 0.060 * engine.d / 7.6e9
    return not place.judges or whole < most, {
        "parameters": engine.d, "set ms": 1e3 * statistics.median(halves[1:]),
        "set and restore ms": 1e3 * whole,
    }  # fmt: skip


def parity(place: Place) -> tuple[bool, Figures]:
    """Outcomes of a real small model in float32, there and on the CPU."""
    tasks = [bs.tasks(w, limit=place.size(48, 2))[0] for w in ("basic", "math", "safety")]
    seen: list[dict[tuple[Any, ...], int]] = []
    seconds = []
    prints = []
    for device in (place.device, torch.device("cpu")):
        engine = bs.load(place.model, dtype="float32", device=str(device))
        with engine.at(bs.Random(0), step=0.01, draw=1):
            prints.append(engine.fingerprint())
        start = time.perf_counter()
        land = bs.landscape(engine, tasks, directions=["random"], steps=STEPS, draws=1, workers=1)
        seconds.append(time.perf_counter() - start)
        rows = land.items()
        keys = zip(rows["task"], rows["step"], rows["item"], strict=True)
        seen.append(dict(zip(keys, rows["outcome"], strict=True)))
    equal = sum(seen[0][key] == seen[1][key] for key in seen[1])
    return prints[0] == prints[1] and equal >= 0.99 * len(seen[1]), {
        "outcomes": len(seen[1]), "equal": equal, "same weights": prints[0] == prints[1],
        "s": seconds[0], "s on the CPU": seconds[1],
    }  # fmt: skip


def choices(place: Place) -> tuple[bool, Figures]:
    """Items of multiple choice a second, against a pass over the options of one item at a time."""
    engine: Any = bs.load(place.model, device=str(place.device))
    items = bs.tasks("basic", limit=place.size(96, 3))[0].items
    rows = [engine.row(item.requests[0]) for item in items]

    def naive() -> None:
        for row in rows:
            padded.rank(engine.module, (*row.head, *row.body), row.tails)

    return _against(place, engine, [item.requests[0] for item in items], naive, least=10)


def texts(place: Place) -> tuple[bool, Figures]:
    """Texts a second, against transformers' `generate` in batches of 8."""
    engine: Any = bs.load(place.model, device=str(place.device))
    items = bs.tasks("safety", limit=place.size(64, 2))[0].items
    requests = [item.requests[0] for item in items]
    prompts = [(*row.head, *row.body) for row in map(engine.row, requests)]
    cap = min(requests[0].max_tokens, place.size(128, 4))

    def naive() -> None:
        padded.write(engine.module, prompts, cap, 8, stops=True)

    return _against(place, engine, requests, naive, least=1)


def _against(
    place: Place, engine: Any, requests: Sequence[Any], naive: Callable[[], None], least: float
) -> tuple[bool, Figures]:
    ours = place.seconds(lambda: engine.answer(requests), repeats=2)
    theirs = place.seconds(naive, repeats=1)
    return not place.judges or theirs / ours >= least, {
        "items/s": len(requests) / ours, "naive items/s": len(requests) / theirs,
        "ratio": theirs / ours, "dtype": engine.dtype,
    }  # fmt: skip


def go(place: Place) -> tuple[bool, Figures]:
    """A step of GO with AdamW against AdamW's, on the shape of GPT-2 small."""
    config = GPT2Config(
        vocab_size=place.size(50257, 99), n_layer=place.size(12, 1), n_embd=place.size(768, 32),
        n_head=place.size(12, 4), bos_token_id=0, eos_token_id=0, loss_type="ForCausalLM",
    )  # fmt: skip
    tokens = torch.randint(0, 99, (place.size(16, 1), place.size(1024, 8))).to(place.device)
    spent = {}
    for name, spec in {"adamw": {}, "go": {"sigma": 0.003}}.items():
        torch.manual_seed(0)
        with place.device:
            module = AutoModelForCausalLM.from_config(config).train()
        method = build(MethodSpec(name, spec), module, lr=1e-4, total_steps=100)

        def loss(module: Any = module) -> torch.Tensor:
            with torch.autocast(place.device.type, BF16):
                return module(input_ids=tokens, labels=tokens).loss  # type: ignore[no-any-return]

        spent[name] = place.seconds(lambda method=method, loss=loss: method.step([loss], 1.0))
    ratio = spent["go"] / spent["adamw"]
    return not place.judges or ratio < 1.05, {
        "adamw ms": 1e3 * spent["adamw"], "go ms": 1e3 * spent["go"], "ratio": ratio,
    }  # fmt: skip


PARTS = (bits, rate, seven_billion, go, parity, choices, texts)


# --- all of them --------------------------------------------------------------------------------


def run(place: Place, limit_s: float, parts: Sequence[Callable[..., Any]]) -> list[Figures]:
    """What each part has come to; a part that raises says why, and the next one begins."""
    begun, done = time.perf_counter(), []
    for part in parts:
        start = time.perf_counter()
        line: Figures = {"part": part.__name__, "passed": None}
        if start - begun > limit_s:
            done.append(line | {"skipped": f"{limit_s:.0f} s are over"})
            continue
        if place.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(place.device)
        try:
            line["passed"], line["figures"] = part(place)
        except Exception as error:
            traceback.print_exc()
            line |= {"passed": False, "failure": f"{type(error).__name__}: {error}"}
        if place.device.type == "cuda":
            line["peak GB"] = torch.cuda.max_memory_allocated(place.device) / 1e9
        done.append(line | {"seconds": time.perf_counter() - start})
        print(table(done[-1:]), flush=True)
    return done


def table(lines: Sequence[Figures]) -> str:
    """A line for each part."""
    rows = []
    for line in lines:
        word = {True: "passed", False: "FAILED", None: "-"}[line["passed"]]
        figures = line.get("figures") or {"": line.get("failure") or line.get("skipped")}
        text = ", ".join(
            f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}".lstrip(": ")
            for name, value in figures.items()
        )
        peak = f"{line['peak GB']:6.1f} GB" if "peak GB" in line else ""
        rows.append(f"{line['part']:14} {word:7} {line.get('seconds', 0):6.1f} s {peak}  {text}")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts; 0 if all that ran have passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU does in seconds")
    parser.add_argument("--model", default="smollm2", help="a small model with a tokenizer")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which no part begins")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(arguments)
    place = Place(torch.device(options.device), options.tiny, options.model)
    card = torch.cuda.get_device_name(place.device) if place.device.type == "cuda" else "CPU"
    print(f"{card}, torch {torch.__version__}")
    done = run(place, options.seconds, PARTS)
    print(f"\n{table(done)}")
    if options.json:
        whole = {"card": card, "torch": torch.__version__, "tiny": place.tiny, "parts": done}
        options.json.write_text(json.dumps(whole, indent=1))
    return int(any(line["passed"] is False for line in done))


if __name__ == "__main__":
    sys.exit(main())

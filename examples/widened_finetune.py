"""Noise in the fine-tuning stage: does it widen what is learnt, and spare what was known?

SmolLM2 is taught to refuse, by full training and by LoRA, with AdamW and with the same AdamW under
Gaussian weight noise (GO). Along each run the NLL of held-out refusals and of an old text are
measured, so that forgetting can be read where both have learnt the same; at its end the refusals
and general knowledge along random directions, so that the dug basins can be compared.

    python examples/widened_finetune.py --data-dir DATA --output runs/widened

DATA is laid out as the README says of ``--data-dir`` (advbench, instruct, text). Everything is
resumable: run the line again. One seed a call; call it with several, into folders of their own.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import basinscope as bs
from basinscope.comparison.matched import arrival, targets
from basinscope.engines.sources import save
from basinscope.finetuning import FineTune, held_out
from basinscope.finetuning.data import pair
from basinscope.finetuning.examples import Example, tokenize
from basinscope.finetuning.recipes import REFUSALS
from basinscope.tasks.base import limited
from basinscope.widening.rows import TuningPoint

MAX_TOKENS = 160  # of an example: a few long ones would cost most of the time


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run the experiment; returns the folder with its tables."""
    options = _parser().parse_args(arguments)
    out: Path = options.output
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"[{(time.monotonic() - began) / 60:5.1f} min] {text}\n")

    # 1. the same fine-tune with every sigma
    tunes: dict[tuple[str, float], FineTune] = {}
    for method in options.methods:
        for sigma in (0.0, *options.sigmas):
            say(f"fine-tuning: {method}, sigma = {sigma:g}")
            noise = {"base": torch.optim.AdamW, "sigma": sigma, "seed": options.seed + 1000}
            tunes[method, sigma] = bs.finetune(
                options.model, recipe="safety", method=method, run=out / f"{method}-{sigma:g}",
                optimizer=(bs.GaussianAugmented, noise), seed=options.seed,
                data_dir=options.data_dir, limit=options.examples, max_tokens=MAX_TOKENS,
                save_every=options.save_every,
            )  # fmt: skip

    # 2. what is learnt and forgotten along the way, on requests that no run was trained on
    folders = [tune.folder for tune in tunes.values()]
    requests = held_out(bs.tasks("advbench", data_dir=options.data_dir)[0], *folders)
    engine = bs.load(options.model, dtype="float32")
    new = answers(engine, [str(item.requests[0].prompt) for item in requests.items], options.limit)
    old = windows(engine, options.old_text or Path(options.data_dir) / OLD_TEXT, options.limit)
    rows: list[dict[str, Any]] = []
    for (method, sigma), tune in tunes.items():
        say(f"forgetting: {method}, sigma = {sigma:g}")
        kind = bs.Adapter if method == "lora" else bs.Toward
        for step, place in enumerate([None, *tune.checkpoints, tune.folder]):
            direction = None if place is None else kind(str(place))
            with moved(engine, direction):
                rows.append(
                    {"method": method, "sigma": sigma, "step": step,
                     "new_nll": nll(engine, new), "old_nll": nll(engine, old)}
                )  # fmt: skip
    curves = pd.DataFrame(rows)
    curves.to_csv(out / "curves.csv", index=False)
    matched = forgetting(curves)
    matched.to_csv(out / "forgetting.csv", index=False)

    # 3. the basins that were dug
    tasks = [limited(task, options.limit) for task in (requests, *bs.tasks("basic"))]
    scores = []
    for (method, sigma), tune in tunes.items():
        say(f"basins: {method}, sigma = {sigma:g}")
        folder = tune.folder
        if method == "lora":
            folder = merged(engine, bs.Adapter(str(tune.folder)), out / f"merged-{sigma:g}")
        land = bs.landscape(
            bs.load(folder, dtype="bfloat16"), tasks, directions=[bs.Random(options.seed)],
            steps=options.steps, draws=options.draws, run=out / f"basin-{method}-{sigma:g}",
        )  # fmt: skip
        scores.append(land.means().assign(method=method, sigma=sigma))
    basins = pd.concat(scores)[["method", "sigma", "task", "step", "draws", "score", "low", "high"]]
    basins.to_csv(out / "basins.csv", index=False)

    for title, table in (("forgetting at matched refusal NLL", matched), ("basins", basins)):
        print(f"\n{title}\n{table.to_string(index=False, float_format='%.4g')}")
    say("done")
    return out


OLD_TEXT = "text/wikitext2_valid.txt"


def answers(engine: Any, prompts: Sequence[str], limit: int) -> list[Example]:
    """Refusals of requests, a wording for each in turn, as tokens of which the answer counts."""
    chats = [pair(p, REFUSALS[i % len(REFUSALS)], f"request {i}") for i, p in enumerate(prompts)]
    return [tokenize(engine.tokens, chat, engine.ends) for chat in chats[:limit]]


def windows(engine: Any, path: Path, limit: int, length: int = 128) -> list[Example]:
    """Windows of a text, of which all but the first token count."""
    text = path.read_text(encoding="utf-8")[: 20 * length * limit]
    tokens = engine.tokenizer.encode(text, add_special_tokens=False)
    cuts = [tuple(tokens[i : i + length]) for i in range(0, len(tokens), length)][:limit]
    return [Example(cut, 1) for cut in cuts if len(cut) > 1]


@torch.no_grad()
def nll(engine: Any, examples: Sequence[Example]) -> float:
    """Mean NLL of the tokens that count, under the live weights, in nats."""
    total, n = 0.0, 0
    for example in examples:
        ids = torch.tensor([example.tokens], device=engine.device)
        logits = engine.module(input_ids=ids[:, :-1]).logits[0, example.start - 1 :].float()
        seen = ids[0, example.start :]
        total += float(torch.nn.functional.cross_entropy(logits, seen, reduction="sum"))
        n += len(seen)
    return total / n


def moved(engine: Any, direction: Any) -> Any:
    """Live weights at the model that a direction was made from; theta0 without one."""
    if direction is None:
        return engine.at(bs.Random(0), step=0.0)
    direction.fit(engine)
    return engine.at(direction, step=direction.displacement / math.sqrt(engine.d))


def merged(engine: Any, adapter: bs.Adapter, folder: Path) -> Path:
    """The model with its adapter merged, as a folder."""
    if not (folder / "config.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with moved(engine, adapter):
            save(engine.module, engine.tokenizer, folder)
    return folder


def points(curve: pd.DataFrame) -> list[TuningPoint]:
    """Losses along one run; scores are not measured there."""
    losses = curve[["step", "new_nll", "old_nll"]].to_dict("records")
    return [TuningPoint(**row, new_score=None, old_score=None) for row in losses]


def forgetting(curves: pd.DataFrame) -> pd.DataFrame:
    """Old NLL minus that before, where each run first reaches targets of the one without noise."""
    rows = []
    for method, runs in curves.groupby("method", sort=False):
        by_sigma = {sigma: points(curve) for sigma, curve in runs.groupby("sigma", sort=True)}
        for share, target in targets([by_sigma[0.0]]).items():
            base = arrival(by_sigma[0.0], target).forgetting
            for sigma, curve in by_sigma.items():
                reached = arrival(curve, target)
                rows.append(
                    {"method": method, "share": share, "new_nll": target, "sigma": sigma,
                     "forgetting": reached.forgetting,
                     "less": 1 - reached.forgetting / base if base > 0 else math.nan,
                     "reason": reached.reason}
                )  # fmt: skip
    names = ["method", "share", "new_nll", "sigma", "forgetting", "less", "reason"]
    return pd.DataFrame(rows, columns=names)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    numbers = lambda text: [float(x) for x in text.split(",")]  # noqa: E731
    parser.add_argument("--output", type=Path, default=Path("runs/widened"))
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=["full", "lora"])
    parser.add_argument("--sigmas", type=numbers, default=[0.01])
    parser.add_argument("--examples", type=int, default=300, help="of each fine-tune")
    parser.add_argument("--save-every", type=int, default=6, help="steps between measured weights")
    parser.add_argument("--limit", type=int, default=24, help="items, answers and windows")
    parser.add_argument("--old-text", type=Path, help=f"default {OLD_TEXT} of the data")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--steps", type=numbers, default=[0.0, 0.01, 0.015, 0.02, 0.03])
    return parser


if __name__ == "__main__":
    main()

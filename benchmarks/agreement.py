"""On how many items the fast path gives the outcome of the plain transformers path, item by item.

The plain path is the model class of transformers as it is loaded, one prompt at a time, without a
cache of anything shared: for a question the logits behind its whole prompt, for a text its greedy
continuation. Both paths have the same weights, at two steps along one random direction: 0 and the
edge of the basin. Where they differ, the plain path's margin is printed: the gap between the two
best logits at the first place where the paths part, and whether it is a tie, that is at most one
step of the dtype (bfloat16: 2^-7 of the power of two below it).

    python -m benchmarks.agreement [--dtypes bfloat16,float32] [--questions 200]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import binomtest
from transformers import AutoModelForCausalLM

import basinscope as bs
from benchmarks.slices import Slice, generation, outcome, slice_of

STEPS = (0.0, 0.015)


@dataclass
class Plain:
    """The model class of transformers, with whatever weights it is given."""

    model: Any
    end: int

    @torch.no_grad()
    def become(self, module: torch.nn.Module) -> None:
        """Take over the live weights."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(module.get_parameter(name))

    @torch.inference_mode()
    def logits(self, tokens: tuple[int, ...]) -> torch.Tensor:
        """Behind the last token."""
        return self.model(input_ids=torch.tensor([tokens])).logits[0, -1]  # type: ignore[no-any-return]

    @torch.inference_mode()
    def write(self, tokens: tuple[int, ...], cap: int) -> list[int]:
        """Greedy continuation."""
        ids = torch.tensor([tokens])
        out = self.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=cap,
            do_sample=False, pad_token_id=self.end, eos_token_id=self.end,
        )  # fmt: skip
        return out[0, ids.shape[1] :].tolist()  # type: ignore[no-any-return]


def margin(logits: torch.Tensor) -> tuple[float, bool]:
    """Gap between the two best, and whether it is at most one step of the dtype."""
    best, second = (float(x) for x in logits.topk(2).values)
    step = 2.0 ** math.floor(math.log2(abs(best))) * torch.finfo(logits.dtype).eps if best else 0.0
    return best - second, best - second <= step


def compared(engine: Any, plain: Plain, work: Slice) -> Iterator[tuple[bool, bool, str]]:
    """For every item: whether outcomes agree, whether answers do, and what is to be said of it."""
    requests = [item.requests[0] for _, item in work.items]
    answers = engine.answer(requests)
    for (task, item), prompt, answer in zip(work.items, work.prompts, answers, strict=True):
        ours = int(task.oracle(item, (answer,)).correct)
        if not work.cap:
            logits = plain.logits(prompt)[list(work.letters)]
            theirs = int(logits.argmax())
            gap, tie = margin(logits)
            mine = max(range(len(answer.loglik)), key=answer.loglik.__getitem__)
            same = mine == theirs
            note = f"{item.id}: letter {mine}, plain {theirs}"
        else:
            theirs = plain.write(prompt, work.cap)
            same = generation(engine, item, theirs).text == answer.text
            # places where the paths part: our text is read as tokens again, up to the first change
            written, shared = engine.tokenizer.encode(answer.text, add_special_tokens=False), 0
            while shared < min(len(written), len(theirs)) and written[shared] == theirs[shared]:
                shared += 1
            gap, tie = (0.0, False) if same else margin(plain.logits((*prompt, *written[:shared])))
            note = f"{item.id}: texts part after {shared} tokens"
        kind = "a tie" if tie else "no tie"
        agrees = outcome(engine, task, item, theirs) == ours
        yield agrees, same, "" if same else f"{note}, margin {gap:.4g} ({kind})"


def main() -> None:
    """Print the agreement of every slice, dtype and step, and all that differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--questions", type=int, default=200, help="of mmlu, five-shot")
    parser.add_argument("--texts", type=int, default=40, help="of advbench, cap 100")
    parser.add_argument("--problems", type=int, default=12, help="of gsm8k, five-shot, cap 256")
    options = parser.parse_args()
    counts = {
        "mmlu-spread": options.questions,
        "advbench": options.texts,
        "gsm8k": options.problems,
    }
    begun = time.perf_counter()
    for dtype in options.dtypes.split(","):
        engine: Any = bs.load(options.model, dtype=dtype)
        model = AutoModelForCausalLM.from_pretrained(engine.checkpoint, dtype=engine.dtype)
        plain = Plain(model.eval(), min(engine.ends))
        for name, n in counts.items():
            work = slice_of(name, engine, n)
            agreed, alike, said = 0, 0, []
            for step in STEPS:
                with engine.at(bs.Random(0), step=step):
                    plain.become(engine.module)
                    for agrees, same, note in compared(engine, plain, work):
                        agreed, alike = agreed + agrees, alike + same
                        said += [f"  step {step:g}, {note}"] if note else []
                sys.stderr.write(f"{time.perf_counter() - begun:6.0f} s  {dtype} {name} {step:g}\n")
            total = len(work.items) * len(STEPS)
            ends = binomtest(agreed, total).proportion_ci(0.95, method="exact")
            kind = "texts" if work.cap else "letters"
            print(
                f"{dtype} {name}: outcomes agree on {agreed} of {total} "
                f"[{ends.low:.4f}, {ends.high:.4f}], {kind} on {alike}",
                *said, sep="\n", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()

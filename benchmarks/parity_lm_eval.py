"""Outcomes of lm-eval and of this program on the same items, prompts and model, one by one.

    python -m benchmarks.parity_lm_eval --tasks mmlu,gsm8k --limit 200 --data-dir data --out parity

runs lm-eval itself (its ``simple_evaluate``, its model class around our live module and tokenizer,
its own batching) and ours: the task of our own (``mmlu``, ``gsm8k-sampled``) and the same task by
way of ``lm-eval:``. Both read the same files: they are written as YAML that includes lm-eval's own.

Every item is a line of ``OUT/TASK.jsonl``; running the line again goes on where the last one
stopped, also after ``--seconds``. Of every difference it says how near the two best answers are.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

import basinscope as bs
from basinscope.runs.measure import score
from basinscope.tasks.base import Subset, limited
from basinscope.tasks.mmlu import SUBJECTS

# our task, the words of the same by way of lm-eval, and the folder's name of it
TASKS = {
    "mmlu": ("mmlu", "mmlu_files@acc@shots=5"),
    "gsm8k": ("gsm8k-sampled", "gsm8k_files@filter=strict-match"),
    "gsm8k-flexible": ("gsm8k-sampled-flexible", "gsm8k_files@filter=flexible-extract"),
}


def write_tasks(data: Path, folder: Path, subjects: Sequence[str] = SUBJECTS) -> Path:
    """lm-eval's mmlu and gsm8k over local files instead of the hub's, in ``folder``."""
    import lm_eval.tasks

    own = Path(lm_eval.tasks.__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    for subject in subjects:
        files = {}
        for split in ("dev", "test"):
            rows = csv.reader((data / f"mmlu/{split}/{subject}_{split}.csv").open("r", newline=""))
            docs = [{"question": q, "choices": c, "answer": "ABCD".index(a)} for q, *c, a in rows]
            files[split] = _write_lines(folder / f"{subject}_{split}.jsonl", docs)
        _write_task(
            folder / f"{subject}.yaml", own / f"mmlu/default/mmlu_{subject}.yaml",
            f"mmlu_files_{subject}", files,
        )  # fmt: skip
    group = {"group": "mmlu_files", "task": [f"mmlu_files_{subject}" for subject in subjects]}
    (folder / "_mmlu.yaml").write_text(json.dumps(group))
    files = {s: str((data / f"gsm8k/{s}.jsonl").resolve()) for s in ("train", "test")}
    _write_task(folder / "gsm8k.yaml", own / "gsm8k/gsm8k.yaml", "gsm8k_files", files)
    return folder


def _write_lines(path: Path, docs: Iterable[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    return str(path.resolve())


def _write_task(path: Path, include: Path, name: str, files: dict[str, str]) -> None:
    """YAML (of which JSON is a part) that changes nothing but where the rows come from."""
    changed = {
        "include": str(include), "task": name, "dataset_path": "json", "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
    }  # fmt: skip
    path.write_text(json.dumps(changed))


def reference(
    module: torch.nn.Module,
    tokenizer: Any,
    folder: Path,
    numbers: dict[str, list[int]],
    *,
    batch_size: int = 1,
    shots: int | None = None,
) -> dict[tuple[str, int, str], dict[str, Any]]:
    """lm-eval's own samples, by task, document and filter.

    Args:
        module: live model.
        tokenizer: of the model.
        folder: YAML files.
        numbers: of each task, the documents wanted; the worked examples of a task that draws them
            are those of a run over all documents.
        batch_size: of lm-eval's model; padding changes the last bits of 16-bit numbers.
        shots: worked examples.
    """
    with _silent():
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        class Only(HFLM):  # type: ignore[misc]
            """Answers the wanted documents alone; the prompts of all of them are built."""

            def _some(self, requests: list[Any], answer: Any, instead: Any) -> list[Any]:
                wanted = [r.doc_id in numbers[r.task_name] for r in requests]
                kept = [r for r, keep in zip(requests, wanted, strict=True) if keep]
                found = iter(answer(kept))
                return [next(found) if keep else instead for keep in wanted]

            def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
                answer = super().loglikelihood
                return self._some(requests, lambda r: answer(r, disable_tqdm), (0.0, False))

            def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
                answer = super().generate_until
                return self._some(requests, lambda r: answer(r, disable_tqdm), "")

        model = Only(
            pretrained=module, tokenizer=tokenizer, batch_size=batch_size, device="cpu",
        )  # fmt: skip
        found = simple_evaluate(
            model=model,
            tasks=list(numbers),
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            num_fewshot=shots,
            limit=1 + max(max(own) for own in numbers.values()),
            bootstrap_iters=0,
        )
    return {
        (task, sample["doc_id"], sample["filter"]): sample
        for task, samples in found["samples"].items()
        for sample in samples
        if sample["doc_id"] in numbers[task]
    }


@contextlib.contextmanager
def _silent() -> Any:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def key(item_id: str, family: str) -> tuple[str, int]:
    """lm-eval's task and document of an item of ours, of either making."""
    task, _, number = item_id.rpartition("/")
    return (f"{family}_files{'_' if task else ''}{task.removeprefix('mmlu_files_')}", int(number))


def chosen_of(task: bs.Task, ids: Sequence[str]) -> Subset:
    """Items of a task by id."""
    wanted = set(ids)
    return Subset(task, tuple(item for item in task.items if item.id in wanted))


def prompts(item: bs.Item) -> list[str]:
    """Texts before what is scored or written."""
    return [r.prefix + r.context if isinstance(r, bs.Choices) else r.prompt for r in item.requests]


def compare(
    engine: Any, folder: Path, kind: str, ids: Sequence[str], tasks: tuple[bs.Task, bs.Task],
    batch_size: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """A line for each item: outcomes of lm-eval, of our task and of the adapter."""
    family = kind.partition("-")[0]
    own, adapted = (chosen_of(tasks[0], ids), Subset(tasks[1], tuple(
        item for item in tasks[1].items if key(item.id, family) in {key(i, family) for i in ids}
    )))  # fmt: skip
    numbers: dict[str, list[int]] = {}
    for i in ids:
        task, number = key(i, family)
        numbers.setdefault(task, []).append(number)
    metric = "acc" if family == "mmlu" else "exact_match"
    how = "none" if family == "mmlu" else TASKS[kind][1].rpartition("=")[2]
    start = time.perf_counter()
    ours = dict(zip([item.id for item in own.items], score(engine, own), strict=True))
    own_s = time.perf_counter() - start
    theirs_by_us = {
        key(item.id, family): outcome
        for item, outcome in zip(adapted.items, score(engine, adapted), strict=True)
    }
    start = time.perf_counter()
    found = reference(
        engine.module, engine.tokenizer, folder, numbers, batch_size=batch_size, shots=5
    )
    lm_eval_s = time.perf_counter() - start
    asked = {item.id: prompts(item)[0] for item in own.items}
    lines = []
    for i in ids:
        theirs = found[(*key(i, family), how)]
        texts = [answer[0] for answer in theirs["resps"]]
        line = {
            "item": i,
            "lm_eval": int(theirs[metric]),
            "own": int(ours[i].correct),
            "adapter": int(theirs_by_us[key(i, family)].correct),
            "same_prompt": asked[i] == theirs["arguments"][0][0],
            "margin": ours[i].margin,
            "answers": texts,
            "seconds": [own_s / len(ids), lm_eval_s / len(ids)],
        }
        if not line["lm_eval"] == line["own"] == line["adapter"]:
            (request,) = next(item for item in own.items if item.id == i).requests
            line["why"] = why(engine, request, texts)
        lines.append(line)
    return lines


@torch.inference_mode()
def why(engine: Any, request: bs.Choices | bs.Generate, theirs: list[Any]) -> dict[str, Any]:
    """How near the answers of a difference are."""
    (answer,) = engine.answer([request])
    if isinstance(request, bs.Choices):
        return {"ours": answer.loglik, "lm_eval": [loglik for loglik, _ in theirs]}
    # the first token in which the two texts differ, and the logits of both there
    encode = engine.tokenizer.encode
    mine, other = (encode(request.prompt + text) for text in (answer.text, theirs[0]))
    place = next((k for k, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), None)
    if place is None:
        return {"ours": answer.text, "note": "one text begins with the other"}
    logits = engine.module(torch.tensor([mine[:place]])).logits[0, -1].float()
    return {
        "ours": answer.text,
        "tokens": [engine.tokenizer.decode([row[place]]) for row in (mine, other)],
        "logits": [float(logits[row[place]]) for row in (mine, other)],
        "best": float(logits.max()),
        "written": place - len(encode(request.prompt)),
    }


def summary(path: Path) -> str:
    """Agreement over all lines, and every difference."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    n = len(lines)
    said = [f"{path.stem}: {n} items, prompts the same on {sum(x['same_prompt'] for x in lines)}"]
    for ours in ("own", "adapter"):
        same = sum(x[ours] == x["lm_eval"] for x in lines)
        right = sum(x[ours] for x in lines)
        said.append(
            f"  {ours}: same outcome on {same}/{n} ({same / n:.1%}); "
            f"score {right}/{n}, lm-eval {sum(x['lm_eval'] for x in lines)}/{n}"
        )
    own_s, lm_eval_s = (sum(x["seconds"][k] for x in lines) / n for k in (0, 1))
    said.append(f"  seconds an item: ours {own_s:.2f}, lm-eval {lm_eval_s:.2f}")
    said += [
        f"  {x['item']}: lm-eval {x['lm_eval']}, own {x['own']}, adapter {x['adapter']}: "
        f"{json.dumps(x['why'])}"
        for x in lines
        if "why" in x
    ]
    return "\n".join(said)


def main() -> None:
    """Go on with what is missing, then print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", default="mmlu,gsm8k", help=f"by commas, of {', '.join(TASKS)}")
    parser.add_argument("--limit", type=int, default=200, help="items of each task")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("parity"))
    parser.add_argument("--batch-size", type=int, default=1, help="of lm-eval's model")
    parser.add_argument("--chunk", type=int, default=8, help="items measured between two writes")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after; run again to go on")
    given = parser.parse_args()
    start = time.monotonic()
    folder = write_tasks(given.data_dir, given.out / "tasks")
    engine = bs.load(given.model, dtype=given.dtype)
    for kind in given.tasks.split(","):
        own_word, adapter_word = TASKS[kind]
        (own,) = bs.tasks(own_word, data_dir=given.data_dir)
        (adapted,) = bs.tasks(f"lm-eval:{folder}/{adapter_word}")
        # of GSM8K the first ones: lm-eval draws the worked examples of one item after another
        wanted = [
            item.id
            for item in (
                limited(own, given.limit).items if kind == "mmlu" else own.items[: given.limit]
            )
        ]
        path = given.out / f"{kind}.jsonl"
        path.touch()
        done = {json.loads(line)["item"] for line in path.read_text().splitlines()}
        left = [i for i in wanted if i not in done]
        while left and time.monotonic() - start < given.seconds:
            now, left = left[: given.chunk], left[given.chunk :]
            lines = compare(engine, folder, kind, now, (own, adapted), given.batch_size)
            with path.open("a") as handle:
                handle.writelines(json.dumps(line) + "\n" for line in lines)
            print(f"{kind}: {len(wanted) - len(left)}/{len(wanted)}", flush=True)
        if path.stat().st_size:
            print(summary(path))


if __name__ == "__main__":
    main()

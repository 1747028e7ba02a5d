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
import functools
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
from basinscope.tasks import Choices, Generate, Task
from basinscope.tasks.base import limited
from basinscope.tasks.mmlu import SUBJECTS

# the words of ours for a task, each with the filter of lm-eval's that it is compared with
WAYS = {
    "mmlu": {"mmlu": "none", "lm-eval:{folder}/mmlu_files@acc@shots=5": "none"},
    "gsm8k": {
        "gsm8k-sampled": "strict-match",
        "gsm8k-sampled-flexible": "flexible-extract",
        "lm-eval:{folder}/gsm8k_files@filter=strict-match": "strict-match",
        "lm-eval:{folder}/gsm8k_files@filter=flexible-extract": "flexible-extract",
    },
}
METRIC = {"mmlu": "acc", "gsm8k": "exact_match"}


def write_tasks(data: Path, folder: Path, subjects: Sequence[str] = SUBJECTS) -> Path:
    """lm-eval's mmlu and gsm8k over local files instead of the hub's, in ``folder``."""
    import lm_eval.tasks

    shipped = Path(lm_eval.tasks.__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    for subject in subjects:
        files = {}
        for split in ("dev", "test"):
            text = (data / f"mmlu/{split}/{subject}_{split}.csv").read_bytes().decode()
            rows = csv.reader(io.StringIO(text, newline=""))
            docs = [{"question": q, "choices": c, "answer": "ABCD".index(a)} for q, *c, a in rows]
            files[split] = _write_lines(folder / f"{subject}_{split}.jsonl", docs)
        _write_task(
            folder / f"{subject}.yaml", shipped / f"mmlu/default/mmlu_{subject}.yaml",
            f"mmlu_files_{subject}", files,
        )  # fmt: skip
    group = {"group": "mmlu_files", "task": [f"mmlu_files_{subject}" for subject in subjects]}
    (folder / "_mmlu.yaml").write_text(json.dumps(group))
    files = {s: str((data / f"gsm8k/{s}.jsonl").resolve()) for s in ("train", "test")}
    _write_task(folder / "gsm8k.yaml", shipped / "gsm8k/gsm8k.yaml", "gsm8k_files", files)
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
        from lm_eval import simple_evaluate, utils
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        if not hasattr(utils.env.from_string, "cache_info"):  # else compiled for every document
            utils.env.from_string = functools.lru_cache(1024)(utils.env.from_string)

        class Only(HFLM):  # type: ignore[misc]
            """Answers the wanted documents alone; the prompts of all of them are built."""

            def _some(self, requests: list[Any], answer: Any, instead: Any) -> list[Any]:
                wanted = [r.doc_id in numbers[r.task_name] for r in requests]
                chosen = [r for r, keep in zip(requests, wanted, strict=True) if keep]
                answers = iter(answer(chosen))
                return [next(answers) if keep else instead for keep in wanted]

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
            limit=1 + max(max(documents) for documents in numbers.values()),
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


def key(item_id: str, kind: str) -> tuple[str, int]:
    """lm-eval's task and document of an item of ours, of either making."""
    task, _, number = item_id.rpartition("/")
    return (f"{kind}_files{'_' if task else ''}{task.removeprefix('mmlu_files_')}", int(number))


def prompt(request: Choices | Generate) -> str:
    """Text before what is scored or written."""
    return request.prefix + request.context if isinstance(request, Choices) else request.prompt


def compare(
    engine: Any,
    folder: Path,
    kind: str,
    wanted: Sequence[tuple[str, int]],
    tasks: dict[str, tuple[Task, str]],
    batch_size: int = 1,
) -> list[dict[str, Any]]:
    """A line for each document: outcomes of lm-eval and of each of our ways, and how they differ.

    Args:
        engine: the model.
        folder: YAML files.
        kind: of `WAYS`.
        wanted: lm-eval's task and document numbers.
        tasks: by way: our task, and the filter to compare with.
        batch_size: of lm-eval's model.
    """
    numbers: dict[str, list[int]] = {}
    for task, number in wanted:
        numbers.setdefault(task, []).append(number)
    start = time.perf_counter()
    theirs = reference(
        engine.module, engine.tokenizer, folder, numbers, batch_size=batch_size, shots=5
    )
    lm_eval_s = (time.perf_counter() - start) / len(wanted)
    items = {
        way: {k: item for item in task.items if (k := key(item.id, kind)) in wanted}
        for way, (task, _) in tasks.items()
    }
    # ways that ask the same are answered once; one that may stop early asks something else
    asked: dict[tuple[Any, bool], Any] = {}
    for by_document in items.values():
        for item in by_document.values():
            (request,) = item.requests
            asked[request, getattr(request, "decided", None) is not None] = request
    start = time.perf_counter()
    answers = dict(zip(asked, engine.answer([*asked.values()]), strict=True))
    ours_s = (time.perf_counter() - start) / len(asked)
    lines = []
    for document in wanted:
        line: dict[str, Any] = {"item": document, "seconds": [ours_s, lm_eval_s], "ways": {}}
        for way, (task, how) in tasks.items():
            item, sample = items[way][document], theirs[(*document, how)]
            (request,) = item.requests
            early = getattr(request, "decided", None) is not None
            answer = answers[request, early]
            said = [pair[0] for pair in sample["resps"]]
            text = getattr(answer, "text", None)
            same = None if text is None else text == said[0]
            if early:  # it stops when nothing that follows can change the score
                same = said[0].startswith(text)
            line["ways"][way] = {
                "ours": int(task.oracle(item, [answer]).correct),
                "lm_eval": int(sample[METRIC[kind]]),
                "same_prompt": prompt(request) == sample["arguments"][0][0],
                "same_text": same,
            }
            if same is False or line["ways"][way]["ours"] != line["ways"][way]["lm_eval"]:
                line["ways"][way]["why"] = why(engine, request, answer, said)
        lines.append(line)
    return lines


@torch.inference_mode()
def why(engine: Any, request: Any, answer: Any, theirs: list[Any]) -> dict[str, Any]:
    """How near the answers of a difference are."""
    if isinstance(request, Choices):
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
    n, said, reasons = len(lines), [f"{path.stem}: {len(lines)} items"], []
    for way in lines[0]["ways"]:
        outcomes = [line["ways"][way] for line in lines]
        same = sum(x["ours"] == x["lm_eval"] for x in outcomes)
        said.append(
            f"  {way.partition('/')[0]}...{way.rpartition('/')[2]}: "
            if "/" in way
            else f"  {way}: "
        )
        said[-1] += (
            f"same outcome on {same}/{n} ({same / n:.1%}), same prompt on "
            f"{sum(x['same_prompt'] for x in outcomes)}; "
            f"right: ours {sum(x['ours'] for x in outcomes)}, "
            f"lm-eval {sum(x['lm_eval'] for x in outcomes)}"
        )
        if outcomes[0]["same_text"] is not None:
            said[-1] += f"; same text on {sum(x['same_text'] for x in outcomes)}"
        reasons += [
            f"  {line['item']} {way.rpartition('/')[2]}: lm-eval {x['lm_eval']}, ours {x['ours']}: "
            f"{json.dumps(x['why'])}"
            for line, x in zip(lines, outcomes, strict=True)
            if "why" in x
        ]
    ours_s, lm_eval_s = (sum(x["seconds"][k] for x in lines) / n for k in (0, 1))
    said.append(f"  seconds a request: ours {ours_s:.2f}, lm-eval {lm_eval_s:.2f}")
    return "\n".join(said + reasons)


def main() -> None:
    """Go on with what is missing, then print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", default="mmlu,gsm8k", help=f"by commas, of {', '.join(WAYS)}")
    parser.add_argument("--limit", type=int, default=200, help="items of each task")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("parity"))
    parser.add_argument("--batch-size", type=int, default=1, help="of lm-eval's model")
    parser.add_argument("--chunk", type=int, default=8, help="items measured between two writes")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after; run again to go on")
    options = parser.parse_args()
    start = time.monotonic()
    folder = write_tasks(options.data_dir, options.out / "tasks")
    engine = bs.load(options.model, dtype=options.dtype)
    for kind in options.tasks.split(","):
        tasks = {
            way: (bs.tasks(way.format(folder=folder), data_dir=options.data_dir)[0], how)
            for way, how in WAYS[kind].items()
        }
        (first, _), *_ = tasks.values()
        # of GSM8K the first ones: lm-eval draws the worked examples of one item after another
        drawn = limited(first, options.limit) if kind == "mmlu" else first
        wanted = [key(item.id, kind) for item in drawn.items[: options.limit]]
        path = options.out / f"{kind}.jsonl"
        path.touch()
        done = {tuple(json.loads(line)["item"]) for line in path.read_text().splitlines()}
        left = [document for document in wanted if document not in done]
        while left and time.monotonic() - start < options.seconds:
            now, left = left[: options.chunk], left[options.chunk :]
            lines = compare(engine, folder, kind, now, tasks, options.batch_size)
            with path.open("a") as handle:
                handle.writelines(json.dumps(line) + "\n" for line in lines)
            print(f"{kind}: {len(wanted) - len(left)}/{len(wanted)}", flush=True)
        if path.stat().st_size:
            print(summary(path))


if __name__ == "__main__":
    main()

"""Logs of other harnesses in place of models: lm-eval's samples, and Inspect's logs.

No model is loaded, and no torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basinscope.check.record import Check, Pairs, allowances, check_confidence, judged
from basinscope.errors import BasinscopeError, listed, nearest, typed
from basinscope.files import describe, entries, ordinary, read_json


@dataclass(frozen=True)
class Log:
    """Answers of one model to one task.

    Attributes:
        task: its name; with the filter where lm-eval applied several.
        path: where it was read from.
        settings: what must be the same in two logs that are compared.
        answers: by metric, 0 or 1 for every document; None where a value is neither.
        documents: what a document is known by in another log, by hash, and its id there.
    """

    task: str
    path: Path
    settings: Mapping[str, Any]
    answers: Mapping[str, Mapping[str, int] | None]
    documents: Mapping[str, str]


@typed
def check_logs(
    base: str | Path,
    tuned: str | Path | Sequence[str | Path],
    tasks: Sequence[str] | None = None,
    *,
    allow: float = 0.02,
    on: Mapping[str, float] | None = None,
    confidence: float = 0.95,
) -> Check:
    """The gate of `basinscope.check` on answers that another harness has logged.

    Args:
        base: folder with the logs of one model: ``samples_*.jsonl`` and ``results_*.json`` of
            lm-eval's ``--log_samples``, or ``.eval`` and ``.json`` of Inspect; or one such file of
            Inspect. Of several runs of a task the latest counts.
        tuned: the same of one or several other models.
        tasks: names of tasks; default all that the logs of base have. ``NAME@METRIC`` takes that
            metric of lm-eval, or scorer of Inspect, in place of the first that is 0 or 1 for each
            document.
        allow: loss of a task's score that is allowed.
        on: the same for single tasks, by name.
        confidence: of the whole gate; see `Check`.

    Returns:
        The gate; all documents are one look.

    Raises:
        BasinscopeError: no logs, one that is cut off, or two that differ in task, version, number
            of shots, settings, documents or prompts; a score that is not 0 or 1; Inspect not
            installed.

    Guarantee: documents are matched by hash (lm-eval: doc, prompt and target; Inspect: input and
    target), never by their place.
    Cost: one pass over the files; a second for ten thousand samples of lm-eval.
    """
    check_confidence(confidence)
    many = tuned if isinstance(tuned, Sequence) and not isinstance(tuned, str) else [tuned]
    labels = [str(folder) for folder in many]
    if not labels or len(set(labels)) < len(labels):
        raise BasinscopeError(f"logs of {labels}", "one or more, each once", "name each once")
    before = read_logs(Path(base))
    metrics: dict[str, str] = {}  # of each task; empty where none was named
    for word in before if tasks is None else tasks:
        task, _, metric = (word, "", "") if word in before else word.rpartition("@")
        metrics[task or metric] = metric if task else ""
    wanted = list(metrics)
    for task in wanted:
        if task not in before:
            raise BasinscopeError(
                f"{base} has no log of task {task!r}", ", ".join(before), nearest(task, before)
            )
    allowed = allowances(wanted, allow, on)
    pairs = []
    for label in labels:
        after = read_logs(Path(label))
        lacks = [task for task in wanted if task not in after]
        extra = [task for task in after if task not in before] if tasks is None else []
        if lacks or extra:
            apart = [listed(f"{label} lacks", lacks), listed(f"{base} lacks", extra)]
            raise BasinscopeError(
                f"logs of different tasks: {'; '.join(filter(None, apart))}",
                "the same tasks on both sides",
                f"-t {','.join(t for t in wanted if t in after) or 'a task that both have'}",
            )
        pairs += [_pair(before[t], after[t], label, allowed[t], metrics[t]) for t in wanted]
    return Check(str(base), confidence, judged(pairs, confidence))


def read_logs(place: Path) -> dict[str, Log]:
    """Logs of one model, by task.

    Raises:
        BasinscopeError: as `check_logs`.
    """
    samples = entries(place, "**/samples_*.jsonl") if place.is_dir() else []
    if samples:
        return _lm_eval(place, samples)
    files = [place] if place.is_file() else [*entries(place, "**/*.eval"),
                                              *entries(place, "**/*.json")]  # fmt: skip
    files = [file for file in files if file.suffix in (".eval", ".json")]
    if not files:
        raise BasinscopeError(
            f"no logs at {place}: it is {describe(place)}",
            "a folder with samples_*.jsonl of lm-eval, or logs of Inspect (.eval, .json)",
            "lm-eval run --log_samples --output_path FOLDER",
        )
    if any(file.name.startswith("results_") for file in files):
        raise BasinscopeError(
            f"{place} has lm-eval's results without the samples",
            "samples_*.jsonl beside them",
            "lm-eval run --log_samples --output_path FOLDER",
        )
    return _inspect(files)


def _pair(before: Log, after: Log, label: str, allow: float, metric: str) -> Pairs:
    """Answers to the same documents; refuses logs that say they are not comparable."""
    for name in sorted(before.settings.keys() | after.settings.keys()):
        was, now = before.settings.get(name), after.settings.get(name)
        if was != now:
            raise BasinscopeError(
                f"{before.task}: {name} is {_short(was)} in {before.path} and {_short(now)} in "
                f"{after.path}",
                "logs of the same task, version, shots and settings",
                "evaluate both models by the same line",
            )
    name = _metric(before, after, metric)
    old, new = before.answers[name], after.answers[name]
    assert old is not None
    assert new is not None
    apart = [
        (log, [log.documents[key] for key in log.documents if key not in other.documents])
        for log, other in ((before, after), (after, before))
    ]
    if any(ids for _, ids in apart):
        named = "; ".join(listed(f"{log.path} alone has {len(ids)}", ids) for log, ids in apart)
        raise BasinscopeError(
            f"{before.task}: documents or prompts that do not match: {named}".removesuffix("; "),
            "the same documents, prompts and targets on both sides",
            "evaluate both models by the same line",
        )
    keys = list(old)
    return Pairs(
        task=before.task, tuned=label, items=tuple(before.documents[key] for key in keys),
        before=tuple(old.values()), after=tuple(new[key] for key in keys), whole=len(keys),
        allow=allow, looks=(len(keys),),
    )  # fmt: skip


def _metric(before: Log, after: Log, wanted: str) -> str:
    """The metric asked for, or the first that is 0 or 1 for each document of both logs."""
    good = [m for m, values in before.answers.items() if values and after.answers.get(m)]
    if wanted in good or (good and not wanted):
        return wanted or good[0]
    raise BasinscopeError(
        f"{before.task}: {f'metric {wanted!r}' if wanted else 'no metric'} is 0 or 1 for each "
        f"document (of {', '.join(before.answers) or 'none'})",
        ", ".join(good) or "a task that is scored right or wrong",
        f"-t {before.task}@{good[0]}" if good else "-t with other tasks",
    )


def _lm_eval(place: Path, samples: Sequence[Path]) -> dict[str, Log]:
    latest: dict[str, Path] = {}
    folders = {path.parent for path in samples}
    if len(folders) > 1:
        raise BasinscopeError(
            f"{place} holds samples in {len(folders)} folders "
            f"({', '.join(sorted(f.name for f in folders)[:3])})",
            "the logs of one model",
            f"{sorted(folders)[0]}",
        )
    for path in samples:  # the date stands behind the task, and sorts
        latest[path.stem.removeprefix("samples_").rpartition("_")[0]] = path
    logs = {}
    for name, path in latest.items():
        date = path.stem.rpartition("_")[2]
        results = _object(path, f"*_{date}.json")
        for log in _of_filters(name, path, results):
            logs[log.task] = log
    return logs


def _of_filters(name: str, path: Path, results: Mapping[str, Any]) -> Iterator[Log]:
    """Logs of one file: one for each filter that the task's answers went through."""
    filters: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(path):
        filters.setdefault(str(row["filter"]), []).append(row)
    planned = _part(results, "n-samples", name, path).get("effective")
    config, task = results.get("config") or {}, _part(results, "configs", name, path)
    settings = {
        "version": (results.get("versions") or {}).get(name),
        "the number of shots": (results.get("n-shot") or {}).get(name),
        "the limit": config.get("limit") if isinstance(config, dict) else None,
        "the seed of shots": config.get("fewshot_seed") if isinstance(config, dict) else None,
        "generation_kwargs": task.get("generation_kwargs"),
        "the system instruction": results.get("system_instruction_sha"),
        "multi-turn shots": results.get("fewshot_as_multiturn"),
    }
    better = (results.get("higher_is_better") or {}).get(name) or {}
    if not filters:
        raise _cut(path, "it is empty")
    for label, rows in filters.items():
        if planned is not None and len(rows) != planned:
            raise _cut(path, f"it has {len(rows)} of {planned} documents")
        keys = _keys(f"{row['doc_hash']} {row['prompt_hash']} {row['target_hash']}" for row in rows)
        yield Log(
            task=name if len(filters) == 1 else f"{name}:{label}",
            path=path,
            settings=settings,
            answers={
                metric: _binary(zip(keys, (row.get(metric) for row in rows), strict=True))
                for metric in rows[0]["metrics"]
                if better.get(metric) is not False
            },
            documents=dict(zip(keys, (str(row["doc_id"]) for row in rows), strict=True)),
        )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Samples of a file of lm-eval, with all that is read of them."""
    needed = ("filter", "doc_id", "metrics", "doc_hash", "prompt_hash", "target_hash")
    number = 0
    try:
        with ordinary(path, None).open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                row = json.loads(line)
                lacks = [key for key in needed if key not in row]
                if lacks:
                    raise BasinscopeError(
                        f"{path}, line {number}, has no {', '.join(lacks)}",
                        "samples of lm-eval 0.4.4 or later",
                        "evaluate anew with it",
                    )
                yield row
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _cut(path, f"line {number}: {error}") from None


def _object(samples: Path, pattern: str) -> dict[str, Any]:
    """The results that belong to samples: of the same moment, in the same folder."""
    path = next(iter(entries(samples.parent, pattern)), None)
    if path is None:
        raise BasinscopeError(
            f"no results_*.json beside {samples}: versions and shots cannot be compared",
            "what lm-eval writes into one folder",
            "copy the whole folder, or wait until the evaluation has ended",
        )
    try:
        body = read_json(path)
        if isinstance(body, dict):
            return body
        raise ValueError("it is no object")
    except (OSError, ValueError) as error:
        raise _cut(path, str(error)) from None


def _part(results: Mapping[str, Any], name: str, task: str, path: Path) -> dict[str, Any]:
    part = results.get(name)
    body = part.get(task) if isinstance(part, dict) else None
    if not isinstance(body, dict):
        raise _cut(path, f"its results have no {name} of {task}")
    return body


def _inspect(files: Sequence[Path]) -> dict[str, Log]:
    if importlib.util.find_spec("inspect_ai") is None:
        raise BasinscopeError(
            f"{files[0]}, a log of Inspect, whose reader is not installed",
            "logs of lm-eval without it",
            "pip install 'basinscope[inspect]'",
        )
    from inspect_ai.log import read_eval_log
    from inspect_ai.scorer import value_to_float

    number, logs = value_to_float(), {}
    for path in files:  # names begin with the date: the latest run of a task comes last
        try:
            log = read_eval_log(str(path))
        except Exception as error:  # zip, JSON, pydantic: it says what it met
            raise _cut(path, str(error) or type(error).__name__) from None
        spec, samples = log.eval, log.samples or []
        if log.status != "success" or not samples:
            raise _cut(path, f"its status is {log.status!r}, with {len(samples)} samples")
        if any(sample.epoch != 1 for sample in samples):
            raise BasinscopeError(
                f"{path} has several epochs, whose answers are not independent",
                "one answer to each sample",
                "inspect eval --epochs 1",
            )
        keys = _keys(_hash([sample.input, sample.target]) for sample in samples)
        scorers = dict.fromkeys(name for sample in samples for name in sample.scores or {})
        values = {
            scorer: _binary(
                (key, _number(number, sample.scores, scorer))
                for key, sample in zip(keys, samples, strict=True)
            )
            for scorer in scorers
        }
        logs[spec.task] = Log(
            task=spec.task,
            path=path,
            settings={
                "version": spec.task_version,
                "the task's arguments": spec.task_args,
                "the solver": spec.solver,
                "the solver's arguments": spec.solver_args,
                "the limit": spec.config.limit,
            },
            answers=values,
            documents=dict(zip(keys, (str(sample.id) for sample in samples), strict=True)),
        )
    return logs


def _number(
    number: Callable[[Any], float], scores: Mapping[str, Any] | None, scorer: str
) -> float | None:
    """A score as Inspect counts it; a sample without one was not answered, which is wrong."""
    if scorer not in (scores or {}):
        return 0.0
    value = scores[scorer].value  # type: ignore[index]
    return number(value) if isinstance(value, str | int | float) else None


def _keys(hashes: Iterable[str]) -> list[str]:
    """Hashes of documents; those of equal ones are told apart by their number."""
    seen: Counter[str] = Counter()
    keys = []
    for text in hashes:
        seen[text] += 1
        keys.append(f"{text} {seen[text]}")
    return keys


def _binary(values: Iterable[tuple[str, Any]]) -> dict[str, int] | None:
    """0 or 1 for each document; None where a value is neither."""
    pairs = list(values)
    if not all(isinstance(v, int | float) and v in (0, 1) for _, v in pairs):
        return None
    return {key: int(v) for key, v in pairs}


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=lambda model: model.model_dump(exclude={"id"}))
    return hashlib.sha256(text.encode()).hexdigest()


def _short(value: Any) -> str:
    return f"{value!r:.60}"


def _cut(path: Path, reason: str) -> BasinscopeError:
    return BasinscopeError(
        f"{path} is cut off or damaged ({(reason.splitlines() or [''])[0]:.120})",
        "a log as the harness wrote it to the end",
        "copy it again, or evaluate anew",
    )

"""lm-eval tasks built once, without a model: documents, prompts, metric and filter."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from basinscope.errors import BasinscopeError, nearest
from basinscope.tasks.base import Item, check_chance
from basinscope.tasks.lm_eval.configs import Source, Word, find, functions, malformed, parse
from basinscope.tasks.lm_eval.documents import Document, LmEval, Response
from basinscope.tasks.lm_eval.library import OTHER_SEED, library, undisturbed
from basinscope.tasks.lm_eval.metrics import BINARY, chosen, judged
from basinscope.tasks.lm_eval.requests import Written, common_prefix, requests_of, written

_OF_THE_PLACE: Final = ("metadata", "dataset_path", "dataset_name", "dataset_kwargs")
_PROBED: Final = 8  # documents on which a metric is tried with made-up answers


def load(name: str, *, allow_code_execution: bool = False) -> LmEval:
    """Task of a word.

    Args:
        name: ``lm-eval:NAME`` or ``lm-eval:PATH``, with options (`basinscope.tasks.lm_eval`).
        allow_code_execution: let YAML files of the user's own import the Python functions that
            they name (``!function``). That code runs in this process, not in a sandbox.

    Raises:
        BasinscopeError: If lm-eval is not installed, the task is unknown, its YAML malformed, its
            data cannot be loaded, or if its metric is not 0 or 1 for each document.
    """
    word = parse(name)
    source = find(word)
    try:
        return _load(name, word, source, allow_code_execution)
    except BasinscopeError:
        raise
    except Exception as error:  # whatever lm-eval or datasets raise, the user needs these words
        raise _explained(word, source, error) from error


def _load(name: str, word: Word, source: Source, allow_code_execution: bool) -> LmEval:
    _refuse(source, allow_code_execution)
    metrics = {
        leaf: chosen(leaf, word.metric, refusals)
        for leaf, settings, _ in source.leaves()
        if (refusals := judged(settings)) or not settings.get("class")
    }
    documents: dict[str, Document] = {}
    items: list[Item] = []
    digest = hashlib.sha256()
    scored: set[tuple[str, str]] = set()
    with undisturbed():
        tasks = _built(word, source, metrics)
        for task in tasks:
            metric, how = _scored_by(task, word, metrics)
            scored.add((metric, how))
            start = f"{task.task_name}/" if len(tasks) > 1 else ""
            pairs = list(_documents(task, metric, how, start))
            task._instances = []  # they hold every prompt, and the items do too
            _probe(task, [document for document, _ in pairs[:_PROBED]])
            items += [item for _, item in pairs]
            documents |= {item.id: document for document, item in pairs}
            for part in (_settings(task), *(document.doc for document, _ in pairs)):
                digest.update(_text(part))
        shares = [_chance(document) for document in documents.values()]
    if len(scored) > 1:
        raise BasinscopeError(
            f"the tasks of {name!r} are scored differently: {sorted(scored)}",
            "one metric and filter for all of them",
            f"name them: {name}@METRIC@filter=NAME",
        )
    for file in _modules(source) if allow_code_execution else ():
        digest.update(file.read_bytes())
    ((metric, how),) = scored
    chance = sum(shares) / len(shares)
    check_chance(name, chance)
    scoring = f"lm-eval {library().version} {metric},{how} {digest.hexdigest()[:16]}"
    return LmEval(name, tuple(items), chance, scoring, documents, allow_code_execution)


def _refuse(source: Source, allow_code_execution: bool) -> None:
    """Raise for a task that would run code, or that needs more than text."""
    for leaf, settings, file in source.leaves():
        kind = settings.get("output_type", "generate_until")
        if kind not in BINARY:
            raise BasinscopeError(
                f"{file}: lm-eval task {leaf!r} has output_type {kind!r}",
                ", ".join(BINARY),
                "another task",
            )
        if settings.get("unsafe_code"):
            raise BasinscopeError(
                f"lm-eval task {leaf!r} runs the code that a model writes, without a sandbox",
                "tasks that only read it",
                "the task humaneval, which has one",
            )
        if settings.get("dataset_path") == "pandas":
            raise BasinscopeError(
                f"{file}: dataset_path pandas reads a pickle, which can run code when it is opened",
                "data in CSV, JSON or Parquet",
                "dataset_path: json",
            )
        if settings.get("doc_to_image") or settings.get("doc_to_audio"):
            raise BasinscopeError(
                f"lm-eval task {leaf!r} shows pictures or sounds", "text alone", "another task"
            )
    if allow_code_execution:
        return
    for file in sorted(source.files()):
        if named := functions(file):
            raise BasinscopeError(
                f"{file}: !function {named[0]} would run Python code of that folder",
                "YAML with templates alone",
                "pass --allow-code-execution if you trust the folder: its code runs in this "
                "process, not in the sandbox",
            )


def _modules(source: Source) -> list[Path]:
    """Python files beside the YAML files that name functions."""
    files = [file for file in source.files() if functions(file)]
    return sorted({module for file in files for module in file.parent.glob("*.py")})


def _built(word: Word, source: Source, metrics: Mapping[str, str]) -> list[Any]:
    """Tasks as lm-eval builds them, each with its prompts."""
    manager = library().tasks.TaskManager(include_defaults=False)
    manager.task_index.update(source.index)
    # a metric that lm-eval does not know is fetched from the hub as code: never here
    known, library().task.get_metric = library().task.get_metric, _known_metric
    try:
        tasks = list(manager.load(list(source.names))["tasks"].values())
        for task in tasks:
            _set_shots(task, word.shots)
            _leave_out(task, metrics.get(task.task_name, ""))
            task.set_fewshot_seed(OTHER_SEED)
            task.build_all_requests(
                system_instruction=word.instruction,
                apply_chat_template=word.chat,
                fewshot_as_multiturn=word.multiturn,
                chat_template=written if word.chat else None,
            )
            _check_contexts(task, word)
    finally:
        library().task.get_metric = known
    if not tasks:
        raise BasinscopeError(
            f"lm-eval group {word.name!r} holds no task", "a group of tasks", "another name"
        )
    return tasks


def _check_contexts(task: Any, word: Word) -> None:
    """Raise where a task's own code leaves out the chat template or the system's message."""
    contexts = [instance.arguments[0] for instance in task.instances if instance.arguments[0]]
    if word.chat:
        past = not all(isinstance(context, Written) for context in contexts)
    else:
        past = any((word.instruction or "") not in context for context in contexts)
    if past:
        raise BasinscopeError(
            f"lm-eval task {task.task_name!r} writes its prompts by code of its own, without "
            f"{'the chat template' if word.chat else 'the system message'}",
            "with @chat and @system, tasks whose prompts lm-eval itself writes",
            "leave out @chat and @system",
        )


def _known_metric(name: str, hf_evaluate_metric: bool = False) -> Any:
    return None if hf_evaluate_metric else library().registry.METRIC_REGISTRY.get(name, None)


def _set_shots(task: Any, shots: int | None) -> None:
    """Set the number of worked examples as lm-eval's command line does."""
    default = task.get_config("num_fewshot")
    if shots is not None and default == 0 != shots:
        raise BasinscopeError(
            f"lm-eval task {task.task_name!r} with {shots} worked examples",
            "none, which its settings fix",
            "leave out @shots",
        )
    if shots is not None or default is None:
        task.set_config("num_fewshot", shots or 0)


def _leave_out(task: Any, metric: str) -> None:
    """Drop costly metrics that were not asked for."""
    listed = getattr(task, "_metric_fn_list", {})
    by_function = callable(task.get_config("process_results"))
    for name in list(listed):
        costly = name == "acc_mutual_info" or (listed[name] is None and not by_function)
        if costly and name != metric:
            del listed[name]


def _explained(word: Word, source: Source, error: Exception) -> BasinscopeError:
    """Error in the user's words: the data, or the settings."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    if any(frame.name == "download" for frame in frames):
        sets = sorted({str(s.get("dataset_path")) for _, s, _ in source.leaves()})
        more = f" and {len(sets) - 3} more" if len(sets) > 3 else ""
        network = "no network: " if isinstance(error, (ConnectionError, TimeoutError)) else ""
        return BasinscopeError(
            f"the data of lm-eval:{word.name} could not be loaded ({', '.join(sets[:3])}{more}): "
            f"{network}{reason}",
            "a data set of the Hugging Face hub, or local files",
            "run once with a network (the hub's copy is then kept), or write a YAML file that "
            "includes the task's with dataset_path: json and dataset_kwargs: {data_files: ...}",
        )
    kind = type(error).__name__
    files = sorted(source.files())
    if word.is_path and files:
        return malformed(files[0] if len(files) == 1 else files[0].parent, f"{kind}: {reason}")
    return BasinscopeError(
        f"lm-eval could not build {word.name!r}: {kind}: {reason}",
        "a task that its own library can build",
        "read its README in lm-eval",
    )


def _scored_by(task: Any, word: Word, metrics: Mapping[str, str]) -> tuple[str, str]:
    """Metric and filter of a built task."""
    name = task.task_name
    if name in metrics:
        metric = metrics[name]
    else:  # a task that is a class says only now what it measures
        higher, means = task.higher_is_better(), (library().metrics.mean,)
        refusals = {
            key: "its score is no mean over documents" if how not in means
            else "" if higher.get(key, True) else "lower is better"
            for key, how in task.aggregation().items()
        }  # fmt: skip
        metric = chosen(name, word.metric, refusals)
    filters = [ensemble.name for ensemble in task._filters]
    if word.filter and word.filter not in filters:
        raise BasinscopeError(
            f"lm-eval task {name!r} has no filter {word.filter!r}",
            ", ".join(filters),
            nearest(word.filter, filters),
        )
    return metric, word.filter or filters[0]


def _documents(task: Any, metric: str, how: str, start: str) -> Iterator[tuple[Document, Item]]:
    """Documents of a built task, as items."""
    prefix = common_prefix(task.instances)
    for number, instances in _by_document(task.instances).items():
        try:
            requests, places = requests_of(task.task_name, instances, prefix)
        except BasinscopeError as error:
            raise BasinscopeError(
                f"lm-eval task {task.task_name!r}, document {number}: {error.given}",
                error.allowed,
                error.try_,
            ) from None
        kinds = tuple(instance.request_type for instance in instances)
        doc = instances[0].doc
        document = Document(task, doc, number, kinds, places, metric, how)
        yield document, Item(f"{start}{number}", requests, str(task.doc_to_target(doc)))


def _by_document(instances: Iterable[Any]) -> dict[int, list[Any]]:
    groups: dict[int, list[Any]] = {}
    for instance in instances:
        groups.setdefault(instance.doc_id, []).append(instance)
    return {number: sorted(group, key=lambda i: i.idx) for number, group in groups.items()}


def _chance(document: Document) -> float:
    """Score of a guess: the share of right choices; 0 for a written answer."""
    if not document.is_choice:
        return 0.0
    return len(set(document.right())) / len(document.task.doc_to_choice(document.doc))


def _probe(task: Any, documents: Sequence[Document]) -> None:
    """Raise if a metric is not 0 or 1 for made-up answers, or fails for all of them.

    A share of words in common is 1 for the right text and 0 for none: half of it tells.
    """
    failures, tried = [], 0
    for document in documents:
        for responses in _made_up(document):
            tried += 1
            try:
                value, _ = document.value(responses)
            except Exception as error:  # its own code, on an answer it may not expect
                failures.append(error)
                continue
            if value not in (0.0, 1.0):
                raise BasinscopeError(
                    f"lm-eval task {task.task_name!r}: metric {document.metric!r} is {value:g} for "
                    f"document {document.number}",
                    "metrics that are 0 or 1 for each document",
                    "name another: lm-eval:NAME@METRIC",
                )
    if failures and len(failures) == tried:
        raise BasinscopeError(
            f"lm-eval task {task.task_name!r}: metric {documents[0].metric!r} cannot be computed "
            f"({type(failures[0]).__name__}: {' '.join(str(failures[0]).split())[:200]})",
            "a metric that can be computed for each document",
            "another: lm-eval:NAME@METRIC",
        )


def _made_up(document: Document) -> Iterator[list[Response]]:
    target = str(document.task.doc_to_target(document.doc))
    words = target.split(" ")
    texts = (target, " ".join(words[: (len(words) + 1) // 2]), f"{target} and so on", "")
    for k, text in enumerate(texts):
        yield [
            (-1.0 - (i + k) % len(document.kinds), (i + k) % 2 == 0) if kind == "loglikelihood"
            else text
            for i, kind in enumerate(document.kinds)
        ]  # fmt: skip


def _settings(task: Any) -> dict[str, Any]:
    """Settings of a built task that tell it from others, but where its documents come from."""
    settings = dict(task.dump_config()) if hasattr(task.config, "to_dict") else {}
    return {key: value for key, value in settings.items() if key not in _OF_THE_PLACE}


def _text(value: Any) -> bytes:
    """Text of a document or settings for a hash; what has none is left out."""
    return json.dumps(value, sort_keys=True, default=lambda _: "", skipkeys=True).encode()

"""Measure a gate: the same items before and after, until every verdict is decided."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from basinscope.check.record import (
    Check,
    Pairs,
    Standing,
    allowances,
    check_confidence,
    judged,
    looks,
    verdicts,
)
from basinscope.check.stands import (
    Text,
    asked,
    at_once,
    divergences,
    keep,
    margins,
    read_standings,
)
from basinscope.directions.base import Direction
from basinscope.directions.words import direction_of
from basinscope.engines.base import Engine
from basinscope.errors import BasinscopeError, typed
from basinscope.files import read_json, write
from basinscope.runs.bench import Bench, Unit, shuffled
from basinscope.runs.models import Model, check_folder, engine_of
from basinscope.runs.plan import check as check_plan
from basinscope.runs.session import Progress, open_session
from basinscope.runs.spec import RunSpec, TaskSpec
from basinscope.runs.store import MOVED, Store, Trial
from basinscope.tasks.base import Task
from basinscope.tasks.words import tasks as tasks_of
from basinscope.weights.parts import chunks

KIND = "check"

Answers = dict[str, tuple[int, float | None]]
"""Outcome (0 or 1) and nll of every item, by item."""


@typed
def check(
    base: Model,
    tuned: str | Path | Direction | Sequence[str | Path | Direction],
    tasks: str | Task | Sequence[str | Task],
    *,
    allow: float = 0.02,
    on: Mapping[str, float] | None = None,
    confidence: float = 0.95,
    limit: int | None = None,
    margin: bool = False,
    beside: str | Path | Sequence[str | Path] = (),
    texts: Text | Sequence[Text] = (),
    run: str | Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Check:
    """Did a fine-tune, merge, quantised or pruned copy lose something that must be kept?

    The items of a task are asked in a random order, the same ones before and after, 64 at first and
    then twice as many again, until the verdict of each model and task is decided or all items were
    asked.

    Args:
        base: an engine, or what `basinscope.load` takes.
        tuned: what was made of it, one or several: a model, an adapter's folder, or a word or
            object of a direction that another model is behind (`basinscope.direction`).
        tasks: words or objects, as in `basinscope.tasks`.
        allow: loss of a task's score that is allowed, such as 0.02 for two points of a hundred.
        on: the same for single tasks, by name.
        confidence: of the whole gate; see `Check` for what it promises.
        limit: most items of each task.
        margin: search how far each model could go on along its own slice, on that side of the base,
            before half of each task's score above chance is lost. Its records are a landscape's, in
            the folder ``margin`` of the run folder.
        beside: run folders of the base: of a landscape along ``random`` with the same items, with
            whose half-widths (at level 0.5) each displacement is compared, and of a certificate,
            which judges each displacement.
        texts: files or words (``wikitext2``) of texts for KL(base || model) in nats a token, on at
            most 32 blocks of each; Student's t interval over blocks.
        run: run folder. What was planned (models, tasks, losses allowed, confidence) is written
            there before the first answer and stays as it is. The same call resumes it.
        workers: as in `basinscope.landscape`.
        progress: as in `basinscope.landscape`.

    Returns:
        The gate, with a row for each model and task.

    Raises:
        BasinscopeError: a model that does not fit the base, has its weights, or answers in another
            way (tokenizer, chat template); no model behind a direction; numbers out of range; a run
            folder with another plan; runs of another model or kind, or a text of one block.

    Guarantee: see `Check`. Every answer is kept under the fingerprint of the weights that gave it
    and is never taken for another's. The tuned weights are theta0 + (theta' - theta0) in the dtype
    of the base: bit for bit theta' in bfloat16 unless a weight shrank a thousandfold.
    Cost: at most one evaluation of every item for the base and for each model. A margin takes a
    search on one side (some nine points), a text two passes over its blocks for the first model and
    one for each other; the rest reads the displacements.

    Example:
        >>> import torch, basinscope as bs
        >>> layer = torch.nn.Linear(400, 1, bias=False)
        >>> task = bs.CallableTask("positive", lambda m: m.weight[0] > 0, 400)
        >>> _ = layer.weight.data.fill_(1.0)
        >>> print(bs.check(bs.load(layer), "pruned:0.25", task).verdict)
        lost
    """
    many = tasks_of(tasks, limit=limit)
    lines = tuned_lines(tuned)
    check_plan(many, lines, None, 1, 0.5, workers)
    allowed = allowances([task.name for task in many], allow, on)
    check_confidence(confidence)
    wanted = asked(
        many, margin=margin, confidence=confidence,
        beside=_several(beside), texts=_several(texts),
    )  # fmt: skip
    engine = engine_of(base, run, kind=KIND, dtype=wanted.dtype)
    bench = Bench.of(engine, lines, many)
    wanted.check_model(bench)
    begun = None if run is None else check_folder(run, KIND)
    models = _models(bench, begun.plan["models"] if begun else {})
    steps = [models[line.label]["step"] for line in lines]
    spec = RunSpec(
        kind=KIND, model=bench.model, tasks=bench.task_specs,
        directions=tuple(models), draws=1, steps=(0.0, *steps), level=0.5,
        displacements={line.label: line.displacement or 0.0 for line in lines},
        plan={"allow": allowed, "confidence": confidence, "models": models},
    )  # fmt: skip
    places = {line.label: step for line, step in zip(lines, steps, strict=True)}
    stands = at_once(wanted, bench, places, confidence)
    plans = [looks(len(task.items)) for task in many]
    with open_session(
        bench, spec, run, workers=workers, units=len(lines) + 1, progress=progress,
        where=lambda trial: trial.direction or "the base",
    ) as session:  # fmt: skip
        moved = _moved(session.store, engine, lines)
        undecided = {(t, d) for t in range(len(many)) for d in range(len(lines))}
        for look in range(max(map(len, plans))):
            session.measure(_units(plans, undecided, look, steps))
            pairs = _pairs(session.store)
            still = {
                (pair.task, pair.tuned)
                for pair, verdict in zip(pairs, verdicts(pairs, confidence), strict=True)
                if verdict == "undecided"
            }
            undecided = {
                (t, d)
                for t, d in undecided
                if (many[t].name, lines[d].label) in still and look + 1 < len(plans[t])
            }
            if not undecided:
                break
    keep(session.store, stands)
    if margin:
        rows = margins(bench, places, run, confidence, workers=workers, progress=progress)
        keep(session.store, rows)
        stands += rows
    stands += divergences(wanted, bench, session.store, confidence, progress)
    return _check(session.store, moved, read_standings(session.store) if run else tuple(stands))


def read_check(run: str | Path) -> Check:
    """Gate of a run folder, without its models; see `basinscope.load_run`.

    Raises:
        BasinscopeError: no gate there, or one of which nothing was judged yet.
    """
    store = Store(run).of_kind(KIND)
    return _check(store, _read_moved(store), read_standings(store))


def read_answers(run: str | Path) -> dict[tuple[str, str | None], dict[str, str]]:
    """Label of every item that was asked, by task and model (None: the base)."""
    store = Store(run).of_kind(KIND)
    labels: dict[tuple[str, str | None], dict[str, str]] = {}
    for trial in store.trials():
        if trial.direction is None or _is_planned(trial, store.spec.plan["models"]):
            by_item = labels.setdefault((trial.task, trial.direction), {})
            by_item |= dict(zip(trial.items, trial.labels, strict=True))
    return labels


def tuned_lines(
    tuned: str | Path | Direction | Sequence[str | Path | Direction],
) -> list[Direction]:
    """Directions of one or several models."""
    return [direction_of(one) for one in _several(tuned)]


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _models(bench: Bench, begun: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Identity and step of every model, by label; the step as the run was begun with."""
    models: dict[str, dict[str, Any]] = {}
    for d, line in enumerate(bench.directions):
        step = line.sits_at(bench.engine)
        if step is None:
            raise BasinscopeError(
                f"no model is behind {line.label}",
                "what another model is behind: to:MODEL, adapter:FOLDER, quantised:BITS, a merge",
                "basinscope landscape, which measures along any direction",
            )
        identity = bench.identity(d, 0)
        old = begun.get(line.label, {})
        # a norm may differ in its last bit between two machines; a record's address may not
        same = old.get("identity") == identity
        models[line.label] = {"identity": identity, "step": old["step"] if same else step}
    return models


def _units(
    plans: Sequence[tuple[int, ...]], undecided: set[tuple[int, int]], look: int,
    steps: Sequence[float],
) -> list[Unit]:  # fmt: skip
    """What is asked for one look more, by the weights that must be set and the part."""
    groups: dict[tuple[int | None, tuple[int, int]], list[int]] = {}
    for t, plan in enumerate(plans):
        models = [d for d in range(len(steps)) if (t, d) in undecided]
        if models:
            part = (plan[look - 1] if look else 0, plan[look])
            for d in (None, *models):
                groups.setdefault((d, part), []).append(t)
    return [
        Unit(d, 0, 0.0 if d is None else steps[d], tuple(many), part=part)
        for (d, part), many in groups.items()
    ]


def _pairs(store: Store) -> list[Pairs]:
    """What was answered both before and after; every record at its own address."""
    spec = store.spec
    answers: dict[tuple[str, str | None], Answers] = {}
    for trial in store.trials():
        if trial.direction is None or _is_planned(trial, spec.plan["models"]):
            rows = zip(trial.items, trial.correct, trial.nlls, strict=True)
            by_item = answers.setdefault((trial.task, trial.direction), {})
            by_item |= {item: (correct, nll) for item, correct, nll in rows}
    pairs = []
    for label in spec.plan["models"]:
        for task in spec.tasks:
            before, after = answers.get((task.name, None), {}), answers.get((task.name, label), {})
            pairs.append(_pair(task, label, before, after, spec.plan["allow"][task.name]))
    return pairs


def _is_planned(trial: Trial, models: Mapping[str, Mapping[str, Any]]) -> bool:
    model = models.get(trial.direction or "", {})
    return (trial.key["direction"], trial.step) == (model.get("identity"), model.get("step"))


def _pair(task: TaskSpec, label: str, before: Answers, after: Answers, allow: float) -> Pairs:
    plan = looks(task.n_items)
    items = shuffled(before.keys() & after.keys(), 0)
    nlls = [(before[item][1], after[item][1]) for item in items]
    changes = [new - old for old, new in nlls if old is not None and new is not None]
    return Pairs(
        task=task.name, tuned=label, items=items,
        before=tuple(before[item][0] for item in items),
        after=tuple(after[item][0] for item in items),
        whole=task.n_items, allow=allow, looks=plan,
        nll=math.fsum(changes) / len(changes) if changes else None,
    )  # fmt: skip


def _check(store: Store, moved: dict[str, dict[str, float]], stands: tuple[Standing, ...]) -> Check:
    spec, pairs = store.spec, _pairs(store)
    for pair in pairs:
        if len(pair.items) < pair.looks[0]:
            raise BasinscopeError(
                f"{store.folder} has {len(pair.items)} of the first {pair.looks[0]} items of "
                f"{pair.task} for {pair.tuned}",
                "a gate of which every row was looked at once",
                "run the same line again: it resumes",
            )
    changes = judged(pairs, spec.plan["confidence"])
    return Check(
        spec.model.source, spec.plan["confidence"], changes, dict(spec.displacements), moved, stands
    )


def _moved(store: Store, engine: Engine, lines: Sequence[Direction]) -> dict[str, dict[str, float]]:
    """How far each kind of tensor moved, over the norm of theta0 in it; kept in the run folder."""
    moved = _read_moved(store)
    if moved.keys() == set(store.spec.plan["models"]):
        return moved
    for line in lines:
        squares: dict[str, list[float]] = {}
        parts_of = line.as_displacement(engine)
        for name, shape in engine.shapes.items():
            both = squares.setdefault(kind_of(name), [0.0, 0.0])
            parts, theta = parts_of(name), engine.pristine(name).reshape(-1)
            for a, b in chunks(shape.numel()):
                for n, part in enumerate((parts and parts(a, b), theta[a:b])):
                    if part is not None:
                        both[n] += float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2
        moved[line.label] = {
            kind: math.sqrt(change / start) if start else math.inf
            for kind, (change, start) in squares.items()
            if change
        }
    if store.folder is not None:
        write(store.folder / MOVED, json.dumps(moved, indent=1))
    return moved


def _read_moved(store: Store) -> dict[str, dict[str, float]]:
    try:
        body = read_json(store.folder / MOVED) if store.folder else {}
        return {str(k): {str(n): float(x) for n, x in v.items()} for k, v in body.items()}
    except (OSError, ValueError, AttributeError, TypeError):  # it is measured again
        return {}


def kind_of(name: str) -> str:
    """Kind of a tensor: its name from the last numbered layer on, without ``weight``.

    >>> kind_of("model.layers.3.self_attn.q_proj.weight"), kind_of("model.embed_tokens.weight")
    ('self_attn.q_proj', 'embed_tokens')
    """
    tail = re.split(r"\.\d+\.", name)[-1].removesuffix(".weight")
    return tail if tail != name.removesuffix(".weight") else tail.rpartition(".")[2]

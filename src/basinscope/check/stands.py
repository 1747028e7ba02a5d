"""Where a tuned model stands beside the verdict; none of it decides one.

Its margin along its own slice, its displacement over the width of the random basin, KL from the
base on texts, and what a certificate says of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from basinscope import stats
from basinscope.certify.certificate import Certificate
from basinscope.certify.sampling import read_certificate
from basinscope.check.record import Standing
from basinscope.directions.base import Direction
from basinscope.errors import BasinscopeError
from basinscope.files import read_json, write
from basinscope.landscape.edges import search
from basinscope.landscape.record import Landscape, read_landscape
from basinscope.runs import header
from basinscope.runs.bench import Bench, shuffled
from basinscope.runs.session import Progress, open_session, restored
from basinscope.runs.spec import ModelSpec, RunSpec, sha256, task_spec
from basinscope.runs.store import MARGIN, STANDS, Store
from basinscope.tasks import corpus
from basinscope.tasks.base import Corpus, Task

BLOCKS = 32  # of a text at most
AT_ONCE = 8  # blocks whose distributions under the base are held: 25 MB each, of 49,152 tokens
LEVEL, HALF = 0.5, "half of the base's score above chance"

Text = str | Path | Task
"""A file, a word of `basinscope.tasks.corpus`, or its task."""


@dataclass(frozen=True)
class Asked:
    """What is asked for beside the verdicts, read and checked as far as no model is needed.

    Attributes:
        margin: whether the edge along each model's own slice is searched.
        widths: half-width of the random basin, by task; empty where it was not asked for.
        certificate: where one was given.
        texts: for KL from the base.
        models: that the runs given were measured on, by folder.
    """

    margin: bool
    widths: Mapping[str, stats.Width]
    certificate: Certificate | None
    texts: tuple[Task, ...]
    models: Mapping[str, ModelSpec]

    @property
    def dtype(self) -> str:
        """Dtype that the base must have, for the runs given; else ``auto``."""
        return next((model.dtype for model in self.models.values()), "auto")

    def check_model(self, bench: Bench) -> None:
        """Refuse runs of another model than the base, and texts that it cannot read."""
        model = bench.model
        for folder, measured in self.models.items():
            for field in ("fingerprint", "selection"):
                old, new = getattr(measured, field), getattr(model, field)
                if old != new:
                    raise BasinscopeError(
                        f"{folder} is of another model: {field} {old[:12]}, here {new[:12]}",
                        f"a run of {model.source}, loaded as it is here",
                        f"the one that it was made with ({measured.source}, {measured.dtype})",
                    )
        for text in self.texts:
            bench.engine.log_probabilities(_blocks(text)[0])


def asked(
    tasks: Sequence[Task],
    *,
    margin: bool = False,
    beside: Sequence[str | Path] = (),
    texts: Sequence[Text] = (),
    confidence: float = 0.95,
) -> Asked:
    """Read and check what stands beside a gate, before a model is loaded.

    Args:
        tasks: of the gate.
        margin: as in `basinscope.check`; so are the others.
        beside: see there.
        texts: see there.
        confidence: of each interval.

    Raises:
        BasinscopeError: a run of another kind or without these tasks, two of one kind, a text too
            short for an interval, runs of models in two dtypes.
    """
    if wrong := [f for f in beside if not isinstance(f, str | Path)]:
        raise BasinscopeError(f"beside={wrong[0]!r:.80}", "run folders", "what --run named")
    kinds = [header.kind_of(Path(folder)) for folder in beside]
    for n, (folder, kind) in enumerate(zip(beside, kinds, strict=True)):
        if kind not in ("landscape", "certificate") or kind in kinds[:n]:
            another = f", beside {beside[kinds.index(kind)]}" if kind in kinds[:n] else ""
            raise BasinscopeError(
                f"{folder}, {header.KINDS[kind].noun}{another}",
                "a landscape along random and a certificate, one of each",
                "leave it out",
            )
    models: dict[str, ModelSpec] = {}
    widths: dict[str, stats.Width] = {}
    cert = None
    for folder, kind in zip(beside, kinds, strict=True):
        if kind == "landscape":
            land = read_landscape(folder)
            widths = {task.name: _random_width(land, task, folder, confidence) for task in tasks}
            models[str(folder)] = land.spec.model
        else:
            cert = read_certificate(folder)
            models[str(folder)] = cert.model
    if len({(m.fingerprint, m.dtype) for m in models.values()}) > 1:
        raise BasinscopeError(
            f"{' and '.join(models)}, of two models or dtypes", "both of the base", "one of them"
        )
    return Asked(margin, widths, cert, tuple(map(_text, texts)), models)


def _random_width(
    land: Landscape, task: Task, folder: str | Path, confidence: float
) -> stats.Width:
    labels = [
        label for label in land.directions(task.name) if re.fullmatch(r"random(:\d+)?", label)
    ]
    if not labels:
        raise BasinscopeError(
            f"{folder}, in which {task.name!r} was not measured along random",
            "a landscape of the base along random, of the same tasks",
            f"basinscope landscape BASE -d random -t {task.name} --run {folder}",
        )
    was, now = land.task(task.name), task_spec(task)
    if was != now:
        raise BasinscopeError(
            f"{folder}, which asked {was.n_items} items of {task.name!r} ({was.scoring}), "
            f"not these {now.n_items} ({now.scoring})",
            "the same items",
            f"--limit {was.n_items}, or a landscape of these",
        )
    return land.width(task.name, LEVEL, direction=labels[0], confidence=confidence)


def _text(word: Text) -> Task:
    if isinstance(word, str | Path):
        text: Task = corpus.load(corpus.PREFIX + str(word).removeprefix(corpus.PREFIX))
    else:
        text = word
    if not isinstance(text, Task) or not all(
        isinstance(r, Corpus) for item in text.items for r in item.requests or (None,)
    ):
        name = f"{text.name}, a task," if isinstance(text, Task) else f"{text!r:.80}"
        raise BasinscopeError(f"{name} as a text", "a text file in UTF-8, or wikitext2", "a file")
    if len(text.items) < 2:
        raise BasinscopeError(
            f"{text.name} is one block of text",
            f"two blocks of {corpus.BLOCK} characters or more, for an interval",
            "a longer text",
        )
    return text


def at_once(
    wanted: Asked, bench: Bench, steps: Mapping[str, float], confidence: float
) -> list[Standing]:
    """What needs no answers: displacements over widths, and the certificate's verdicts."""
    rows = []
    for line in bench.directions:
        at = steps[line.label]
        for task, width in wanted.widths.items():
            ends = [_over(at, w) for w in (width.high, width.estimate, width.low)]
            rows.append(_beside(line.label, task, ends, width, confidence))
        if wanted.certificate is not None:
            verdict = wanted.certificate.verdict(line, bench.engine)
            task = wanted.certificate.task.name
            says = (
                f"{line.label}, {task}: by the certificate {verdict.word} ({verdict.reason}); it "
                "bounds the mean score under its noise around this model, not the model's own"
            )
            rows.append(
                Standing(
                    "certificate", line.label, task, verdict.bound, math.nan, math.nan,
                    wanted.certificate.confidence, says,
                )
            )  # fmt: skip
    return rows


def _over(at: float, width: float) -> float:
    return math.inf if width == 0 else at / width


def _beside(
    label: str, task: str, ends: Sequence[float], width: stats.Width, confidence: float
) -> Standing:
    low, estimate, high = ends
    if not width.unresolved:
        says = f"{_interval(low, estimate, high)} of the random basin's half-width "
        says += f"({width.n_units} {width.unit}): from 1 on, noise as large loses {HALF}"
        says += f" ({width.reason})" if width.reason else ""
    else:
        estimate = math.nan
        most = f"at most {high:.3g} of" if math.isfinite(high) else "not compared with"
        says = f"{most} the random basin's half-width: {width.reason}"
    says = f"{label}, {task}: its displacement is {says}"
    return Standing("random", label, task, low, estimate, high, confidence, says)


def margins(
    bench: Bench,
    steps: Mapping[str, float],
    run: str | Path | None,
    confidence: float,
    *,
    workers: int | None,
    progress: Progress | None,
) -> list[Standing]:
    """Search the edge of each task along each model's own slice, on the model's side of the base.

    The edge is where half of the base's score above chance is lost, as in `Landscape.width`, with
    the items as the units. The records are a landscape's, in a folder of their own in the gate's.
    """
    spec = RunSpec(
        kind="landscape", model=bench.model, tasks=bench.task_specs,
        directions=tuple(line.label for line in bench.directions), draws=1, steps=None, level=LEVEL,
        displacements={line.label: line.displacement or 0.0 for line in bench.directions},
    )  # fmt: skip
    folder = None if run is None else Path(run) / MARGIN
    with open_session(
        bench, spec, folder, workers=workers, units=2 * len(bench.directions), progress=progress
    ) as session:
        starts = [steps[line.label] for line in bench.directions]
        search(session, 1, LEVEL, starts=starts)
    land = Landscape(session.store.spec, session.store.trials())
    rows = []
    for line in bench.directions:
        for task in bench.tasks:
            width = land.width(task.name, LEVEL, direction=line.label, confidence=confidence)
            rows.append(_margin(line.label, task.name, steps[line.label], width, confidence))
    return rows


def _margin(label: str, task: str, at: float, width: stats.Width, confidence: float) -> Standing:
    low, estimate, high = width.low / at, width.estimate / at, width.high / at
    here = f"{label}, {task}: it sits at alpha = {at:.4g} on its own slice; {HALF} is lost "
    if width.unresolved:
        least = f"at no less than {low:.3g} times that" if low > 0 else "nowhere that was found"
        says = f"{here}{least}: {width.reason}"
    else:
        where = "inside" if low >= 1 else "outside" if high <= 1 else "at the edge, or near it"
        says = (
            f"{here}at {_interval(low, estimate, high)} times that ({width.n_units} {width.unit}): "
            f"it is {where}"
        )
        says += f" ({width.reason})" if width.reason else ""
    return Standing("margin", label, task, low, estimate, high, confidence, says)


def divergences(
    wanted: Asked, bench: Bench, store: Store, confidence: float, progress: Progress | None
) -> list[Standing]:
    """KL from the base on each text, block by block; what the run folder holds is not read again.

    Of at most `BLOCKS` blocks in a random order, that of `shuffled`.
    """
    rows: list[Standing] = []
    there = dict(_rows(store).values())
    with restored(bench.engine, bench.model.fingerprint):
        for text in wanted.texts:
            # the plan of the run folder fixes the models
            keys = {
                label: sha256(["kl/1", label, task_spec(text).model_dump(), confidence, BLOCKS])
                for label in (line.label for line in bench.directions)
            }
            missing = [line for line in bench.directions if keys[line.label] not in there]
            for label, sums in _sums(bench, missing, text, progress).items():
                there[keys[label]] = row = _diverged(bench, label, text, sums, confidence)
                keep(store, [row], keys[label])
            rows += [there[key] for key in keys.values()]
    return rows


def _sums(
    bench: Bench, lines: Sequence[Direction], text: Task, progress: Progress | None
) -> dict[str, list[tuple[float, int]]]:
    """Sum of KL(base || tuned) over the places of each block, and how many places there are."""
    sums: dict[str, list[tuple[float, int]]] = {line.label: [] for line in lines}
    blocks = _blocks(text)
    engine = bench.engine
    for a in range(0, len(blocks) if lines else 0, AT_ONCE):
        part = blocks[a : a + AT_ONCE]
        before = [engine.log_probabilities(block) for block in part]
        for line in lines:
            step = line.sits_at(engine)
            assert step is not None
            with engine.at(line, step=step):
                for block, old in zip(part, before, strict=True):
                    each = (old.exp() * (old - engine.log_probabilities(block))).sum(-1)
                    sums[line.label].append((float(each.double().sum()), len(each)))
        if progress is not None:
            progress(a + len(part), len(blocks), f"KL on {text.name}")
    return sums


def _blocks(text: Task) -> list[str]:
    """Blocks of a text that are read."""
    ids = set(shuffled((item.id for item in text.items), 0)[:BLOCKS])
    return [r.text for item in text.items if item.id in ids
            for r in item.requests if isinstance(r, Corpus)]  # fmt: skip


def _diverged(
    bench: Bench, label: str, text: Task, sums: Sequence[tuple[float, int]], confidence: float
) -> Standing:
    pairs = [pair for pair in sums if pair[1]]
    kl = stats.student_ratio([x for x, _ in pairs], [n for _, n in pairs], confidence)
    low = max(kl.low, 0.0) if math.isfinite(kl.low) else kl.low
    says = (
        f"{label}, {text.name}: KL({bench.model.source} || it) is "
        f"{_interval(low, kl.estimate, kl.high)} nats a token ({len(pairs)} blocks of text"
        f"{kl.reason and ': '}{kl.reason}): 0 would be the same next-token distributions"
    )
    return Standing("kl", label, text.name, low, kl.estimate, kl.high, confidence, says)


def _interval(low: float, estimate: float, high: float) -> str:
    return f"{estimate:.3g} [{low:.3g}, {high:.3g}]"


def keep(store: Store, rows: Sequence[Standing], key: str = "") -> None:
    """Write rows into the run folder, each in the place of an older one of the same."""
    if store.folder is not None and rows:
        merged = _rows(store) | {(r.kind, r.tuned, r.of): (key, r) for r in rows}
        body = [{"key": key, **asdict(row)} for key, row in merged.values()]
        write(store.folder / STANDS, json.dumps(body, indent=1))


def read_standings(store: Store) -> tuple[Standing, ...]:
    """What of it stands in a run folder."""
    return tuple(row for _, row in _rows(store).values())


def _rows(store: Store) -> dict[tuple[str, str, str], tuple[str, Standing]]:
    """Each row, with a hash of what it was determined from where it is costly, by its place."""
    try:
        body: list[dict[str, Any]] = read_json(store.folder / STANDS) if store.folder else []
        rows = [(str(row.pop("key")), Standing(**row)) for row in body]
    except (OSError, ValueError, AttributeError, TypeError, KeyError):  # it is measured again
        return {}
    return {(row.kind, row.tuned, row.of): (key, row) for key, row in rows}

r"""Certificates in the input space: which tokens of a prompt may be replaced.

Two forms are correct; the one that arXiv 2505.17646 states for k replaced tokens, with noise that
the places of a token share, is not (W = (0, a), prompt (A, B), score 1{emb_1 < emb_2}: replacing A
by B gives 0 under every draw, however long the noise).

* *Position-wise*: independent noise N(0, sigma^2 I) on the embedding at each place of the prompt.
  A substitution of any tokens of a prompt by as many others moves the embeddings by
  :math:`r = (\sum_t \lVert \Delta E_t \rVert^2)^{1/2}`, and the theorem of the smoothed score holds
  for the prompt's embeddings.
* *Row-wise*: noise N(0, sigma^2 I) on the rows of the embedding matrix. Replacing token i by j at
  all its places moves one row, :math:`r = \lVert W_j - W_i \rVert` once, if j stands nowhere in the
  prompt, neither is in a continuation or is generated, and the rows are not those of the output
  head: then row j takes the part that row i had, and its noise has the same distribution.

Neither covers insertion, deletion, another tokenisation or an added suffix. Distances are computed
in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from basinscope import files
from basinscope.certify.certificate import Certificate
from basinscope.certify.embeddings import distances, embedding, embedding_noise, near_duplicates
from basinscope.certify.plan import check
from basinscope.certify.sampling import KIND as CERTIFICATE
from basinscope.certify.sampling import certify, unfinished
from basinscope.engines.transformers import TransformersEngine
from basinscope.errors import BasinscopeError, typed
from basinscope.geometries.base import selected
from basinscope.runs import header
from basinscope.runs.bench import Bench, outcome
from basinscope.runs.models import Model, engine_of
from basinscope.runs.session import Progress, open_session
from basinscope.runs.spec import Frozen, Number, RunSpec, sha256, trial_key
from basinscope.runs.store import Store, Trial
from basinscope.stats import smoothing as formulas
from basinscope.tasks.base import Answer, Corpus, Generate, Item, Task, without_references
from basinscope.tasks.words import one
from basinscope.weights import noise, selection

KIND, TABLE = "token-certificate", "replacements.json"
_NO_TABLE = '{"target": 0.5, "replacements": []}'
Mode = Literal["position", "row"]


class Replacement(Frozen):
    """One token of a prompt replaced by another, wherever it stands in it."""

    item: str  # id of the item whose prompt it is
    old: int  # token id in the prompt
    new: int  # token id in its place
    texts: tuple[str, str]  # both as the vocabulary spells them
    places: int  # how often ``old`` stands in the prompts of the item
    r: float  # distance, float32, position-wise over all places, row-wise once
    radius: Number  # what the item's certificate covers; NaN where it covers nothing
    covered: bool  # r <= radius
    reason: str = ""  # why a replacement is not covered though it is near; empty otherwise


class ReplacementTable(Frozen):
    """``replacements.json``: what of a certificate no record holds."""

    target: float
    replacements: tuple[Replacement, ...]


@dataclass(frozen=True)
class TokenCertificate:
    """Per-item bounds under noise on the embeddings, and the replacements that they cover.

    Attributes:
        mode: ``position`` or ``row``.
        sigma: standard deviation of the noise on each coordinate of an embedding.
        confidence: of all items' bounds together.
        draws: of each item.
        target: smoothed score that an item shall keep.
        p_items: lower bound of each item's smoothed score, by id.
        replacements: near-duplicates of the prompts' tokens, and whether they are covered.
    """

    mode: Mode
    sigma: float
    confidence: float
    draws: int
    target: float
    p_items: Mapping[str, float]
    replacements: tuple[Replacement, ...]

    def radius(self, item: str) -> float:
        """Distance that the item's certificate covers; NaN where p is below the target."""
        return float(formulas.radius(self.p_items[item], self.target, self.sigma))

    @property
    def does_not_cover(self) -> tuple[str, ...]:
        """What does not follow, in words."""
        common = (
            "insertion, deletion, another tokenisation, an added suffix",
            "the model without noise: the bound is on the average over noise on the embeddings",
        )
        if self.mode == "position":
            return (*common, "replaced tokens of continuations or of what is generated")
        return (
            *common,
            "a prompt that holds the new token already; a run in which either token is generated",
            "several tokens replaced at once",
        )

    def to_json(self) -> dict[str, Any]:
        """All of it, numbers that are not finite as null."""
        return {
            "mode": self.mode, "sigma": self.sigma, "confidence": self.confidence,
            "draws": self.draws, "target": self.target, "p_items": dict(self.p_items),
            "replacements": [one.model_dump(mode="json") for one in self.replacements],
            "does_not_cover": list(self.does_not_cover),
        }  # fmt: skip

    def __str__(self) -> str:
        """Counts, some examples, and what is not covered."""
        covered = [one for one in self.replacements if one.covered]
        near = sorted(covered, key=lambda one: one.r / one.radius)[:5]
        able = sum(p >= self.target for p in self.p_items.values())
        lines = [
            f"{self.mode}-wise noise, sigma {self.sigma:g}: {able} of {len(self.p_items)} items "
            f"keep a smoothed score of {self.target:g} at confidence {self.confidence:g} for all "
            f"together; {len(covered)} of {len(self.replacements)} near-duplicate replacements "
            "are covered"
        ]
        lines += [
            f"- {one.item}: {one.texts[0]!r} -> {one.texts[1]!r}, r = {one.r:.3g}, "
            f"R = {one.radius:.3g}"
            for one in near
        ]
        return "\n".join([*lines, "Not covered:", *(f"- {t}" for t in self.does_not_cover)])


@typed
def certify_tokens(
    model: Model,
    task: str | Task,
    *,
    mode: Mode = "position",
    sigma: float = 0.05,
    draws: int = 200,
    confidence: float = 0.99,
    target: float = 0.5,
    seed: int = 0,
    run: str | Path | None = None,
    progress: Progress | None = None,
) -> TokenCertificate:
    """Certify each item against replaced tokens, and list the near-duplicates that are covered.

    A near-duplicate is a token of the same letters but for case and a leading space.

    Args:
        model: an engine, or what `basinscope.load` takes; a language model of transformers, for
            ``row`` one whose embeddings are not tied to its output head (`untied` makes a copy).
        task: word or object, as in `basinscope.tasks`; its items' prompts are the prompt set; every
            draw answers all of them.
        mode: see the module.
        sigma: standard deviation on each coordinate of an embedding.
        draws: of each item.
        confidence: of all items' bounds together.
        target: smoothed score that an item shall keep.
        seed: of the noise.
        run: run folder; resumes.
        progress: as in `basinscope.landscape`.

    Raises:
        BasinscopeError: a plain module; tied embeddings (row); prompts that pass through the model
            more than once (position); arguments out of range.

    Guarantee: with the confidence, for all items and replacements together: an item whose prompt
    is changed by a covered replacement has a smoothed score of at least the target.
    Cost: position-wise one evaluation of every item by itself for each draw; row-wise one
    evaluation of the task and one pass over the embedding matrix.
    """
    task = one(task)
    checked(
        task, mode=mode, sigma=sigma, draws=draws, confidence=confidence, target=target, seed=seed
    )
    engine = engine_of(model, run, kind=kind(mode))
    if not isinstance(engine, TransformersEngine):
        raise BasinscopeError(
            f"{engine.source!r} has no tokens",
            "a language model with its tokenizer",
            "load a checkpoint with a tokenizer",
        )
    if mode == "row":
        found = _row_certificate(
            engine, task, sigma=sigma, draws=draws, confidence=confidence, target=target,
            seed=seed, run=run, progress=progress,
        )  # fmt: skip
        bounds = dict(zip(found.item_counts, map(float, found.p_items), strict=True))
    else:
        bounds = _position_bounds(
            engine, task, sigma, draws, confidence, target, seed, run, progress
        )
    radii = {
        item: float(formulas.radius(p, target, sigma)) for item, p in bounds.items()
    }  # fmt: skip
    table = tuple(_replacements(engine, task, mode, radii))
    if run is not None and mode == "position":
        kept = ReplacementTable(target=target, replacements=table)
        files.write(Path(run) / TABLE, kept.model_dump_json(indent=1))
    return TokenCertificate(mode, sigma, confidence, draws, target, bounds, table)


def read_tokens(run: str | Path) -> TokenCertificate:
    """Position-wise certificate of a run folder, recomputed from its raw counts.

    The near-duplicates and the target are those that its last run found there; none, and 0.5, where
    it was interrupted before. What is covered follows from the counts.

    Raises:
        BasinscopeError: no such run folder, or a draw is missing.
    """
    store = Store(run).of_kind(KIND)
    path, plan = Path(run) / TABLE, store.spec.plan
    try:
        text = files.ordinary(path).read_text(encoding="utf-8") if path.exists() else _NO_TABLE
        table = ReplacementTable.model_validate_json(text)
    except (OSError, ValueError) as error:
        if isinstance(error, ValidationError):
            header.check_format(path, {}, error)
        raise BasinscopeError(
            f"{path} cannot be read ({type(error).__name__})",
            "the replacements as they were written",
            "run the same line again: they are written anew, from the counts",
        ) from error
    sigma, bounds = plan["sigma"], _bounds(store)
    radii = {item: float(formulas.radius(p, table.target, sigma)) for item, p in bounds.items()}
    rows = tuple(
        Replacement.model_validate(
            {**dict(row), "radius": radius, "covered": not row.reason and row.r <= radius}
        )
        for row in table.replacements
        if (radius := radii.get(row.item)) is not None
    )
    return TokenCertificate(
        "position", sigma, plan["confidence"], plan["draws"], table.target, bounds, rows
    )


def kind(mode: str) -> str:
    """Kind of the run: row-wise it is a certificate with a geometry of its own."""
    return KIND if mode == "position" else CERTIFICATE


def checked(
    task: Task, *, mode: str, sigma: float, draws: int, confidence: float, target: float, seed: int
) -> None:
    """Refuse what is out of range."""
    if mode not in ("position", "row"):
        raise BasinscopeError(f"mode={mode!r}", "'position' or 'row'", "position")
    noise.stream("", seed, 0)
    ids = [item.id for item in task.items]
    check(
        sigma=sigma, draws=draws, items_per_draw=len(ids), confidence=confidence, claim=None,
        target=target, antithetic=False, per_item=True, ids=ids, chance=0.0,
    )  # fmt: skip


def _position_bounds(
    engine: TransformersEngine, task: Task, sigma: float, draws: int, confidence: float,
    target: float, seed: int, run: str | Path | None, progress: Progress | None,
) -> dict[str, float]:  # fmt: skip
    """Simultaneous lower bounds of the items' scores under noise on each place of their prompts."""
    for item in task.items:
        requests = without_references(item).requests
        if not requests or not all(engine.prompt_once(r) for r in requests):
            raise BasinscopeError(
                f"a prompt of {item.id!r} does not pass through the model exactly once",
                "one pass for each prompt, whose noise is one draw",
                "another model, shorter prompts, or mode='row'",
            )
    words = f"{noise.SCHEME} position-wise embedding noise/2 seed={seed}"
    bench = Bench.of(engine, [], [task])
    model, (described,) = bench.model, bench.task_specs
    plan = {
        "task": described.items, "sigma": sigma, "draws": draws, "confidence": confidence,
        "seed": seed, "noise": words,
    }  # fmt: skip
    spec = RunSpec(
        kind=KIND, model=model, tasks=(described,), directions=("position-wise",), draws=draws,
        steps=(sigma,), level=0.5, plan=plan,
    )  # fmt: skip
    with open_session(bench, spec, run) as session:
        for draw in range(draws):
            key = trial_key(model, described, words, draw, sigma)
            trial = session.store.get(sha256(key))
            if trial is None:
                trial = _trial(engine, task, sigma, seed, draw, key)
                session.store.put(trial)
            if progress is not None:
                progress(draw + 1, draws, f"draw {draw}")
    return _bounds(session.store)


def _bounds(store: Store) -> dict[str, float]:
    """Lower bound of each item's score, by id, from the counts of all draws."""
    spec, plan = store.spec, store.spec.plan
    counts: dict[str, int] = {}
    for draw in range(plan["draws"]):
        key = trial_key(spec.model, spec.tasks[0], plan["noise"], draw, plan["sigma"])
        trial = store.get(sha256(key))
        if trial is None:
            raise unfinished(store, draw)
        for item, correct in zip(trial.items, trial.correct, strict=True):
            counts[item] = counts.get(item, 0) + correct
    bounds = formulas.item_lower_bounds(list(counts.values()), plan["draws"], plan["confidence"])
    return dict(zip(counts, map(float, bounds), strict=True))


def _trial(
    engine: TransformersEngine, task: Task, sigma: float, seed: int, draw: int, key: dict[str, Any]
) -> Trial:
    """Every request by itself, so that its noise does not depend on those beside it."""
    outcomes = []
    for item in task.items:
        answers: list[Answer] = []
        for k, request in enumerate(without_references(item).requests):
            with embedding_noise(engine, sigma, f"embeddings\0{item.id}\0{k}", seed, draw):
                answers += engine.answer([request])
        outcomes.append(outcome(task, item, answers))
    return Trial(
        address=sha256(key), key=key, task=task.name, direction="position-wise", draw=draw,
        step=sigma, items=tuple(item.id for item in task.items),
        correct=tuple(int(o.correct) for o in outcomes), labels=tuple(o.label for o in outcomes),
        margins=(None,) * len(outcomes), nlls=(None,) * len(outcomes),
    )  # fmt: skip


def _row_certificate(engine: TransformersEngine, task: Task, **options: Any) -> Certificate:
    """Per-item certificate under noise on the embedding matrix alone."""
    module: Any = engine.module
    table, head = embedding(engine), module.get_output_embeddings()
    if head is not None and head.weight.data_ptr() == table.weight.data_ptr():  # type: ignore[operator]
        raise BasinscopeError(
            f"{engine.source!r} ties its embeddings to its output head",
            "a head that row-wise noise does not move",
            "certify_tokens(untied(engine), ...), or mode='position'",
        )
    names = [
        name
        for name, parameter in selection.checkpoint_parameters(engine.module).items()
        if parameter is table.weight and name in engine.shapes
    ]
    if not names:
        raise BasinscopeError(
            "the embedding matrix is not among the perturbed parameters",
            "row-wise noise on the embedding matrix",
            "load the model without params",
        )
    geometry = selected(engine, f"^{names[0].replace('.', '[.]')}$")
    return certify(engine, task, geometry=geometry, per_item=True, **options)


def _replacements(
    engine: TransformersEngine, task: Task, mode: Mode, radii: Mapping[str, float]
) -> Iterator[Replacement]:
    """Near-duplicates of every token of every prompt."""
    twins = near_duplicates(engine.tokenizer)
    lengths: dict[tuple[int, int], float] = {}
    for item in task.items:
        prompts, tails = _tokens_of(engine, item)
        radius = radii[item.id]
        for old in sorted(set(prompts)):
            # a token without an embedding is nothing that could stand there
            new = tuple(t for t in twins.get(old, ()) if t < engine.forward.vocabulary)
            if new and (old, new[0]) not in lengths:
                found = distances(engine, old, new).tolist()
                lengths.update(zip(((old, n) for n in new), found, strict=True))
            places = prompts.count(old)
            for other in new:
                r = lengths[old, other] * (math.sqrt(places) if mode == "position" else 1.0)
                reason = ""
                if mode == "row" and other in prompts:
                    reason = "the new token stands in the prompt already"
                elif mode == "row" and ({old, other} & set(tails)):
                    reason = "one of the two stands in a continuation"
                texts = engine.tokenizer.convert_ids_to_tokens([old, other])
                yield Replacement(
                    item=item.id, old=old, new=other, texts=(texts[0], texts[1]), places=places,
                    r=r, radius=radius, covered=not reason and r <= radius, reason=reason,
                )  # fmt: skip


def _tokens_of(engine: TransformersEngine, item: Item) -> tuple[list[int], list[int]]:
    """Tokens of all prompts of an item, and of all that may follow them."""
    prompts: list[int] = []
    tails: list[int] = []
    for request in item.requests:
        if isinstance(request, Corpus):
            # every token is read and foretold: it stands in the prompt and behind it
            own = engine.tokens.encode(request.text)
            prompts, tails = prompts + own, tails + own
            continue
        row = engine.row(request)
        prompts += [*row.head, *row.body]
        if not isinstance(request, Generate):
            tails += [token for tail in row.tails for token in tail]
    return prompts, tails

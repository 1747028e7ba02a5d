"""Certify: draw noise, count right answers, stop when the claim is decided."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from basinscope.certify.certificate import Certificate, Unit, certificate
from basinscope.certify.plan import Plan, check, is_exact
from basinscope.errors import BasinscopeError, typed
from basinscope.geometries.base import Geometry
from basinscope.geometries.words import builder
from basinscope.runs import header
from basinscope.runs.bench import ZERO, Bench
from basinscope.runs.models import Model, engine_of
from basinscope.runs.plan import check_workers
from basinscope.runs.session import Progress, Session, open_session
from basinscope.runs.spec import RunSpec, sha256, trial_key
from basinscope.runs.store import Store, Trial
from basinscope.stats import smoothing as formulas
from basinscope.tasks.base import Task
from basinscope.tasks.words import one
from basinscope.weights.noise import stream

KIND = "certificate"


@typed
def certify(
    model: Model,
    task: str | Task,
    *,
    sigma: float = 0.005,
    draws: int = 200,
    items_per_draw: int | None = 8,
    confidence: float = 0.99,
    seed: int = 0,
    target: float | None = None,
    claim: float | None = None,
    antithetic: bool = False,
    per_item: bool = False,
    geometry: Geometry | str | None = None,
    run: str | Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Certificate:
    r"""Bound a task's score under Gaussian weight noise, and so around displaced weights.

    Draws :math:`\epsilon_1, \ldots, \epsilon_n \sim N(0, \sigma^2 \Sigma)`, each with a fresh
    random sample of the items, and bounds the mean p(theta0) of their scores from below: exactly
    (Clopper-Pearson) with one item per draw and a fixed number of draws, by betting where items
    share a draw or the sampling may stop early (arXiv 2505.17646; Cohen et al. 2019; method in
    `basinscope.stats`). The draw is the unit: items pooled over draws are not independent.

    Args:
        model: an engine, or what `basinscope.load` takes.
        task: word or object, as in `basinscope.tasks`; scored under every draw.
        sigma: standard deviation of the noise, in the geometry's unit.
        draws: number of draws; with a claim, the most that are taken. An antithetic pair is one
            draw and costs two.
        items_per_draw: size of each draw's sample of items; None for all of them.
        confidence: of each one-sided statement.
        seed: of the noise and of the samples of items.
        target: level whose radius is wanted; see `Certificate.target`.
        claim: "p >= claim" is tested while sampling, which stops as soon as it is accepted or
            refuted, each with error at most 1 - confidence.
        antithetic: draw pairs +-epsilon; the pair's mean score is the unit.
        per_item: bound every item by itself, all at once, and average the bounds. Near theta0
            that costs the price of all at once; far from it the average of the items' bounds is
            higher than the bound of their average. Every draw has all items then.
        geometry: covariance, or the word that names it (`basinscope.geometry`); default isotropic.
        run: run folder; the plan is written there before the first draw, and every draw's raw
            counts. The same call resumes it.
        workers: as in `basinscope.landscape`; noise that is not isotropic is drawn in this
            process.
        progress: as in `basinscope.landscape`.

    Returns:
        The certificate, computed from the raw counts.

    Raises:
        BasinscopeError: an argument out of range; a plan too small to certify anything; a run
            folder with another plan.

    Guarantee: see `Certificate`. Looking at an unfinished run and resuming it changes nothing: a
    plan with the exact bound has no certificate before its last draw, and any other bound holds at
    every look.
    Cost: each draw sets the weights once (a pair twice) and answers ``items_per_draw`` items.

    Example:
        >>> import torch, basinscope as bs
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 0.0]]))
        >>> task = bs.CallableTask("half-space", lambda m: [m.weight[0, 0] > 0], 1)
        >>> cert = bs.certify(bs.load(layer), task, sigma=0.5, draws=100, items_per_draw=1)
        >>> 0.85 < cert.p_lower < 0.9772 < cert.p_upper  # the truth is Phi(1 / 0.5)
        True
    """
    task, build = one(task), builder(geometry)
    each = checked(
        task, sigma=sigma, draws=draws, items_per_draw=items_per_draw, confidence=confidence,
        seed=seed, claim=claim, target=target, antithetic=antithetic, per_item=per_item,
        workers=workers,
    )  # fmt: skip
    ids = [item.id for item in task.items]
    exact = is_exact(each, claim, antithetic, per_item)
    engine = engine_of(model, run, kind=KIND)
    shape = build(engine)
    noise = shape.noise(seed)
    bench = Bench.of(engine, [noise], [task])
    plan = Plan(
        task=bench.task_specs[0].items, sigma=sigma, geometry=shape.label,
        covariance=shape.identity, items_per_draw=each, confidence=confidence, seed=seed,
        claim=claim, antithetic=antithetic, per_item=per_item,
        bound="exact" if exact else "anytime", draws=draws if exact else None,
    )  # fmt: skip
    spec = RunSpec(
        kind=KIND, model=bench.model, tasks=bench.task_specs, directions=(noise.label,),
        draws=draws, steps=(0.0, -sigma, sigma) if antithetic else (0.0, sigma), level=0.5,
        plan={**plan.model_dump(mode="json"), "noise": bench.identity(0, 0)},
    )  # fmt: skip
    with open_session(bench, spec, run, workers=workers, units=draws, progress=progress) as session:
        session.measure([ZERO])
        draw(session, plan, ids)
    return read(session.store, target, geometry=shape, engine=engine)


def checked(
    task: Task, *, items_per_draw: int | None, per_item: bool, seed: int, workers: int | None,
    **options: Any,
) -> int:  # fmt: skip
    """Refuse what is out of range (as `check`); give how many items each draw has."""
    check_workers(workers)
    stream("", seed, 0)
    ids = [item.id for item in task.items]
    each = len(ids) if items_per_draw is None or per_item else min(items_per_draw, len(ids) or 1)
    check(items_per_draw=each, per_item=per_item, ids=ids, chance=task.chance, **options)
    return each


def draw(session: Session, plan: Plan, ids: Sequence[str]) -> None:
    """Measure draws in order until the claim is decided or the plan is done."""
    most = session.store.spec.draws
    # without a claim nothing is looked at; with one, as few as keep the workers busy
    batch = most if plan.claim is None else session.team.workers
    session.planned += most * (2 if plan.antithetic else 1)
    scores: list[float] = []
    for first in range(0, most, batch):
        numbers = range(first, min(first + batch, most))
        settings = [unit for number in numbers for unit in plan.units(ids, number)]
        session.planned -= len(settings)  # counted again as they are measured
        session.measure(settings)
        if plan.claim is not None:
            scores += [unit.score for unit, _ in counted(session.store, plan, ids, numbers)]
            if formulas.decide(scores, plan.claim, plan.error)[1] is not None:
                return


def read_certificate(run: str | Path, target: float | None = None) -> Certificate:
    """Certificate of a run folder, recomputed from its raw counts, without its model.

    Raises:
        BasinscopeError: it is no run folder of a certificate, or draws are missing that its bound
            needs.
    """
    return read(Store(run).of_kind(KIND), target)


def read(store: Store, target: float | None, **more: object) -> Certificate:
    """Certificate of the records of a store.

    Only the records that the plan asks for are looked up, each at its own address: a copy of a
    record, one of other weights, items or noise, or one more draw cannot be counted.
    """
    spec = store.spec
    try:
        plan = Plan.model_validate({k: v for k, v in spec.plan.items() if k != "noise"})
    except ValidationError as error:
        path = Path(store.folder or "") / "run.json"
        header.check_format(path, {}, error)
        raise header.corrupt(path, error) from None
    zero = store.get(sha256(trial_key(spec.model, spec.tasks[0], None, 0, 0.0)))
    if zero is None:
        raise unfinished(store, 0)
    units, counts = [], dict.fromkeys(zero.items if plan.per_item else (), 0)
    for unit, trials in counted(store, plan, zero.items, range(spec.draws)):
        units.append(unit)
        if plan.per_item:
            for item, correct in zip(trials[0].items, trials[0].correct, strict=True):
                counts[item] += correct
    if not units or (plan.draws is not None and len(units) < plan.draws):
        raise unfinished(store, len(units))
    return certificate(
        plan, spec.model, spec.tasks[0], zero.correct, units, counts, target,
        set_aside=tuple(store.set_aside), **more,
    )  # fmt: skip


def counted(
    store: Store, plan: Plan, ids: Sequence[str], numbers: Iterable[int]
) -> Iterator[tuple[Unit, list[Trial]]]:
    """Counts of draws of these numbers, each looked up at its own address, up to a missing one."""
    spec = store.spec
    for number in numbers:
        trials = []
        for unit in plan.units(ids, number):
            key = trial_key(
                spec.model,
                spec.tasks[0],
                spec.plan["noise"],
                number,
                unit.step,
                dict(unit.items).get(0),
            )
            trial = store.get(sha256(key))
            if trial is None:
                return
            trials.append(trial)
        yield Unit(sum(sum(t.correct) for t in trials), sum(t.n for t in trials)), trials


def unfinished(store: Store, have: int) -> BasinscopeError:
    """What to say of a certificate that cannot be computed yet."""
    return BasinscopeError(
        f"{store.folder} has {have} of {store.spec.draws} draws without a gap",
        "all of them where they are fixed beforehand, else at least one",
        "run the same line again: it resumes",
    )

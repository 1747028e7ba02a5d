"""The strict basin: in how many directions is nothing lost at a given sigma?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from basinscope.certify.plan import check
from basinscope.errors import BasinscopeError, typed
from basinscope.geometries.base import Geometry
from basinscope.geometries.words import builder
from basinscope.runs.bench import ZERO, Bench, Unit
from basinscope.runs.models import Model, engine_of
from basinscope.runs.plan import check_workers
from basinscope.runs.session import Progress, open_session
from basinscope.runs.spec import RunSpec, sha256, trial_key
from basinscope.runs.store import Store, Trial
from basinscope.stats import smoothing as formulas
from basinscope.stats.rounded import percent
from basinscope.tasks.base import Task
from basinscope.tasks.words import one
from basinscope.weights.noise import stream

KIND = "strict-basin"
Lost = Literal["score", "items"]


@dataclass(frozen=True)
class Level:
    """What was counted at one sigma."""

    sigma: float
    clean: int
    draws: int  # up to the decision
    holds: bool | None  # None: not finished


@dataclass(frozen=True)
class StrictBasin:
    """At which sigma the claim "at least this share of directions is clean" is true.

    A direction is clean if the score on the task's items is at most ``tau`` lower than at theta0
    (``lost="score"``), or if at most ``tau`` of the items is right at theta0 and wrong there
    (``lost="items"``, where gains do not make up for losses). Direction: a draw of the noise, at
    its own length.

    Attributes:
        share: proportion of directions that is claimed to be clean.
        confidence: of all that is claimed together.
        tau: tolerance, in units of score.
        lost: see above.
        planned: draws of each sigma; so many failures are allowed among them.
        failures: see ``planned``.
        levels: what was counted, in the order tested; the test stopped at the first that failed.

    Guarantee: P(any claim made for a sigma is false) <= 1 - confidence. Each sigma is tested by
    the exact binomial test at the full error; the order (rising) is fixed beforehand and the test
    stops at the first failure, so that no error is added (fixed-sequence testing: Maurer, Hothorn
    and Lehmacher 1995). Nothing is claimed beyond ``share``, nor for a sigma that was not tested.
    """

    task: str
    share: float
    confidence: float
    tau: float
    lost: str
    planned: int
    failures: int
    levels: tuple[Level, ...]
    set_aside: tuple[str, ...] = ()

    @property
    def sigma(self) -> float | None:
        """Largest sigma for which the claim is true; None if it is for none."""
        return max((level.sigma for level in self.levels if level.holds), default=None)

    @property
    def does_not_cover(self) -> tuple[str, ...]:
        """What does not follow, in words."""
        return (
            "directions that are not drawn from this noise: worst-case or fine-tuning directions",
            "the other directions, up to the share that may fail, which may fail badly",
            "items other than these",
            "a sigma that was not tested, also a smaller one",
        )

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        found = {k: v for k, v in vars(self).items() if k != "levels"}
        return {
            **found, "sigma": self.sigma, "levels": [vars(level) for level in self.levels],
            "does_not_cover": list(self.does_not_cover), "set_aside": list(self.set_aside),
        }  # fmt: skip

    def __str__(self) -> str:
        """What is claimed, what was counted, and what does not follow."""
        claim = (
            f"'{self.task}: at least {percent(self.share)} of directions keep "
            f"{'their ' if self.lost == 'items' else 'the '}{self.lost} to within {self.tau:g}'"
        )
        rows = [
            f"- sigma {level.sigma:g}: {level.clean} of {level.draws} clean, "
            f"{ {True: 'true', False: 'not shown', None: 'unfinished'}[level.holds] }"
            for level in self.levels
        ]
        head = f"{claim}, at confidence {percent(self.confidence)} for all sigma together: "
        head += "not shown for any sigma" if self.sigma is None else f"true up to {self.sigma:g}"
        return "\n".join(
            [head, *rows, "Not covered:", *(f"- {text}" for text in self.does_not_cover)]
        )


@typed
def strict_basin(
    model: Model,
    task: str | Task,
    *,
    sigmas: float | Sequence[float] = 0.005,
    share: float = 0.9,
    confidence: float = 0.99,
    tau: float = 0.0,
    lost: Lost = "score",
    failures: int = 0,
    draws: int | None = None,
    seed: int = 0,
    geometry: Geometry | str | None = None,
    run: str | Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> StrictBasin:
    """Test at which sigma a share of the directions leaves a task unchanged.

    (arXiv 2505.17646, strict basin with Clopper and Pearson's test; its sigma contradicts its own
    figure, so sweep.)

    Args:
        model: an engine, or what `basinscope.load` takes.
        task: word or object, as in `basinscope.tasks`; every draw answers all its items.
        sigmas: one or several, tested in rising order.
        share: proportion of directions that shall be clean, in (0, 1).
        confidence: of all claims together.
        tau: how much of the score may be lost, in [0, 1).
        lost: see `StrictBasin`.
        failures: draws that may fail; more of them want more draws, and forgive more.
        draws: of each sigma; default the fewest for these failures (44 for 90%, 99% and none).
            With a number given, as many failures are allowed as it bears.
        seed: of the noise; all sigma see the same directions.
        geometry: covariance, or the word that names it.
        run: run folder; resumes.
        workers: as in `basinscope.landscape`.
        progress: as in `basinscope.landscape`.

    Raises:
        BasinscopeError: an argument out of range; too few draws (says how many would do).

    Cost: at most ``draws`` evaluations of the task for each sigma; a sigma is left as soon as more
    draws failed than may.
    """
    task, build = one(task), builder(geometry)
    grid = [sigmas] if isinstance(sigmas, int | float) else list(sigmas)
    planned, allowed = checked(
        task, grid, share=share, confidence=confidence, tau=tau, lost=lost, failures=failures,
        draws=draws, seed=seed, workers=workers,
    )  # fmt: skip
    engine = engine_of(model, run, kind=KIND)
    shape = build(engine)
    noise = shape.noise(seed)
    bench = Bench.of(engine, [noise], [task])
    spec = RunSpec(
        kind=KIND, model=bench.model, tasks=bench.task_specs, directions=(noise.label,),
        draws=planned, steps=(0.0, *sorted(grid)), level=0.5,
        plan={
            "task": bench.task_specs[0].items, "sigmas": sorted(grid), "share": share,
            "draws": planned, "confidence": confidence, "tau": tau, "lost": lost,
            "failures": allowed, "geometry": shape.label, "covariance": shape.identity,
            "noise": bench.identity(0, 0),
        },
    )  # fmt: skip
    with open_session(
        bench, spec, run, workers=workers, units=planned, progress=progress
    ) as session:
        session.measure([ZERO])
        each = session.team.workers
        for sigma in sorted(grid):
            for first in range(0, planned, each):
                batch = range(first, min(first + each, planned))
                session.measure([Unit(0, d, sigma, (0,)) for d in batch])
                if _level(session.store, sigma).holds is not None:
                    break
            if not _level(session.store, sigma).holds:
                break
    return read_strict(session.store)


def read_strict_basin(run: str | Path) -> StrictBasin:
    """Strict-basin test of a run folder, recounted from its records, without its model."""
    return read_strict(Store(run).of_kind(KIND))


def read_strict(store: Store) -> StrictBasin:
    """Strict-basin test of the records of a store: only those that its plan asks for count."""
    plan, levels = store.spec.plan, []
    for sigma in plan["sigmas"]:
        levels.append(_level(store, sigma))
        if not levels[-1].holds:
            break
    return StrictBasin(
        store.spec.tasks[0].name, plan["share"], plan["confidence"], plan["tau"], plan["lost"],
        plan["draws"], plan["failures"], tuple(levels), tuple(store.set_aside),
    )  # fmt: skip


def checked(
    task: Task, sigmas: Sequence[float], *, share: float, confidence: float, tau: float, lost: str,
    failures: int, draws: int | None, seed: int, workers: int | None,
) -> tuple[int, int]:  # fmt: skip
    """Refuse what is out of range; give the draws of each sigma, and how many of them may fail."""
    check_workers(workers)
    stream("", seed, 0)
    if not sigmas or len(set(sigmas)) != len(sigmas):
        raise BasinscopeError(f"sigmas={sigmas}", "at least one, all different", "0.002,0.005")
    ids = [item.id for item in task.items]
    for sigma in sigmas:
        check(
            sigma=sigma, draws=1, items_per_draw=len(ids), confidence=confidence, claim=None,
            target=None, antithetic=False, per_item=False, ids=ids, chance=0.0,
        )  # fmt: skip
    if not 0 < share < 1 or not 0 <= tau < 1 or failures < 0 or lost not in ("score", "items"):
        raise BasinscopeError(
            f"share={share}, tau={tau}, failures={failures}, lost={lost!r}",
            "0 < share < 1, 0 <= tau < 1, failures >= 0, lost 'score' or 'items'",
            "the defaults",
        )
    needed = formulas.directions_needed(share, confidence, failures)
    if draws is None:
        return needed, failures
    if draws < needed:
        raise BasinscopeError(
            f"draws={draws} cannot show that {percent(share)} of directions are clean at "
            f"confidence {confidence:g} with {failures} failures",
            f"at least {needed} draws",
            "leave draws out",
        )
    while formulas.directions_needed(share, confidence, failures + 1) <= draws:
        failures += 1
    return draws, failures


def _level(store: Store, sigma: float) -> Level:
    """Count the draws of one sigma up to the decision or the first that is missing."""
    spec = store.spec
    zero = store.get(sha256(trial_key(spec.model, spec.tasks[0], None, 0, 0.0)))
    clean = failed = 0
    for draw in range(spec.plan["draws"]):
        key = trial_key(spec.model, spec.tasks[0], spec.plan["noise"], draw, sigma)
        trial = store.get(sha256(key))
        if zero is None or trial is None:
            return Level(sigma, clean, clean + failed, None)
        if _is_clean(zero, trial, spec.plan["tau"], spec.plan["lost"]):
            clean += 1
        else:
            failed += 1
        if failed > spec.plan["failures"]:
            return Level(sigma, clean, clean + failed, False)
    return Level(sigma, clean, clean + failed, True)


def _is_clean(zero: Trial, trial: Trial, tau: float, lost: str) -> bool:
    """Counts are whole, so that a drop of exactly tau is no matter of rounding."""
    pairs = list(zip(zero.correct, trial.correct, strict=True))
    drop = sum(a > b for a, b in pairs) if lost == "items" else sum(a - b for a, b in pairs)
    return drop <= tau * len(pairs) + 1e-9

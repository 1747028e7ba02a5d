"""What a certificate says of another checkpoint, adapter or direction."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from basinscope import stats
from basinscope.directions.base import Direction, Displacement
from basinscope.directions.words import direction_of
from basinscope.engines.base import Engine
from basinscope.errors import BasinscopeError
from basinscope.geometries import words
from basinscope.geometries.base import Distance, Geometry
from basinscope.runs.bench import score
from basinscope.runs.models import Model, engine_of
from basinscope.runs.session import restored
from basinscope.runs.spec import MODEL, model_spec, task_spec
from basinscope.stats.rounded import at_least, finite
from basinscope.tasks.base import Task
from basinscope.tasks.words import one
from basinscope.weights.parts import Device, Parts, Weights
from basinscope.weights.surroundings import fixed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from basinscope.certify.certificate import Certificate

Word = Literal["certified", "outside the certificate", "vacuous"]


@dataclass(frozen=True)
class Verdict:
    """One displacement judged by one certificate.

    Attributes:
        label: what was judged.
        word: *certified*: the smoothed score there is at least ``target``. *Vacuous*: the bound
            there is no higher than the task's chance level, which says nothing. *Outside the
            certificate*: in between, or not in the geometry at all.
        reason: why, in words.
        r: norm of the displacement in the geometry; infinite outside it.
        outside: Euclidean norm of its part outside the geometry, which is not covered (rounding,
            where r is finite).
        bound: lower bound of the smoothed score there.
        radius: R, up to which the target is certified; NaN where it is nowhere.
        target: the level.
        score: S(theta') of the single model, measured on the task's items (exact binomial
            interval over items); None where it was not measured. The bound is not on this number.
        smoothed: p(theta') measured under the certificate's noise (betting interval over draws);
            None where it was not measured. The bound is on this number.
    """

    label: str
    word: Word
    reason: str
    r: float
    outside: float
    bound: float
    radius: float
    target: float
    score: stats.Interval | None = None
    smoothed: stats.Interval | None = None

    @property
    def ratio(self) -> float:
        """r/R: certified up to 1; NaN where R is NaN or zero."""
        return self.r / self.radius if self.radius > 0 else math.nan

    def to_json(self) -> dict[str, Any]:
        """All of it, numbers that are not finite as null."""
        values: dict[str, Any] = {
            "label": self.label, "word": self.word, "reason": self.reason, "r": self.r,
            "outside": self.outside, "bound": self.bound, "radius": self.radius,
            "ratio": self.ratio, "target": self.target,
        }  # fmt: skip
        for name, interval in (("score", self.score), ("smoothed", self.smoothed)):
            values[name] = interval and {
                "low": interval.low, "estimate": interval.estimate, "high": interval.high
            }  # fmt: skip
        return {key: finite(value) for key, value in values.items()}

    def __str__(self) -> str:
        """One line, and what was measured."""
        text = f"{self.label}: {self.word} ({self.reason})"
        if self.score is not None:
            text += f"; S(theta') = {self.score.estimate:.4f} measured, not what is bounded"
        if self.smoothed is not None:
            low, high = self.smoothed.low, self.smoothed.high
            text += f"; p(theta') = {self.smoothed.estimate:.4f} [{low:.4f}, {high:.4f}] measured"
        return text


@dataclass(frozen=True, eq=False)
class Shifted(Direction):
    """Displacement plus sigma times a draw of the noise, to be set at step 1."""

    moves: Displacement
    noise: Direction | None
    sigma: float
    label = "displaced"

    def parts(self, engine: Weights, name: str, draw: int, device: Device) -> Parts | None:
        """Displacement and noise of one parameter piece by piece."""
        move = self.moves(name)
        drawn = None if self.noise is None else self.noise.parts(engine, name, draw, device)
        if drawn is None:
            return None if move is None else lambda a, b: move(a, b).to(device)
        if move is None:
            return lambda a, b: drawn(a, b).mul_(self.sigma)
        return lambda a, b: drawn(a, b).mul_(self.sigma).add_(move(a, b).to(device))


@fixed()
def verdict(
    cert: Certificate,
    other: str | Path | Direction | float,
    model: Model | None,
    task: str | Task | None = None,
    *,
    target: float | None = None,
    geometry: Geometry | str | None = None,
    draws: int = 0,
) -> Verdict:
    """Judge a displacement: its norm in the geometry, the bound there, and a word.

    Args:
        cert: the certificate.
        other: another checkpoint (folder, hub id, alias), an adapter folder, a direction that
            another model is behind, a word such as ``saved:FILE``, or the norm r itself.
        model: the one that the certificate was made for, an engine or what `basinscope.load`
            takes; not needed for a norm.
        task: the certificate's task, word or object; the other model is then scored on it. A word
            stands for as many of its items as the certificate has.
        target: level; default the certificate's.
        geometry: the certificate's, where it was read from a folder and its word does not say it.
        draws: noise draws under which the other model is scored as well.

    Raises:
        BasinscopeError: weights, task or geometry that the certificate was not made for.

    Cost: two passes over the displacement; with a task one evaluation of all items, and one more
    for every draw.
    """
    if isinstance(other, int | float):
        if not other >= 0:
            raise BasinscopeError(f"r={other}", "a distance of at least 0", "0.02")
        return _judged(cert, f"r = {other:.4g}", Distance(float(other), other, 0.0), target)
    direction = direction_of(other)
    if model is None:
        raise BasinscopeError(
            "a certificate without its model",
            "a certificate on its model, from whose weights others are measured",
            "cert.verdict(other, engine=bs.load(...))",
        )
    if draws < 0:
        raise BasinscopeError(f"draws={draws} of a verdict", "at least 0", "20")
    if isinstance(task, str):
        task = one(task, limit=cert.task.n_items)
    engine = engine_of(model, dtype=cert.model.dtype, params=cert.model.params)
    _check_model(cert, engine)
    shape = _checked_geometry(cert, engine, geometry)
    if cert.model.params is not None and not direction.label.startswith("saved:"):
        raise BasinscopeError(
            f"{direction.label} against a certificate of params={cert.model.params!r}",
            "a saved direction, or a certificate that compares every parameter",
            f"certify the whole model with geometry='params:{cert.model.params}'",
        )
    moves = direction.as_displacement(engine)
    judged = _judged(cert, direction.label, shape.distance(engine, moves), target)
    if task is None:
        return judged
    if task_spec(task) != cert.task:
        raise BasinscopeError(
            f"task {task.name!r} is not the certificate's ({cert.task.name!r} with its items)",
            "the same task with the same items",
            f"task={cert.task.name!r}",
        )
    with restored(engine, cert.model.fingerprint):
        at, smoothed = _measured(cert, engine, task, moves, shape, draws)
    return Verdict(**{**vars(judged), "score": at, "smoothed": smoothed})


def bound_to(cert: Certificate, engine: Engine, geometry: Geometry | None = None) -> Certificate:
    """The certificate with its model and geometry at hand, as `Certificate.project` needs them.

    Args:
        cert: perhaps read from a folder.
        engine: the model that it was made for.
        geometry: as in `verdict`.

    Raises:
        BasinscopeError: weights or geometry that the certificate was not made for.
    """
    _check_model(cert, engine)
    shape = _checked_geometry(cert, engine, geometry or cert.geometry)
    return dataclasses.replace(cert, engine=engine, geometry=shape)


def _judged(cert: Certificate, label: str, distance: Distance, target: float | None) -> Verdict:
    level = cert.target if target is None else target
    radius, r = cert.radius(level), distance.r
    bound = float(cert.lower_bound(r))
    word: Word
    if math.isinf(r):
        word, reason = "outside the certificate", (
            f"it leaves the geometry {cert.plan.geometry!r}: a part of norm "
            f"{distance.outside:.4g} is outside, {distance.inside:.4g} inside"
            + (f"; rounding to {cert.model.dtype} may be that part: judge the displacement before "
               "it is rounded" if "16" in cert.model.dtype else "")
        )  # fmt: skip
    else:
        reason = f"r = {r:.4g}, bound {at_least(bound)}, radius for {cert.radius_text(level)}"
        if radius > 0 and r > radius:
            reason += f", r/R = {r / radius:.3g}"
        if bound <= cert.task.chance:
            word, reason = "vacuous", f"{reason}, chance {cert.task.chance:.3f}"
        else:
            word = "certified" if r <= radius else "outside the certificate"
        if distance.outside:
            reason += f"; a part of norm {distance.outside:.2g} outside the geometry (rounding) "
            reason += "is not covered"
    return Verdict(label, word, reason, r, distance.outside, bound, radius, level)


def _measured(
    cert: Certificate, engine: Engine, task: Task, moves: Displacement, shape: Geometry, draws: int
) -> tuple[stats.Interval, stats.Interval | None]:
    """Score of the other model alone, and its mean under the certificate's noise."""

    def at(noise: Direction | None, draw: int) -> Sequence[bool]:
        with engine.at(Shifted(moves, noise, cert.sigma), step=1.0, draw=draw):
            return [outcome.correct for outcome in score(engine, task)]

    alone = at(None, 0)
    # draws of their own: those of the certificate would make the two agree
    noise = shape.noise(cert.plan.seed + 1)
    means = [sum(correct) / len(correct) for correct in (at(noise, draw) for draw in range(draws))]
    smoothed = stats.mean_over_draws(means, cert.confidence) if draws else None
    return stats.clopper_pearson(sum(alone), len(alone), cert.confidence), smoothed


def _check_model(cert: Certificate, engine: Engine) -> None:
    now = model_spec(engine)
    wrong = [f for f in MODEL if getattr(now, f) != getattr(cert.model, f)]
    if wrong:
        old, new = (str(getattr(m, wrong[0]))[:12] for m in (cert.model, now))
        raise BasinscopeError(
            f"the certificate was made for other weights: {', '.join(wrong)} ({old} -> {new})",
            "the model that it was made for",
            f"load {cert.model.source!r} as it was loaded then, or certify this model",
        )


def _checked_geometry(
    cert: Certificate, engine: Engine, geometry: Geometry | str | None
) -> Geometry:
    shape = words.geometry(geometry or cert.plan.geometry, engine)
    if shape.identity != cert.plan.covariance:
        raise BasinscopeError(
            f"geometry {shape.label!r} is not the one that the certificate was made for "
            f"({cert.plan.geometry!r})",
            "the covariance that was fixed before sampling",
            "give that geometry, or certify with this one",
        )
    return shape

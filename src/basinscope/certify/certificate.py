"""The certificate: what was counted, what follows from it, and what does not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from basinscope import stats
from basinscope.certify.plan import Plan, bounds
from basinscope.errors import BasinscopeError
from basinscope.runs.spec import ModelSpec, TaskSpec
from basinscope.stats import rounded
from basinscope.stats import smoothing as formulas
from basinscope.stats.rounded import finite

if TYPE_CHECKING:
    import torch

    from basinscope.certify.verdict import Verdict
    from basinscope.directions.base import Direction
    from basinscope.engines.base import Engine
    from basinscope.geometries.base import Geometry
    from basinscope.runs.models import Model
    from basinscope.tasks.base import Task


@dataclass(frozen=True)
class Unit:
    """Raw counts of one independent draw (of an antithetic pair: of both its signs)."""

    correct: int
    n: int

    @property
    def score(self) -> float:
        """Share of right answers."""
        return self.correct / self.n


@dataclass(frozen=True)
class Certificate:
    r"""Lower bound on a task's smoothed score, and what follows for displaced weights.

    The smoothed score is :math:`p(\theta) = E\,S(\theta + \epsilon)`,
    :math:`\epsilon \sim N(0, \sigma^2 \Sigma)`; S is the mean over the task's fixed items. With
    :math:`r = \lVert \Sigma^{-1/2} (\theta' - \theta_0) \rVert_2` every :math:`\theta'` satisfies
    :math:`p(\theta') \ge \Phi(\Phi^{-1}(p(\theta_0)) - r/\sigma)` (`stats.certificates`).

    Attributes:
        plan: what was fixed before the first draw.
        model: the weights and how answers are computed from them.
        task: the task.
        units: raw counts, one for each independent draw that was used.
        item_counts: how often each item was right, by id; only of a plan with ``per_item``.
        score: S(theta0) on the task's items, which is known exactly.
        n_right: how many of them are right at theta0.
        target: level that `radius` and `verdict` take where none is given: half of the way from
            chance to S(theta0), or what `certify` was given.
        p_lower: lower bound of p(theta0), with the plan's confidence.
        p_upper: upper bound, with the same confidence by itself; both together hold with
            2 * confidence - 1.
        estimate: mean score of the draws.
        decision: True where the plan's claim was accepted, False where it was refuted, None where
            there was none or it is open.
        set_aside: records that did not verify, with the reason; they were measured again.
        geometry: covariance of the noise; None for a certificate read without its model.

    Guarantee: P(p_lower <= p(theta0)) >= confidence over the draws; `lower_bound` then holds for
    all displacements together. Everything is computed from the raw counts alone.
    """

    plan: Plan
    model: ModelSpec
    task: TaskSpec
    units: tuple[Unit, ...]
    item_counts: dict[str, int]
    n_right: int
    target: float
    p_lower: float
    p_upper: float
    estimate: float
    decision: bool | None
    set_aside: tuple[str, ...] = ()
    geometry: Geometry | None = field(default=None, compare=False, repr=False)
    engine: Engine | None = field(default=None, compare=False, repr=False)

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise, in the geometry's unit."""
        return self.plan.sigma

    @property
    def confidence(self) -> float:
        """One-sided."""
        return self.plan.confidence

    @property
    def draws(self) -> int:
        """Independent draws used (antithetic pairs count once)."""
        return len(self.units)

    @property
    def fingerprint(self) -> str:
        """Sha256 of the weights that the certificate was made for."""
        return self.model.fingerprint

    @property
    def score(self) -> float:
        """S(theta0) on the task's items."""
        return self.n_right / self.task.n_items

    @property
    def score_interval(self) -> stats.Interval:
        """S(theta0) on the population that the items were drawn from (two-sided, over items)."""
        return stats.clopper_pearson(self.n_right, self.task.n_items, self.confidence)

    @property
    def gap(self) -> stats.Interval:
        """S(theta0) - p(theta0): what noise alone costs; ``.high`` holds with the confidence.

        One-sided: ``.low`` is the trivial S(theta0) - 1. The tau of a sigma-basin is ``.high``.
        """
        score = self.score
        high = score - self.p_lower
        return stats.Interval(score - 1.0, min(score - self.estimate, high), high, self.confidence)

    @property
    def p_items(self) -> NDArray[np.float64]:
        """Simultaneous lower bounds of every item's smoothed score; needs ``per_item``."""
        if not self.plan.per_item:
            raise BasinscopeError(
                "this certificate has no bounds of single items",
                "a certificate of single items",
                "certify with per_item=True",
            )
        return formulas.item_lower_bounds(
            list(self.item_counts.values()), self.draws, self.confidence
        )

    @overload
    def lower_bound(self, r: float, *, weak: bool = ...) -> float: ...
    @overload
    def lower_bound(self, r: ArrayLike, *, weak: bool = ...) -> NDArray[np.float64] | float: ...
    def lower_bound(self, r: ArrayLike, *, weak: bool = False) -> NDArray[np.float64] | float:
        """Lower bound of p(theta') at distance r; from single items where the plan has them.

        Args:
            r: distance(s) in the geometry, at least 0.
            weak: the linear bound instead, for comparison.

        Guarantee: with the plan's confidence for all r and all theta' together.
        """
        if self.plan.per_item and not weak:
            return _plain(formulas.mean_lower_bound(self.p_items, r, self.sigma))
        formula = formulas.weak_bound if weak else formulas.lower_bound
        return _plain(formula(self.p_lower, r, self.sigma))

    def upper_bound(self, r: ArrayLike) -> NDArray[np.float64] | float:
        """Upper bound of p(theta') at distance r, with the plan's confidence by itself."""
        return _plain(formulas.upper_bound(self.p_upper, r, self.sigma))

    def radius(self, target: float | None = None) -> float:
        """Largest distance at which `lower_bound` is at least the target.

        Returns:
            R; NaN where p_lower is below the target, so that no distance, 0 included, is covered.

        Raises:
            BasinscopeError: target not in [0, 1].
        """
        level = self.target if target is None else target
        if not 0.0 <= level <= 1.0:
            raise BasinscopeError(f"target={level}", "0 to 1", "0.5")
        if not self.plan.per_item:
            return float(formulas.radius(self.p_lower, level, self.sigma))
        if level == 0.0:
            return math.inf
        if self.lower_bound(0.0) < level:
            return math.nan
        low, high = 0.0, self.sigma
        while self.lower_bound(high) >= level:
            low, high = high, 2 * high
        for _ in range(60):  # to the last bit, from the certified side
            middle = (low + high) / 2
            low, high = (middle, high) if self.lower_bound(middle) >= level else (low, middle)
        return low

    def radius_text(self, target: float) -> str:
        """Target and radius in words."""
        radius, level = self.radius(target), rounded.at_least(target, 3)
        if math.isnan(radius):
            return f"{level}: none, p is not certified to be so high"
        shown, ratio = rounded.radius_text(radius), rounded.radius_text(radius / self.sigma, 3)
        return f"{level}: {shown} = {ratio} sigma"

    def decomposition(self, r: float) -> tuple[float, float]:
        """Most that may be lost between S(theta0) and p(theta'): the gap, and the shift to r."""
        return self.score - self.p_lower, self.p_lower - float(self.lower_bound(r))

    def verdict(
        self,
        other: str | Path | Direction | float,
        engine: Model | None = None,
        task: str | Task | None = None,
        *,
        target: float | None = None,
        geometry: Geometry | str | None = None,
        draws: int = 0,
    ) -> Verdict:
        """Judge a displacement; see `basinscope.certify.verdict.verdict`."""
        from basinscope.certify.verdict import verdict

        return verdict(
            self, other, engine or self.engine, task, target=target,
            geometry=geometry or self.geometry, draws=draws,
        )  # fmt: skip

    def project(
        self, displacement: Mapping[str, torch.Tensor], target: float | None = None
    ) -> float:
        """Move a displacement, in place, into the certified ball: r <= radius(target).

        Args:
            displacement: theta' - theta0 of every perturbed parameter, by canonical name, float32
                or float64.
            target: see `radius`.

        Returns:
            Its r afterwards.

        Raises:
            BasinscopeError: a target that is certified nowhere, a certificate without its model,
                or a displacement that is not one of its parameters.
        """
        if self.geometry is None or self.engine is None:
            raise BasinscopeError(
                "a certificate without its model",
                "a certificate on its model, around whose weights the ball lies",
                "bs.certify(..., run=...), which gives it again from its records",
            )
        check_displacement(displacement, self.engine)
        return self.geometry.project(self.engine, displacement, self.radius(target))

    def to_json(self) -> dict[str, Any]:
        """Everything the certificate says, as JSON: numbers that are not finite are null."""
        gap, interval = self.gap, self.score_interval
        values: dict[str, Any] = {
            "model": self.model.source,
            "fingerprint": self.fingerprint,
            "task": self.task.name,
            "items": self.task.n_items,
            "plan": self.plan.model_dump(mode="json"),
            "draws": self.draws,
            "counts": [[unit.correct, unit.n] for unit in self.units],
            "item_counts": self.item_counts or None,
            "estimate": self.estimate,
            "p_lower": self.p_lower,
            "p_upper": self.p_upper,
            "score": {"low": interval.low, "estimate": self.score, "high": interval.high},
            "gap": {"estimate": gap.estimate, "high": gap.high},
            "target": self.target,
            "radius": self.radius(),
            "decision": self.decision,
            "covers": self.covers,
            "does_not_cover": list(self.does_not_cover),
            "set_aside": list(self.set_aside),
        }
        return {key: finite(value) for key, value in values.items()}

    @property
    def covers(self) -> str:
        """What holds, in words."""
        plan = self.plan
        where = "" if plan.geometry == "isotropic" else f" of covariance {plan.geometry!r}"
        sampled = (
            "one fresh item for each draw, exact binomial bound"
            if plan.bound == "exact" and not plan.per_item
            else "an exact binomial bound for each item, all at once"
            if plan.per_item
            else f"{plan.items_per_draw} items for each draw, betting bound valid at every look"
        )
        return (
            f"With confidence {plan.confidence:g} over {self.draws} "
            f"{'antithetic pairs' if plan.antithetic else 'draws'} ({sampled}): the score of "
            f"{self.task.name!r} under Gaussian weight noise{where}, sigma {plan.sigma:g}, "
            f"averaged over the noise and over these {self.task.n_items} items, is at least "
            f"{rounded.at_least(self.p_lower)}; and around any other weights at distance r in that "
            "geometry, under the same noise, it is at least lower_bound(r)."
        )

    @property
    def does_not_cover(self) -> tuple[str, ...]:
        """What does not follow, in words; stands wherever the certificate is shown."""
        return (
            "the score of a single model without noise, theta' or theta0: the bound is on the "
            "average over noise, and holds literally for a model that draws its noise anew for "
            "each query (basinscope.smoothed)",
            "items other than these, other prompts, templates or ways to decode",
            "displacements outside the geometry, and another covariance or sigma",
            f"weights rounded otherwise than theta' + noise, once, to {self.model.dtype}",
            "several certificates at once: each errs by itself",
        )

    def __str__(self) -> str:
        """What it says and what it does not."""
        lines = [
            f"p >= {rounded.at_least(self.p_lower)} (estimate {self.estimate:.4f}, "
            f"S(theta0) = {self.score:.4f}, gap <= {rounded.at_most(self.gap.high)})",
            "radius for " + self.radius_text(self.target),
        ]
        if self.plan.claim is not None:
            word = {True: "accepted", False: "refuted", None: "open"}[self.decision]
            lines.append(f"claim p >= {self.plan.claim:g}: {word} after {self.draws} draws")
        lines += [self.covers, "Not covered:"]
        return "\n".join([*lines, *(f"- {text}" for text in self.does_not_cover)])


def certificate(
    plan: Plan,
    model: ModelSpec,
    task: TaskSpec,
    at_zero: Sequence[int],
    units: Sequence[Unit],
    item_counts: dict[str, int],
    target: float | None = None,
    **more: Any,
) -> Certificate:
    """Certificate of raw counts: nothing else goes into it.

    Args:
        plan: fixed beforehand.
        model: the weights.
        task: the task.
        at_zero: outcome of every item at theta0.
        units: counts of draws 0, 1, 2, ... without a gap; what lies behind the first decision of a
            claim is not used.
        item_counts: how often each item was right, where the plan is per item.
        target: see `Certificate.target`.
        more: further attributes of the certificate.
    """
    decision, used = None, list(units)
    if plan.claim is not None:
        n, decision = formulas.decide([u.score for u in used], plan.claim, plan.error)
        used = used[:n]
    scores = [unit.score for unit in used]
    low, high = bounds(scores, plan)
    if plan.per_item:
        counts = list(item_counts.values())
        low = float(formulas.item_lower_bounds(counts, len(used), plan.confidence).mean())
    score = sum(at_zero) / len(at_zero)
    level = target if target is not None else task.chance + max(0.0, score - task.chance) / 2
    return Certificate(
        plan, model, task, tuple(used), item_counts, sum(at_zero), level, low, high,
        float(np.mean(scores)), decision, **more,
    )  # fmt: skip


def check_displacement(displacement: Mapping[str, torch.Tensor], engine: Engine) -> None:
    """Refuse tensors whose norm would not be that of the displacement, or could not be kept."""
    strange = sorted(displacement.keys() ^ engine.shapes.keys())
    if strange:
        raise BasinscopeError(
            f"a displacement that is not of the perturbed parameters ({', '.join(strange[:3])})",
            f"one tensor for each of the {len(engine.shapes)} names of engine.shapes",
            "leave them out, or rename them",
        )
    for name, tensor in displacement.items():
        wide = tensor.dtype.is_floating_point and tensor.dtype.itemsize >= 4
        if tensor.shape != engine.shapes[name] or not wide or not bool(tensor.isfinite().all()):
            raise BasinscopeError(
                f"displacement of {name!r}: {tuple(tensor.shape)}, {tensor.dtype}, or not finite",
                f"shape {tuple(engine.shapes[name])}, finite, float32 or float64, which "
                "can hold a point of the ball",
                "build it in float32, from engine.shapes",
            )


def _plain(value: NDArray[np.float64]) -> NDArray[np.float64] | float:
    return float(value) if value.ndim == 0 else value

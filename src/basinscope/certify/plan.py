"""What a certificate fixes before its first draw, and what it asks of every draw."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Literal

from basinscope import stats
from basinscope.errors import BasinscopeError
from basinscope.runs.bench import Unit
from basinscope.runs.spec import Frozen
from basinscope.stats import smoothing as formulas


class Plan(Frozen):
    """Everything that a certificate's statement depends on beside the model.

    Stands in ``run.json`` with the raw counts beside it. Two runs whose plans differ cannot share
    a folder; the number of draws may grow where the bound holds for every number at once.
    """

    task: str  # sha256 of everything the task asks
    sigma: float
    geometry: str  # label
    covariance: str  # identity of the geometry
    items_per_draw: int
    confidence: float
    seed: int
    claim: float | None
    antithetic: bool
    per_item: bool
    bound: Literal["exact", "anytime"]
    draws: int | None  # None where the bound holds for every number of draws

    @property
    def error(self) -> float:
        """Probability that a one-sided statement is wrong."""
        return 1.0 - self.confidence

    def chosen(self, ids: Sequence[str], draw: int) -> tuple[str, ...] | None:
        """Items of one draw, in the task's order: a uniform sample without replacement.

        The items whose SHA-256 of (seed, draw, id) is smallest: no generator is touched, and the
        sample of a draw depends on nothing but these. None where a draw has all items.
        """
        if self.items_per_draw == len(ids):
            return None
        key = f"certify/1 {self.seed} {draw}".encode()

        def rank(item: str) -> bytes:
            return hashlib.sha256(key + b"\0" + item.encode()).digest()

        wanted = set(sorted(ids, key=rank)[: self.items_per_draw])
        return tuple(item for item in ids if item in wanted)

    def units(self, ids: Sequence[str], draw: int) -> list[Unit]:
        """Settings of the weights of one draw: one, or an antithetic pair with the same items."""
        chosen = self.chosen(ids, draw)
        items = () if chosen is None else ((0, chosen),)
        signs = (1, -1) if self.antithetic else (1,)
        return [Unit(0, draw, sign * self.sigma, (0,), items) for sign in signs]


def check(
    *, sigma: float, draws: int, items_per_draw: int, confidence: float, claim: float | None,
    target: float | None, antithetic: bool, per_item: bool, ids: Sequence[str], chance: float,
) -> None:  # fmt: skip
    """Refuse what is out of range, and a plan too small to certify anything.

    Raises:
        BasinscopeError: says what is allowed, and how many draws would do.
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise BasinscopeError(f"sigma={sigma}", "above 0 and finite", "0.005")
    if not 0 < confidence < 1:
        raise BasinscopeError(f"confidence={confidence}", "between 0 and 1, both excluded", "0.99")
    if len(set(ids)) != len(ids) or not ids:
        raise BasinscopeError(
            f"{len(ids)} items with {len(set(ids))} different ids",
            "at least one item, each with an id of its own",
            "another task, or other ids",
        )
    if not 1 <= items_per_draw <= len(ids):
        raise BasinscopeError(f"items_per_draw={items_per_draw}", f"1 to {len(ids)}", f"{len(ids)}")
    for name, value in (("claim", claim), ("target", target)):
        if value is not None and not 0 < value < 1:
            raise BasinscopeError(f"{name}={value}", "between 0 and 1", "0.5")
    if draws < 1:
        raise BasinscopeError(f"draws={draws}", "at least 1", "200")
    if per_item and (antithetic or claim is not None or items_per_draw != len(ids)):
        raise BasinscopeError(
            f"per_item, antithetic={antithetic}, claim={claim}, items_per_draw={items_per_draw}",
            f"draws fixed beforehand, each with all {len(ids)} items",
            f"items_per_draw={len(ids)}, without antithetic and claim",
        )
    level = max(value for value in (claim, target, chance) if value is not None)
    needed = draws_needed(level, confidence, items_per_draw, claim, antithetic, per_item, len(ids))
    if draws < needed:
        role = "the claim" if level == claim else "the target" if level == target else "chance"
        raise BasinscopeError(
            f"draws={draws} cannot certify more than {role}, p >= {level:g}, at confidence "
            f"{confidence:g}: not even if every answer is right",
            f"at least {needed} draws",
            f"draws={needed}, a lower confidence, or a lower level",
        )


def is_exact(items_per_draw: int, claim: float | None, antithetic: bool, per_item: bool) -> bool:
    """Whether the bound is Clopper and Pearson's, for draws fixed beforehand.

    It needs independent 0-1 trials: one fresh item per draw, or each item by itself. A claim is
    decided while looking, which that bound does not allow.
    """
    return per_item or (items_per_draw == 1 and claim is None and not antithetic)


def draws_needed(
    level: float, confidence: float, items_per_draw: int, claim: float | None,
    antithetic: bool, per_item: bool, n_items: int,
) -> int:  # fmt: skip
    """Fewest draws that could certify p > level, or p >= level where it is a claim or target."""
    exact = is_exact(items_per_draw, claim, antithetic, per_item)
    each = 1 - (1 - confidence) / n_items if per_item else confidence
    return formulas.draws_to_certify(level, each, exact=exact)


def bounds(scores: Sequence[float], plan: Plan) -> tuple[float, float]:
    """One-sided bounds of the mean score: each holds with the plan's confidence by itself."""
    if plan.bound == "exact" and not plan.per_item:
        k, n = round(sum(scores)), len(scores)
        low = stats.lower_proportion(k, n, plan.confidence).low
        return low, stats.upper_proportion(k, n, plan.confidence).high
    return stats.lower_mean(scores, plan.error), stats.upper_mean(scores, plan.error)

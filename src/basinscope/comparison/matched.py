r"""What fine-tuning forgets, read where every method has learnt the same.

A fine-tuning curve is a sequence of (new-task NLL, old NLL), the first before tuning. Two methods
are compared at one new-task NLL, the *target*. Along the curve the new-task NLL falls to the target
somewhere between two measured points; both losses are interpolated linearly there. Where a curve
comes back to a target (it learnt too much and got worse), its first arrival counts: what matters is
the running minimum of the new-task NLL, which is monotone. Nothing is read beyond what was
measured: a curve that does not arrive gives a reason.

The rule of the targets, fixed before anything is compared: with :math:`n_s` the new-task NLL of the
reference's seed s before tuning and :math:`b_s` the least it reaches,

.. math:: \text{target}(q) = \overline{n_s} - q\,(\overline{n_s} - \overline{b_s}),
          \qquad q \in \{1/4, 1/2, 3/4\},

and the half-way target is the one that counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from basinscope.widening.rows import TuningPoint

SHARES = (0.25, 0.5, 0.75)
"""Shares of the reference's new-task gain at which methods are compared."""

MAIN = 0.5
"""The share that counts."""


@dataclass(frozen=True)
class Arrival:
    """Where a fine-tuning curve first reaches a target.

    Attributes:
        old_nll: old NLL there, nats a token; NaN if it does not arrive.
        forgetting: that minus the old NLL before tuning.
        step: optimiser steps of fine-tuning, interpolated alike; 0 if it need not be tuned.
        reason: why there is no number; empty where there is one.
    """

    old_nll: float
    forgetting: float
    step: float
    reason: str = ""


def arrival(curve: Sequence[TuningPoint], target: float) -> Arrival:
    """Old NLL where the new-task NLL first falls to the target.

    Args:
        curve: points by step.
        target: new-task NLL.

    Example:
        >>> curve = [
        ...     TuningPoint(step=step, new_nll=new, new_score=None, old_nll=old, old_score=None)
        ...     for step, new, old in ((0, 4.0, 2.0), (10, 3.0, 2.5))
        ... ]
        >>> arrival(curve, 3.5)
        Arrival(old_nll=2.25, forgetting=0.25, step=5.0, reason='')
        >>> arrival(curve, 2.9).reason
        'reaches 3.0000, not 2.9000'
    """
    before: tuple[float, float, float] | None = None
    least = math.inf
    for point in curve:
        new, old = point.new_nll, point.old_nll
        if new is None or old is None:
            return _nowhere(f"a loss is not finite at step {point.step}")
        here = (new, old, float(point.step))
        if here[0] <= target:
            if before is None:  # it is there before any tuning
                return Arrival(here[1], 0.0, 0.0)
            share = (before[0] - target) / (before[0] - here[0])
            old_nll = before[1] + share * (here[1] - before[1])
            start = curve[0].old_nll
            assert start is not None
            return Arrival(old_nll, old_nll - start, before[2] + share * (here[2] - before[2]))
        before, least = here, min(least, here[0])
    if before is None:
        return _nowhere("it was not fine-tuned")
    return _nowhere(f"reaches {least:.4f}, not {target:.4f}")


def targets(curves: Sequence[Sequence[TuningPoint]]) -> dict[float, float]:
    """New-task NLL for each of `SHARES`, from the reference's curves; empty if one has no gain."""
    starts, bests = [], []
    for curve in curves:
        if not curve or curve[0].new_nll is None:
            return {}
        starts.append(curve[0].new_nll)
        bests.append(min(point.new_nll for point in curve if point.new_nll is not None))
    if not curves:
        return {}
    start, best = sum(starts) / len(starts), sum(bests) / len(bests)
    return {share: start - share * (start - best) for share in SHARES} if start > best else {}


def _nowhere(reason: str) -> Arrival:
    return Arrival(math.nan, math.nan, math.nan, reason)

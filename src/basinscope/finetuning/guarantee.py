"""Fine-tuning under a guarantee: after every step the weights go back into a certified ball."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from basinscope.certify import Certificate, bound_to
from basinscope.engines.base import Engine
from basinscope.errors import BasinscopeError
from basinscope.finetuning.record import Guarantee
from basinscope.finetuning.settings import AfterStep, word
from basinscope.weights import selection

MARGIN = 1e-3
"""Share of the radius that is left free: theta0 + displacement is rounded to float32."""


@dataclass(frozen=True)
class StayWithin:
    r"""Projection onto :math:`\lVert \Sigma^{-1/2} (\theta - \theta_0) \rVert \le R(target)`.

    Projected stochastic gradient descent with the base optimiser's steps: the ball is convex and
    its projection the nearest point in the geometry's own norm.

    Args:
        certificate: bound to the engine that is fine-tuned.
        target: level of the smoothed score that must stay certified.
    """

    certificate: Certificate
    target: float

    @property
    def identity(self) -> str:
        """What determines the projection, for the record of the run."""
        plan = self.certificate.plan
        radius = self.certificate.radius(self.target)
        return f"ball of r <= {radius!r} in {plan.covariance}"

    def __call__(self, module: nn.Module) -> None:
        """Move the live weights, in place, to the nearest ones in the ball."""
        engine = self.certificate.engine
        assert engine is not None
        live = selection.checkpoint_parameters(module)
        with torch.no_grad():
            moved = {n: live[n] - engine.pristine(n).to(live[n]) for n in engine.shapes}
            assert self.certificate.geometry is not None
            radius = self.certificate.radius(self.target)
            self.certificate.geometry.project(engine, moved, radius * (1 - MARGIN))
            for name, displacement in moved.items():
                live[name].copy_(engine.pristine(name).to(displacement) + displacement)


@dataclass(frozen=True)
class Both:
    """A user's own hook after each step, and then the projection."""

    own: AfterStep
    within: StayWithin

    @property
    def identity(self) -> str:
        """What determines both."""
        return f"{word(self.own)}, then {self.within.identity}"

    def __call__(self, module: nn.Module) -> None:
        """Call one after the other."""
        self.own(module)
        self.within(module)


def stay_within(certificate: Certificate, target: float | None, engine: Engine) -> StayWithin:
    """Projection for a fine-tune of this engine.

    Raises:
        BasinscopeError: a certificate of other weights or another selection, a target that it
            certifies nowhere.
    """
    bound = bound_to(certificate, engine)
    level = bound.target if target is None else target
    radius = bound.radius(level)
    if not radius > 0:
        raise BasinscopeError(
            f"target={level:.4g}: {bound.radius_text(level)}",
            f"below the bound at theta0, {float(bound.lower_bound(0.0)):.4g}",
            "a lower target, or more draws",
        )
    if math.isinf(radius):
        raise BasinscopeError(f"target={level:.4g}", "where the ball is bounded", "a higher one")
    return StayWithin(bound, level)


def earned(within: StayWithin, folder: str) -> Guarantee:
    """Guarantee of the weights in a folder: what holds there, and what it leaves out."""
    certificate = within.certificate
    return Guarantee(
        **certificate.verdict(f"to:{folder}", target=within.target).to_json(),
        task=certificate.task.name,
        score_at_theta0=certificate.score,
        p_lower_at_theta0=float(certificate.lower_bound(0.0)),
        sigma=certificate.sigma,
        geometry=certificate.plan.geometry,
        confidence=certificate.confidence,
        fingerprint_of_theta0=certificate.fingerprint,
        does_not_cover=certificate.does_not_cover,
    )

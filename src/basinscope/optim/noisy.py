"""Methods whose gradients are taken at weights with Gaussian noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from basinscope.errors import BasinscopeError
from basinscope.optim.base import Loss, Method, Setup
from basinscope.optim.gaussian import GaussianAugmented, Relative
from basinscope.optim.schedules import schedule as schedule_of


class Gaussian(Method):
    """GO: every micro-batch at fresh noise, the base's step from the clean weights.

    With ``antithetic`` the micro-batches of a step come in pairs, at +noise and -noise: the first
    order of the noise cancels between them, at no further pass.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        identity: Mapping[str, Any],
        base: str,
        average: str | None,
        sigma: float,
        relative: Relative,
        select: str | None,
        schedule: str = "constant",
        antithetic: bool = False,
        passes: float = 1.0,
    ) -> None:
        kind, options = setup.base(base)
        self._noisy = GaussianAugmented(
            setup.groups(),
            names=setup.model,
            base=kind,
            sigma=sigma,
            seed=setup.seed,
            relative=relative,
            select=select,
            schedule=schedule_of(schedule, setup.total_steps),
            antithetic=antithetic,
            **options,
        )
        self._pairs = antithetic
        super().__init__(setup, self._noisy, identity=identity, average=average, passes=passes)
        self.pieces = 2 if antithetic else 1

    def _gradients(self, losses: Sequence[Loss]) -> torch.Tensor:
        if self._pairs and len(losses) % 2:
            raise BasinscopeError(
                f"antithetic noise with {len(losses)} micro-batches in a step",
                "an even number, they come in pairs",
                "halve the micro-batch and accumulate over two",
            )
        return self._pass(losses, lambda i: self._noisy.perturbed())


class TwoPoint(Gaussian):
    """NSO: every micro-batch at +noise and at -noise, the mean of both gradients.

    Noise stability optimisation (Zhang et al. 2023, arXiv 2306.08553, Algorithm 1 with one
    perturbation): the odd orders of the noise cancel, so that on a quadratic loss the gradient is
    that at the clean weights.
    """

    def __init__(self, setup: Setup, **options: Any) -> None:
        super().__init__(setup, antithetic=True, passes=2.0, **options)

    def _gradients(self, losses: Sequence[Loss]) -> torch.Tensor:
        return super()._gradients([loss for loss in losses for _ in range(2)])

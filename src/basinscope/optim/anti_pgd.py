"""Anti-PGD: gradient descent whose weights carry anticorrelated noise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from basinscope.errors import BasinscopeError
from basinscope.optim import tensors
from basinscope.optim.base import Loss, Method, Setup
from basinscope.optim.schedules import schedule as schedule_of


class AntiPGD(Method):
    r"""Anticorrelated perturbed gradient descent (Orvieto et al. 2022, arXiv 2202.02831).

    After each step of the base optimiser the weights move by the difference of two noises,
    :math:`x_{k+1} = x_k - \eta g(x_k) + (\xi_{k+1} - \xi_k)` with :math:`\xi_k \sim N(0, \sigma_k^2
    I)` and :math:`\xi_0 = 0`, so that the noises telescope: :math:`x_k = z_k + \xi_k`.

    With SGD as its base, without weight decay and with one micro-batch, :math:`z` follows GO
    exactly: :math:`z_{k+1} = z_k - \eta g(z_k + \xi_k)`. What differs otherwise: all micro-batches
    of a step see the same noise, weight decay acts on the noisy weights, and the noise is added to
    and taken from the live weights, so that :math:`z` keeps one rounding of each.

    `evaluated` shows :math:`z_k`, the weights that the run would have if its noise stopped now. The
    live weights outside it, which a checkpoint for going on must hold, are :math:`x_k`.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        identity: Mapping[str, Any],
        base: str,
        average: str | None,
        sigma: float,
        select: str | None,
        schedule: str,
    ) -> None:
        kind, options = setup.base(base)
        self._chosen = [
            (name, p) for name, p in setup.named() if select is None or re.search(select, name)
        ]
        if not self._chosen:
            raise BasinscopeError(
                f"select={select!r} matches no parameter",
                "a regular expression found in names like "
                f"{', '.join(n for n, _ in setup.named()[:3])}",
                "leave select out",
            )
        self._sigma, self._schedule = sigma, schedule_of(schedule, setup.total_steps)
        super().__init__(setup, kind(setup.groups(), **options), identity=identity, average=average)

    def _update(self, losses: Sequence[Loss], clip: float | None) -> None:
        super()._update(losses, clip)
        self._move(-1, self.steps)
        self._move(1, self.steps + 1)

    @contextmanager
    def _clean(self) -> Iterator[None]:
        noisy = [p.detach().clone() for _, p in self._chosen]
        try:
            self._move(-1, self.steps)
            yield
        finally:
            with torch.no_grad():
                for (_, p), value in zip(self._chosen, noisy, strict=True):
                    p.copy_(value)

    def _move(self, sign: int, k: int) -> None:
        """Add the noise of step ``k`` to the live weights, or take it from them."""
        sigma = sign * self._sigma * self._schedule(k) if k else 0.0
        if sigma == 0.0:
            return
        with torch.no_grad():
            for name, p in self._chosen:
                here = tensors.local(p)
                before = here.clone(
                    memory_format=torch.contiguous_format
                )  # in place is 4 times slower
                tensors.add_noise(
                    before, here, sigma, name, seed=self.setup.seed, draw=k, start=tensors.start(p)
                )

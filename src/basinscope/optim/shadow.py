"""Shadow fine-tuning: half of the gradient where a fine-tune on another text would lead."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import torch

from basinscope.errors import BasinscopeError
from basinscope.optim.base import Loss, Method, Setup
from basinscope.weights import noise

PROXY: Final = 0.25
"""Size of a proxy micro-batch, as a share of the batch."""

START: Final = 0.1
"""Share of the run that comes before the first shadow."""

_BETA, _EPSILON, _NORM = 0.95, 1e-8, 1.0


class Shadow(Method):
    r"""Minimise the loss along the way that a short fine-tune on a proxy text takes.

    Beside the weights a displacement :math:`\delta` is carried. Each step after the first tenth of
    the run, with :math:`g` the gradient on a proxy micro-batch at :math:`\theta + \delta`, cut to
    norm 1, and :math:`j` the steps since :math:`\delta` and :math:`v` were last set to 0:

    .. math::
        v &\leftarrow .95 v + .05 g^2, \qquad
        \delta \leftarrow \delta - \eta\, g / (\sqrt{v / (1 - .95^j)} + 10^{-8}), \\
        G &= \text{share} \cdot \nabla L_a(\theta + u \delta)
             + (1 - \text{share}) \nabla L_b(\theta), \qquad u \sim U(0, 1),

    where a and b are two parts of the batch, and the base optimiser steps from G. Both begin anew
    every k steps. That is the gradient of
    :math:`E_u[\text{share} L(\theta + u \delta) + (1 - \text{share}) L(\theta)]` with
    :math:`\delta` held fixed: first order, as in first-order MAML (Nichol et al. 2018, arXiv
    1803.02999). Kin: safeguards trained against simulated fine-tunes (Tamirisa et al. 2024, arXiv
    2408.00761).

    u is a function of (seed, step), the same on all ranks.

    Guarantee: the weights have their bytes back after each gradient, also after an exception.
    Cost: a quarter of a pass more; three float32 copies of the weights (delta, v, the clean ones).
    """

    proxy = PROXY
    pieces = 2

    def __init__(
        self,
        setup: Setup,
        *,
        identity: Mapping[str, Any],
        base: str,
        average: str | None,
        eta: float,
        k: float,
        share: float,
    ) -> None:
        kind, given = setup.base(base)
        self._eta, self._k, self._share = eta, int(k), share
        self._start = math.ceil(START * setup.total_steps)
        super().__init__(
            setup,
            kind(setup.groups(), **given),
            identity=identity,
            average=average,
            passes=1 + PROXY * (1 - START),
        )
        self._delta, self._v = (
            [torch.zeros_like(p, dtype=torch.float32) for p in self._parameters] for _ in range(2)
        )

    def _gradients(self, losses: Sequence[Loss]) -> torch.Tensor:
        n = len(losses)
        if n < self.pieces:
            raise BasinscopeError(
                f"shadow with {n} micro-batch in a step",
                f"allowed: at least {self.pieces}, since a part of the batch stays at the weights",
                "halve the micro-batch and accumulate over two",
            )
        if self.steps < self._start:
            return self._pass(losses)
        self._follow()
        moved = min(n - 1, max(1, round(self._share * n)))
        weights = [self._share / moved] * moved + [(1 - self._share) / (n - moved)] * (n - moved)
        u = (noise.stream("shadow", self.setup.seed, self.steps)[0] + 0.5) / 2**32
        return self._pass(
            losses, lambda i: self._displaced(u) if i < moved else nullcontext(), weights
        )

    def _follow(self) -> None:
        """One step of the fine-tune on the proxy, which begins anew every k steps."""
        since = (self.steps - self._start) % self._k
        if since == 0:
            for tensor in (*self._delta, *self._v):
                tensor.zero_()
        assert self._proxy is not None
        self._pass([self._proxy], lambda i: self._displaced(1.0))
        self._clip(_NORM)
        with torch.no_grad():
            for p, delta, v in zip(self._parameters, self._delta, self._v, strict=True):
                if p.grad is None:
                    continue
                g = p.grad.float()
                v.mul_(_BETA).addcmul_(g, g, value=1 - _BETA)
                delta.addcdiv_(
                    g, (v / (1 - _BETA ** (since + 1))).sqrt_().add_(_EPSILON), value=-self._eta
                )
        self.optimizer.zero_grad()

    @contextmanager
    def _displaced(self, u: float) -> Iterator[None]:
        """Live weights are theta + u delta inside, and have their bytes back after it."""
        kept = [p.detach().clone() for p in self._parameters]
        try:
            with torch.no_grad():
                for p, delta in zip(self._parameters, self._delta, strict=True):
                    p.add_(delta, alpha=u)
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(self._parameters, kept, strict=True):
                    p.copy_(value)

    def _own_state(self) -> dict[str, Any]:
        return {"delta": self._delta, "v": self._v}

    def _load_own(self, state: Mapping[str, Any]) -> None:
        for name, tensors in (("delta", self._delta), ("v", self._v)):
            for tensor, value in zip(tensors, state[name], strict=True):
                tensor.copy_(value)


def check(options: Mapping[str, Any]) -> None:
    """Refuse options of `Shadow` that are out of range.

    Raises:
        BasinscopeError: eta of 0; k that is no positive integer; share outside (0, 1).
    """
    eta, k, share = (options[name] for name in ("eta", "k", "share"))
    if not eta > 0:
        raise BasinscopeError(
            f"method shadow with eta={eta:g}", "allowed: a finite number above 0", "try eta: 1e-3"
        )
    if k < 1 or k != int(k):
        raise BasinscopeError(f"method shadow with k={k:g}", "allowed: an integer of at least 1")
    if not 0 < share < 1:
        raise BasinscopeError(
            f"method shadow with share={share:g}", "allowed: above 0, below 1", "try share: 0.5"
        )

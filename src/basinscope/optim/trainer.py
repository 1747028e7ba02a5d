"""The Gaussian-augmented optimiser in the training loops of others."""

from __future__ import annotations

from typing import Any

from basinscope.errors import BasinscopeError
from basinscope.optim.gaussian import GaussianAugmented


def unwrapped(optimizer: Any) -> GaussianAugmented:
    """The `GaussianAugmented` inside whatever a training library has put around it.

    Raises:
        BasinscopeError: if there is none.
    """
    inner = optimizer
    while not isinstance(inner, GaussianAugmented) and hasattr(inner, "optimizer"):
        inner = inner.optimizer
    if not isinstance(inner, GaussianAugmented):
        raise BasinscopeError(
            f"the optimiser is {type(inner).__name__}",
            "GaussianAugmented",
            "optimizer_cls_and_kwargs=(bs.GaussianAugmented, {...})",
        )
    return inner


class PerturbedSteps:
    """Mixin for a Trainer of transformers or TRL: every micro-batch runs at noisy weights.

    ``class Widening(bs.PerturbedSteps, Trainer): pass``, with a `GaussianAugmented` passed as
    ``optimizers=`` or ``optimizer_cls_and_kwargs=``. Steps, checkpoints and evaluations see the
    clean weights.
    """

    optimizer: Any

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Forward and backward of one micro-batch at noisy weights."""
        with unwrapped(self.optimizer).perturbed():
            return super().training_step(*args, **kwargs)  # type: ignore[misc]

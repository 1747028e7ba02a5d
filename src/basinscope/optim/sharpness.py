"""SAM and its kin, from the package pytorch-optimizer."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from basinscope.errors import BasinscopeError
from basinscope.optim.base import Loss, Method, Setup


class SharpnessAware(Method):
    """Gradient at the weights, ascent from there, gradient again, base step from the clean weights.

    The ascent uses the mean gradient of all micro-batches of the step. What is clipped is the
    second gradient (the ascent is normalised); both under WSAM, whose step uses both. The clean
    weights come back by copying, also after an exception.

    Left out of that package's optimisers: BSAM, which draws from torch's global generator and
    steps from the noisy weights; GSAM, whose radius follows a schedule object outside its state.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        identity: Mapping[str, Any],
        base: str,
        average: str | None,
        kind: str,
        every: int = 1,
        **options: Any,
    ) -> None:
        library = _library(identity["name"])
        base_kind, base_options = setup.base(base)
        model = (setup.model,) if kind == "WSAM" else ()
        self._kind, self._every = kind, every
        self._sam = getattr(library, kind)(
            *model, setup.groups(), base_kind, **options, **base_options
        )
        super().__init__(
            setup,
            self._sam.base_optimizer,
            identity=identity,
            average=average,
            passes=1 + 1 / every,
        )
        self._stateful = self._sam

    def _update(self, losses: Sequence[Loss], clip: float | None) -> None:
        if self._kind == "WSAM":
            self._clip(clip)
        if self.steps % self._every == 0:
            clean = [p.detach().clone() for p in self._parameters]
            try:
                self._sam.first_step(zero_grad=True)
                self._pass(losses)
            finally:
                with torch.no_grad():
                    for p, value in zip(self._parameters, clean, strict=True):
                        p.copy_(value)
                        for key in ("old_p", "e_w"):  # so that the library does not do it again
                            self._sam.state[p].pop(key, None)
        self._clip(clip)
        self._sam.second_step()


def sam(setup: Setup, **options: Any) -> Method:
    """SAM (Foret et al. 2021, arXiv 2010.01412)."""
    return SharpnessAware(setup, kind="SAM", **options)


def asam(setup: Setup, **options: Any) -> Method:
    """ASAM (Kwon et al. 2021, arXiv 2102.11600): the ascent in units of each weight."""
    return SharpnessAware(setup, kind="SAM", adaptive=True, **options)


def look_sam(setup: Setup, *, k: float, **options: Any) -> Method:
    """LookSAM (Liu et al. 2022, arXiv 2203.02714): a full SAM step every ``k`` steps.

    Raises:
        BasinscopeError: k is no positive integer.
    """
    if k < 1 or k != int(k):
        raise BasinscopeError(f"k={k:g}", "an integer of at least 1", "k=5")
    return SharpnessAware(setup, kind="LookSAM", every=int(k), k=int(k), **options)


def friendly_sam(setup: Setup, **options: Any) -> Method:
    """FriendlySAM (Li et al. 2024, arXiv 2403.12350): ascent without the full-batch gradient."""
    return SharpnessAware(setup, kind="FriendlySAM", **options)


def weighted_sam(setup: Setup, *, gamma: float, **options: Any) -> Method:
    """WSAM (Yue et al. 2023, arXiv 2305.15817): sharpness as a weighted, decoupled regulariser.

    Raises:
        BasinscopeError: gamma of 1 or more.
    """
    if not gamma < 1:
        raise BasinscopeError(f"gamma={gamma:g}", "at least 0, below 1", "gamma=0.9")
    return SharpnessAware(setup, kind="WSAM", gamma=gamma, **options)


def _library(name: object) -> Any:
    try:
        return importlib.import_module("pytorch_optimizer")
    except ImportError as error:
        raise BasinscopeError(
            f"method {name} without the package pytorch-optimizer",
            "basinscope with its extra optim",
            "pip install 'basinscope[optim]'",
        ) from error

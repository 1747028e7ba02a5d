"""Gaussian-augmented training whose noise stays in a subspace.

It was meant to enlarge the certificates of that subspace; it did not (results/README.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from basinscope.directions.base import Direction
from basinscope.errors import BasinscopeError
from basinscope.geometries.subspaces import Subspace
from basinscope.optim.gaussian import GaussianAugmented
from basinscope.optim.tensors import FIRST_DRAW
from basinscope.weights.parts import Weights


@dataclass(frozen=True)
class _Named:
    """The one thing that a span asks of an engine: shapes, by canonical name."""

    shapes: Mapping[str, torch.Size]


class SubspaceAugmented(GaussianAugmented):
    r"""Minimise the loss expected under noise in the span of a few directions.

    That is :math:`E_z L(\theta + \sigma z^\top U)`, z ~ N(0, I_k), U the orthonormal basis in a
    file: GO (arXiv 2505.17646) with the covariance of a certificate in that subspace, so that what
    is certified there is what was trained for. The weights move in all directions; the noise alone
    stays in the span.

    Args:
        params: named parameters, or groups of them, called as in the basis.
        base: as in `GaussianAugmented`.
        basis: path of a basis, as `basinscope.subspace_from_trajectory` writes it.
        sigma: standard deviation of each of the k coordinates, in units of the weights' norm.
        seed: names the noise.
        kwargs: of `GaussianAugmented` and of the base.

    Raises:
        BasinscopeError: a basis that does not fit the parameters; ``relative``, ``select`` or
            ``cast``, which noise in a span does not have; sharded parameters.

    Guarantee: as `GaussianAugmented`: clean weights bit for bit outside `perturbed`.
    Cost: reads the basis once a perturbation; a copy of the weights that move.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
        *,
        basis: str | Path,
        sigma: float,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        for key in ("relative", "select", "cast", "independent_ranks"):
            if kwargs.get(key):
                raise BasinscopeError(
                    f"{key}={kwargs[key]!r} with noise in a subspace",
                    "noise of one z, which moves all tensors together along the basis",
                    "leave it out",
                )
        super().__init__(params, base, sigma=sigma, seed=seed, **kwargs)
        shapes = {name: live.shape for live, name, _ in self._all()}
        self._weights = cast(Weights, _Named(shapes))
        span = Subspace(str(basis), self._weights)
        for group in self.param_groups:
            group["noise_basis"] = span.identity
        self._direction: Direction = span.noise(seed)

    def _perturb(self, undo: list[Callable[[], object]]) -> None:
        for live, name, group in self._all():
            sigma, draw = self._sigma(live, group), group["noise_draw"]
            if self.antithetic:
                sigma, draw = sigma * (-1) ** (draw % 2), draw // 2
            draw += FIRST_DRAW
            parts = self._direction.parts(self._weights, name, draw, live.device) if sigma else None
            if parts is None:
                continue
            clean = self._buffer(live, live, live.dtype)
            clean.copy_(live)
            undo.append(partial(live.copy_, clean))
            moved = parts(0, live.numel()).view(live.shape)
            live.copy_(torch.add(clean.float(), moved, alpha=sigma))

"""Random directions in proportion to each tensor's own weights: those of VISAGE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from basinscope.directions.base import Random
from basinscope.weights.parts import Weights, chunks

_SCALES: WeakKeyDictionary[Weights, dict[str, float]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Layerwise(Random):
    r"""Gaussian noise in proportion to each tensor's RMS; norms stay (arXiv 2405.17374).

    .. math:: \delta_\ell = \frac{\mathrm{RMS}(\theta_\ell)}{\mathrm{RMS}(\theta)} g_\ell, \qquad
              g_\ell \sim N(0, I)

    with the normals of `Random` of that seed. The published direction is
    :math:`\|\theta_\ell\| g_\ell / \|g_\ell\|`, so that its alpha is alpha / RMS(theta0) of ours;
    its norm in a tensor of n weights is fixed, where ours differs by a share of about
    :math:`1/\sqrt{2n}`. ``E ||delta||^2`` is d less the share of the norms in
    :math:`\|\theta\|^2`. The noise is not isotropic: alpha is no sigma, nothing is certified.

    Args:
        seed: names the family.
    """

    @property
    def label(self) -> str:
        """``layerwise`` or ``layerwise:SEED``, the word of the command line."""
        return "layerwise" if self.seed == 0 else f"layerwise:{self.seed}"

    def identity(self, engine: Weights, draw: int = 0) -> str:
        """Noise scheme and seed: the scales follow from theta0."""
        return f"{super().identity(engine, draw)} layerwise"

    def std(self, engine: Weights, name: str) -> float:
        """RMS of the parameter over that of all of them; 0 for a norm."""
        if engine not in _SCALES:
            _SCALES[engine] = _scales(engine)
        return _SCALES[engine][name]


def _scales(engine: Weights) -> dict[str, float]:
    squares = {}
    for name, shape in engine.shapes.items():
        flat = engine.pristine(name).reshape(-1)
        ranges = chunks(shape.numel(), flat.device)
        squares[name] = sum(float(flat[a:b].double().square().sum()) for a, b in ranges)
    mean = sum(squares.values()) / engine.d

    def scale(name: str) -> float:
        still = "norm" in name.lower() or not squares[name]
        # nine digits: the order of a sum, which is the machine's, is not in them
        each = squares[name] / engine.shapes[name].numel()
        return 0.0 if still else float(f"{math.sqrt(each / mean):.9g}")

    return {name: scale(name) for name in squares}

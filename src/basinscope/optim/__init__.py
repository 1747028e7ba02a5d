"""Training under Gaussian weight noise, around any optimiser of torch."""

from basinscope.optim.gaussian import GaussianAugmented
from basinscope.optim.trainer import PerturbedSteps

__all__ = [
    "GaussianAugmented",
    "PerturbedSteps",
]

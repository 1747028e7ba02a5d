"""What widening is made of: recipes, texts, the training loop, measuring, and the dry run."""

from basinscope.widening.plan import Plan
from basinscope.widening.run import Widening, widen

__all__ = [
    "Plan",
    "Widening",
    "widen",
]

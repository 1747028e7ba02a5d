"""Training methods side by side: tables, forgetting at matched loss, figures' numbers."""

from basinscope.comparison.compare import Comparison, compare

__all__ = [
    "Comparison",
    "compare",
]

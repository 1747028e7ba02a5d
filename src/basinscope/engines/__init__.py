"""Models under weights that can be set and restored: the seam to everything that answers."""

from basinscope.engines.base import Engine
from basinscope.engines.loading import load

__all__ = [
    "Engine",
    "load",
]

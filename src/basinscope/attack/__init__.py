"""The worst direction: gradient ascent on the sphere, and the radius at which a score collapses."""

from basinscope.attack.collapse import Collapse, collapse_radius
from basinscope.attack.proxy import Proxy
from basinscope.attack.run import Attack, attack

__all__ = [
    "Attack",
    "Collapse",
    "Proxy",
    "attack",
    "collapse_radius",
]

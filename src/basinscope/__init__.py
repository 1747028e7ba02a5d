"""basinscope measures, certifies and widens the capability basins of language models.

See the README for the two commands to begin with, and the docstrings of the names below.
"""

from importlib.metadata import PackageNotFoundError, version

from basinscope.attack import Attack, Proxy, attack
from basinscope.attack.collapse import Collapse, collapse_radius
from basinscope.engines.base import Engine
from basinscope.engines.loading import load
from basinscope.errors import BasinscopeError
from basinscope.landscape import Landscape, landscape, load_run
from basinscope.tasks import tasks
from basinscope.tasks.base import (
    CallableTask,
    Choices,
    Generate,
    Generation,
    Item,
    Outcome,
    Ranking,
    Task,
)
from basinscope.weights.adapters import Adapter
from basinscope.weights.compressed import Pruned, Quantised
from basinscope.weights.directions import Direction, Random
from basinscope.weights.noise import normals
from basinscope.weights.saved import Saved, save_direction
from basinscope.weights.toward import Merge, Toward

try:
    __version__ = version("basinscope")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0"

__all__ = [
    "Adapter",
    "Attack",
    "BasinscopeError",
    "CallableTask",
    "Choices",
    "Collapse",
    "Direction",
    "Engine",
    "Generate",
    "Generation",
    "Item",
    "Landscape",
    "Merge",
    "Outcome",
    "Proxy",
    "Pruned",
    "Quantised",
    "Random",
    "Ranking",
    "Saved",
    "Task",
    "Toward",
    "attack",
    "collapse_radius",
    "landscape",
    "load",
    "load_run",
    "normals",
    "save_direction",
    "tasks",
]

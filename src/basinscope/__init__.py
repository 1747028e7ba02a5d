"""basinscope measures, certifies and widens the capability basins of language models.

See the README for the two commands to begin with, and the docstrings of the names below.
"""

from importlib.metadata import PackageNotFoundError, version

from basinscope.engines.base import Engine
from basinscope.engines.loading import load
from basinscope.errors import BasinscopeError
from basinscope.landscape import Landscape, landscape, load_run
from basinscope.optim.gaussian import GaussianAugmented, PerturbedSteps
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
from basinscope.weights.directions import Direction, Random
from basinscope.weights.noise import normals

try:
    __version__ = version("basinscope")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0"

__all__ = [
    "BasinscopeError",
    "CallableTask",
    "Choices",
    "Direction",
    "Engine",
    "GaussianAugmented",
    "Generate",
    "Generation",
    "Item",
    "Landscape",
    "Outcome",
    "PerturbedSteps",
    "Random",
    "Ranking",
    "Task",
    "landscape",
    "load",
    "load_run",
    "normals",
    "tasks",
]

"""Landscapes: scores of tasks at theta0 + alpha delta, and on planes of two directions.

`run.landscape` plans the points, has them measured, and gives a `record.Landscape`, which is pure:
everything in it is computed from the records alone.
"""

from basinscope.landscape.record import Landscape
from basinscope.landscape.run import interpolation_steps, landscape
from basinscope.landscape.surface import Surface, cosines, surface, trajectory
from basinscope.landscape.trials import Trials

__all__ = [
    "Landscape",
    "Surface",
    "Trials",
    "cosines",
    "interpolation_steps",
    "landscape",
    "surface",
    "trajectory",
]

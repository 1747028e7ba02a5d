"""One-dimensional landscapes: scores of tasks at theta0 + alpha delta.

`run.landscape` plans the points, has them measured, and gives a `record.Landscape`, which is pure:
everything in it is computed from the records alone.
"""

from basinscope.landscape.record import Landscape, load_run
from basinscope.landscape.run import interpolation_steps, landscape, planned

__all__ = ["Landscape", "interpolation_steps", "landscape", "load_run", "planned"]

"""What the weights move along, and the words for it."""

from basinscope.directions.adapters import Adapter
from basinscope.directions.base import Direction, Random
from basinscope.directions.compressed import Pruned, Quantised
from basinscope.directions.layerwise import Layerwise
from basinscope.directions.saved import Saved, save_direction
from basinscope.directions.toward import Merge, Toward
from basinscope.directions.words import direction

__all__ = [
    "Adapter",
    "Direction",
    "Layerwise",
    "Merge",
    "Pruned",
    "Quantised",
    "Random",
    "Saved",
    "Toward",
    "direction",
    "save_direction",
]

"""Covariances of weight noise, subspaces among them, and the words for them."""

from basinscope.geometries.base import Geometry
from basinscope.geometries.pilots import (
    random_subspace,
    subspace_from_gradients,
    subspace_from_trajectory,
)
from basinscope.geometries.words import geometry

__all__ = [
    "Geometry",
    "geometry",
    "random_subspace",
    "subspace_from_gradients",
    "subspace_from_trajectory",
]

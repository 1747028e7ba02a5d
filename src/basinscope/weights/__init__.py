"""Noise, exact weights, and the directions they move along."""

from basinscope.weights.noise import normals

__all__ = [
    "normals",
]

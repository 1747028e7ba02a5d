"""The worst direction: gradient ascent on the sphere, and the radius at which a score collapses."""

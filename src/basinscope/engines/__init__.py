"""Models under weights that can be set and restored: the seam to everything that answers."""

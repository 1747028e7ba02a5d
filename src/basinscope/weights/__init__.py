"""Noise, exact weights, and the directions they move along."""

"""Covariances of weight noise, subspaces among them, and the words for them."""

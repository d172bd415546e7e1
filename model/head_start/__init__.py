"""Weights that come with the package, and how a training takes weights over."""

"""Measures of synthetic images against real ones."""

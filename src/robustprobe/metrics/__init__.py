"""Metrics and their intervals, from per-image rows; NumPy only."""

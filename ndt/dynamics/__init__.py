"""Dynamics of populations from snapshots: how a density moves, learned from samples of it at several times."""

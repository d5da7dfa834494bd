"""Periodic dimensions: wrapped positions, shortest differences, and maps to circles."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["nearest", "on_circles", "wrap"]

Array = NDArray[np.float64]


def wrap(x: Array, period: Array) -> Array:
    """Returns samples (…, d) with periodic dimensions wrapped into [0, period)."""
    around = np.isfinite(period)
    if not around.any():
        return x
    found = x.copy()
    inside = np.mod(x[..., around], period[around])
    found[..., around] = np.where(inside < period[around], inside, 0.0)  # -1e-17 modulo 1 is 1

    return found


def nearest(difference: Array, period: Array) -> Array:
    """Returns differences (…, d) the short way round periodic dimensions."""
    around = np.isfinite(period)
    if not around.any():
        return difference
    found = difference.copy()
    found[..., around] -= period[around] * np.round(difference[..., around] / period[around])

    return found


def on_circles(x: NDArray[np.floating], period: Array | None) -> Array:
    """Returns samples (N, d) with periodic dimensions mapped to circles of that circumference, after the others."""
    if period is None or not np.isfinite(period).any():
        return np.asarray(x, np.float64)
    around = np.isfinite(period)
    angle = 2 * np.pi * x[:, around] / period[around]
    radius = period[around] / (2 * np.pi)

    return np.concatenate([x[:, ~around], radius * np.cos(angle), radius * np.sin(angle)], 1, dtype=np.float64)

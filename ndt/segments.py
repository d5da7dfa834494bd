"""Segments (uninterrupted runs of bins) as lists of arrays, and selected rows of them, for all baselines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError

__all__ = ["Array", "Masks", "Segments", "Scaler", "labelled", "take", "with_history"]

HISTORY_S = 20.0  # seconds of history for validation rows; earlier counts have no effect

Array = NDArray[np.floating]
Segments = Sequence[NDArray[np.generic]]
Masks = Sequence[NDArray[np.bool_]]


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of each column over training rows; constant columns are only centred.

    Arguments:
        mean: Shape (N,).
        std: Above 0, shape (N,).
    """

    mean: Array
    std: Array

    def __post_init__(self) -> None:
        if np.shape(self.mean) != np.shape(self.std) or not np.all(np.asarray(self.std) > 0):
            raise ValueError("std must have the shape of mean, and be above 0")

    @classmethod
    def fit(cls, segments: Segments, rows: Masks) -> "Scaler":
        """Fits the scaler to the selected rows of all segments; NaN are left out."""
        x = take(segments, rows)
        known = np.maximum((~np.isnan(x)).sum(0), 1)
        mean = np.nansum(x, 0) / known
        std = np.sqrt(np.nansum((x - mean) ** 2, 0) / known)

        return cls(mean, np.where(std > 0, std, 1.0))

    def apply(self, x: NDArray[np.generic]) -> Array:
        """Returns z-scores; NaN (not observed) becomes 0, the training mean."""
        return np.nan_to_num((np.asarray(x, np.float64) - self.mean) / self.std)

    def invert(self, z: Array) -> Array:
        """Returns the values whose z-scores are `z`."""
        return z * self.std + self.mean


def take(segments: Segments, rows: Masks) -> Array:
    """Returns the selected rows of all segments, concatenated, as float64."""
    return np.concatenate([np.asarray(p, np.float64)[m] for p, m in zip(segments, rows, strict=True)])


def labelled(targets: Segments, rows: Masks, name: str) -> list[NDArray[np.bool_]]:
    """Returns the selected rows that are labelled."""
    masks = [m & ~np.isnan(np.asarray(v, np.float64)).any(1) for v, m in zip(targets, rows, strict=True)]
    if (found := sum(int(m.sum()) for m in masks)) < 2:
        raise InputError("baseline", name, "at least 2 labelled bins", found)

    return masks


def with_history(segments: Segments, rows: Masks, bin_size: float) -> tuple[list[NDArray[Any]], Masks]:
    """Returns segments cut to 20 s before the first selected row up to the last one, and these rows' masks.

    Segments without selected rows are left out. Causal decoders of shorter memory predict the same rows faster.
    """
    found, history = [], round(HISTORY_S / bin_size)
    for segment, m in zip(segments, rows, strict=True):
        if m.any():
            first, last = np.flatnonzero(m)[[0, -1]]
            span = slice(max(first - history, 0), last + 1)
            found.append((segment[span], m[span]))

    return [p for p, _ in found], [m for _, m in found]

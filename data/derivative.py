"""The rate of change of a series."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["derivative"]


def derivative(timestamps: NDArray[np.float64], values: NDArray[np.floating]) -> NDArray[np.floating]:
    r"""Returns the rate of change of samples, by central differences, (M, C) a second.

    .. math:: \dot x_i = \frac{x_{i+1} - x_{i-1}}{t_{i+1} - t_{i-1}}

    At the ends, and beside gaps of more than two and a half sample intervals, the sample itself takes the place of the
    neighbour that it lacks. NaN stays NaN and spreads to its neighbours; a sample without neighbours is NaN.

    Arguments:
        timestamps: Seconds, not descending, (M,).
        values: Samples, (M, C).
    """
    M = len(timestamps)
    if M < 2:
        return np.full(values.shape, np.nan)
    step = np.diff(timestamps)
    gap = step > 2.5 * np.median(step)
    before = np.arange(M) - np.r_[False, ~gap]
    after = np.arange(M) + np.r_[~gap, False]
    span = timestamps[after] - timestamps[before]
    slope = (values[after] - values[before]) / np.where(span > 0, span, np.nan)[:, None]

    return np.where(np.isnan(values), np.nan, slope)

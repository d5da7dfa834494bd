"""Latents of a recording as a population of trials: each trial is a particle, aligned to an event."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import savgol_filter

from ndt.dynamics.snapshots import Snapshots
from ndt.errors import InputError

__all__ = ["Rotation", "rotation", "trials"]

Array = NDArray[np.float64]

# R = bins, D = latents, T = bins of a trial, N = trials, d = components


def trials(
    latents: NDArray[np.floating], time: Array, onsets: ArrayLike, duration: float, num_components: int,
    smooth: float = 0.0,
) -> tuple[Snapshots, float]:  # fmt: skip
    """Returns trials in their first principal components, and the fraction of variance these explain.

    Components are those of the bins within trials, scaled by one number to the total variance d. Positions and
    velocities are those of a Savitzky-Golay filter (cubic); without a window, velocities are central differences.

    Arguments:
        latents: One row a bin, as `ndt embed` exports them, shape (R, D).
        time: Centre of each bin in seconds, ascending and evenly spaced except for gaps, shape (R,).
        onsets: Starts of trials, in seconds; trials that contain a gap are excluded.
        duration: Length of each trial from its start, in seconds.
        num_components: Components d.
        smooth: Window of the filter in seconds, shorter than a trial; 0 for none.

    Raises:
        InputError: if no trial is complete, or there are fewer latents than components.
    """
    if not 1 <= num_components <= latents.shape[1]:
        raise InputError("latents", "num_components", f"1 to {latents.shape[1]}", num_components)
    rows, step = _aligned(time, onsets, duration)
    x = latents[rows.T].astype(np.float64)  # (T, N, D)
    centred = x.reshape(-1, x.shape[2])
    centred = centred - centred.mean(0)
    _, size, axes = np.linalg.svd(centred, full_matrices=False)
    power = size**2 / len(centred)
    scaled = centred @ axes[:num_components].T / np.sqrt(power[:num_components].mean())
    paths = scaled.reshape(*x.shape[:2], num_components)  # (T, N, d)
    times = (np.arange(len(paths)) + 0.5) * step
    window = 2 * int(smooth / step / 2) + 1
    if window >= 5:
        if window > len(paths):
            raise InputError("latents", "smooth", f"less than a trial, {len(paths) * step:g} s", smooth)
        velocity = savgol_filter(paths, window, 3, deriv=1, delta=step, axis=0)
        paths = savgol_filter(paths, window, 3, axis=0)
    else:
        velocity = np.gradient(paths, times, axis=0, edge_order=2 if len(paths) > 2 else 1)

    explained = float(power[:num_components].sum() / power.sum())

    return Snapshots.from_arrays(paths, times, velocity=velocity, paired=True), explained


def _aligned(time: Array, onsets: ArrayLike, duration: float) -> tuple[NDArray[np.int64], float]:
    """Returns the rows of the bins of each complete trial, (N, T), and the bin size in seconds."""
    step = float(np.median(np.diff(time)))
    length = int(duration / step + 1e-6)
    if length < 2:
        raise InputError("latents", "duration", f"at least two bins of {step:g} s", duration)
    first = np.searchsorted(time, np.asarray(onsets, np.float64) - 1e-9)
    first = first[first + length <= len(time)]
    rows = first[:, None] + np.arange(length)
    rows = rows[np.abs(time[rows[:, -1]] - time[rows[:, 0]] - (length - 1) * step) < step / 2]
    if not len(rows):
        raise InputError("latents", "onsets", f"a trial of {duration:g} s without a gap", "none")

    return rows, step


class Rotation(NamedTuple):
    """Fastest rotation of paths: frequency, in Hz for times in seconds, and R² of the linear system."""

    frequency: float
    r2: float


def rotation(paths: Array, times: Array) -> Rotation:
    r"""Returns the rotation frequency of a population, from a fitted linear system :math:`\dot x = A(x - c)`.

    The frequency is the largest imaginary part of the eigenvalues of A, over 2π. A is fitted to central differences of
    the paths by least squares; a central difference of a sinusoid is its sine, which is inverted.

    Reference: Churchland et al. (2012), Neural population dynamics during reaching,
    https://doi.org/10.1038/nature11129, without their constraint on A.

    Arguments:
        paths: Positions, shape (T, N, d), T at least 3.
        times: Evenly spaced, shape (T,).
    """
    if len(paths) < 3 or len(times) != len(paths):
        raise InputError("rotation", "times", "at least three, as many as positions", len(times))
    h = float(np.mean(np.diff(times)))
    rate = ((paths[2:] - paths[:-2]) / (2 * h)).reshape(-1, paths.shape[2])
    at = np.column_stack([paths[1:-1].reshape(len(rate), -1), np.ones(len(rate))])
    found = np.linalg.lstsq(at, rate, rcond=None)[0]
    left = float(((rate - at @ found) ** 2).sum() / ((rate - rate.mean(0)) ** 2).sum())
    fastest = float(np.abs(np.linalg.eigvals(found[:-1].T).imag).max())

    return Rotation(float(np.arcsin(min(fastest * h, 1.0)) / h / (2 * np.pi)), 1 - left)

"""Covariates at the bins of spikes: averaged without aliases, and never made up."""

import numpy as np
from numpy.typing import NDArray
from scipy.signal import firwin, oaconvolve

from ndt.session import Covariate

__all__ = ["resample"]

GAP = 2.5  # sample intervals: over more, nothing is interpolated
HALF_WIDTH = 6.0  # of the filter, in bins
CUTOFF = 0.8  # of the bins' Nyquist frequency, where the filter passes half; it stops at about 1 and passes up to 0.6
BETA = 3.4  # Kaiser window of 40 dB
JITTER = 0.05  # of an interval: samples less regular than this are laid on a regular grid before they are filtered

Array = NDArray[np.float64]


def resample(covariate: Covariate, start: Array, bin_size: float) -> NDArray[np.float32]:
    """Returns a covariate at the centres of bins, (R, C).

    Samples denser than bins pass a symmetric low-pass filter first, 40 dB down from the bins' Nyquist frequency on, so
    that what is faster than bins can show does not fold into them; then both are interpolated linearly. Each
    uninterrupted run of samples stands for itself. At its ends the filter goes on by point reflection, which leaves
    straight lines straight. Angles become cosine and sine before, C = 2 for each.

    NaN where there is nothing to say. Missing values (NaN) that leave more than a bin between their neighbours end a
    run, and so does time without samples that is longer than a bin and than two and a half sample intervals. A bin
    holds a value if its centre lies in a run, or within half a sample interval of its ends.

    Arguments:
        covariate: M samples.
        start: Starts of the bins in seconds, (R,).
        bin_size: Their width in seconds.
    """
    times, values = covariate.timestamps, np.asarray(covariate.values, np.float64)
    if covariate.angular:
        values = np.stack([np.cos(values), np.sin(values)], -1).reshape(len(values), -1)
    centre, interval = start + bin_size / 2, covariate.interval
    found = np.full((len(start), values.shape[1]), np.nan)
    good = np.isfinite(values).all(1) & np.isfinite(times)
    if not good.any():
        return found.astype(np.float32)
    times, rows = np.asarray(times, np.float64), np.flatnonzero(good)
    hole, limit = np.diff(times[rows]), bin_size * (1 + 1e-6)
    ends = np.flatnonzero(((np.diff(rows) > 1) & (hole > limit)) | (hole > np.fmax(GAP * interval, limit)))
    reach = (interval / 2 if np.isfinite(interval) else bin_size / 2) * (1 + 1e-6)
    for run in np.split(rows, ends + 1):
        t, x = _one_each(times[run], values[run])
        here = slice(*np.searchsorted(centre, [t[0] - reach, t[-1] + reach]))
        if here.start == here.stop:
            continue
        if len(t) > 2 and np.median(np.diff(t)) < 0.95 * bin_size:
            t, x = _filtered(t, x, bin_size)
        for c in range(x.shape[1]):
            found[here, c] = np.interp(centre[here], t, x[:, c])

    return found.astype(np.float32)


def _one_each(t: Array, x: Array) -> tuple[Array, Array]:
    """Returns samples at distinct times; those of one time are averaged."""
    first = np.r_[True, np.diff(t) > 0]
    if first.all():
        return t, x
    number = np.cumsum(first) - 1

    return t[first], np.stack([np.bincount(number, c) for c in x.T], 1) / np.bincount(number)[:, None]


def _filtered(t: Array, x: Array, bin_size: float) -> tuple[Array, Array]:
    """Returns the samples of one run behind the filter, on a regular grid where they were not on one."""
    step = float(np.median(np.diff(t)))
    if np.max(np.abs(np.diff(t) - step)) > JITTER * step:
        binned = np.linspace(t[0], t[-1], int(np.ceil((t[-1] - t[0]) / step - 1e-6)) + 1)
        t, x = binned, np.stack([np.interp(binned, t, c) for c in x.T], 1)
        step = float(t[1] - t[0])
    half = int(np.ceil(HALF_WIDTH * bin_size / step))
    taps = firwin(2 * half + 1, CUTOFF * step / bin_size, window=("kaiser", BETA))
    padded = np.pad(x, ((half, half), (0, 0)), mode="reflect", reflect_type="odd")

    return t, oaconvolve(padded, taps[:, None], mode="valid", axes=0)

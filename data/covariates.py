"""Covariates of a session and columns of its tables: selection by name, rates of change, resampling to bins."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Covariate, Session

__all__ = [
    "GAP",
    "Column",
    "default_covariate",
    "derivative",
    "find_covariate",
    "known_columns",
    "matching_columns",
    "matching_covariates",
    "resample",
]

GAP = 2.5  # sample intervals: longer gaps are not interpolated
HALF_WIDTH = 6.0  # of the filter, in bins
CUTOFF = 0.8  # of the bins' Nyquist frequency, where the gain is 1/2; it is 1 up to 0.6 and 0 from about 1
BETA = 3.4  # Kaiser window of 40 dB
JITTER = 0.05  # of an interval: less regular samples are interpolated to a regular clock before filtering

PREFERRED = (
    "hand_vel",
    "cursor_vel",
    "finger_vel",
    "vel",
    "CompassDirection",
    "head_direction",
    "emg",
    "hand_pos",
    "pos",
)

Array = NDArray[np.float64]


def default_covariate(session: Session) -> str:
    """Returns the name of the default covariate: a velocity if there is one, else a heading, else the first.

    Among angles, that with the largest circular variance is taken: a head turns mainly about one axis of three.
    """
    names = list(session.covariates)
    if not names:
        raise InputError(session.source.get("path", session.session_id), "covariates", "at least one series", "none")
    for hint in PREFERRED:
        found = [n for n in names if hint.lower() in n.lower()]
        if found:
            return max(found, key=lambda n: _circular_variance(session.covariates[n]))

    return names[0]


def _circular_variance(covariate: Covariate) -> float:
    """Returns the circular variance of an angle; 0 for any other covariate."""
    if not covariate.angular:
        return 0.0

    return float(1 - np.abs(np.nanmean(np.exp(1j * np.asarray(covariate.values, np.float64)))))


def find_covariate(session: Session, name: str) -> Covariate:
    """Returns a covariate by name, path or unambiguous end of its path."""
    found = matching_covariates(session, name)
    if len(found) != 1:
        listed = ", ".join(session.covariates) or "none"
        raise InputError(session.session_id, "covariate", f"one of: {listed}", repr(name))

    return found[0]


def matching_covariates(session: Session, name: str) -> list[Covariate]:
    """Returns the covariate of this name; if there is none, all covariates whose path ends with it."""
    if name in session.covariates:
        return [session.covariates[name]]

    return [c for c in session.covariates.values() if f"/{c.path}".endswith(f"/{name}")]


@dataclass(frozen=True)
class Column:
    """A column of a table of intervals.

    Arguments:
        table: Name of the table.
        name: Name of the column.
        rows: The table, M rows.
        values: The column's values, (M,) or (M, C).
    """

    table: str
    name: str
    rows: Intervals
    values: NDArray[np.generic]

    @property
    def path(self) -> str:
        """``TABLE/COLUMN``."""
        return f"{self.table}/{self.name}"


def known_columns(session: Session) -> dict[str, Column]:
    """Returns all columns of all tables of intervals, by path."""
    found = [Column(t, c, rows, values) for t, rows in session.intervals.items() for c, values in rows.columns.items()]

    return {column.path: column for column in found}


def matching_columns(session: Session, name: str) -> list[Column]:
    """Returns the column of this path; if there is none, all columns whose path ends with it."""
    known = known_columns(session)
    if name in known:
        return [known[name]]

    return [column for path, column in known.items() if f"/{path}".endswith(f"/{name}")]


def derivative(timestamps: NDArray[np.float64], values: NDArray[np.floating]) -> NDArray[np.floating]:
    r"""Returns the rate of change of samples per second, by central differences, (M, C).

    .. math:: \dot x_i = \frac{x_{i+1} - x_{i-1}}{t_{i+1} - t_{i-1}}

    At the ends, and beside gaps of more than two and a half sample intervals, the sample itself replaces its missing
    neighbour. NaN stays NaN and spreads to its neighbours; the derivative of a sample without neighbours is NaN.

    Arguments:
        timestamps: Seconds, not descending, (M,).
        values: Samples, (M, C).
    """
    M = len(timestamps)
    if M < 2:
        return np.full(values.shape, np.nan)
    step = np.diff(timestamps)
    gap = step > GAP * np.median(step)
    before = np.arange(M) - np.r_[False, ~gap]
    after = np.arange(M) + np.r_[~gap, False]
    span = timestamps[after] - timestamps[before]
    slope = (values[after] - values[before]) / np.where(span > 0, span, np.nan)[:, None]

    return np.where(np.isnan(values), np.nan, slope)


def resample(covariate: Covariate, start: Array, bin_size: float) -> NDArray[np.float32]:
    """Returns a covariate at the centres of bins, (R, C).

    A symmetric low-pass filter (40 dB down from the bins' Nyquist frequency on) removes aliases from samples denser
    than bins; then samples are interpolated linearly. Each uninterrupted run of samples is filtered by itself; at its
    ends it is extended by point reflection, which preserves straight lines. Angles are converted to cosine and sine
    first, C = 2 for each.

    A run ends at missing values (NaN) that leave more than a bin between their neighbours, and at gaps without samples
    that are longer than a bin and than two and a half sample intervals. A bin has a value if its centre lies in a run,
    or within half a sample interval of its ends; other bins are NaN.

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
    """Returns samples at distinct times; samples at the same time are averaged."""
    first = np.r_[True, np.diff(t) > 0]
    if first.all():
        return t, x
    number = np.cumsum(first) - 1

    return t[first], np.stack([np.bincount(number, c) for c in x.T], 1) / np.bincount(number)[:, None]


def _filtered(t: Array, x: Array, bin_size: float) -> tuple[Array, Array]:
    """Returns the filtered samples of one run, at regular times."""
    from scipy.signal import firwin, oaconvolve  # takes a third of a second to import

    step = float(np.median(np.diff(t)))
    if np.max(np.abs(np.diff(t) - step)) > JITTER * step:
        binned = np.linspace(t[0], t[-1], int(np.ceil((t[-1] - t[0]) / step - 1e-6)) + 1)
        t, x = binned, np.stack([np.interp(binned, t, c) for c in x.T], 1)
        step = float(t[1] - t[0])
    half = int(np.ceil(HALF_WIDTH * bin_size / step))
    taps = firwin(2 * half + 1, CUTOFF * step / bin_size, window=("kaiser", BETA))
    padded = np.pad(x, ((half, half), (0, 0)), mode="reflect", reflect_type="odd")

    return t, oaconvolve(padded, taps[:, None], mode="valid", axes=0)

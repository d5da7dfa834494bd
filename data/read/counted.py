"""Spike counts to spikes at the centres of their bins, and the time that was observed.

Bins of the same width, or of a multiple of it, return the counts exactly; `Session.count_bin` forbids finer bins.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ndt.data.read.context import joined
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Spikes

__all__ = ["Bins", "ObservedSpikes", "check_counts", "lay_bins", "lay_spikes"]

MOST = 10_000  # spikes of a unit in a bin; larger values are not counts
GAP = 1.5  # bins; a longer step between starts is a gap
DRIFTING = 1.1  # bins; the same for a clock that may drift, for which additional segments are harmless
SLACK = 0.25  # bins; largest difference between a start and its time at constant width


@dataclass(frozen=True)
class Bins:
    """T bins of equal width, in segments without gaps.

    Arguments:
        start: Start of each bin in seconds, (T,).
        width: Width in seconds.
        segment: Segment of each bin, ascending, (T,).
    """

    start: NDArray[np.float64]
    width: float
    segment: NDArray[np.int64]

    @property
    def centre(self) -> NDArray[np.float64]:
        """Centre of each bin in seconds, (T,)."""
        return self.start + self.width / 2

    def intervals(self, chosen: NDArray[np.bool_]) -> Intervals:
        """Returns the time of the chosen bins, one interval for each uninterrupted run."""
        rows = np.flatnonzero(chosen)
        if len(rows) == 0:
            return Intervals.empty()
        new = (np.diff(rows) > 1) | (np.diff(self.segment[rows]) != 0)

        return Intervals(self.start[rows[np.r_[True, new]]], self.start[rows[np.r_[new, True]]] + self.width)


def lay_bins(start: ArrayLike, width: float, T: int, where: object, drift: bool = False) -> Bins:
    """Returns T bins from their given starts.

    Within a segment all bins have exactly this width, so that jitter of timestamps does not move edges.

    Arguments:
        start: Start of the first bin in seconds, or of each, (T,); a step of more than one and a half bins is a gap.
        width: Width of a bin in seconds.
        T: Number of bins.
        where: Name of the source in errors.
        drift: Whether the clock may drift; then a new segment begins at a difference of a quarter of a bin.

    Raises:
        InputError: if a width or a start is not finite, or starts without a gap between them are not `width` apart.
    """
    if not (np.isfinite(width) and width > 0):
        raise InputError(where, "bin_size", "a width in seconds above 0", width)
    given = np.asarray(start)
    if given.dtype.kind not in "biuf" or given.shape not in ((), (T,)) or not np.all(np.isfinite(given)):
        found = f"shape {given.shape} of type {given.dtype}, or not finite"
        raise InputError(where, "start", f"seconds: one, or one for each of {T} bins", found)
    begin = given.astype(np.float64) if given.ndim else float(given) + np.arange(T) * width
    first = np.r_[0, np.flatnonzero(np.diff(begin) > (DRIFTING if drift else GAP) * width) + 1]
    while True:
        segment = np.repeat(np.arange(len(first)), np.diff(np.r_[first, T]))
        laid = begin[first][segment] + (np.arange(T) - first[segment]) * width
        off = np.flatnonzero(np.abs(begin - laid) > SLACK * width)
        if not drift or len(off) == 0 or np.any(np.diff(begin) < (1 - SLACK) * width):
            break
        first = np.union1d(first, off[np.unique(segment[off], return_index=True)[1]])  # the first of each segment
    if np.any(np.abs(begin - laid) > SLACK * width):
        steps = np.diff(begin)[np.diff(segment) == 0]
        expected = f"starts of bins {width:g} s apart wherever there is no gap"
        raise InputError(where, "bin_size", expected, f"{steps.min():.9g} to {steps.max():.9g} s")

    return Bins(laid, float(width), segment)


def check_counts(counts: ArrayLike, where: object) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns counts (T, N), 0 for NaN, and which of them were observed (those that are not NaN).

    Raises:
        InputError: if they are not whole numbers from 0 to 10,000, or not bins by units.
    """
    counts = np.asarray(counts)
    if counts.ndim != 2 or 0 in counts.shape or counts.dtype.kind not in "biuf":
        expected = "counts, bins by units, at least one of each"
        raise InputError(where, "spikes", expected, f"shape {counts.shape} of type {counts.dtype}")
    valid = ~np.isnan(counts) if counts.dtype.kind == "f" else np.ones(counts.shape, bool)
    whole = np.where(valid, counts, 0)
    bad = np.argwhere((whole < 0) | (whole > MOST) | (whole != np.floor(whole)))
    if len(bad):
        t, n = bad[0].tolist()
        raise InputError(where, "spikes", f"whole counts from 0 to {MOST}", f"{whole[t, n]} in bin {t} of unit {n}")

    return whole.astype(np.int64), valid


@dataclass(frozen=True)
class ObservedSpikes:
    """Spikes of N units, and their observed time.

    Arguments:
        spikes: The spikes.
        observed: Time when any unit was observed.
        of_units: Each unit's observed time, with a column ``unit_index``; None if all are equal.
        num_units: Number of units N.
    """

    spikes: Spikes
    observed: Intervals
    of_units: Intervals | None
    num_units: int


def lay_spikes(counts: NDArray[np.int64], valid: NDArray[np.bool_], bins: Bins) -> ObservedSpikes:
    """Returns c spikes at the centre of each valid bin with a count of c; `counts` and `valid` are (T, N)."""
    t, n = np.nonzero(np.where(valid, counts, 0))
    many = counts[t, n]
    each = [bins.intervals(own) for own in valid.T]
    equal = bool((valid == valid[:, :1]).all())
    spikes = Spikes(timestamps=np.repeat(bins.centre[t], many), unit_index=np.repeat(n, many).astype(np.int32))

    return ObservedSpikes(
        spikes, bins.intervals(np.asarray(valid.any(axis=1))), None if equal else joined(each), len(each)
    )

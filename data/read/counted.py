"""Spikes that were counted in bins: counts to spikes at the centres of their bins, and which bins were observed.

Bins of the same width, or of a multiple of it, give the counts back exactly; `Session.count_bin` keeps finer ones out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ndt.data.read.context import joined
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Spikes

__all__ = ["Bins", "Counted", "check_counts", "lay_bins", "lay_spikes"]

MOST = 10_000  # spikes of a unit in a bin; more are no counts
GAP = 1.5  # bins; a longer step from one start to the next is a gap
DRIFTING = 1.1  # bins; the same where a clock may drift, since then another segment costs nothing
SLACK = 0.25  # bins by which a start may miss its place on its segment's grid


@dataclass(frozen=True)
class Bins:
    """T bins of one width in seconds, in segments that follow one another without a gap inside.

    Arguments:
        start: Start of each bin in seconds, (T,).
        width: Width of each, in seconds.
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
        """Returns the time of the chosen bins, as few intervals as there are uninterrupted runs of them."""
        rows = np.flatnonzero(chosen)
        if len(rows) == 0:
            return Intervals.empty()
        new = (np.diff(rows) > 1) | (np.diff(self.segment[rows]) != 0)

        return Intervals(self.start[rows[np.r_[True, new]]], self.start[rows[np.r_[new, True]]] + self.width)


def lay_bins(start: ArrayLike, width: float, T: int, where: object, drift: bool = False) -> Bins:
    """Returns T bins.

    Within a segment, bins lie exactly `width` apart from its first start on, so that a clock that trembles moves no edge.

    Arguments:
        start: Start of the first bin in seconds, or of each, (T,); a step of more than one and a half bins is a gap.
        width: Width of a bin in seconds.
        T: Number of bins.
        where: What an error names.
        drift: Whether a clock may drift: where it is a quarter of a bin off, a new segment begins.

    Raises:
        InputError: if a width or a start is no finite number, or starts without a gap do not lie `width` apart.
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
    """Returns counts (T, N) and which of them were observed (those that are no NaN); unobserved ones are 0.

    Raises:
        InputError: if they are no whole numbers from 0 to 10,000, or not bins by units.
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
class Counted:
    """Spikes of N units, and when what was observed.

    Arguments:
        spikes: The spikes.
        observed: When some unit was observed, as few intervals as there are.
        of_units: When each unit was, with a column ``unit_index``; None where all are alike.
        num_units: Number of units N.
    """

    spikes: Spikes
    observed: Intervals
    of_units: Intervals | None
    num_units: int


def lay_spikes(counts: NDArray[np.int64], valid: NDArray[np.bool_], bins: Bins) -> Counted:
    """Returns the spikes of counts, both (T, N): c at the centre of a bin whose count is c, where it is valid."""
    t, n = np.nonzero(np.where(valid, counts, 0))
    many = counts[t, n]
    each = [bins.intervals(own) for own in valid.T]
    alike = bool((valid == valid[:, :1]).all())
    spikes = Spikes(timestamps=np.repeat(bins.centre[t], many), unit_index=np.repeat(n, many).astype(np.int32))

    return Counted(spikes, bins.intervals(np.asarray(valid.any(axis=1))), None if alike else joined(each), len(each))

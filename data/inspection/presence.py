"""Observed time of units, sampled time of covariates, and spikes of units in blocks of time."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ndt.intervals import Intervals
from ndt.session import Covariate, Session

__all__ = [
    "BRIDGED", "SLIVER", "block_edges", "borders", "firing", "sampled", "seconds_before", "spikes_by_unit",
    "unit_segments",
]  # fmt: skip

BLOCK = 60.0  # seconds
FEWEST, MOST = 10, 120  # blocks
BRIDGED = 1.5  # longest step between neighbouring samples, in sampling intervals: clocks jitter
SLIVER = 1e-6  # seconds: differences of clock times near 1e9 s are good to 2e-7 s

Array = NDArray[np.float64]


def unit_segments(session: Session) -> list[Intervals]:
    """Returns the segments of observed time of each of N units: sorted, disjoint, touching ones merged."""
    N, rows = session.num_units, session.units.observed
    if rows is None:
        return [session.observed.coalesce()] * N
    unit = np.asarray(rows.columns["unit_index"], np.int64)
    order = np.argsort(unit, kind="stable")
    start, end = rows.start[order], rows.end[order]
    bounds = np.searchsorted(unit[order], np.arange(N + 1))

    return [Intervals(start[a:b], end[a:b]).coalesce() for a, b in pairwise(bounds)]


def sampled(covariate: Covariate, valid: NDArray[np.bool_] | None = None) -> Intervals:
    """Returns the time that a covariate's samples cover, half a sampling interval before and after each.

    Arguments:
        covariate: Covariate of M samples.
        valid: Mask of samples, shape (M,); by default all.
    """
    times = covariate.timestamps if valid is None else covariate.timestamps[valid]
    if len(times) == 0:
        return Intervals.empty()
    interval = float(np.nan_to_num(covariate.interval))
    cuts = np.flatnonzero(np.diff(times) > BRIDGED * interval)

    return Intervals(times[np.r_[0, cuts + 1]] - interval / 2, times[np.r_[cuts, len(times) - 1]] + interval / 2)


def seconds_before(segments: Intervals, times: Array) -> Array:
    """Returns the seconds of disjoint, sorted segments before each of `times`; shape of `times`."""
    if len(segments) == 0:
        return np.zeros(np.shape(times))
    run = np.r_[0.0, np.cumsum(segments.end - segments.start)]

    return np.interp(times, borders(segments), np.stack([run[:-1], run[1:]], 1).ravel())


def borders(segments: Intervals) -> Array:
    """Returns starts and ends of disjoint, sorted segments in one ascending array."""
    return np.stack([segments.start, segments.end], 1).ravel()


def spikes_by_unit(times: Array, unit: NDArray[np.integer], num_units: int) -> list[Array]:
    """Returns the ascending spike times of each of N units, as views of one array."""
    key = np.asarray(unit).astype(np.uint16) if num_units < 2**16 else np.asarray(unit)  # 16 bits: sorted by radix
    order = np.argsort(key, kind="stable")
    ends = np.cumsum(np.bincount(key, minlength=num_units)) if len(key) else np.zeros(num_units, np.int64)

    return np.split(np.asarray(times)[order], ends[:-1]) if num_units else []


def block_edges(observed: Intervals) -> Array:
    """Returns the M + 1 edges of M equal blocks, of about a minute, from the first to the last observed time.

    M is 10 to 120; 1 if time is too short to be divided, 0 without observed time.
    """
    segments = observed.coalesce()
    if len(segments) == 0:
        return np.zeros(1)
    start, end = segments.start[0], segments.end[-1]
    M = int(np.clip(round((end - start) / BLOCK), FEWEST, MOST)) if end - start > FEWEST * SLIVER else 1

    return np.linspace(start, end, M + 1)


def firing(spikes: Sequence[Array], segments: Sequence[Intervals], edges: Array) -> tuple[NDArray[np.int64], Array]:
    """Returns each unit's spikes in blocks between edges, and the seconds in which it was observed there; both (M, N).

    A block observed for less than a microsecond, the rounding of times, counts as not observed.
    """
    M, N = len(edges) - 1, len(spikes)
    counts, seconds = np.zeros((M, N), np.int64), np.zeros((M, N))
    for n in range(N):
        counts[:, n] = np.diff(np.searchsorted(spikes[n], edges))
        same = n > 0 and segments[n] is segments[n - 1]
        seconds[:, n] = seconds[:, n - 1] if same else np.diff(seconds_before(segments[n], edges))

    return counts, np.where(seconds > SLIVER, seconds, 0.0)

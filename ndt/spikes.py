"""Binning of spike times in half-open bins: all conversions from seconds to bins."""

import numpy as np
from numpy.typing import NDArray

from ndt.session import Session

__all__ = ["bin_edges", "bin_spikes", "num_bins", "observed_bins", "unit_valid"]


def num_bins(duration: float, bin_size: float) -> int:
    """Returns how many whole bins fit into `duration` seconds; tolerates rounding to a millionth of a bin."""
    return int(np.floor(duration / bin_size + 1e-6))


def bin_edges(start: float, bin_size: float, T: int, first: int = 0) -> NDArray[np.float64]:
    """Returns the T + 1 edges, in seconds, of bins ``start + k * bin_size`` to ``start + (k + 1) * bin_size``."""
    return start + np.arange(first, first + T + 1, dtype=np.float64) * bin_size


def bin_spikes(session: Session, start: float, bin_size: float, T: int, first: int = 0) -> NDArray[np.uint8]:
    """Returns counts (T, N): spikes of each unit in T half-open bins, from bin `first` of the grid from `start`.

    Edges are compared in float64 without division, so a spike on an edge falls into the later bin. Counts are clipped
    at 255.
    """
    N, edges = session.num_units, bin_edges(start, bin_size, T, first)
    times = np.asarray(session.spikes.timestamps)  # a plain view of a memory map has cheaper slices
    a, b = np.searchsorted(times, edges[[0, -1]], side="left")
    before = np.searchsorted(times[a:b], edges, side="left")  # edges are fewer than spikes
    row = np.repeat(np.arange(T) * N, np.diff(before))
    counts = np.bincount(row + np.asarray(session.spikes.unit_index)[a:b], minlength=T * N).reshape(T, N)

    return np.minimum(counts, 255).astype(np.uint8)


def unit_valid(session: Session, start: float, bin_size: float, T: int, first: int = 0) -> NDArray[np.bool_]:
    """Returns (T, N): True if the unit was observed during the whole bin."""
    N, observed = session.num_units, session.units.observed
    if observed is None:
        return np.ones((T, N), bool)

    edges = bin_edges(start, bin_size, T, first)
    slack = 1e-6 * bin_size  # tolerance to rounding of bins on an interval's edge
    near = (observed.end > edges[0]) & (observed.start < edges[-1])
    unit = np.asarray(observed.columns["unit_index"][near], np.int64)
    begin = np.searchsorted(edges[:-1], observed.start[near] - slack, side="left")
    end = np.maximum(np.searchsorted(edges[1:], observed.end[near] + slack, side="right"), begin)
    inside = np.zeros((T + 1, N), np.int32)  # +1 where an interval begins, -1 behind its end
    np.add.at(inside, (begin, unit), 1)
    np.add.at(inside, (end, unit), -1)

    return inside[:T].cumsum(0, dtype=np.int32) > 0


def observed_bins(session: Session, start: float, bin_size: float, T: int) -> NDArray[np.bool_]:
    """Returns (T, N): True if the unit and the session were observed during the whole bin."""
    edges, slack, segments = bin_edges(start, bin_size, T), 1e-6 * bin_size, session.observed.coalesce()
    if len(segments) == 0:
        return np.zeros((T, session.num_units), bool)
    row = np.maximum(np.searchsorted(segments.start, edges[:-1] + slack, side="right") - 1, 0)
    inside = (edges[:-1] >= segments.start[row] - slack) & (edges[1:] <= segments.end[row] + slack)

    return unit_valid(session, start, bin_size, T) & inside[:, None]

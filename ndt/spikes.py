"""Spike times to binned counts, on half-open bins. Every conversion from seconds to bins is here."""

import numpy as np
from numpy.typing import NDArray

from ndt.session import Session

__all__ = ["bin_edges", "bin_spikes", "num_bins", "unit_valid"]


def num_bins(duration: float, bin_size: float) -> int:
    """Returns how many whole bins fit into `duration` seconds; a millionth of a bin is forgiven to rounding."""
    return int(np.floor(duration / bin_size + 1e-6))


def bin_edges(start: float, bin_size: float, T: int, first: int = 0) -> NDArray[np.float64]:
    """Returns the T + 1 edges, in seconds, of bins ``start + k * bin_size`` to ``start + (k + 1) * bin_size``."""
    return start + np.arange(first, first + T + 1, dtype=np.float64) * bin_size


def bin_spikes(session: Session, start: float, bin_size: float, T: int, first: int = 0) -> NDArray[np.uint8]:
    """Returns counts (T, N): spikes of each unit in T half-open bins, from bin `first` of the grid from `start`.

    Edges are compared in float64 without division, so that a spike on an edge falls into the later bin. More than 255
    spikes in a bin count as 255.
    """
    N, edges = session.num_units, bin_edges(start, bin_size, T, first)
    times = session.spikes.timestamps
    a, b = np.searchsorted(times, edges[[0, -1]], side="left")
    row = np.searchsorted(edges, times[a:b], side="right") - 1
    unit = np.asarray(session.spikes.unit_index[a:b], np.int64)
    counts = np.bincount(row * N + unit, minlength=T * N).reshape(T, N)

    return np.minimum(counts, 255).astype(np.uint8)


def unit_valid(session: Session, start: float, bin_size: float, T: int, first: int = 0) -> NDArray[np.bool_]:
    """Returns (T, N): True where the unit was observed through the whole bin."""
    valid = np.ones((T, session.num_units), bool)
    if session.units.observed is None:
        return valid

    edges, observed = bin_edges(start, bin_size, T, first), session.units.observed
    slack = 1e-6 * bin_size  # bins on an interval's own border differ from it by rounding only
    valid[:] = False
    near = (observed.end > edges[0]) & (observed.start < edges[-1])
    for a, b, n in zip(observed.start[near], observed.end[near], observed.columns["unit_index"][near], strict=True):
        inside = (edges[:-1] >= a - slack) & (edges[1:] <= b + slack)
        valid[inside, int(n)] = True

    return valid

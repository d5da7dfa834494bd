"""The quickest way from an NWB file to counts: one pass over the spike times, no more than a unit of them in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt.data.reading import Ragged, Reading, cut, invalid_times, observation, spike_column
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.spikes import bin_edges, bin_unit, num_bins

__all__ = ["Counts", "bin_file", "read_counts"]

BLOCK = 1 << 19  # spikes read at once, at most
TOGETHER = 8  # and units


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts of N units in T bins, laid from the start of each observed piece; none spans a gap.

    Arguments:
        counts: Spikes of each unit in each bin, at most 255, (T, N), uint8.
        start: Starts of the bins in seconds, (T,).
        bin_size: Their width in seconds.
        piece: Observed piece of each bin, (T,).
        observed: When each unit was observed, with a column ``unit_index``; None where all were throughout.
    """

    counts: NDArray[np.uint8]
    start: NDArray[np.float64]
    bin_size: float
    piece: NDArray[np.int64]
    observed: Intervals | None


def read_counts(path: str | Path, bin_size: float, max_gib: float = 8.0) -> Counts:
    """Returns the counts of an NWB file's units, in the order of the file.

    `obs_intervals` and `invalid_times` are respected: spikes outside are not counted and bins do not reach into gaps. A
    file without `obs_intervals` is binned from its first to its last spike. Covariates, columns of units and
    invalid times of single probes take `ndt.data.read`.

    Arguments:
        path: The file.
        bin_size: Bin width in seconds, above 0.
        max_gib: Largest array to make or to read, in GiB.

    Example:
        >>> read_counts("sub-m1_ses-stevenson2011_behavior+ecephys.nwb", 0.05).counts.shape  # doctest: +SKIP
        (15536, 171)
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(path, "file", "an HDF5 file", error) from error
    with file:
        return bin_file(file, bin_size, Reading(str(path), max_gib))


def bin_file(file: Any, bin_size: float, reading: Reading) -> Counts:
    """Returns the counts of an open file; see `read_counts`."""
    column = spike_column(file, reading)
    if column is None or len(column.ends) == 0:
        raise reading.error("units/spike_times", "a column of spike times", "none")
    N, known = len(column.ends), observation(file, reading)
    observed, of_units = (_extent(column, reading), None) if known is None else known
    observed, of_units = cut(observed, of_units, invalid_times(file, reading), None, N)
    pieces = observed.coalesce()
    lengths = [num_bins(b - a, bin_size) for a, b in zip(pieces.start, pieces.end, strict=True)]
    T = sum(lengths)
    if T * N > reading.max_gib * (1 << 30):
        raise reading.error("bin_size", f"at most {reading.max_gib:g} GiB of counts", f"{T} bins of {N} units")
    counts = np.zeros((T, N), np.uint8)
    first = np.r_[0, np.cumsum(lengths)[:-1]].astype(np.int64)
    grid = list(zip(pieces.start.tolist(), pieces.end.tolist(), lengths, first.tolist(), strict=True))
    for n, block in _units(column, reading):
        some = np.zeros(
            (len(block), T), np.uint8
        )  # units along memory, turned when some are done: quicker than one by one
        for m, times in enumerate(block):
            own = times if of_units is None else times[_own(of_units, n + m).contains(times)]
            for start, end, length, at in grid:
                first, last = np.searchsorted(own, (start, end))  # a piece may end within the rounding of its last bin
                bin_unit(own[first:last], start, bin_size, some[m, at : at + length])
        counts[:, n : n + len(block)] = some.T
    start = np.concatenate([bin_edges(a, bin_size, length)[:-1] for a, _, length, _ in grid] or [np.zeros(0)])

    return Counts(
        counts=counts, start=start, bin_size=bin_size, piece=np.repeat(np.arange(len(grid)), lengths), observed=of_units
    )


def _own(of_units: Intervals, n: int) -> Intervals:
    return of_units.select(of_units.columns["unit_index"] == n)


def _units(column: Ragged, reading: Reading) -> Iterator[tuple[int, list[NDArray[np.float64]]]]:
    """Yields the first of some units and the spike times of each; up to half a million spikes are read together."""
    ends, n = column.ends, 0
    begins = np.r_[0, ends[:-1]]
    while n < len(ends):
        last = max(int(np.searchsorted(ends, begins[n] + BLOCK, side="right")), n + 1)
        last = min(last, n + TOGETHER)
        flat = np.asarray(column.flat[begins[n] : ends[last - 1]], np.float64)
        block = [flat[begins[m] - begins[n] : ends[m] - begins[n]] for m in range(n, last)]
        for m, times in enumerate(block):
            if len(times) and not (np.isfinite(times[[0, -1]]).all() and np.all(times[1:] >= times[:-1])):
                raise reading.error(
                    "units/spike_times", "finite, ascending times in each unit", f"others in unit {n + m}"
                )
        yield n, block
        n = last


def _extent(column: Ragged, reading: Reading) -> Intervals:
    """Returns the interval from the first to just after the last spike of any unit."""
    edges = [times[[0, -1]] for _, block in _units(column, reading) for times in block if len(times)]
    if not edges:
        return Intervals.empty()
    low, high = np.min(edges), np.max(edges)

    return Intervals([low], [np.nextafter(high, np.inf)])

"""Spike counts in place of spike times: a `TimeSeries` of counts (FALCON's H2), or types of ``ndx-binned-spikes``."""

import numpy as np
from numpy.typing import NDArray
from pynwb import TimeSeries

from ndt.data.counted import Counted, check_counts, lay_bins, lay_spikes
from ndt.data.reading import Reading, named
from ndt.data.series import NWB, sample_times, walk
from ndt.data.splits import within
from ndt.intervals import Intervals

__all__ = ["count_series", "read_counts_series"]

NAMES = ("binned_spikes", "spike_counts", "binned_spike_counts", "spikes_binned")
NDX = ("BinnedSpikes", "BinnedAlignedSpikes")


def count_series(nwb: NWB, wanted: str) -> tuple[str, NWB] | None:
    """Returns path and object of the counts wanted by name, or of the first that is known to be counts."""
    for path, thing in walk(nwb):
        kind = type(thing).__name__
        known = kind in NDX or (isinstance(thing, TimeSeries) and thing.name.lower() in NAMES)
        if named(path, (wanted,)) if wanted else known:
            return path, thing

    return None


def read_counts_series(path: str, series: NWB, at: str, invalid: Intervals, reading: Reading) -> tuple[Counted, float]:
    """Returns the spikes of a series of counts, and the width of its bins in seconds.

    Arguments:
        path: Its path, for messages.
        series: The object.
        at: Where in its bin a timestamp lies: ``start``, ``centre`` or ``end``.
        invalid: Times that were not observed; bins that touch them are left out.
        reading: The file.
    """
    kind, data = type(series).__name__, reading.array(series.data, f"{path}/data")
    where = f"{reading.where}: {path}"
    if kind == "BinnedSpikes":
        width = float(series.bin_width_in_ms) / 1e3
        start = float(series.start_time_in_ms or 0.0) / 1e3 + np.arange(data.shape[1], dtype=np.float64) * width
        return _laid_out(data.T, start, width, invalid, where)
    if kind == "BinnedAlignedSpikes":
        return _aligned(path, series, data, invalid, reading)
    if not isinstance(series, TimeSeries) or data.ndim != 2:
        raise reading.error(path, "a time series of counts, bins by units", f"{kind} of shape {data.shape}")
    times = sample_times(series, reading, path)
    if len(times) != len(data) or len(times) < 2 or not np.all(np.diff(times) > 0):
        raise reading.error(
            f"{path}/timestamps", f"{len(data)} ascending seconds", f"{len(times)}, or they do not ascend"
        )
    width = round(float(np.median(np.diff(times))), 9)  # files give 19.99999 ms
    shift = {"start": 0.0, "centre": 0.5, "end": 1.0}[at]

    return _laid_out(data, times - shift * width, width, invalid, where)


def _aligned(
    path: str, series: NWB, data: NDArray[np.generic], invalid: Intervals, reading: Reading
) -> tuple[Counted, float]:
    """Returns the spikes of counts around events, units by events by bins."""
    stamps = reading.array(series.event_timestamps, f"{path}/event_timestamps", np.float64)
    width, K = float(series.bin_width_in_ms) / 1e3, data.shape[2]
    start = stamps + float(series.event_to_bin_offset_in_ms or 0.0) / 1e3
    order = np.argsort(start, kind="stable")
    kept, end = [], -np.inf
    for e in order.tolist():
        if start[e] >= end - 1e-6 * width:
            kept.append(e)
            end = start[e] + K * width
    if len(kept) < len(start):
        overlap = (
            f"{len(start) - len(kept)} of {len(start)} events overlap one before, and their bins would count twice"
        )
        reading.dropped.append(f"{path}: {overlap}")
    bins = (start[kept, None] + np.arange(K) * width).ravel()

    return _laid_out(data[:, kept].reshape(len(data), -1).T, bins, width, invalid, f"{reading.where}: {path}")


def _laid_out(
    counts: NDArray[np.generic], start: NDArray[np.float64], width: float, invalid: Intervals, where: str
) -> tuple[Counted, float]:
    """Returns the spikes of counts (T, N) in bins from `start`, (T,), on; bins that touch invalid time are lost."""
    whole, valid = check_counts(counts, where)
    bins = lay_bins(start, width, len(whole), where, drift=True)
    clear = Intervals([bins.start.min()], [bins.start.max() + 2 * width]) - invalid
    valid &= within(bins.start, bins.start + width, clear, 1e-6 * width)[:, None]

    return lay_spikes(whole, valid, bins), width

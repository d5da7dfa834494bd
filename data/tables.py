"""Tables of intervals and of events of an NWB file. An event is an interval without length."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pynwb.epoch import TimeIntervals
from pynwb.misc import IntervalSeries

from ndt.data.reading import Reading
from ndt.data.series import NWB, is_event_series, sample_times, walk
from ndt.intervals import Intervals

__all__ = ["column_values", "read_tables"]

STAMPS = ("timestamp", "event_timestamps", "timestamps")  # names of a table of events' column of times
LINKS = ("timeseries", "timeseries_index")  # columns that point to other objects


def read_tables(nwb: NWB, reading: Reading) -> dict[str, Intervals]:
    """Returns all tables by name: trials, epochs, invalid_times, events, and those kept beside behaviour.

    Rows stay as they are, overlapping or unsorted. A name that occurs twice is the table's path.
    """
    tables = {f"intervals/{name}": table for name, table in (nwb.intervals or {}).items()}
    for table in (nwb.trials, nwb.epochs, nwb.invalid_times):
        if table is not None:
            tables.setdefault(f"intervals/{table.name}", table)
    tables |= {f"events/{name}": table for name, table in (getattr(nwb, "events", None) or {}).items()}
    tables |= {path: thing for path, thing in walk(nwb) if hasattr(thing, "colnames") or is_event_series(thing)}

    found: dict[str, Intervals] = {}
    for path, table in tables.items():
        rows = _rows(path, table, reading)
        if rows is not None:
            name = path.split("/")[-1]
            found[path if name in found else name] = rows

    return dict(sorted(found.items()))


def _rows(path: str, table: NWB, reading: Reading) -> Intervals | None:
    if not hasattr(table, "colnames"):
        return _of_series(path, table, reading)
    stamp = next((name for name in STAMPS if name in table.colnames), None)
    if isinstance(table, TimeIntervals) or {"start_time", "stop_time"} <= set(table.colnames):
        start, end = (reading.array(table[n].data, f"{path}/{n}", np.float64) for n in ("start_time", "stop_time"))
        return _table(path, table, start, end, ("start_time", "stop_time", *LINKS), reading)
    if stamp is None:
        reading.dropped.append(f"{path}: {type(table).__name__} is a table without times")
        return None
    start = reading.array(table[stamp].data, f"{path}/{stamp}", np.float64)
    lasts = "duration" in table.colnames
    duration = reading.array(table["duration"].data, f"{path}/duration", np.float64) if lasts else np.zeros(len(start))
    end = start + np.nan_to_num(duration)  # NaN: an event without length

    return _table(path, table, start, end, (stamp, "duration"), reading)


def _table(
    path: str,
    table: NWB,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    skip: tuple[str, ...],
    reading: Reading,
) -> Intervals:
    if start.shape != end.shape or start.ndim != 1:
        raise reading.error(path, "a start and a stop in each row", f"{start.shape} starts and {end.shape} stops")
    good = (end >= start) & np.isfinite(end) & np.isfinite(start)  # NaN: not
    if not good.all():
        reading.dropped.append(f"{path}: {np.sum(~good)} of {len(good)} rows end before they start or lack a time")
    columns = {}
    for name in table.colnames:
        if name in skip:
            continue
        values = None if name in ("start", "end") else column_values(table[name], reading, f"{path}/{name}")
        if values is None or len(values) != len(good):
            reading.dropped.append(f"{path}/{name}: a column of this kind is not read")
        else:
            columns[name] = values[good]

    return Intervals(start[good], end[good], columns)


def _of_series(path: str, series: NWB, reading: Reading) -> Intervals | None:
    """Returns the table of a series of events, of marks that begin (> 0) and end (< 0) intervals, or of a mask."""
    times = sample_times(series, reading, path)
    values = reading.array(series.data, f"{path}/data")
    if len(values) != len(times) or not np.all(np.diff(times) >= 0):
        reading.dropped.append(f"{path}: timestamps do not ascend, or there are not as many as values")
        return None
    if isinstance(series, IntervalSeries) or type(series.parent).__name__ == "BehavioralEpochs":
        starts, ends = times[values > 0], times[values < 0]
        if len(starts) != len(ends) or np.any(ends < starts):
            reading.dropped.append(f"{path}: {len(starts)} beginnings and {len(ends)} ends are no intervals")
            return None
        return Intervals(starts, ends)
    if series.name.lower() in ("eval_mask", "blacklist"):
        return _of_mask(times, values.astype(bool) ^ (series.name.lower() == "blacklist"))
    text = _text(values, reading, path)
    columns = {} if text is None or text.ndim > 2 else {"value": text}

    return Intervals(times, times, columns)


def _of_mask(times: NDArray[np.float64], chosen: NDArray[np.bool_]) -> Intervals:
    """Returns the intervals of the samples chosen; each reaches half an interval to both sides."""
    half = float(np.median(np.diff(times))) / 2 if len(times) > 1 else 0.0
    edges = np.diff(np.r_[False, chosen.ravel(), False].astype(np.int8))

    return Intervals(times[np.flatnonzero(edges == 1)] - half, times[np.flatnonzero(edges == -1) - 1] + half)


def column_values(column: NWB, reading: Reading, path: str) -> NDArray[np.generic] | None:
    """Returns a column as numbers or strings; ragged strings are joined by commas; None for any other kind."""
    if hasattr(column, "target"):  # a ragged column: its index holds the end of each row
        if getattr(getattr(column.target, "data", None), "dtype", np.dtype(object)).kind in "biufc":
            return None  # numbers of any length, one list a row: not read, for there may be one a spike
        values, ends = column_values(column.target, reading, path), reading.array(column.data, path, np.int64)
        if values is None or values.dtype.kind != "U" or values.ndim != 1:
            return None
        rows = [",".join(values[a:b]) for a, b in zip(np.r_[0, ends[:-1]], ends, strict=True)] if len(ends) else []
        return np.array(rows, dtype=np.str_)
    if hasattr(column, "table"):
        return None  # a region of another table

    return _text(reading.array(column.data, path), reading, path)


def _text(values: NDArray[Any], reading: Reading, path: str) -> NDArray[np.generic] | None:
    """Returns numbers as they are and bytes or objects as text; None for what is neither, or has three dimensions."""
    if values.dtype.kind in "SO":
        flat = [v.decode(errors="replace") if isinstance(v, bytes) else v for v in values.ravel()]
        if any(isinstance(v, str) and re.search("[\ufffd\ud800-\udfff]", v) for v in flat):
            reading.warnings.append(f"{path}: text that is not UTF-8; what cannot be read is replaced")
            flat = [v.encode(errors="replace").decode() if isinstance(v, str) else v for v in flat]
        if not all(isinstance(v, str) for v in flat):
            return None
        values = np.array(flat, dtype=np.str_).reshape(values.shape)

    return values if values.dtype.kind in "biufU" and values.ndim in (1, 2) else None

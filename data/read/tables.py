"""Reads the tables of an NWB file: intervals, events (intervals of zero length), and units with their electrodes."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pynwb.epoch import TimeIntervals
from pynwb.misc import IntervalSeries

from ndt.data.read.context import ReadContext
from ndt.data.read.series import NWB, is_event_series, sample_times, walk
from ndt.intervals import Intervals

__all__ = ["read_tables", "unit_columns"]

Columns = dict[str, NDArray[np.generic]]
SKIPPED = ("spike_times", "obs_intervals", "electrodes", "electrode_group")
UNKNOWN = {"", "unknown", "none", "nan"}
POSITIONS = ("rel_x", "rel_y", "rel_z", "x", "y", "z")  # columns of electrodes, in micrometres
STAMPS = ("timestamp", "event_timestamps", "timestamps")  # names of the column of times in tables of events
LINKS = ("timeseries", "timeseries_index")  # columns that point to other objects


def read_tables(nwb: NWB, context: ReadContext) -> dict[str, Intervals]:
    """Returns all tables by name: trials, epochs, invalid_times, events, and tables in processing modules.

    Rows may overlap or be unsorted, as in the file. A table whose name occurs twice is named by its path.
    """
    tables = {f"intervals/{name}": table for name, table in (nwb.intervals or {}).items()}
    for table in (nwb.trials, nwb.epochs, nwb.invalid_times):
        if table is not None:
            tables.setdefault(f"intervals/{table.name}", table)
    tables |= {f"events/{name}": table for name, table in (getattr(nwb, "events", None) or {}).items()}
    tables |= {path: thing for path, thing in walk(nwb) if hasattr(thing, "colnames") or is_event_series(thing)}

    found: dict[str, Intervals] = {}
    for path, table in tables.items():
        rows = _rows(path, table, context)
        if rows is not None:
            name = path.split("/")[-1]
            found[path if name in found else name] = rows

    return dict(sorted(found.items()))


def _rows(path: str, table: NWB, context: ReadContext) -> Intervals | None:
    if not hasattr(table, "colnames"):
        return _of_series(path, table, context)
    stamp = next((name for name in STAMPS if name in table.colnames), None)
    if isinstance(table, TimeIntervals) or {"start_time", "stop_time"} <= set(table.colnames):
        start, end = (context.array(table[n].data, f"{path}/{n}", np.float64) for n in ("start_time", "stop_time"))
        return _table(path, table, start, end, ("start_time", "stop_time", *LINKS), context)
    if stamp is None:
        context.dropped.append(f"{path}: {type(table).__name__} is a table without times")
        return None
    start = context.array(table[stamp].data, f"{path}/{stamp}", np.float64)
    lasts = "duration" in table.colnames
    duration = context.array(table["duration"].data, f"{path}/duration", np.float64) if lasts else np.zeros(len(start))
    end = start + np.nan_to_num(duration)  # NaN: an event of zero length

    return _table(path, table, start, end, (stamp, "duration"), context)


def _table(
    path: str,
    table: NWB,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    skip: tuple[str, ...],
    context: ReadContext,
) -> Intervals:
    if start.shape != end.shape or start.ndim != 1:
        raise context.error(path, "a start and a stop in each row", f"{start.shape} starts and {end.shape} stops")
    good = (end >= start) & np.isfinite(end) & np.isfinite(start)  # NaN: not
    if not good.all():
        context.dropped.append(f"{path}: {np.sum(~good)} of {len(good)} rows end before they start or lack a time")
    columns = {}
    for name in table.colnames:
        if name in skip:
            continue
        values = None if name in ("start", "end") else column_values(table[name], context, f"{path}/{name}")
        if values is None or len(values) != len(good):
            context.dropped.append(f"{path}/{name}: a column of this kind is not read")
        else:
            columns[name] = values[good]

    return Intervals(start[good], end[good], columns)


def _of_series(path: str, series: NWB, context: ReadContext) -> Intervals | None:
    """Returns the table of a series of events, of starts (> 0) and ends (< 0) of intervals, or of a mask."""
    times = sample_times(series, context, path)
    values = context.array(series.data, f"{path}/data")
    if len(values) != len(times) or not np.all(np.diff(times) >= 0):
        context.dropped.append(f"{path}: timestamps do not ascend, or there are not as many as values")
        return None
    if isinstance(series, IntervalSeries) or type(series.parent).__name__ == "BehavioralEpochs":
        starts, ends = times[values > 0], times[values < 0]
        if len(starts) != len(ends) or np.any(ends < starts):
            context.dropped.append(f"{path}: {len(starts)} starts and {len(ends)} ends do not form intervals")
            return None
        return Intervals(starts, ends)
    if series.name.lower() in ("eval_mask", "blacklist"):
        return _of_mask(times, values.astype(bool) ^ (series.name.lower() == "blacklist"))
    text = _text(values, context, path)
    columns = {} if text is None or text.ndim > 2 else {"value": text}

    return Intervals(times, times, columns)


def _of_mask(times: NDArray[np.float64], chosen: NDArray[np.bool_]) -> Intervals:
    """Returns the intervals that the chosen samples cover; a sample covers half an interval on both sides."""
    half = float(np.median(np.diff(times))) / 2 if len(times) > 1 else 0.0
    edges = np.diff(np.r_[False, chosen.ravel(), False].astype(np.int8))

    return Intervals(times[np.flatnonzero(edges == 1)] - half, times[np.flatnonzero(edges == -1) - 1] + half)


def column_values(column: NWB, context: ReadContext, path: str) -> NDArray[np.generic] | None:
    """Returns a column as numbers or strings; ragged strings are joined by commas; None for any other kind."""
    if hasattr(column, "target"):  # a ragged column: its index holds the end of each row
        if getattr(getattr(column.target, "data", None), "dtype", np.dtype(object)).kind in "biufc":
            return None  # lists of numbers are not read: there may be one number per spike
        values, ends = column_values(column.target, context, path), context.array(column.data, path, np.int64)
        if values is None or values.dtype.kind != "U" or values.ndim != 1:
            return None
        rows = [",".join(values[a:b]) for a, b in zip(np.r_[0, ends[:-1]], ends, strict=True)] if len(ends) else []
        return np.array(rows, dtype=np.str_)
    if hasattr(column, "table"):
        return None  # a region of another table

    return _text(context.array(column.data, path), context, path)


def _text(values: NDArray[Any], context: ReadContext, path: str) -> NDArray[np.generic] | None:
    """Returns numbers unchanged, and bytes or objects as text; None for anything else, or for three dimensions."""
    if values.dtype.kind in "SO":
        flat = [v.decode(errors="replace") if isinstance(v, bytes) else v for v in values.ravel()]
        if any(isinstance(v, str) and re.search("[\ufffd\ud800-\udfff]", v) for v in flat):
            context.warnings.append(f"{path}: text that is not UTF-8; undecodable characters are replaced")
            flat = [v.encode(errors="replace").decode() if isinstance(v, str) else v for v in flat]
        if not all(isinstance(v, str) for v in flat):
            return None
        values = np.array(flat, dtype=np.str_).reshape(values.shape)

    return values if values.dtype.kind in "biufU" and values.ndim in (1, 2) else None


def unit_columns(nwb: NWB, num_units: int, context: ReadContext) -> Columns:
    """Returns the columns of N units, each (N,), by name.

    The columns are those of the file, and `electrode` (row of the unit's first electrode, -1 without one), `group` (its
    probe), `location` (region), `depth` and `rel_x` … `z` if electrodes have them, and `nwb_id`. A file with spike
    counts of channels may have no units table.
    """
    units, columns = nwb.units, {}
    table = units is not None and len(units) == num_units
    for name in units.colnames if table else ():
        if name in SKIPPED:
            continue
        values = None if name.startswith("waveform") else column_values(units[name], context, f"units/{name}")
        if values is None or len(values) != num_units:
            context.dropped.append(f"units/{name}: a column of this kind is not read")
        else:
            columns[name] = values
    if units is not None and not table and len(units):
        context.warnings.append(f"units: {len(units)} rows do not fit {num_units} units, and are not used")
    electrode, group, location = _electrodes(nwb if table else None, num_units, context)
    found: Columns = {"location": location, "group": group, "electrode": electrode}
    columns = _positions(nwb, electrode, context) | found | columns
    columns.setdefault("nwb_id", np.asarray(units.id.data[:]) if table else np.arange(num_units))
    if table and len(set(np.asarray(units.id.data[:]).tolist())) < num_units:
        context.warnings.append("units/id: several units have the same id; their rows distinguish them")

    return dict(sorted(columns.items()))


def _electrodes(nwb: NWB, N: int, context: ReadContext) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]:
    """Returns for each unit the row of its first electrode (-1: none), its group's name and its region."""
    electrode, groups, location = np.full(N, -1), [None] * N, [""] * N
    units, table = (None, None) if nwb is None else (nwb.units, nwb.electrodes)
    if units is not None and "electrode_group" in units.colnames:
        groups = list(units["electrode_group"].data[:])
    if table is not None:
        electrode = _first_electrodes(units, table, N, context)
        used = set(electrode.tolist()) - {-1} if "group" in table.colnames else set()
        of_rows = {e: table["group"].data[e] for e in used}  # one look-up per electrode is slow
        groups = [of_rows.get(e) if e >= 0 else g for e, g in zip(electrode.tolist(), groups, strict=True)]
        if "location" in table.colnames:
            regions = column_values(table["location"], context, "electrodes/location")
            location = [str(regions[e]) if e >= 0 and regions is not None else "" for e in electrode]
    location = [  # for electrodes of unknown location, that of their group
        str(g.location or here) if here.lower() in UNKNOWN and g is not None else here
        for here, g in zip(location, groups, strict=True)
    ]

    return electrode, np.array(["" if g is None else g.name for g in groups], np.str_), np.array(location, np.str_)


def _first_electrodes(units: NWB, table: NWB, N: int, context: ReadContext) -> NDArray[np.int64]:
    """Returns each unit's first row of the electrodes table; -1 for none."""
    electrode = np.full(N, -1)
    if "electrodes" in units.colnames:
        column = units["electrodes"]
        flat = getattr(column, "target", column)
        rows = context.array(flat.data, "units/electrodes", np.int64)
        path, ragged = "units/electrodes_index", flat is not column
        ends = context.array(column.data, path, np.int64) if ragged else np.arange(1, N + 1)
        starts = np.r_[0, ends[:-1]]
        if len(ends) != N or np.any(ends < starts) or (N and ends[-1] != len(rows)):
            raise context.error(path, f"to end at {len(rows)} values", ends[-1:])
        some = ends > starts
        electrode[some] = rows[starts[some]]
    elif "peak_channel_id" in units.colnames:  # Allen's files name the channel, which is the electrode's id
        channels = context.array(units["peak_channel_id"].data, "units/peak_channel_id")
        of_id = {channel: row for row, channel in enumerate(np.asarray(table.id.data[:]).tolist())}
        electrode = np.array([of_id.get(channel, -1) for channel in channels.tolist()], np.int64).reshape(N)
    bad = electrode[(electrode < -1) | (electrode >= len(table))]
    if len(bad):
        raise context.error("units/electrodes", f"rows of {len(table)} electrodes", bad[0])

    return electrode


def _positions(nwb: NWB, electrode: NDArray[np.int64], context: ReadContext) -> Columns:
    """Returns the coordinates of each unit's electrode in micrometres that differ between electrodes.

    `depth` is ``rel_z`` if that is one of them, else ``z``.
    """
    found: Columns = {}
    if nwb.electrodes is None or not (electrode >= 0).any():
        return found
    for name in POSITIONS:
        if name in nwb.electrodes.colnames:
            values = context.array(nwb.electrodes[name].data, f"electrodes/{name}", np.float64)
            if np.isfinite(values).any() and len(np.unique(values)) > 1:
                found[name] = np.where(electrode >= 0, values[np.maximum(electrode, 0)], np.nan)
    for name in ("z", "rel_z"):
        if name in found:
            found["depth"] = found[name]

    return found

"""What an NWB file measured beside the spikes: covariates (time series) and tables of intervals."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pynwb import TimeSeries
from pynwb.behavior import CompassDirection, SpatialSeries
from pynwb.ecephys import ElectricalSeries
from pynwb.epoch import TimeIntervals
from pynwb.image import ImageSeries

from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Covariate

__all__ = ["NWB", "column_values", "read_covariates", "read_intervals"]

NWB = Any  # an NWBFile or what is in one: pynwb makes its attributes at run time, where no type checker sees them

MAX_DIMS = 16
MIN_RATE_HZ = 1.0


def walk(nwb: NWB) -> Iterator[tuple[str, NWB]]:
    """Yields path and object of each leaf in ``acquisition`` and ``processing``: time series, tables, whatever else."""

    def leaves(path: str, thing: NWB) -> Iterator[tuple[str, NWB]]:
        children = () if hasattr(thing, "colnames") or isinstance(thing, TimeSeries) else thing.children
        for child in children:
            yield from leaves(f"{path}/{child.name}", child)
        if not children:
            yield path, thing

    for name, thing in nwb.acquisition.items():
        yield from leaves(f"acquisition/{name}", thing)
    for name, module in nwb.processing.items():
        for child in module.data_interfaces.values():
            yield from leaves(f"processing/{name}/{child.name}", child)


def read_covariates(nwb: NWB, where: Path, dropped: list[str]) -> dict[str, Covariate]:
    """Returns the covariates by name; adds to `dropped` a sentence for each series that is none.

    A covariate is a numeric series of 1 to 16 dimensions with at least two samples, at one sample a second or more.
    Raw recordings (voltages, images) are not covariates.
    """
    kept = {}
    for path, series in walk(nwb):
        if isinstance(series, TimeIntervals):
            continue
        reason = _why_not(series)
        if reason is None:
            times = _timestamps(series, f"{where}", path)
            reason = _why_not_times(times)
        if reason is not None:
            dropped.append(f"{path}: {reason}")
            continue
        kept[path] = series, times

    names = _short_names({path: series for path, (series, _) in kept.items()})
    covariates = [_covariate(names[path], path, *found) for path, found in kept.items()]

    return {covariate.name: covariate for covariate in sorted(covariates, key=lambda c: c.name)}


def _why_not(series: NWB) -> str | None:
    if not isinstance(series, TimeSeries):
        return f"{type(series).__name__} is not a time series"
    if isinstance(series, ElectricalSeries | ImageSeries):
        return f"{type(series).__name__} is a raw recording"
    shape, kind = np.shape(series.data), getattr(series.data, "dtype", np.asarray(series.data).dtype).kind
    if kind not in "biuf":
        return "values are not numbers"
    if len(shape) not in (1, 2) or not 1 <= (shape[1] if len(shape) == 2 else 1) <= MAX_DIMS:
        return f"shape {shape} is not (samples, 1 to {MAX_DIMS} dimensions)"
    if shape[0] < 2:
        return f"{shape[0]} samples are fewer than 2"
    if series.timestamps is None and not getattr(series, "rate", None):
        return "it has neither timestamps nor a rate"

    return None


def _timestamps(series: NWB, where: str, path: str) -> NDArray[np.float64]:
    num_samples = np.shape(series.data)[0]
    if series.timestamps is None:
        return float(series.starting_time or 0.0) + np.arange(num_samples) / float(series.rate)
    times = np.asarray(series.timestamps[:], np.float64)
    if len(times) != num_samples:
        raise InputError(where, f"{path}/data", f"{len(times)} samples, one for each timestamp", num_samples)

    return times


def _why_not_times(times: NDArray[np.float64]) -> str | None:
    steps = np.diff(times)
    if not np.all(steps >= 0):  # NaN as well
        return "timestamps do not ascend"
    rate = 1.0 / np.median(steps) if np.median(steps) > 0 else 0.0
    if rate < MIN_RATE_HZ * (1 - 1e-6):  # a series at exactly 1 Hz may be off by rounding
        return f"median rate {rate:.3g} Hz is below {MIN_RATE_HZ:g} Hz"

    return None


def _covariate(name: str, path: str, series: NWB, times: NDArray[np.float64]) -> Covariate:
    raw = np.asarray(series.data[:])
    raw = raw[:, None] if raw.ndim == 1 else raw  # (M, C)
    values = raw * float(series.conversion) + float(series.offset)
    values = values.astype(np.float32 if raw.dtype == np.float32 else np.float64)
    unit = str(series.unit or "")

    return Covariate(
        name=name,
        path=path,
        timestamps=times,
        values=values,
        dims=_dims(series, values.shape[1]),
        unit=unit,
        angular=_is_angular(series, path, unit),
    )


def _dims(series: NWB, C: int) -> tuple[str, ...]:
    """Returns columns' names: from comments or description (``columns=[x, y]``, NLB's habit), else x y z or numbers."""
    listed = re.search(r"columns\s*=\s*[\[(](.*?)[\])]", f"{series.comments} {series.description}", re.DOTALL)
    names = [part.strip(" '\"\n") for part in listed.group(1).split(",")] if listed else []
    if len(names) == C and all(names):
        return tuple(names)
    if C == 1:
        return (series.name,)
    if isinstance(series, SpatialSeries) and C <= 3:
        return tuple("xyz"[:C])

    return tuple(str(c) for c in range(C))


def _is_angular(series: NWB, path: str, unit: str) -> bool:
    hint = re.search(r"heading|angle|direction", path, re.IGNORECASE)
    compass = isinstance(series, SpatialSeries) and isinstance(series.parent, CompassDirection)

    return unit.strip().lower() in {"radian", "radians", "rad"} and (compass or hint is not None)


def _short_names(series: dict[str, NWB]) -> dict[str, str]:
    """Returns for each path its shortest unambiguous end; spatial series keep their container ("x" says little)."""
    ends = Counter("/".join(path.split("/")[-k:]) for path in series for k in range(1, path.count("/") + 2))
    names = {}
    for path, found in series.items():
        parts = path.split("/")
        boxed = len(parts) > (2 if parts[0] == "acquisition" else 3)
        shortest = 2 if boxed and isinstance(found, SpatialSeries) else 1
        choices = ["/".join(parts[-k:]) for k in range(shortest, len(parts) + 1)]
        names[path] = next((name for name in choices if ends[name] == 1), path)

    return names


def read_intervals(nwb: NWB, dropped: list[str]) -> dict[str, Intervals]:
    """Returns all tables of intervals by name: trials, epochs, invalid_times, and those kept beside behaviour."""
    tables = {f"intervals/{name}": table for name, table in (nwb.intervals or {}).items()}
    for table in (nwb.trials, nwb.epochs, nwb.invalid_times):
        if table is not None:
            tables.setdefault(f"intervals/{table.name}", table)
    tables |= {path: table for path, table in walk(nwb) if isinstance(table, TimeIntervals)}

    found: dict[str, Intervals] = {}
    for path, table in tables.items():
        name = path.split("/")[-1]
        found[path if name in found else name] = _intervals(path, table, dropped)

    return dict(sorted(found.items()))


def _intervals(path: str, table: NWB, dropped: list[str]) -> Intervals:
    start, end = (np.asarray(table[name].data[:], np.float64) for name in ("start_time", "stop_time"))
    good = end >= start  # NaN: not
    if not good.all():
        dropped.append(f"{path}: {np.sum(~good)} of {len(good)} rows end before they start or lack a time")
    columns = {}
    for name in table.colnames:
        if name in ("start_time", "stop_time", "timeseries"):
            continue
        values = None if name in ("start", "end") else column_values(table[name])
        if values is None:
            dropped.append(f"{path}/{name}: a column of this kind is not read")
        else:
            columns[name] = values[good]

    return Intervals(start[good], end[good], columns)


def column_values(column: NWB) -> NDArray[np.generic] | None:
    """Returns a column as numbers or strings; ragged strings are joined by commas; None for any other kind."""
    if hasattr(column, "target"):  # a ragged column: its index holds the end of each row
        values, ends = column_values(column.target), np.asarray(column.data[:], np.int64)
        if values is None or values.dtype.kind != "U" or values.ndim != 1:
            return None
        rows = [",".join(values[a:b]) for a, b in zip(np.r_[0, ends[:-1]], ends, strict=True)] if len(ends) else []
        return np.array(rows, dtype=np.str_)
    if hasattr(column, "table"):
        return None  # a region of another table
    values = np.asarray(column.data[:])
    if values.dtype.kind in "SO":
        flat = [v.decode() if isinstance(v, bytes) else v for v in values.ravel()]
        if not all(isinstance(v, str) for v in flat):
            return None
        values = np.array(flat, dtype=np.str_).reshape(values.shape)

    return values if values.dtype.kind in "biufU" and values.ndim in (1, 2) else None

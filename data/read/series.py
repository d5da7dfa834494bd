"""Reads the covariates of an NWB file: every numeric time series that is not a raw recording."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pynwb import TimeSeries
from pynwb.behavior import CompassDirection, SpatialSeries
from pynwb.ecephys import ElectricalSeries
from pynwb.image import ImageSeries
from pynwb.misc import AnnotationSeries, IntervalSeries

from ndt.data.read.context import ReadContext, named
from ndt.data.read.conventions import is_period
from ndt.session import Covariate

__all__ = ["NWB", "is_event_series", "read_covariates", "sample_times", "walk"]

NWB = Any  # an NWBFile or an object in one: pynwb makes attributes at run time, where no type checker sees them

MAX_DIMS = 16
MIN_RATE_HZ, MAX_RATE_HZ = 1.0, 2000.0
MASKS = ("eval_mask", "blacklist")  # FALCON's masks of samples; read as tables of intervals


def walk(nwb: NWB) -> Iterator[tuple[str, NWB]]:
    """Yields path and object of each leaf outside ``intervals`` and ``units``: time series, tables and others."""

    def leaves(path: str, thing: NWB) -> Iterator[tuple[str, NWB]]:
        children = () if hasattr(thing, "colnames") or isinstance(thing, TimeSeries) else thing.children
        for child in children:
            yield from leaves(f"{path}/{child.name}", child)
        if not children:
            yield path, thing

    for group in ("acquisition", "stimulus", "analysis", "scratch"):
        prefix = "stimulus/presentation" if group == "stimulus" else group
        for name, thing in (getattr(nwb, group, None) or {}).items():
            yield from leaves(f"{prefix}/{name}", thing)
    for name, module in nwb.processing.items():
        for child in module.data_interfaces.values():
            yield from leaves(f"processing/{name}/{child.name}", child)


def is_event_series(series: NWB) -> bool:
    """Whether a time series holds events or intervals, not samples; these are read as tables of intervals."""
    events = isinstance(series, AnnotationSeries | IntervalSeries)
    boxed = type(getattr(series, "parent", None)).__name__ in ("BehavioralEvents", "BehavioralEpochs")

    return events or (boxed and isinstance(series, TimeSeries)) or str(series.name).lower() in MASKS


def read_covariates(
    nwb: NWB, context: ReadContext, wanted: tuple[str, ...] = (), counts: str = ""
) -> dict[str, Covariate]:
    """Returns the covariates by name; `context` collects why each other series is not a covariate.

    A covariate is a numeric series of 1 to 16 dimensions with at least two samples, at 1 to 2000 samples per second. A
    faster series counts as a raw recording, and is read only if it is requested by name. One-dimensional series in one
    container that share timestamps and unit also become one covariate with the container's name.

    Arguments:
        nwb: The file.
        context: Collects what is left out.
        wanted: Names of covariates to read; empty for all.
        counts: Path of a series of spike counts, which is not a covariate.
    """
    kept: dict[str, tuple[NWB, NDArray[np.float64]]] = {}
    for path, series in walk(nwb):
        if hasattr(series, "colnames") or is_event_series(series) or path == counts:
            continue  # a table, or spikes
        reason = _why_not(series, context)
        if reason is None and wanted and not named(path, wanted) and not named(path.rpartition("/")[0], wanted):
            reason = f"not among the requested covariates ({', '.join(wanted)})"
        if reason is None:
            times = sample_times(series, context, path)
            reason = _why_not_times(times, named(path, wanted))
        if reason is not None:
            context.dropped.append(f"{path}: {reason}")
            continue
        kept[path] = series, times

    names = _short_names({path: series for path, (series, _) in kept.items()})
    each = {path: _covariate(names[path], path, *found, context) for path, found in kept.items()}
    found = [*each.values(), *_joined(each, {path: series for path, (series, _) in kept.items()})]

    return {covariate.name: covariate for covariate in sorted(found, key=lambda c: c.name)}


def _why_not(series: NWB, context: ReadContext) -> str | None:
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
    stamps = () if series.timestamps is None else series.timestamps
    if (size := context.too_large(series.data) or context.too_large(stamps)) is not None:
        return f"{size} are more than max_gib ({context.max_gib:g} GiB)"
    if series.timestamps is None and not getattr(series, "rate", None):
        return "it has neither timestamps nor a rate"
    num_times = shape[0] if series.timestamps is None else np.shape(series.timestamps)[0]
    if num_times != shape[0]:
        return f"{shape[0]} samples do not fit {num_times} timestamps"

    return None


def sample_times(series: NWB, context: ReadContext, path: str) -> NDArray[np.float64]:
    """Returns the timestamps of a series in seconds, (M,); NaN for samples without a timestamp."""
    if series.timestamps is None:
        steps, rate = np.arange(np.shape(series.data)[0]), float(series.rate)
        if is_period(series.name, rate):
            return float(series.offset) + steps * rate
        return float(series.starting_time or 0.0) + steps / rate
    times = context.array(series.timestamps, f"{path}/timestamps", np.float64)

    return np.where(np.isfinite(times), times, np.nan)


def _why_not_times(times: NDArray[np.float64], wanted: bool) -> str | None:
    steps = np.diff(times[np.isfinite(times)])
    if len(steps) == 0:
        return "fewer than 2 finite timestamps"
    if not np.all(steps >= 0):
        return "timestamps do not ascend"
    middle = float(np.median(steps))
    rate = 1.0 / middle if middle > 0 else 0.0
    if rate == 0.0:
        return "most timestamps are the same"
    if wanted:
        return None
    if rate < MIN_RATE_HZ * (1 - 1e-6):  # a series at exactly 1 Hz may be off by rounding
        return f"median rate {rate:.3g} Hz is below {MIN_RATE_HZ:g} Hz"
    if rate > MAX_RATE_HZ * (1 + 1e-6):
        return f"{rate:,.0f} Hz is a raw recording's rate; name it among the covariates to read it"

    return None


def _covariate(name: str, path: str, series: NWB, times: NDArray[np.float64], context: ReadContext) -> Covariate:
    raw = context.array(series.data, f"{path}/data")
    raw = raw[:, None] if raw.ndim == 1 else raw  # (M, C)
    good = np.isfinite(times)
    if not good.all():
        context.warnings.append(f"{path}: {np.sum(~good)} of {len(good)} samples have no timestamp and are left out")
        raw, times = raw[good], times[good]
    period = series.timestamps is None and is_period(series.name, float(series.rate))
    if period:
        context.warnings.append(f"{path}: rate {series.rate:g} is taken for the period in seconds, as in FALCON's H1")
    with np.errstate(all="ignore"):  # infinite values count as missing
        values = raw * float(series.conversion) + (0.0 if period else float(series.offset))
    values = values.astype(np.float32 if raw.dtype == np.float32 else np.float64)
    unit = str(series.unit or "")
    turns = _full_turn(series, path, unit)
    if turns == 360.0:
        values, unit = np.deg2rad(values), "radian"

    return Covariate(
        name=name,
        path=path,
        timestamps=times,
        values=values,
        dims=_dims(series, values.shape[1]),
        unit=unit,
        angular=turns is not None,
    )


def _dims(series: NWB, C: int) -> tuple[str, ...]:
    """Returns names of columns: from comments or description (NLB's ``columns=[x, y]``), else x y z or numbers."""
    listed = re.search(r"columns\s*=\s*[\[(](.*?)[\])]", f"{series.comments} {series.description}", re.DOTALL)
    names = [part.strip(" '\"\n") for part in listed.group(1).split(",")] if listed else []
    if len(names) == C and all(names):
        return tuple(names)
    if C == 1:
        return (series.name,)
    if isinstance(series, SpatialSeries) and C <= 3:
        return tuple("xyz"[:C])

    return tuple(str(c) for c in range(C))


def _full_turn(series: NWB, path: str, unit: str) -> float | None:
    """Returns the full turn of an angle in its unit; None for series that are not circular.

    An angle in degrees outside a `CompassDirection` may be a joint angle, which is not circular.
    """
    compass = isinstance(series, SpatialSeries) and isinstance(series.parent, CompassDirection)
    hint = re.search(r"heading|angle|direction", path, re.IGNORECASE)
    word = unit.strip().lower()
    if word in {"radian", "radians", "rad"} and (compass or hint is not None):
        return 2 * np.pi

    return 360.0 if word in {"degree", "degrees", "deg", "°"} and compass else None


def _short_names(series: dict[str, NWB]) -> dict[str, str]:
    """Returns the shortest unambiguous end of each path; names of spatial series include their container."""
    ends = Counter("/".join(path.split("/")[-k:]) for path in series for k in range(1, path.count("/") + 2))
    names = {}
    for path, found in series.items():
        parts = path.split("/")
        shortest = 2 if _boxed(path) and isinstance(found, SpatialSeries) else 1
        choices = ["/".join(parts[-k:]) for k in range(shortest, len(parts) + 1)]
        names[path] = next((name for name in choices if ends[name] == 1), path)

    return names


def _boxed(path: str) -> bool:
    """Whether a series lies in a container, not directly in ``acquisition`` or a processing module."""
    return path.count("/") >= (3 if path.startswith(("processing/", "stimulus/")) else 2)


def _joined(each: dict[str, Covariate], series: dict[str, NWB]) -> Iterator[Covariate]:
    """Yields one covariate for each container of one-dimensional series with equal timestamps (EMG, for example)."""
    boxes: dict[str, list[Covariate]] = {}
    for path, covariate in each.items():
        if _boxed(path) and covariate.values.shape[1] == 1 and not covariate.angular:
            boxes.setdefault(path.rpartition("/")[0], []).append(covariate)
    taken = {c.name for c in each.values()}
    for path, parts in boxes.items():
        first, name = parts[0], path.rpartition("/")[2]
        equal = all(
            c.unit == first.unit and len(c.values) == len(first.values) and np.all(c.timestamps == first.timestamps)
            for c in parts
        )
        if equal and 2 <= len(parts) <= MAX_DIMS and name not in taken:
            values, dims = np.concatenate([c.values for c in parts], 1), tuple(c.path.split("/")[-1] for c in parts)
            yield replace(first, name=name, path=path, values=values, dims=dims)

"""Converts sessions to pynapple objects and back.

Our intervals ``[start, end)`` do not contain their end; those of pynapple do. The conversion therefore moves each end
to the adjacent float64: an end of 10 s becomes 9.999999999999998 s in pynapple, and an end of 10 s in pynapple becomes
10.000000000000002 s here. Touching intervals then stay separate; otherwise pynapple would shorten them by 1 µs.
pynapple cannot represent an interval of a single number.

Times are copied exactly. pynapple sorts them, and before version 0.11.3 rounds them to nanoseconds.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.data.read.context import by_unit, equal, joined
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Covariate, Session, Spikes, Units

__all__ = ["Pynapple", "from_pynapple", "to_pynapple"]

TAKEN = ("observed_seconds", "rate", "unit_id")  # reserved names; columns of the same name get a suffix
SUFFIX = "_of_file"


@dataclass(frozen=True, kw_only=True)
class Pynapple:
    """A session as pynapple objects.

    Arguments:
        units: TsGroup of spike times by unit index. The time support of the group is the session's observed time, and
            that of each unit its own, so that rates refer to observed time; `restrict` and selections lose this.
            Metadata are ``unit_id``, ``observed_seconds`` if units differ, and the columns of units; a column with one
            of these names, or ``rate``, gets the suffix ``_of_file``.
        covariates: TsdFrame by name, with dimensions as columns and metadata ``unit``, ``path`` and ``angular``.
        intervals: By name of the table, an IntervalSet with columns as metadata, or a pandas DataFrame if rows overlap,
            are unsorted or have zero length, which an IntervalSet would change.
    """

    units: Any
    covariates: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, Any] = field(default_factory=dict)


def _pynapple() -> Any:
    try:
        import pynapple
    except ImportError as error:
        raise InputError("pynapple", "import", "the extra pynapple (pip install 'ndt[pynapple]')", error) from error

    return pynapple


def to_pynapple(session: Session) -> Pynapple:
    """Returns a session as pynapple objects, without its task, date, source, warnings and bin width of counts.

    Example:
        >>> parts = to_pynapple(session)  # doctest: +SKIP
        >>> parts.units.count(0.02, ep=parts.intervals["trials"])  # doctest: +SKIP
    """
    nap = _pynapple()
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):  # rates over no time
        warnings.simplefilter("ignore", UserWarning)  # names of columns that are not attributes; empty intervals
        return Pynapple(
            units=_group(nap, session),
            covariates={name: _frame(nap, covariate) for name, covariate in session.covariates.items()},
            intervals={name: _table(nap, table) for name, table in session.intervals.items()},
        )


def _group(nap: Any, session: Session) -> Any:
    units, N = session.units, session.num_units
    order = np.argsort(session.spikes.unit_index, kind="stable")
    times = np.asarray(session.spikes.timestamps)[order]
    ends = np.cumsum(np.bincount(session.spikes.unit_index, minlength=N))
    support = _support(nap, session.observed)
    supports = [support] * N
    metadata: dict[str, Any] = {"unit_id": units.id}
    if units.observed is not None:
        own = by_unit(units.observed, N)
        supports = [_support(nap, intervals) for intervals in own]
        metadata["observed_seconds"] = [intervals.coalesce().duration for intervals in own]
    spikes = {
        n: nap.Ts(times[a:b], time_support=own)
        for n, (a, b, own) in enumerate(zip(np.r_[0, ends[:-1]], ends, supports, strict=True))
    }
    for name, values in units.columns.items():
        metadata[f"{name}{SUFFIX}" if name in TAKEN else name] = values if values.ndim == 1 else list(values)
    kept = sum(map(len, spikes.values()))
    if kept < len(times):
        found = f"{len(times) - kept} outside"
        raise InputError(session.session_id, "spikes", "all in observed time of their unit", found)

    # without the check, which would give all units the group's time support
    return nap.TsGroup(spikes, time_support=support, bypass_check=True, metadata=metadata)


def _support(nap: Any, intervals: Intervals) -> Any:
    segments = intervals.coalesce()

    return nap.IntervalSet(segments.start, np.nextafter(segments.end, -np.inf))


def _frame(nap: Any, covariate: Covariate) -> Any:
    C = len(covariate.dims)
    about = {"unit": [covariate.unit] * C, "path": [covariate.path] * C, "angular": [covariate.angular] * C}

    return nap.TsdFrame(covariate.timestamps, covariate.values, columns=list(covariate.dims), metadata=about)


def _table(nap: Any, table: Intervals) -> Any:
    """Returns a table as IntervalSet if this preserves all rows, else as pandas DataFrame."""
    columns = {name: values if values.ndim == 1 else list(values) for name, values in table.columns.items()}
    rows = np.stack([table.start, np.nextafter(table.end, -np.inf)], 1)
    found = nap.IntervalSet(*rows.T)
    if found.values.shape == rows.shape and np.all(found.values == rows):
        return nap.IntervalSet(*rows.T, metadata=columns)
    import pandas

    return pandas.DataFrame({"start": table.start, "end": table.end} | columns)


def from_pynapple(
    units: Any,
    covariates: Mapping[str, Any] | None = None,
    intervals: Any = None,
    *,
    session_id: str,
    subject: str,
    task: str = "",
) -> Session:
    """Returns a session from pynapple objects; it inverts `to_pynapple`.

    Arguments:
        units: TsGroup of spike times. Its time support is the observed time, and that of each unit its own; pynapple's
            default is the time from the first to the last spike.
        covariates: Tsd or TsdFrame by name.
        intervals: IntervalSet, or DataFrame with ``start`` and ``end``, by name; a single one without name for trials.
        session_id: Identifier, unique in a store.
        subject: Subject identifier.
        task: Task name.

    Raises:
        InputError: if an object has another type, or there is no unit.

    Example:
        >>> from_pynapple(data["units"], {"ry": data["ry"]}, session_id="a", subject="x")  # doctest: +SKIP
    """
    nap = _pynapple()
    dropped: list[str] = []
    if not isinstance(units, nap.TsGroup) or len(units) == 0:
        found = "none" if isinstance(units, nap.TsGroup) else type(units).__name__
        raise InputError(session_id, "units", "a TsGroup of at least one unit", found)
    if intervals is not None and not isinstance(intervals, Mapping):
        intervals = {"trials": intervals}
    times = [np.asarray(units[key].t, np.float64) for key in units.index]
    unit_index = np.repeat(np.arange(len(times), dtype=np.int32), list(map(len, times)))
    order = np.argsort(np.concatenate(times), kind="stable")  # equal times stay in order of unit

    return Session(
        session_id=session_id,
        subject=subject,
        task=task,
        spikes=Spikes(timestamps=np.concatenate(times)[order], unit_index=unit_index[order]),
        units=_units(units, session_id, dropped),
        observed=_intervals(units.time_support).coalesce(),
        covariates={name: _covariate(nap, name, series, session_id) for name, series in (covariates or {}).items()},
        intervals={name: _rows(nap, name, table, session_id, dropped) for name, table in (intervals or {}).items()},
        dropped=tuple(dropped),
    )


def _intervals(found: Any) -> Intervals:
    return Intervals(found.start, np.nextafter(found.end, np.inf))


def _units(group: Any, session_id: str, dropped: list[str]) -> Units:
    columns = _columns(group.metadata.drop(columns=["rate", "observed_seconds"], errors="ignore"), "units", dropped)
    ids = columns.pop("unit_id", np.array([f"{session_id}/unit/{key:05d}" for key in group.index]))
    for name in TAKEN:
        if f"{name}{SUFFIX}" in columns:
            columns[name] = columns.pop(f"{name}{SUFFIX}")
    whole = _intervals(group.time_support)
    own = [_intervals(group[key].time_support) for key in group.index]
    observed = None if all(equal(intervals, whole) for intervals in own) else joined(own)

    return Units(id=ids.astype(np.str_), columns=dict(sorted(columns.items())), observed=observed)


def _columns(frame: Any, where: str, dropped: list[str]) -> dict[str, NDArray[np.generic]]:
    """Returns the columns of numbers, text or arrays of equal shape."""
    columns = {}
    for name in frame.columns:
        values = frame[name].to_numpy()
        if values.dtype.kind == "O":
            text = all(isinstance(value, str) for value in values)
            shapes = {np.shape(value) for value in values}
            values = np.array(values.tolist()) if text or (len(shapes) == 1 and () not in shapes) else values
        if values.dtype.kind in "biufU":
            columns[str(name)] = values
        else:
            dropped.append(f"{where}/{name}: a column of this kind is not read")

    return columns


def _rows(nap: Any, name: str, table: Any, session_id: str, dropped: list[str]) -> Intervals:
    if isinstance(table, nap.IntervalSet):
        rows = _intervals(table)
        return Intervals(rows.start, rows.end, _columns(table.metadata, name, dropped))
    columns = _columns(table, name, dropped) if hasattr(table, "columns") else {}
    if not {"start", "end"} <= columns.keys():
        found = f"{type(table).__name__} of {', '.join(columns) or 'none'}"
        raise InputError(session_id, name, "an IntervalSet, or a DataFrame with start and end", found)
    try:
        return Intervals(columns.pop("start"), columns.pop("end"), columns)
    except ValueError as error:
        raise InputError(session_id, name, "rows that end at or after their start", error) from error


def _covariate(nap: Any, name: str, series: Any, session_id: str) -> Covariate:
    if not isinstance(series, nap.Tsd | nap.TsdFrame):
        raise InputError(session_id, f"covariates/{name}", "a Tsd or TsdFrame", type(series).__name__)
    frame = isinstance(series, nap.TsdFrame)
    values = np.asarray(series.values) if frame else np.asarray(series.values)[:, None]
    about = {key: series.metadata[key].iloc[0] for key in series.metadata.columns} if frame else {}

    return Covariate(
        name=name,
        path=str(about.get("path", name)),
        timestamps=np.asarray(series.t, np.float64),
        values=values.astype(values.dtype if values.dtype.kind == "f" else np.float64),
        dims=tuple(map(str, series.columns)) if frame else (name,),
        unit=str(about.get("unit", "")),
        angular=bool(about.get("angular", False)),
    )

"""Makes a `Session` from arrays of spike times or counts, and of behaviour."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ndt.data.read.context import by_unit, equal, joined, observed_spikes
from ndt.data.read.counted import Bins, ObservedSpikes, check_counts, lay_bins, lay_spikes
from ndt.data.splits import within
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Covariate, Session, Units

__all__ = ["Series", "Table", "from_arrays"]

Times = NDArray[np.float64]
Table = Intervals | Mapping[str, Any] | ArrayLike  # intervals; start, end and columns by name; or rows of start and end
Series = Covariate | tuple[ArrayLike, ArrayLike] | ArrayLike  # timestamps and values; or a value a bin


def from_arrays(
    spikes: Sequence[ArrayLike] | ArrayLike,
    *,
    session_id: str,
    subject: str = "",
    unit_index: ArrayLike | None = None,
    bin_size: float | None = None,
    start: ArrayLike = 0.0,
    observed: Table | None = None,
    unit_observed: Intervals | Sequence[Table] | None = None,
    unit_columns: Mapping[str, ArrayLike] | None = None,
    covariates: Mapping[str, Series] | None = None,
    trials: Table | None = None,
    intervals: Mapping[str, Table] | None = None,
    task: str = "",
    angular: Collection[str] = (),
    units: Mapping[str, str] | None = None,
    source: Mapping[str, Any] | None = None,
) -> Session:
    """Returns a session made from arrays. All times are in seconds on one clock; intervals are half-open.

    Arguments:
        spikes: Spike times, one array per unit; or flat times with `unit_index`; or with `bin_size` counts, bins by
            units, (T, N). A count of c becomes c spikes at the centre of its bin; NaN means that the unit was not
            observed in that bin.
        session_id: Name of the recording, unique in a store.
        subject: Name of the subject; by default that of the recording.
        unit_index: Unit of each flat spike, from 0; the number of units is the length of `unit_columns` if given, else
            the largest index plus one.
        bin_size: Width of the bins of counts in seconds.
        start: Start of the first bin of counts, or of each, (T,); longer steps are gaps.
        observed: Observed time: rows of start and end, (M, 2). By default the bins of counts, or the time from the
            first to the last spike, with a warning.
        unit_observed: Observed time of each unit: such rows for each of N units; or intervals with a column
            `unit_index`.
        unit_columns: Columns of units, each of length N, such as `electrode` (whole, -1 for none), `group`, `location`
            and `heldout`; `id` identifies units across recordings.
        covariates: By name, timestamps (M,) and values (M,) or (M, C), NaN if missing; with counts, values alone for
            one value per bin; or a `Covariate`.
        trials: The table of trials: rows of start and end; or a mapping with `start`, `end` and further columns.
        intervals: Further tables by name.
        task: Name of the task.
        angular: Names of covariates that are angles in radians.
        units: Physical unit of covariates by name.
        source: Origin of the arrays: `path`, `sha256` …

    Raises:
        InputError: for any error in an array, with its name.

    Example:
        >>> from_arrays([[0.1, 0.2], [0.15]], session_id="s", observed=[[0, 1]]).spikes.unit_index
        array([0, 1, 0], dtype=int32)
    """
    where = str((source or {}).get("path", session_id))
    columns = {name: _column(values, where, f"unit_columns/{name}") for name, values in (unit_columns or {}).items()}
    seen = _Seen(where, None if observed is None else _rows(observed, where, "observed").coalesce(), unit_observed)
    bins: Bins | None = None
    if bin_size is None:
        events = _timed(spikes, unit_index, len(next(iter(columns.values()), ())), seen)
    else:
        bins, events = _counted(spikes, unit_index, float(bin_size), start, seen)
    if len(events.observed) == 0:
        raise InputError(where, "observed", "some observed time", "none")
    tables = {**(intervals or {}), **({} if trials is None else {"trials": trials})}

    return Session(
        session_id=session_id,
        subject=subject or session_id,
        task=task,
        spikes=events.spikes,
        units=_units(columns, events, session_id, where),
        observed=events.observed,
        covariates=_covariates(covariates or {}, bins, angular, units or {}, where),
        intervals={name: _rows(tables[name], where, name) for name in sorted(tables)},
        source=dict(source or {}),
        dropped=tuple(seen.dropped),
        warnings=tuple(seen.warnings),
        count_bin=0.0 if bins is None else bins.width,
    )


@dataclass(frozen=True)
class _Seen:
    """Observed time as the caller gives it, the name of the recording in errors, and messages; grows."""

    where: str
    whole: Intervals | None
    of_units: Intervals | Sequence[Table] | None
    dropped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def each(self, N: int) -> list[Intervals] | None:
        """Returns the observed time of each of N units, within the whole; None if it is the same for all."""
        given, where = self.of_units, self.where
        if given is None:
            return None
        if isinstance(given, Intervals):
            owner: NDArray[Any] = np.asarray(given.columns.get("unit_index", ()))
            if len(owner) != len(given) or owner.dtype.kind not in "iu" or np.any((owner < 0) | (owner >= N)):
                raise InputError(where, "unit_observed", f"a column unit_index of rows of {N} units", "none or others")
            rows = by_unit(_rows(given, where, "unit_observed"), N)
        else:
            rows = [_rows(table, where, f"unit_observed[{n}]") for n, table in enumerate(given)]
        if len(rows) != N:
            raise InputError(where, "unit_observed", f"one table for each of {N} units", len(rows))

        return [own.coalesce() if self.whole is None else own & self.whole for own in rows]


def _timed(spikes: Any, unit_index: ArrayLike | None, num_rows: int, seen: _Seen) -> ObservedSpikes:
    if unit_index is not None:
        times, unit, N = _flat(spikes, unit_index, num_rows, seen.where)
    else:
        trains = _trains(spikes, seen.where)
        N = len(trains)
        times, unit = np.concatenate(trains), np.repeat(np.arange(N), list(map(len, trains)))
    unsorted = np.unique(unit[1:][(np.diff(times) < 0) & (np.diff(unit) == 0)])
    if len(unsorted):
        seen.warnings.append(f"spikes: times of {len(unsorted)} of {N} units do not ascend, and were sorted")
        times = times[np.lexsort((times, unit))]
    whole, each = seen.whole, seen.each(N)
    of_units = None if each is None else joined(each)
    if each is not None:
        whole = joined(each).coalesce()
        of_units = None if all(equal(own, whole) for own in each) else of_units
    elif whole is None:
        if len(times) == 0:
            raise InputError(seen.where, "observed", "when the recording ran, since there is no spike", "none")
        whole = Intervals(times.min(), np.nextafter(times.max(), np.inf))
        seen.warnings.append(
            f"observed: not given; observed time is taken to be that from the first to the last spike, "
            f"{times.min():.6g} to {times.max():.6g} s"
        )
    kept = observed_spikes(times, unit, whole, of_units)
    if lost := len(times) - len(kept.timestamps):
        seen.dropped.append(f"spikes: {lost} of {len(times)} spikes lie outside observed time")

    return ObservedSpikes(kept, whole, of_units, N)


def _trains(spikes: Any, where: str) -> list[Times]:
    """Returns the spike times of each unit."""
    if isinstance(spikes, np.ndarray) and spikes.dtype != object:
        expected = "one array of times for each unit, flat times with unit_index, or counts with bin_size"
        raise InputError(where, "spikes", expected, f"an array of shape {spikes.shape}")
    trains = [_times(train, where, f"spikes[{n}]") for n, train in enumerate(spikes)]
    if not trains:
        raise InputError(where, "spikes", "at least one unit", "none")

    return trains


def _flat(spikes: Any, unit_index: ArrayLike, num_rows: int, where: str) -> tuple[Times, NDArray[np.int64], int]:
    """Returns flat spikes ordered by unit, those of a unit in the given order, and the number of units."""
    times, unit = _times(spikes, where, "spikes"), _array(unit_index, where, "unit_index")
    if unit.shape != times.shape or unit.dtype.kind not in "iu":
        expected = f"a whole number for each of {len(times)} spikes"
        raise InputError(where, "unit_index", expected, f"shape {unit.shape} of type {unit.dtype}")
    N = num_rows or (int(unit.max()) + 1 if len(unit) else 0)
    bad = unit[(unit < 0) | (unit >= N)]
    if len(bad) or N == 0:
        expected = f"rows of {N} units, from 0" if N else "units"
        raise InputError(where, "unit_index", expected, bad[0] if len(bad) else "none")
    order = np.argsort(unit, kind="stable")

    return times[order], unit[order].astype(np.int64), N


def _times(values: ArrayLike, where: str, name: str) -> Times:
    times = _array(values, where, name)
    if times.size == 0 and times.ndim <= 1:
        return np.zeros(0)
    if times.ndim != 1 or times.dtype.kind not in "biuf":
        raise InputError(where, name, "times in seconds, (S,)", f"shape {times.shape} of type {times.dtype}")
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        raise InputError(where, name, "finite seconds", f"{times[bad[0]]} at {bad[0]}")

    return times.astype(np.float64)


def _counted(
    spikes: Any, unit_index: ArrayLike | None, bin_size: float, start: ArrayLike, seen: _Seen
) -> tuple[Bins, ObservedSpikes]:
    if unit_index is not None:
        raise InputError(seen.where, "unit_index", "none beside counts, whose columns are the units", "one")
    counts, valid = check_counts(_array(spikes, seen.where, "spikes"), seen.where)
    bins = lay_bins(_array(start, seen.where, "start"), bin_size, len(counts), seen.where)
    begin, end, slack = bins.start, bins.start + bins.width, 1e-6 * bins.width
    if seen.whole is not None:
        valid &= within(begin, end, seen.whole, slack)[:, None]
    for n, own in enumerate(seen.each(counts.shape[1]) or ()):
        valid[:, n] &= within(begin, end, own, slack)
    if lost := int(counts[~valid].sum()):
        seen.dropped.append(f"spikes: {lost} of {counts.sum()} spikes lie in bins outside observed time")

    return bins, lay_spikes(counts, valid, bins)


def _rows(table: Table, where: str, name: str) -> Intervals:
    """Returns a table of intervals with its rows in the given order."""
    columns: dict[str, NDArray[np.generic]] = {}
    if isinstance(table, Intervals):
        start, end, columns = table.start, table.end, table.columns
    elif isinstance(table, Mapping):
        if not {"start", "end"} <= set(table):
            raise InputError(where, name, "columns start and end", ", ".join(map(str, table)) or "none")
        start, end = (_times(table[side], where, f"{name}/{side}") for side in ("start", "end"))
        rest = {key: values for key, values in table.items() if key not in ("start", "end")}
        columns = {key: _column(values, where, f"{name}/{key}") for key, values in rest.items()}
    else:
        rows = _array(table, where, name)
        rows = rows.reshape(0, 2) if rows.size == 0 else rows
        if rows.ndim != 2 or rows.shape[1] != 2 or rows.dtype.kind not in "biuf":
            raise InputError(where, name, "rows of start and end, (M, 2)", f"shape {rows.shape} of type {rows.dtype}")
        start, end = rows.astype(np.float64).T
    if len(start) != len(end) or not np.all(np.isfinite(start) & np.isfinite(end) & (end >= start)):
        raise InputError(where, name, "as many starts as ends, finite, none after its end", "others")
    for key, values in columns.items():
        if len(values) != len(start):
            raise InputError(where, f"{name}/{key}", f"one value for each of {len(start)} rows", len(values))

    return Intervals(start, end, columns)


def _column(values: ArrayLike, where: str, name: str) -> NDArray[np.generic]:
    """Returns a column as numbers or text."""
    column = _array(values, where, name)
    if column.dtype == object and all(isinstance(value, str) for value in column.ravel()):
        column = column.astype(np.str_)
    elif column.dtype.kind == "S":
        flat = [value.decode("utf-8", "replace") for value in column.ravel().tolist()]
        column = np.array(flat, np.str_).reshape(column.shape)
    if column.ndim not in (1, 2) or column.dtype.kind not in "biufU":
        raise InputError(where, name, "a number or a text a row", f"shape {column.shape} of type {column.dtype}")

    return column


def _array(values: Any, where: str, name: str) -> NDArray[Any]:
    """Returns an array; rows of different lengths are an error."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(where, name, "an array", "rows of different lengths") from error


def _units(columns: dict[str, NDArray[np.generic]], events: ObservedSpikes, session_id: str, where: str) -> Units:
    N = events.num_units
    for name, values in columns.items():
        if len(values) != N:
            raise InputError(where, f"unit_columns/{name}", f"one value for each of {N} units", len(values))
    named = {name: values for name, values in sorted(columns.items()) if name != "id"}
    identity = np.array([f"{session_id}/unit/{n:05d}" for n in range(N)], np.str_)
    if "id" in columns:
        identity = columns["id"].astype(np.str_)
        values, times = np.unique(identity, return_counts=True)
        if len(values) < N:
            raise InputError(where, "unit_columns/id", "another value for each unit", f"{values[times > 1][0]} twice")

    return Units(id=identity, columns=named, observed=events.of_units)


def _covariates(
    series: Mapping[str, Series], bins: Bins | None, angular: Collection[str], units: Mapping[str, str], where: str
) -> dict[str, Covariate]:
    unknown = sorted({*angular, *units} - set(series))
    if unknown:
        known = ", ".join(sorted(series)) or "none"
        raise InputError(where, "angular or units", f"names of covariates: {known}", repr(unknown[0]))

    return {
        name: _covariate(name, series[name], bins, name in angular, units.get(name), where) for name in sorted(series)
    }


def _covariate(name: str, series: Series, bins: Bins | None, angular: bool, unit: str | None, where: str) -> Covariate:
    field, dims, path = f"covariates/{name}", None, name
    if isinstance(series, Covariate):
        times, values, dims, path = series.timestamps, series.values, series.dims, series.path
        angular, unit = angular or series.angular, series.unit if unit is None else unit
    elif isinstance(series, tuple):
        if len(series) != 2:
            raise InputError(where, field, "a pair of timestamps and values", f"{len(series)} things")
        times, values = _times(series[0], where, f"{field}/timestamps"), _array(series[1], where, field)
    elif bins is None:
        raise InputError(where, field, "a pair of timestamps and values; values alone go with counts", "values alone")
    else:
        times, values = bins.centre, _array(series, where, field)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "biuf" or len(values) != len(times):
        expected = f"numbers, ({len(times)},) or ({len(times)}, C)"
        raise InputError(where, field, expected, f"shape {values.shape} of type {values.dtype}")
    if len(times) < 2 or np.any(np.diff(times) < 0):
        found = f"{len(times)}" if len(times) < 2 else f"a step of {np.diff(times).min():g} s"
        raise InputError(where, f"{field}/timestamps", "at least 2 that do not descend", found)
    if np.any(np.isinf(values)):
        raise InputError(where, field, "finite values, or NaN where missing", "an infinite one")

    return Covariate(
        name=name,
        path=path,
        timestamps=times,
        values=values.astype(np.float32 if values.dtype == np.float32 else np.float64),
        dims=dims or ((name,) if values.shape[1] == 1 else tuple(map(str, range(values.shape[1])))),
        unit=unit or "",
        angular=angular,
    )

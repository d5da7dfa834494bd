"""The units table by h5py: spike times, and when each unit was observed.

Where these lie is fixed by the format, and reading them needs no pynwb.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.data.reading import Ragged, Reading
from ndt.intervals import Intervals

__all__ = [
    "by_unit",
    "cut",
    "inside",
    "invalid_times",
    "joined",
    "num_units",
    "observation",
    "spike_column",
    "spike_times",
]

Times = NDArray[np.float64]


def num_units(file: Any) -> int:
    """Returns the rows of the units table; 0 where there is none."""
    units = file.get("units")

    return 0 if units is None or "id" not in units else int(units["id"].shape[0])


def spike_column(file: Any, reading: Reading) -> Ragged | None:
    """Returns the column of spike times, not yet read; None where the file has no such column."""
    units = file.get("units")
    column = None if units is None else reading.ragged(units, "spike_times", num_units(file))
    if column is not None and len(np.shape(column.flat)) != 1:
        raise reading.error("units/spike_times", "one time a spike", f"shape {np.shape(column.flat)}")

    return column


def spike_times(column: Ragged, reading: Reading) -> tuple[Times, NDArray[np.int64]]:
    """Returns all S spike times in seconds, unit after unit, and the unit of each.

    Raises:
        InputError: if a time is not finite, or times of a unit descend.
    """
    times = reading.array(column.flat, "units/spike_times", np.float64)
    unit = np.repeat(np.arange(len(column.ends)), column.lengths)
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        raise reading.error("units/spike_times", "finite seconds", f"{times[bad[0]]} in unit {unit[bad[0]]}")
    bad = np.flatnonzero((np.diff(times) < 0) & (unit[1:] == unit[:-1]))
    if len(bad):
        found = f"{times[bad[0] + 1]:.9g} s after {times[bad[0]]:.9g} s in unit {unit[bad[0]]}"
        raise reading.error("units/spike_times", "ascending times in each unit", found)

    return times, unit


def observation(file: Any, reading: Reading) -> tuple[Intervals, Intervals | None] | None:
    """Returns when any unit was observed, and when each one was, or None for the latter if that is the same for all.

    None where the file does not say.
    """
    units = file.get("units")
    column = None if units is None else reading.ragged(units, "obs_intervals", num_units(file))
    if column is None or np.shape(column.flat)[0] == 0:
        return None
    rows = reading.array(column.flat, "units/obs_intervals", np.float64)
    if rows.ndim != 2 or rows.shape[1] != 2 or not np.all(_good_rows(rows)):
        raise reading.error("units/obs_intervals", "pairs of start and end, finite, in that order", _bad_row(rows))
    N, lengths = len(column.ends), column.lengths
    if np.all(lengths == lengths[0]) and np.ptp(rows.reshape(N, -1, 2), axis=0).max() == 0:
        return Intervals(*rows[: lengths[0]].T).coalesce(), None

    start, end = rows.T
    of_units = Intervals(start, end, {"unit_index": np.repeat(np.arange(N, dtype=np.int32), lengths)})

    return Intervals(start, end).coalesce(), of_units


def _good_rows(rows: Times) -> NDArray[np.bool_]:
    return np.isfinite(rows).all(axis=1) & (rows[:, 1] >= rows[:, 0])


def _bad_row(rows: Times) -> str:
    if rows.ndim != 2 or rows.shape[1] != 2:
        return f"shape {rows.shape}"
    return str(rows[~_good_rows(rows)][0].tolist())


def invalid_times(file: Any, reading: Reading) -> Intervals:
    """Returns the rows of ``intervals/invalid_times`` that have both times, in that order."""
    table = file.get("intervals/invalid_times")
    if table is None or "start_time" not in table or "stop_time" not in table:
        return Intervals.empty()
    path = "intervals/invalid_times"
    start, end = (reading.array(table[name], f"{path}/{name}", np.float64) for name in ("start_time", "stop_time"))
    if start.shape != end.shape or start.ndim != 1:
        raise reading.error(path, "a start and a stop in each row", f"{start.shape} starts and {end.shape} stops")
    good = end >= start  # NaN: not

    return Intervals(start[good], end[good])


def cut(
    observed: Intervals, of_units: Intervals | None, invalid: Intervals, unit: NDArray[np.integer] | None, N: int
) -> tuple[Intervals, Intervals | None]:
    """Returns observed time without invalid times.

    Arguments:
        observed: When any unit was observed.
        of_units: When each one was; None for all alike.
        invalid: What to cut out.
        unit: The units that it concerns; None for all.
        N: Number of units.
    """
    if len(invalid) == 0:
        return observed, of_units
    if of_units is None and unit is None:
        return observed - invalid, None
    chosen = set(range(N) if unit is None else unit.tolist())
    whole = observed.coalesce()
    each = [whole] * N if of_units is None else by_unit(of_units, N)
    pieces = joined([own - invalid if n in chosen else own for n, own in enumerate(each)])

    return pieces.coalesce(), pieces


def joined(each: Sequence[Intervals]) -> Intervals:
    """Returns each unit's intervals as one table, with a column ``unit_index``."""
    owner = np.repeat(np.arange(len(each), dtype=np.int32), list(map(len, each)))
    start, end = (np.concatenate([getattr(own, side) for own in each]) for side in ("start", "end"))

    return Intervals(start, end, {"unit_index": owner})


def by_unit(of_units: Intervals, N: int) -> list[Intervals]:
    """Returns each of N units' own intervals, as they are."""
    owner = of_units.columns["unit_index"]
    order = np.argsort(owner, kind="stable")
    edges = np.searchsorted(owner[order], np.arange(N + 1))
    rows = [order[a:b] for a, b in pairwise(edges)]

    return [Intervals(of_units.start[r], of_units.end[r]) for r in rows]


def inside(times: Times, unit: NDArray[np.int64], observed: Intervals, of_units: Intervals | None) -> NDArray[np.bool_]:
    """Returns for each spike whether its unit was observed then, (S,); spikes come unit after unit."""
    if of_units is None:
        return observed.contains(times)
    within = np.zeros(len(times), bool)
    for n, own in enumerate(by_unit(of_units, int(unit[-1]) + 1 if len(unit) else 0)):
        rows = slice(*np.searchsorted(unit, [n, n + 1]))
        within[rows] = own.contains(times[rows])

    return within

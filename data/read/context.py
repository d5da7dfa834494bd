"""One NWB file by h5py: its limits, what has to be said of it, and its units table.

Where spike times and observation lie is fixed by the format, and reading them needs no pynwb, so that a file of any
size becomes counts at the speed of its storage (`ndt.data.counts`).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Spikes

__all__ = [
    "LONGEST",
    "Ragged",
    "ReadContext",
    "by_unit",
    "cut",
    "invalid_times",
    "joined",
    "named",
    "num_units",
    "observation",
    "observed_spikes",
    "slope_of",
    "spike_column",
    "spike_times",
]

Times = NDArray[np.float64]

GIB = 1 << 30
LONGEST = 200  # characters of what was found: hdmf prints whole objects


def named(path: str, wanted: tuple[str, ...]) -> bool:
    """Whether a path is one of those wanted, each a path or the end of one; ``*`` and ``?`` stand for others."""
    return any(fnmatchcase(f"/{path}", f"*/{slope_of(name) or name}") for name in wanted)


def slope_of(word: str) -> str | None:
    """Returns what ``name=diff(OF)`` is the rate of change of; None for any other word."""
    found = re.fullmatch(r"[^=]+=diff\((.+)\)", word)

    return None if found is None else found[1]


@dataclass(frozen=True)
class Ragged:
    """A column whose rows have any length: row n is ``flat[ends[n - 1] : ends[n]]``.

    Arguments:
        flat: All rows one after another; an HDF5 dataset, or an array.
        ends: Where each of the N rows ends, (N,), not descending.
    """

    flat: Any
    ends: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each row, (N,)."""
        return np.diff(self.ends, prepend=0)


@dataclass
class ReadContext:
    """One file as it is read.

    Arguments:
        where: The file, for messages.
        max_gib: Largest array that is read, in GiB.
        dropped: One sentence for each thing that is left out; grows.
        warnings: One sentence for each thing that is kept and should be doubted; grows.
    """

    where: str
    max_gib: float = 8.0
    dropped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def error(self, name: str, expected: str, found: object) -> InputError:
        """Returns what to raise about a field of the file."""
        text = str(found)

        return InputError(self.where, name, expected, text if len(text) <= LONGEST else f"{text[:LONGEST]} …")

    def too_large(self, data: Any) -> str | None:
        """Returns how large an array says that it is, where that is more than is read; its data are not touched."""
        item = getattr(getattr(data, "dtype", None), "itemsize", 8) or 8
        gib = math.prod(map(int, np.shape(data))) * item / GIB

        return f"{gib:,.1f} GiB" if gib > self.max_gib else None

    def array(self, data: Any, name: str, dtype: Any = None) -> NDArray[Any]:
        """Returns a dataset as an array in memory.

        Raises:
            InputError: if it is larger than `max_gib`, cannot be read, or holds no numbers where a `dtype` is asked.
        """
        if (size := self.too_large(data)) is not None:
            raise self.error(name, f"at most {self.max_gib:g} GiB (max_gib)", size)
        kind = getattr(getattr(data, "dtype", None), "kind", None)
        if dtype is not None and kind is not None and kind not in "biuf":
            raise self.error(name, "numbers", f"dtype {data.dtype}")
        try:
            return np.asarray(data[:] if np.shape(data) else data, dtype)
        except (OSError, ValueError, TypeError) as error:
            raise self.error(name, "values that can be read", f"{type(error).__name__} {error}") from error

    def ragged(self, table: Any, name: str, num_rows: int) -> Ragged | None:
        """Returns a ragged column of a table in an HDF5 group, its index checked and its data not yet read.

        Raises:
            InputError: if the index is missing, descends, or does not end where the data end.
        """
        if name not in table:
            return None
        path, flat, index = f"units/{name}", table[name], table.get(f"{name}_index")
        if index is None:
            raise self.error(f"{path}_index", "an index that says where each unit's rows end", "none")
        ends = self.array(index, f"{path}_index", np.float64)
        if np.any(ends != np.floor(ends)) or np.any(np.abs(ends) > 2**52):  # NaN: not the same as itself
            raise self.error(f"{path}_index", "whole numbers", ends[ends != np.floor(ends)][:1])
        ends = ends.astype(np.int64)
        if np.ndim(ends) != 1 or len(ends) != num_rows:
            raise self.error(f"{path}_index", f"one value for each of {num_rows} units", f"shape {np.shape(ends)}")
        if np.any(np.diff(ends, prepend=0) < 0):
            raise self.error(f"{path}_index", "values that do not descend", ends[np.flatnonzero(np.diff(ends) < 0)[:1]])
        size = int(np.shape(flat)[0]) if np.shape(flat) else 0
        if num_rows and ends[-1] != size:
            raise self.error(f"{path}_index", f"to end at {size} values", int(ends[-1]))

        return Ragged(flat, ends)


def num_units(file: Any) -> int:
    """Returns the rows of the units table; 0 where there is none."""
    units = file.get("units")

    return 0 if units is None or "id" not in units else int(units["id"].shape[0])


def spike_column(file: Any, reading: ReadContext) -> Ragged | None:
    """Returns the column of spike times, not yet read; None where the file has no such column."""
    units = file.get("units")
    column = None if units is None else reading.ragged(units, "spike_times", num_units(file))
    if column is not None and len(np.shape(column.flat)) != 1:
        raise reading.error("units/spike_times", "one time a spike", f"shape {np.shape(column.flat)}")

    return column


def spike_times(column: Ragged, reading: ReadContext) -> tuple[Times, NDArray[np.int64]]:
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


def observation(file: Any, reading: ReadContext) -> tuple[Intervals, Intervals | None] | None:
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


def invalid_times(file: Any, reading: ReadContext) -> Intervals:
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
    segments = joined([own - invalid if n in chosen else own for n, own in enumerate(each)])

    return segments.coalesce(), segments


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


def observed_spikes(times: Times, unit: NDArray[np.integer], observed: Intervals, of_units: Intervals | None) -> Spikes:
    """Returns those of S spikes whose unit was observed then, ascending in time; spikes come unit after unit."""
    if of_units is None:
        keep = observed.contains(times)
    else:
        keep = np.zeros(len(times), bool)
        for n, own in enumerate(by_unit(of_units, int(unit[-1]) + 1 if len(unit) else 0)):
            rows = slice(*np.searchsorted(unit, [n, n + 1]))
            keep[rows] = own.contains(times[rows])
    order = np.flatnonzero(keep)[np.argsort(times[keep], kind="stable")]  # equal times stay in order of unit

    return Spikes(timestamps=times[order], unit_index=unit[order].astype(np.int32))

"""Reads spike times and observed intervals of an NWB file with h5py, and collects what is left out or doubtful.

The format fixes where these arrays lie, so that reading them needs no pynwb and is as fast as the storage.
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
    "equal",
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
    """Whether a path matches one of the patterns, each a path or the end of one, with ``*`` and ``?``."""
    return any(fnmatchcase(f"/{path}", f"*/{slope_of(name) or name}") for name in wanted)


def slope_of(word: str) -> str | None:
    """Returns ``OF`` of ``name=diff(OF)``, which asks for its rate of change; None for any other word."""
    found = re.fullmatch(r"[^=]+=diff\((.+)\)", word)

    return None if found is None else found[1]


@dataclass(frozen=True)
class Ragged:
    """A ragged column: row n is ``flat[ends[n - 1] : ends[n]]``.

    Arguments:
        flat: All rows, concatenated; an HDF5 dataset, or an array.
        ends: End of each row in `flat`, (N,), not descending.
    """

    flat: Any
    ends: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each row, (N,)."""
        return np.diff(self.ends, prepend=0)


@dataclass
class ReadContext:
    """The file that is being read: its name and limits, and messages about its content.

    Arguments:
        where: The file, for messages.
        max_gib: Largest array that is read, in GiB.
        dropped: One sentence for each item that is left out; grows.
        warnings: One sentence for each item that is kept but doubtful; grows.
    """

    where: str
    max_gib: float = 8.0
    dropped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def error(self, name: str, expected: str, found: object) -> InputError:
        """Returns the error to raise about a field of the file."""
        text = str(found)

        return InputError(self.where, name, expected, text if len(text) <= LONGEST else f"{text[:LONGEST]} …")

    def too_large(self, data: Any) -> str | None:
        """Returns the declared size of an array that is larger than the limit, else None; its data are not read."""
        item = getattr(getattr(data, "dtype", None), "itemsize", 8) or 8
        gib = math.prod(map(int, np.shape(data))) * item / GIB

        return f"{gib:,.1f} GiB" if gib > self.max_gib else None

    def array(self, data: Any, name: str, dtype: Any = None) -> NDArray[Any]:
        """Returns a dataset as an array in memory.

        Raises:
            InputError: if it is larger than `max_gib`, cannot be read, or is not numeric although a `dtype` is given.
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
        """Returns a ragged column of the units table; its index is checked, its data are not read yet.

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
    """Returns the number of rows of the units table; 0 if there is no table."""
    units = file.get("units")

    return 0 if units is None or "id" not in units else int(units["id"].shape[0])


def spike_column(file: Any, context: ReadContext) -> Ragged | None:
    """Returns the column of spike times, not yet read; None if the file has no such column."""
    units = file.get("units")
    column = None if units is None else context.ragged(units, "spike_times", num_units(file))
    if column is not None and len(np.shape(column.flat)) != 1:
        raise context.error("units/spike_times", "one time a spike", f"shape {np.shape(column.flat)}")

    return column


def spike_times(column: Ragged, context: ReadContext) -> tuple[Times, NDArray[np.int64]]:
    """Returns all S spike times in seconds, ordered by unit, and the unit of each.

    Raises:
        InputError: if a time is not finite, or times of a unit descend.
    """
    times = context.array(column.flat, "units/spike_times", np.float64)
    unit = np.repeat(np.arange(len(column.ends)), column.lengths)
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        raise context.error("units/spike_times", "finite seconds", f"{times[bad[0]]} in unit {unit[bad[0]]}")
    bad = np.flatnonzero((np.diff(times) < 0) & (unit[1:] == unit[:-1]))
    if len(bad):
        found = f"{times[bad[0] + 1]:.9g} s after {times[bad[0]]:.9g} s in unit {unit[bad[0]]}"
        raise context.error("units/spike_times", "ascending times in each unit", found)

    return times, unit


def observation(file: Any, context: ReadContext) -> tuple[Intervals, Intervals | None] | None:
    """Returns the time when any unit was observed, and each unit's own, or None for the latter if all are equal.

    Returns None if the file has no observed intervals.
    """
    units = file.get("units")
    column = None if units is None else context.ragged(units, "obs_intervals", num_units(file))
    if column is None or np.shape(column.flat)[0] == 0:
        return None
    rows = context.array(column.flat, "units/obs_intervals", np.float64)
    expected = "pairs of start and end, finite, in that order"
    if rows.ndim != 2 or rows.shape[1] != 2:
        raise context.error("units/obs_intervals", expected, f"shape {rows.shape}")
    good = np.isfinite(rows).all(axis=1) & (rows[:, 1] >= rows[:, 0])
    if not good.all():
        raise context.error("units/obs_intervals", expected, rows[~good][0].tolist())
    N, lengths = len(column.ends), column.lengths
    if np.all(lengths == lengths[0]) and np.ptp(rows.reshape(N, -1, 2), axis=0).max() == 0:
        return Intervals(*rows[: lengths[0]].T).coalesce(), None

    start, end = rows.T
    of_units = Intervals(start, end, {"unit_index": np.repeat(np.arange(N, dtype=np.int32), lengths)})

    return Intervals(start, end).coalesce(), of_units


def cut(
    observed: Intervals, of_units: Intervals | None, invalid: Intervals, unit: NDArray[np.integer] | None, N: int
) -> tuple[Intervals, Intervals | None]:
    """Returns observed time, and each unit's own, without invalid times.

    Arguments:
        observed: Time when any unit was observed.
        of_units: Each unit's observed time; None if all are equal.
        invalid: Intervals to remove.
        unit: The units that they concern; None for all.
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
    """Returns a table of all units' intervals, with a column ``unit_index``."""
    owner = np.repeat(np.arange(len(each), dtype=np.int32), list(map(len, each)))
    start, end = (np.concatenate([getattr(own, side) for own in each]) for side in ("start", "end"))

    return Intervals(start, end, {"unit_index": owner})


def equal(a: Intervals, b: Intervals) -> bool:
    """Whether two tables have the same rows."""
    return len(a) == len(b) and bool(np.all((a.start == b.start) & (a.end == b.end)))


def by_unit(of_units: Intervals, N: int) -> list[Intervals]:
    """Returns the intervals of each of N units from a table with a column ``unit_index``."""
    owner = of_units.columns["unit_index"]
    order = np.argsort(owner, kind="stable")
    edges = np.searchsorted(owner[order], np.arange(N + 1))
    rows = [order[a:b] for a, b in pairwise(edges)]

    return [Intervals(of_units.start[r], of_units.end[r]) for r in rows]


def observed_spikes(times: Times, unit: NDArray[np.integer], observed: Intervals, of_units: Intervals | None) -> Spikes:
    """Returns the spikes that lie in their unit's observed time, ascending in time.

    Arguments:
        times: Spike times in seconds, ordered by unit, (S,).
        unit: Unit of each spike, ascending, (S,).
        observed: Time when any unit was observed.
        of_units: Each unit's observed time; None if all are equal.
    """
    if of_units is None:
        keep = observed.contains(times)
    else:
        keep = np.zeros(len(times), bool)
        for n, own in enumerate(by_unit(of_units, int(unit[-1]) + 1 if len(unit) else 0)):
            rows = slice(*np.searchsorted(unit, [n, n + 1]))
            keep[rows] = own.contains(times[rows])
    order = np.flatnonzero(keep)[np.argsort(times[keep], kind="stable")]  # equal times stay in order of unit

    return Spikes(timestamps=times[order], unit_index=unit[order].astype(np.int32))

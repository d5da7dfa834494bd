"""The trials that the Neural Latents Benchmark cuts from a recording, and their spikes, bin by bin."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ndt.data.splits import split, within
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.nlb_tasks import NlbTask
from ndt.rates import observed_bins
from ndt.session import Session, Spikes, Units
from ndt.spikes import bin_spikes, num_bins

__all__ = ["TABLE", "Trials", "as_population", "heldout_units", "select_trials", "unit_order"]

TABLE = "trials"
WHOLE = 1e-3  # of a bin: times of events that are meant to lie on a bin's edge differ from it by rounding

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trials:
    """M trials of one length, in bins on one grid.

    Arguments:
        table: The chosen rows of the session's trials, with their columns.
        start: Start of each trial's first bin in seconds, (M,).
        event: What each trial is aligned to, in seconds, (M,).
        bin_size: Width of bins in seconds.
        num_bins: Bins T that are seen.
        forward: Bins F after them.
    """

    table: Intervals
    start: Array
    event: Array
    bin_size: float
    num_bins: int
    forward: int

    def __len__(self) -> int:
        return len(self.start)

    def counts(self, session: Session) -> NDArray[np.float32]:
        """Returns spikes per bin in the order of the session's units, NaN where not observed, (M, T + F, N)."""
        T = self.num_bins + self.forward
        found = np.full((len(self), T, session.num_units), np.nan, np.float32)
        for m, start in enumerate(self.start):
            seen = observed_bins(session, float(start), self.bin_size, T)
            found[m][seen] = bin_spikes(session, float(start), self.bin_size, T)[seen]

        return found


def select_trials(session: Session, task: NlbTask, parts: Collection[str], bin_size: float) -> Trials:
    """Returns the trials of some parts of a session, in the order of its table.

    As in the benchmark's own preparation, bins lie on one grid from the zero of the file's clock: a trial's first bin
    is the first that begins at or after the start of its window, which it may follow by part of a bin.

    Arguments:
        session: The session; its table `trials` has a column `split` that names each trial's part. Without it, trials
            that lie wholly in the training block are ``train`` and those in the test block are ``val``.
        task: How they are cut.
        parts: Some of ``train``, ``val`` and ``test``. Trials without the event that they are aligned to are left out.
        bin_size: Bin width in seconds.

    Raises:
        InputError: if there is no such table or column, no such trial, trials of whole length differ in it, or spikes
            were counted in bins of which `bin_size` is no multiple.
    """
    where = session.source.get("path", session.session_id)
    if (counted := session.count_bin) and abs(bin_size / counted - max(round(bin_size / counted), 1)) > WHOLE:
        expected = f"a multiple of {counted * 1e3:g} ms, in which spikes were counted"
        raise InputError(where, "bin_size", expected, f"{bin_size * 1e3:g} ms")
    if TABLE not in session.intervals:
        raise InputError(where, TABLE, "a table of trials", ", ".join(session.intervals) or "no table")
    table = session.intervals[TABLE]
    event = table.start if task.align == "start" else _times(table, task.align, where)
    rows = np.isfinite(event) & _of_parts(session, table, parts)
    if not rows.any():
        raise InputError(where, TABLE, f"trials of {' and '.join(parts)} that have {task.align}", "none")
    table, event = table.select(rows), event[rows]
    begin, end = (0.0, _length(table, where, bin_size)) if task.window is None else task.window
    first = np.ceil(np.round((event + begin) / bin_size, 6))  # a millionth of a bin is rounding

    return Trials(
        table=table,
        start=first * bin_size,
        event=event,
        bin_size=bin_size,
        num_bins=num_bins(end - begin, bin_size),
        forward=num_bins(task.forward, bin_size),
    )


def _times(table: Intervals, name: str, where: object) -> Array:
    column = table.columns.get(name)
    if column is None or column.dtype.kind not in "fiu" or column.ndim != 1:
        listed = ", ".join(["start", *sorted(table.columns)])
        raise InputError(where, f"{TABLE}/{name}", f"a column of times in seconds, or one of {listed}", "none")

    return np.asarray(column, np.float64)


def _of_parts(session: Session, table: Intervals, parts: Collection[str]) -> NDArray[np.bool_]:
    column = table.columns.get("split")
    if column is not None:
        return np.isin(np.char.lower(np.asarray(column).astype(np.str_)), sorted(parts))
    blocks = split(session, 0.0)
    found = np.zeros(len(table), bool)
    for part, block in (("train", blocks.train), ("val", blocks.test)):
        if part in parts:
            found |= within(table.start, table.end, block, 1e-6)

    return found


def _length(table: Intervals, where: object, bin_size: float) -> float:
    lengths = table.end - table.start
    if np.ptp(lengths) > WHOLE * bin_size:
        found = f"{lengths.min():g} to {lengths.max():g} s"
        raise InputError(where, TABLE, "trials of one length, or a task with a window", found)

    return float(np.median(lengths))


def heldout_units(session: Session) -> NDArray[np.bool_]:
    """Returns which units are held out, (N,).

    Raises:
        InputError: if units have no column `heldout`, or all or none are held out.
    """
    where, column = session.source.get("path", session.session_id), session.units.columns.get("heldout")
    if column is None:
        listed = ", ".join(sorted(session.units.columns)) or "none"
        raise InputError(where, "units/heldout", "a column that says which units are held out", f"columns: {listed}")
    heldout = np.asarray(column).astype(bool)
    if heldout.all() or not heldout.any():
        raise InputError(where, "units/heldout", "some units held out and some not", f"{heldout.sum()} held out")

    return heldout


def unit_order(session: Session) -> NDArray[np.int64]:
    """Returns units in the benchmark's order: by their id in the file where that is known, else as they lie, (N,)."""
    column = session.units.columns.get("nwb_id")
    if column is None or column.dtype.kind not in "iu":
        return np.arange(session.num_units)

    return np.argsort(column, kind="stable").astype(np.int64)


def as_population(session: Session, population: Session) -> Session:
    """Returns a recording with the units and the name of another; units that it lacks are not observed.

    The benchmark's test file holds the held-in units alone, and a model knows them, and the session, from the other.
    Units are the same that have the same id in the file, where both know it, else the same identity.

    Arguments:
        session: The recording, for example the test file.
        population: The other, for example the training file.

    Raises:
        InputError: if they share no unit.
    """
    keys = [s.units.columns.get("nwb_id") for s in (session, population)]
    if any(k is None or len(np.unique(k)) < len(k) for k in keys):
        keys = [session.units.id, population.units.id]
    place = {str(key): row for row, key in enumerate(np.asarray(keys[1]))}
    new = np.array([place.get(str(key), -1) for key in np.asarray(keys[0])], np.int64)
    if not (new >= 0).any():
        where = session.source.get("path", session.session_id)
        raise InputError(where, "units", f"some of the units of {population.session_id}", "none of them")
    unit = new[session.spikes.unit_index]
    known, own = unit >= 0, session.units.observed
    if own is None:
        pieces = session.observed.coalesce()
        n = np.flatnonzero(new >= 0)
        own = Intervals(
            np.tile(pieces.start, len(n)), np.tile(pieces.end, len(n)), {"unit_index": np.repeat(n, len(pieces))}
        )
    owner = new[np.asarray(own.columns["unit_index"], np.int64)]
    own = own.select(owner >= 0)
    observed = Intervals(own.start, own.end, {"unit_index": owner[owner >= 0]})

    return replace(
        session,
        session_id=population.session_id,
        subject=population.subject,
        task=population.task,
        spikes=Spikes(timestamps=session.spikes.timestamps[known], unit_index=unit[known]),
        units=Units(id=population.units.id, columns=population.units.columns, observed=observed),
    )

"""The trials of the Neural Latents Benchmark in a recording, and the targets of their predicted rates."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from scipy.signal.windows import gaussian

from ndt.data.covariates import matching_covariates, resample
from ndt.data.splits import split, within
from ndt.errors import InputError
from ndt.evaluation.nlb import NlbTask
from ndt.intervals import Intervals
from ndt.session import Session, Spikes, Units
from ndt.spikes import bin_spikes, num_bins, observed_bins

__all__ = ["Trials", "as_population", "nlb_targets", "select_trials", "unit_groups"]

TABLE = "trials"
WHOLE = 1e-3  # of a bin: tolerance to rounding of times on a bin's edge
FINE = 1e-3  # seconds: bins in which spikes are smoothed for PSTHs
REACH = 3  # standard deviations of the smoothing kernel on either side
SHORT = 0.8  # of the mean length of a condition's trials: shorter trials enter no PSTH

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trials:
    """M trials of one length, in bins on one grid.

    Arguments:
        table: The chosen rows of the session's trials, with their columns.
        start: Start of each trial's first bin in seconds, (M,).
        event: Time that each trial is aligned to, in seconds, (M,).
        bin_size: Width of bins in seconds.
        num_bins: Visible bins T.
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

    @property
    def bin_starts(self) -> Array:
        """Starts of the visible bins in seconds, (M, T)."""
        return self.start[:, None] + np.arange(self.num_bins) * self.bin_size

    def counts(self, session: Session) -> NDArray[np.float32]:
        """Returns spikes per bin in the order of the session's units, NaN if not observed, (M, T + F, N)."""
        T = self.num_bins + self.forward
        found = np.full((len(self), T, session.num_units), np.nan, np.float32)
        for m, start in enumerate(self.start):
            seen = observed_bins(session, float(start), self.bin_size, T)
            found[m][seen] = bin_spikes(session, float(start), self.bin_size, T)[seen]

        return found


def select_trials(session: Session, task: NlbTask, parts: Collection[str], bin_size: float) -> Trials:
    """Returns the trials of some parts of a session, in the order of its table.

    As in the benchmark's own code, bins lie on one grid from time 0 of the file's clock, and a trial's first bin is the
    first that begins at or after the start of its window.

    Arguments:
        session: The session; column `split` of its table `trials` names each trial's part. Without it, trials within
            the training split are ``train`` and those within the test split are ``val``.
        task: The task, which defines the window.
        parts: Some of ``train``, ``val`` and ``test``. Trials without the event that they are aligned to are left out.
        bin_size: Bin width in seconds.

    Raises:
        InputError: if the table, its column or the trials are missing, trials without a window differ in length, or
            `bin_size` is not a multiple of the bins of a recording of counts.
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
    first = np.ceil(np.round((event + begin) / bin_size, 6))  # tolerates rounding to a millionth of a bin

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
    splits = split(session, 0.0)
    found = np.zeros(len(table), bool)
    for part, intervals in (("train", splits.train), ("val", splits.test)):
        if part in parts:
            found |= within(table.start, table.end, intervals, 1e-6)

    return found


def _length(table: Intervals, where: object, bin_size: float) -> float:
    lengths = table.end - table.start
    if np.ptp(lengths) > WHOLE * bin_size:
        found = f"{lengths.min():g} to {lengths.max():g} s"
        raise InputError(where, TABLE, "trials of one length, or a task with a window", found)

    return float(np.median(lengths))


def unit_groups(session: Session) -> dict[str, NDArray[np.int64]]:
    """Returns unit indices under ``heldin`` and ``heldout``, in the benchmark's order: by the file's ids if known.

    Raises:
        InputError: if units have no column `heldout`, or all or none are held out.
    """
    where, column = session.source.get("path", session.session_id), session.units.columns.get("heldout")
    if column is None:
        listed = ", ".join(sorted(session.units.columns)) or "none"
        raise InputError(where, "units/heldout", "a column that marks held-out units", f"columns: {listed}")
    heldout = np.asarray(column).astype(bool)
    if heldout.all() or not heldout.any():
        raise InputError(where, "units/heldout", "some units held out and some not", f"{heldout.sum()} held out")
    ids = session.units.columns.get("nwb_id")
    if ids is None or ids.dtype.kind not in "iu":
        ids = np.arange(session.num_units)
    order = np.argsort(ids, kind="stable")

    return {"heldin": order[~heldout[order]], "heldout": order[heldout[order]]}


def as_population(session: Session, population: Session) -> Session:
    """Returns a recording with the units and the name of another; units that it lacks are not observed.

    The benchmark's test file holds the held-in units alone; a model knows them from the training file. Units match by
    their id in the file if both files have one, else by identity.

    Arguments:
        session: The recording, for example the test file.
        population: The other, for example the training file.

    Raises:
        InputError: if they share no unit.
    """
    keys = [s.units.columns.get("nwb_id") for s in (session, population)]
    if any(k is None or len(np.unique(k)) < len(k) for k in keys):
        keys = [session.units.id, population.units.id]
    index = {str(key): row for row, key in enumerate(np.asarray(keys[1]))}
    new = np.array([index.get(str(key), -1) for key in np.asarray(keys[0])], np.int64)
    if not (new >= 0).any():
        where = session.source.get("path", session.session_id)
        raise InputError(where, "units", f"some of the units of {population.session_id}", "none of them")
    unit = new[session.spikes.unit_index]
    known, own = unit >= 0, session.units.observed
    if own is None:
        segments = session.observed.coalesce()
        n = np.flatnonzero(new >= 0)
        own = Intervals(
            np.tile(segments.start, len(n)), np.tile(segments.end, len(n)), {"unit_index": np.repeat(n, len(segments))}
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


def nlb_targets(
    session: Session, task: NlbTask, train: Trials, evaluated: Trials
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the targets of the rates of evaluated trials, and one sentence for each score without a target.

    Arrays have the benchmark's names; see `ndt.evaluation.nlb.score_submission`.

    Three details differ from the benchmark: the low-pass filter of velocity, which is sampled `lag` after the start of
    each bin; trials of dmfc_rsg have no random jitter; windows do not end where the next trial begins.

    Arguments:
        session: The session.
        task: The task.
        train: Training trials.
        evaluated: The trials to score.

    Raises:
        InputError: if no unit is held out.
    """
    units = unit_groups(session)
    counts, T = evaluated.counts(session), evaluated.num_bins
    scored = _scored(task, evaluated)
    arrays: dict[str, Any] = {
        "eval_spikes_heldout": np.where(scored[:, :, None], counts[:, :T][:, :, units["heldout"]], np.nan),
    }
    arrays |= {f"eval_spikes_{name}_forward": counts[:, T:][:, :, rows] for name, rows in units.items()}
    left_out = []
    for add in (_behavior, _masks, _psths):
        try:
            arrays |= add(session, task, train, evaluated)
        except _Absent as absent:
            left_out.append(str(absent))

    return arrays, tuple(left_out)


class _Absent(Exception):
    """The session lacks the target of a score."""


def _columns(trials: Sequence[Trials], names: tuple[str, ...], score: str) -> list[Array]:
    """Returns columns of several sets of trials as numbers, (M, …) each; words become their alphabetical rank."""
    found = []
    for name in names:
        columns = [t.table.columns.get(name) for t in trials]
        known = [c for c in columns if c is not None and c.ndim == 1]
        if len(known) < len(trials):
            raise _Absent(f"{score}: trials have no column {name}")
        column = np.concatenate(known)
        numeric = column.dtype.kind in "fiub"
        found.append(np.asarray(column if numeric else np.unique(column, return_inverse=True)[1], np.float64))

    return np.split(np.stack(found, 1), np.cumsum([len(t) for t in trials])[:-1])


def _flag(trials: Trials, name: str) -> NDArray[np.bool_]:
    column = trials.table.columns.get(name) if name else None

    return np.zeros(len(trials), bool) if column is None else np.asarray(column, np.float64) == 1


def _scored(task: NlbTask, trials: Trials) -> NDArray[np.bool_]:
    """Returns which bins are scored, (M, T): those that begin at or after time `since` of each trial."""
    if not task.since:
        return np.ones((len(trials), trials.num_bins), bool)
    column = trials.table.columns.get(task.since)
    if column is None:
        raise InputError("nlb", f"trials/{task.since}", "a column of times in seconds", "none")

    return trials.bin_starts >= np.asarray(column, np.float64)[:, None] - 1e-6 * trials.bin_size


def _behavior(session: Session, task: NlbTask, train: Trials, evaluated: Trials) -> dict[str, Any]:
    names, both = ("train_behavior", "eval_behavior"), (train, evaluated)
    if task.per_trial:
        columns = _columns(both, task.per_trial, "tp corr")
        for values, trials in zip(columns, both, strict=True):
            values[_flag(trials, task.outlier)] = np.nan
        return dict(zip(names, columns, strict=True))
    if not task.covariate:
        raise _Absent("vel R2: the task names no covariate")
    matching = matching_covariates(session, task.covariate)
    if len(matching) != 1:
        raise _Absent(f"vel R2: the session has no covariate {task.covariate}")
    bins = [np.round(t.start / t.bin_size)[:, None] + np.arange(t.num_bins) for t in both]
    once, row = np.unique(np.concatenate([b.ravel() for b in bins]), return_inverse=True)  # `resample` needs order
    centre = once * train.bin_size + task.lag  # of the sample, at the start of a bin
    velocity = resample(matching[0], centre - train.bin_size / 2, train.bin_size)
    rows = np.split(row.ravel(), [bins[0].size])

    return {name: velocity[r].reshape(*b.shape, -1) for name, r, b in zip(names, rows, bins, strict=True)}


def _masks(session: Session, task: NlbTask, train: Trials, evaluated: Trials) -> dict[str, Any]:
    if not task.decoder:
        return {}
    values = _columns((train, evaluated), (task.decoder,), "vel R2 of two decoders")
    masks = [np.concatenate([v == 0, v == 1], 1) for v in values]
    if not all(mask.any(0).all() for mask in masks):
        raise _Absent(f"vel R2 of two decoders: {task.decoder} is not both 0 and 1 in both parts")

    return dict(zip(("train_decode_mask", "eval_decode_mask"), masks, strict=True))


def _psths(session: Session, task: NlbTask, train: Trials, evaluated: Trials) -> dict[str, Any]:
    """Returns true PSTHs of training and evaluated trials together, and the evaluated trials of each condition."""
    if not task.conditions:
        raise _Absent("psth R2: the task names no condition columns")
    both = (train, evaluated)
    label = np.concatenate(_columns(both, task.conditions, "psth R2"))
    rows = np.isfinite(label).all(1)
    if not rows.any():
        raise _Absent("psth R2: no trial has a condition")
    out = np.concatenate([_flag(trials, task.outlier) for trials in both])
    of = np.full(len(label), -1)
    of[rows] = np.unique(label[rows], axis=0, return_inverse=True)[1].ravel()
    scored = np.concatenate([_scored(task, trials) for trials in both])
    start = np.concatenate([trials.start for trials in both])
    late = np.concatenate([_late(trials) for trials in both])
    late -= late.min()
    units = np.concatenate(list(unit_groups(session).values()))
    psths, members, lengths = [], [], scored.sum(1)
    for j in range(int(of.max()) + 1):
        chosen = (of == j) & ~out & (lengths > 0)
        chosen &= lengths >= SHORT * (lengths[chosen].mean() if chosen.any() else 0.0)
        if chosen.any():
            smoothed = _smoothed(session, task.kernel, start[chosen], train)[:, :, units]
            psths.append(_average(smoothed, scored[chosen], late[chosen]))
            members.append(np.flatnonzero(chosen))
    if not psths:
        raise _Absent("psth R2: no trial of a condition is usable")
    first = len(train)

    return {"psth": np.stack(psths), "eval_cond_idx": [m[m >= first] - first for m in members]}


def _average(smoothed: Array, scored: NDArray[np.bool_], late: NDArray[np.int64]) -> Array:
    """Returns the PSTH of one condition, (T, N), NaN in unscored bins.

    Trials are averaged at equal times from the event (`late`). The PSTH keeps the first T bins, or, if scoring begins
    within the window, the last ones, as many as the shortest trial has.
    """
    M, T, N = smoothed.shape
    placed = np.full((M, T + int(late.max()), N), np.nan)
    for m in range(M):
        placed[m, late[m] : late[m] + T][scored[m]] = smoothed[m][scored[m]]
    known = ~np.isnan(placed).all((0, 2))
    mean = np.full(placed.shape[1:], np.nan)
    mean[known] = np.nanmean(placed[:, known], 0)
    shortest = int(scored.sum(1).min())
    out = np.full((T, N), np.nan)
    if scored.all():
        out[:] = mean[known][:T]
    else:
        out[T - shortest :] = mean[known][-shortest:]

    return out


def _late(trials: Trials) -> NDArray[np.int64]:
    """Returns the number of bins from the first bin at or after each trial's event to the trial's first bin, (M,).

    If the window does not begin a whole number of bins from the event, trials differ by one.
    """
    event = np.ceil(np.round(trials.event / trials.bin_size, 6))

    return (np.round(trials.start / trials.bin_size) - event).astype(np.int64)


def _smoothed(session: Session, kernel: float, starts: Array, like: Trials) -> Array:
    """Returns spikes per bin smoothed at 1 ms by a Gaussian six standard deviations long, (M, T, N).

    A kernel with an even number of steps lies half a step late, as in the benchmark. Spikes outside the segment of
    observed time that a trial lies in are not counted.
    """
    length, steps = int(round(2 * REACH * kernel / FINE, 6)), round(like.bin_size / FINE)
    weights = gaussian(length, kernel / FINE)[:, None]
    segments = session.observed.coalesce()
    out = np.zeros((len(starts), like.num_bins, session.num_units))
    for m, start in enumerate(starts):
        begin, last = start - length // 2 * FINE, start + (like.num_bins - 0.5) * like.bin_size
        counts = bin_spikes(session, float(begin), FINE, like.num_bins * steps + length - 1).astype(np.float64)
        i = max(int(np.searchsorted(segments.start, last, side="right")) - 1, 0)
        time = begin + (np.arange(len(counts)) + 0.5) * FINE
        counts[(time < segments.start[i]) | (time >= segments.end[i])] = 0.0
        smoothed = fftconvolve(counts, weights / weights.sum(), "valid", axes=0)
        out[m] = smoothed.reshape(like.num_bins, steps, -1).sum(1)

    return out

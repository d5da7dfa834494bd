"""What a submission to the Neural Latents Benchmark is scored against, made from a recording that holds the truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.data.covariates import matching_covariates
from ndt.data.nlb_trials import Trials, heldout_units, unit_order
from ndt.data.resample import resample
from ndt.errors import InputError
from ndt.nlb_tasks import NlbTask
from ndt.session import Session
from ndt.spikes import bin_spikes

__all__ = ["Targets", "nlb_targets", "smoothing"]

FINE = 1e-3  # seconds: bins in which spikes are smoothed for PSTHs
REACH = 3  # standard deviations of the smoothing's kernel on either side
SHORT = 0.8  # of the mean length of a condition's trials: shorter ones are in no PSTH

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Targets:
    """What rates are scored against.

    Arguments:
        arrays: By the benchmark's names; see `ndt.nlb_file.score_submission`.
        left_out: One sentence for each score that cannot be had, and why.
    """

    arrays: dict[str, Any]
    left_out: tuple[str, ...]


def nlb_targets(session: Session, task: NlbTask, train: Trials, evaluated: Trials) -> Targets:
    """Returns the targets of a session's evaluated trials.

    Velocity is read at the start of each bin, `lag` later, behind a low-pass filter that is not the benchmark's own to
    the last digit. Trials of dmfc_rsg are not moved at random (jitter), as the benchmark's validation trials are, nor
    are windows cut short where the next trial begins.

    Arguments:
        session: The session.
        task: What is scored.
        train: Training trials.
        evaluated: The trials to score.

    Raises:
        InputError: if no unit is held out.
    """
    heldout, order = heldout_units(session), unit_order(session)
    held, kept = order[heldout[order]], order[~heldout[order]]
    counts, T = evaluated.counts(session), evaluated.num_bins
    scored = _scored(task, evaluated)
    arrays: dict[str, Any] = {
        "eval_spikes_heldout": np.where(scored[:, :, None], counts[:, :T][:, :, held], np.nan),
        "eval_spikes_heldin_forward": counts[:, T:][:, :, kept],
        "eval_spikes_heldout_forward": counts[:, T:][:, :, held],
    }
    left_out = []
    for add in (_behavior, _masks, _psths):
        try:
            arrays |= add(session, task, train, evaluated)
        except _Absent as absent:
            left_out.append(str(absent))

    return Targets(arrays, tuple(left_out))


class _Absent(Exception):
    """A score cannot be had of this session."""


def _columns(trials: Sequence[Trials], names: tuple[str, ...], score: str) -> list[Array]:
    """Columns of several sets of trials as numbers, (M, …) each; words become their place among all in the alphabet."""
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
    """Which bins are scored, (M, T): those that begin at or after the event of each trial that scoring begins with."""
    starts = trials.start[:, None] + np.arange(trials.num_bins) * trials.bin_size
    if not task.since:
        return np.ones(starts.shape, bool)
    column = trials.table.columns.get(task.since)
    if column is None:
        raise InputError("nlb", f"trials/{task.since}", "a column of times in seconds", "none")

    return starts >= np.asarray(column, np.float64)[:, None] - 1e-6 * trials.bin_size


def _behavior(session: Session, task: NlbTask, train: Trials, evaluated: Trials) -> dict[str, Any]:
    both = {"train_behavior": train, "eval_behavior": evaluated}
    if task.per_trial:
        found = dict(zip(both, _columns(list(both.values()), task.per_trial, "tp corr"), strict=True))
        for key, trials in both.items():
            found[key][_flag(trials, task.outlier)] = np.nan
        return found
    if not task.covariate:
        raise _Absent("vel R2: no covariate is named")
    matching = matching_covariates(session, task.covariate)
    if len(matching) != 1:
        raise _Absent(f"vel R2: there is no covariate {task.covariate}")
    bins = {
        key: np.round(trials.start / trials.bin_size)[:, None] + np.arange(trials.num_bins)
        for key, trials in both.items()
    }
    once, row = np.unique(np.concatenate([b.ravel() for b in bins.values()]), return_inverse=True)
    centre = once * train.bin_size + task.lag  # the sample that is taken, at the start of a bin
    values = resample(matching[0], centre - train.bin_size / 2, train.bin_size)
    rows = np.split(row.ravel(), [bins["train_behavior"].size])

    return {key: values[r].reshape(*bins[key].shape, -1) for (key, r) in zip(bins, rows, strict=True)}


def _masks(session: Session, task: NlbTask, train: Trials, evaluated: Trials) -> dict[str, Any]:
    if not task.decoder:
        return {}
    values = _columns((train, evaluated), (task.decoder,), "vel R2 of two decoders")
    masks = [np.concatenate([v == 0, v == 1], 1) for v in values]
    if not all(mask.any(0).all() for mask in masks):
        raise _Absent(f"vel R2 of two decoders: {task.decoder} is not both 0 and 1 in both parts")

    return dict(zip(("train_decode_mask", "eval_decode_mask"), masks, strict=True))


def _psths(session: Session, task: NlbTask, train: Trials, evaluated: Trials) -> dict[str, Any]:
    """True PSTHs of training and evaluated trials together, and which trials are of each condition."""
    if not task.conditions:
        raise _Absent("psth R2: no columns make a condition")
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
    heldout, order = heldout_units(session), unit_order(session)
    units = np.r_[order[~heldout[order]], order[heldout[order]]]
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
    found = {"train_cond_idx": [m[m < first] for m in members]}

    return found | {"psth": np.stack(psths), "eval_cond_idx": [m[m >= first] - first for m in members]}


def _average(smoothed: Array, scored: NDArray[np.bool_], late: NDArray[np.int64]) -> Array:
    """The PSTH of one condition, (T, N), NaN where it has none.

    Trials are averaged by time from the event (`late`), and of the result as many bins are kept as the shortest trial
    has: the first T, or the last where scoring begins late.
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
    """From the first bin that begins at or after each trial's event to the trial's first bin, in bins, (M,).

    Where the window does not begin a whole number of bins from the event, trials differ in it by one.
    """
    event = np.ceil(np.round(trials.event / trials.bin_size, 6))

    return (np.round(trials.start / trials.bin_size) - event).astype(np.int64)


def smoothing(kernel: float, bin_size: float, T: int) -> tuple[NDArray[np.float64], int]:
    r"""Returns how counts in steps of 1 ms become smoothed counts in T bins, (T, steps), and how many steps lie before.

    Spikes pass a Gaussian of :math:`6 \sigma` in all, and are then summed in bins. An even number of steps has no
    middle: the kernel's lies half a step late, as in the benchmark.

    Arguments:
        kernel: Standard deviation in seconds.
        bin_size: Bin width in seconds.
        T: Number of bins.
    """
    length = int(round(2 * REACH * kernel / FINE, 6))
    steps = round(bin_size / FINE)
    weights = np.exp(-0.5 * ((np.arange(length) - (length - 1) / 2) * FINE / kernel) ** 2)
    weights /= weights.sum()
    before, after = length // 2, (length - 1) // 2  # a sample n reads n - before … n + after
    out = np.zeros((T, before + T * steps + after))
    for n in range(T * steps):
        out[n // steps, n : n + length] += weights

    return out, before


def _smoothed(session: Session, kernel: float, starts: Array, like: Trials) -> Array:
    """Smoothed spikes per bin, (M, T, N). A trial's piece of observed time is smoothed as if all were silent beyond."""
    weights, before = smoothing(kernel, like.bin_size, like.num_bins)
    pieces = session.observed.coalesce()
    out = np.zeros((len(starts), like.num_bins, session.num_units))
    for m, start in enumerate(starts):
        begin, last = start - before * FINE, start + (like.num_bins - 0.5) * like.bin_size
        counts = bin_spikes(session, float(begin), FINE, weights.shape[1]).astype(np.float64)
        i = max(int(np.searchsorted(pieces.start, last, side="right")) - 1, 0)
        time = begin + (np.arange(len(counts)) + 0.5) * FINE
        counts[(time < pieces.start[i]) | (time >= pieces.end[i])] = 0.0
        out[m] = weights @ counts

    return out

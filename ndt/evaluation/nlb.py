"""The Neural Latents Benchmark '21: the task of each data set, the scores, and the file of a submission.

Rates are in spikes per bin, arrays are trials by bins by units, held-in units before held-out ones. Tasks and scores
follow nlb_tools (make_tensors.py, evaluation.py, as of 2022) where it differs from the paper; numbers of units are
those of the published files. We did not verify that EvalAI's server runs this version.

Reference: Pei et al. (2021), Neural Latents Benchmark '21, https://arxiv.org/abs/2109.04463
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV

from ndt.errors import InputError
from ndt.evaluation.metrics import co_bps

__all__ = [
    "TASKS",
    "NlbTask",
    "co_bps_per_unit",
    "group_name",
    "psth_r2",
    "score_submission",
    "tp_corr",
    "vel_r2",
    "write_submission",
]

ALPHAS = np.logspace(-4, 0, 9)  # penalties of the ridge regression that NLB decodes velocity with
FEWEST = 10  # rows to fit on: two in each of five folds
BIN_MS = {5: "", 20: "_20"}  # widths that the benchmark scores, and the suffix of a group's name

# M = trials, T = bins, F = bins after them, N = units, C = covariate dimensions, J = conditions, K = decoders

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class NlbTask:
    """The trials of a data set and their scores. Empty strings and tuples stand for none.

    Arguments:
        name: Name of the data set.
        align: Column of the table `trials` with the time that trials are aligned to; ``start`` for their start.
        window: Visible time of a trial in seconds from `align`; None for the interval of the table.
        forward: Duration of forward prediction after the window, in seconds.
        covariate: Name of the velocity to decode.
        lag: Delay of velocity after spikes, in seconds.
        decoder: Column of `trials` whose values 0 and 1 select one of two decoders.
        conditions: Columns of `trials` whose combinations are the conditions of PSTHs.
        kernel: Standard deviation of the Gaussian smoothing for PSTHs, in seconds.
        since: Column of `trials` with the time at which scoring begins.
        per_trial: Columns of `trials` for the correlation with neural speed, see `tp_corr`.
        outlier: Column of `trials` that is 1 if a trial has no behaviour and enters no PSTH.
        num_units: Held-in and held-out units of the published files; 0 for any number.
    """

    name: str
    align: str = "start"
    window: tuple[float, float] | None = None
    forward: float = 0.2
    covariate: str = ""
    lag: float = 0.0
    decoder: str = ""
    conditions: tuple[str, ...] = ()
    kernel: float = 0.07
    since: str = ""
    per_trial: tuple[str, ...] = ()
    outlier: str = ""
    num_units: tuple[int, int] = (0, 0)


def _maze(name: str, heldin: int, heldout: int, lag: float, kernel: float) -> NlbTask:
    return NlbTask(
        name=name,
        align="move_onset_time",
        window=(-0.25, 0.45),
        covariate="hand_vel",
        lag=lag,
        conditions=("trial_type", "trial_version"),
        kernel=kernel,
        num_units=(heldin, heldout),
    )


TASKS = {
    task.name: task
    for task in (
        _maze("mc_maze", 137, 45, 0.1, 0.07),
        NlbTask(name="mc_rtt", window=(0.0, 0.6), covariate="finger_vel", lag=0.14, num_units=(98, 32)),
        NlbTask(
            name="area2_bump",
            align="move_onset_time",
            window=(-0.1, 0.5),
            covariate="hand_vel",
            lag=-0.02,
            decoder="ctr_hold_bump",
            conditions=("cond_dir", "ctr_hold_bump"),
            kernel=0.04,
            num_units=(49, 16),
        ),
        NlbTask(
            name="dmfc_rsg",
            align="go_time",
            window=(-1.5, 0.0),
            conditions=("is_eye", "theta", "is_short", "ts"),
            kernel=0.07,
            since="set_time",
            per_trial=("is_eye", "theta", "is_short", "ts", "tp"),
            outlier="is_outlier",
            num_units=(40, 14),
        ),
        _maze("mc_maze_large", 122, 40, 0.12, 0.05),
        _maze("mc_maze_medium", 114, 38, 0.12, 0.05),
        _maze("mc_maze_small", 107, 35, 0.12, 0.05),
    )
}


def group_name(dataset: str, bin_size: float) -> str:
    """Returns the name of a data set's group in a submission.

    Raises:
        InputError: if the benchmark does not score bins of this width.
    """
    width = round(bin_size * 1e3, 6)
    if width not in BIN_MS:
        raise InputError("nlb", "bin_size", "5 or 20 ms, which the benchmark scores", f"{width:g} ms")

    return dataset + BIN_MS[int(width)]


def co_bps_per_unit(rates: ArrayLike, counts: ArrayLike) -> float:
    """Returns the mean over units of their bits per spike; units without a spike are left out.

    Several later papers report this score in place of co-bps; the two are not comparable.

    Arguments:
        rates: Predicted spikes per bin, shape (..., N).
        counts: Spikes per bin, NaN if not observed, shape of `rates`.
    """
    k = np.asarray(counts, np.float64)
    each = [co_bps(np.asarray(rates)[..., [n]], k[..., [n]]) for n in range(k.shape[-1]) if np.nansum(k[..., n]) > 0]

    return float(np.mean(each)) if each else float("nan")


def psth_r2(psth: ArrayLike, rates: ArrayLike, trials: Sequence[ArrayLike]) -> float:
    """Returns the mean over units of the R² of trial-averaged rates against true PSTHs, pooled over conditions.

    Bins in which a PSTH is NaN and conditions without a trial are left out.

    Arguments:
        psth: True PSTHs in spikes per bin, shape (J, T, N).
        rates: Predicted spikes per bin of the evaluated trials, shape (M, T, N).
        trials: Indices of the trials of each of J conditions.
    """
    true, predicted = np.asarray(psth, np.float64), np.asarray(rates, np.float64)
    if true.ndim != 3 or true.shape[1:] != predicted.shape[1:] or len(true) != len(trials):
        raise ValueError(f"psth must be (J={len(trials)}, T, N) of rates {predicted.shape}, got {true.shape}")
    pairs = []
    for average, rows in zip(true, (np.asarray(t, np.int64) for t in trials), strict=True):
        if len(rows):
            known = ~np.isnan(average[:, 0])
            pairs.append((average[known], predicted[rows].mean(0)[known]))
    if not pairs:
        raise ValueError("psth must have a condition with a trial, got none")

    return float(r2_score(*(np.concatenate(x) for x in zip(*pairs, strict=True))))


def vel_r2(
    train_rates: ArrayLike,
    train_behavior: ArrayLike,
    rates: ArrayLike,
    behavior: ArrayLike,
    train_masks: NDArray[np.bool_] | None = None,
    masks: NDArray[np.bool_] | None = None,
) -> float:
    """Returns the R² of velocity decoded by ridge regression on predicted rates, averaged over dimensions and decoders.

    Five-fold cross-validation over blocks of rows selects the penalty from `ALPHAS`.

    Arguments:
        train_rates: Predicted spikes per bin of the training trials, shape (M, T, N).
        train_behavior: Their velocity at the bins, lag applied, NaN if missing, shape (M, T, C).
        rates: Those of the evaluated trials, shape (M', T', N).
        behavior: Velocity of the evaluated trials, shape (M', T', C).
        train_masks: Training trials of each of K decoders, shape (M, K); None for one decoder of all trials.
        masks: Evaluated trials of each decoder, shape (M', K).
    """
    if (train_masks is None) != (masks is None):
        raise ValueError("train_masks and masks must both be given, or neither")
    parts = ((train_rates, train_behavior, train_masks), (rates, behavior, masks))
    fitted, scored = (_labelled(np.asarray(x, np.float64), np.asarray(y, np.float64), m) for x, y, m in parts)
    scores = []
    for (x, y), (test_x, test_y) in zip(fitted, scored, strict=True):
        if len(x) < FEWEST or len(test_x) < 2:
            raise ValueError(f"rows must be at least {FEWEST} to fit on and 2 to score, got {len(x)}, {len(test_x)}")
        scores.append(GridSearchCV(Ridge(), {"alpha": ALPHAS}).fit(x, y).score(test_x, test_y))

    return float(np.mean(scores))


def _labelled(rates: Array, behavior: Array, masks: NDArray[np.bool_] | None) -> list[tuple[Array, Array]]:
    """Returns for each decoder the labelled bins of its trials: rates (R, N), behaviour (R, C)."""
    masks = np.ones((len(rates), 1), bool) if masks is None else masks
    known = ~np.isnan(behavior[..., 0])

    return [(rates[rows], behavior[rows]) for rows in (known & mask[:, None] for mask in masks.T)]


def tp_corr(rates: ArrayLike, counts: ArrayLike, behavior: ArrayLike) -> float:
    r"""Returns the correlation of neural speed with the produced interval, averaged over conditions.

    .. math:: v_m = \tfrac{1}{T_m - 1} \sum_t \| \lambda_{m,t+1} - \lambda_{m,t} \|

    over the bins from Set to Go. Faster rates precede shorter intervals, so a better score is more negative.

    Arguments:
        rates: Predicted spikes per bin of all units, shape (M, T, N).
        counts: Spikes per bin of the held-out units, NaN outside Set to Go, shape (M, T, N').
        behavior: Three columns of the trial's condition (response, direction, prior), any others, and last the produced
            interval, shape (M, C). Trials with NaN, and conditions of one trial, are left out.
    """
    x, b = np.asarray(rates, np.float64), np.asarray(behavior, np.float64)
    inside = ~np.isnan(np.asarray(counts, np.float64)[..., 0])
    usable = ~np.isnan(b[:, [0, 1, 2, -1]]).any(1) & (inside.sum(1) > 1)
    rows = np.flatnonzero(usable)
    speed = np.array([np.linalg.norm(np.diff(x[m][inside[m]], axis=0), axis=1).mean() for m in rows])
    condition = np.unique(b[rows, :3], axis=0, return_inverse=True)[1].ravel()
    found = []
    for j in range(int(condition.max(initial=-1)) + 1):
        if np.sum(same := condition == j) > 1:
            with np.errstate(invalid="ignore", divide="ignore"):  # NaN if either is constant
                found.append(np.corrcoef(speed[same], b[rows[same], -1])[0, 1])

    return float(np.mean(found)) if found else float("nan")


def score_submission(rates: Mapping[str, Any], true: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the scores of a data set's rates.

    ``nlb`` holds the benchmark's scores if their targets exist: ``co-bps``, ``vel R2`` (``tp corr`` for dmfc_rsg),
    ``psth R2`` and ``fp-bps``, the co-bps of all units in the bins after each trial. ``co_bps_per_unit`` is not a score
    of the benchmark.

    Arguments:
        rates: Predicted spikes per bin: ``eval_rates_heldin``, ``eval_rates_heldout`` (M, T, N), the same with
            ``train_``, and ``eval_rates_heldin_forward``, ``eval_rates_heldout_forward`` (M, F, N).
        true: ``eval_spikes_heldout`` (M, T, N), and if present ``train_behavior`` and ``eval_behavior`` (M, T, C), for
            dmfc_rsg (M, C); ``train_decode_mask`` and ``eval_decode_mask`` (M, K); ``psth`` (J, T, N),
            ``eval_cond_idx`` (J lists of trials); ``eval_spikes_heldin_forward``, ``eval_spikes_heldout_forward``.
    """

    def both(arrays: Mapping[str, Any], name: str) -> NDArray[Any]:
        return np.concatenate([arrays[name.format(units)] for units in ("heldin", "heldout")], -1)

    train, evaluated = both(rates, "train_rates_{}"), both(rates, "eval_rates_{}")
    spikes, behavior = true["eval_spikes_heldout"], true.get("eval_behavior")
    found = {"co-bps": co_bps(rates["eval_rates_heldout"], spikes)}
    if behavior is not None and np.ndim(behavior) == 2:
        found["tp corr"] = tp_corr(evaluated, spikes, behavior)
    elif behavior is not None:
        masks = (true.get("train_decode_mask"), true.get("eval_decode_mask"))
        found["vel R2"] = vel_r2(train, true["train_behavior"], evaluated, behavior, *masks)
    if "psth" in true:
        found["psth R2"] = psth_r2(true["psth"], evaluated, true["eval_cond_idx"])
    if "eval_rates_heldin_forward" in rates:
        found["fp-bps"] = co_bps(both(rates, "eval_rates_{}_forward"), both(true, "eval_spikes_{}_forward"))

    return {"nlb": found, "co_bps_per_unit": co_bps_per_unit(rates["eval_rates_heldout"], spikes)}


def write_submission(
    path: str | Path, group: str, rates: Mapping[str, NDArray[Any]], num_units: tuple[int, int] = (0, 0)
) -> Path:
    """Writes the HDF5 file of a submission atomically, in float32, and returns its path.

    Arguments:
        path: The file, ``.h5``.
        group: Name of the data set's group, see `group_name`.
        rates: Its arrays, see `score_submission`.
        num_units: Expected held-in and held-out units; 0 for any number.

    Raises:
        InputError: if rates are negative or not finite, or of another number of units.
    """
    for key, array in rates.items():
        if not np.isfinite(array).all() or (array < 0).any():
            raise InputError(path, f"{group}/{key}", "finite rates of at least 0 spikes per bin", f"{array.min():g}")
    found = (rates["eval_rates_heldin"].shape[2], rates["eval_rates_heldout"].shape[2])
    if any(num_units) and found != num_units:
        expected, given = (f"{a} held-in and {b} held-out units" for a, b in (num_units, found))
        raise InputError(path, group, expected, given)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with h5py.File(temporary, "w") as file:
            for key, array in rates.items():
                file.create_dataset(f"{group}/{key}", data=np.float32(array), compression="gzip", shuffle=True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

    return path

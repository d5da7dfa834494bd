"""The Neural Latents Benchmark '21: what it asks of each data set, its scores, and the file of a submission.

Rates are in spikes per bin, arrays are trials by bins by units, held-in units before held-out ones. Where the paper and
nlb_tools (make_tensors.py, evaluation.py, as of 2022) differ, times, lags, kernels, columns and scores are those of the
latter. Numbers of units are those of the published files. Whether EvalAI's server runs that version was not verified.

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
    "find_task",
    "group_name",
    "psth_r2",
    "score_submission",
    "tp_corr",
    "vel_r2",
    "write_submission",
]

ALPHAS = np.logspace(-4, 0, 9)  # penalties of the ridge regression that NLB decodes velocity with
FEWEST = 10  # rows to fit on: two in each of five folds
BIN_MS = {5: "", 20: "_20"}  # widths that the benchmark scores, and how a group's name ends

# M = trials, T = bins, F = bins after them, N = units, C = covariate dimensions, J = conditions, K = decoders

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class NlbTask:
    """A way to cut a recording's trials, and what is scored of them.

    Arguments:
        name: Name of the data set.
        align: Column of the table `trials` with the time that trials are aligned to; ``start`` for their start.
        window: From when to when a trial is seen, in seconds from `align`; None for the trial as the table has it.
        forward: How long after that rates are predicted, in seconds.
        covariate: Velocity that is decoded; empty for none.
        lag: How much later than spikes velocity is read, in seconds.
        decoder: Column of `trials` whose values 0 and 1 have a decoder each; empty for one decoder.
        conditions: Columns of `trials` that make a condition, of which there is a PSTH; empty for none.
        kernel: Standard deviation of the Gaussian that spikes are smoothed with for PSTHs, in seconds.
        since: Column of `trials` with a time before which a trial is not scored; empty for none.
        per_trial: Columns of `trials` that are correlated with neural speed, see `tp_corr`; empty for none.
        outlier: Column of `trials` that is 1 where a trial has no behaviour and is in no PSTH; empty for none.
        num_units: Held-in and held-out units of the published files; 0 where any number will do.
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


def find_task(name: str) -> NlbTask:
    """Returns what a data set asks.

    Raises:
        InputError: if there is no such data set.
    """
    if name not in TASKS:
        raise InputError("nlb", "dataset", f"one of {', '.join(TASKS)}", repr(name))

    return TASKS[name]


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
    """Returns the mean over units of each unit's own bits per spike; units without a spike are left out.

    It is what several later papers report in place of co-bps; the two are not to be compared.

    Arguments:
        rates: Predicted spikes per bin, shape (..., N).
        counts: Spikes per bin, NaN where not observed, shape of `rates`.
    """
    k = np.asarray(counts, np.float64)
    each = [co_bps(np.asarray(rates)[..., [n]], k[..., [n]]) for n in range(k.shape[-1]) if np.nansum(k[..., n]) > 0]

    return float(np.mean(each)) if each else float("nan")


def psth_r2(psth: ArrayLike, rates: ArrayLike, trials: Sequence[ArrayLike]) -> float:
    """Returns the mean over units of the R² of trial-averaged rates against true PSTHs, all conditions at once.

    Bins in which a PSTH is NaN are left out, and so are conditions without a trial.

    Arguments:
        psth: True PSTHs in spikes per bin, NaN where there is none, shape (J, T, N).
        rates: Predicted spikes per bin of the evaluated trials, shape (M, T, N).
        trials: Which of the trials are of each condition, J of them.
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
    """Returns how well ridge regression on predicted rates decodes velocity: R², averaged over dimensions and decoders.

    The penalty is the one of `ALPHAS` with the best R² over five blocks of rows, each predicted from the others.

    Arguments:
        train_rates: Predicted spikes per bin of the training trials, shape (M, T, N).
        train_behavior: Their velocity at the bins, lag applied, NaN where missing, shape (M, T, C).
        rates: Of the evaluated trials, shape (M', T', N).
        behavior: Of the evaluated trials, shape (M', T', C).
        train_masks: Which training trials each of K decoders is fitted on, shape (M, K); None for one on all.
        masks: Which evaluated trials it is scored on, shape (M', K).
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
    """For each decoder the bins of its trials that have behaviour: rates (R, N), behaviour (R, C)."""
    masks = np.ones((len(rates), 1), bool) if masks is None else masks
    known = ~np.isnan(behavior[..., 0])

    return [(rates[rows], behavior[rows]) for rows in (known & mask[:, None] for mask in masks.T)]


def tp_corr(rates: ArrayLike, counts: ArrayLike, behavior: ArrayLike) -> float:
    r"""Returns the correlation of neural speed with the interval that was produced, averaged over conditions.

    .. math:: v_m = \tfrac{1}{T_m - 1} \sum_t \| \lambda_{m,t+1} - \lambda_{m,t} \|

    over the bins from Set to Go. The faster rates move, the sooner the subject acts: better is more negative.

    Arguments:
        rates: Predicted spikes per bin of all units, shape (M, T, N).
        counts: Spikes per bin of the held-out units, NaN outside Set to Go, shape (M, T, N').
        behavior: Of each trial: three columns that make its condition (response, direction, prior), any others, and
            last the interval produced; NaN leaves a trial out. Shape (M, C). Conditions of one trial are left out.
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
            with np.errstate(invalid="ignore", divide="ignore"):  # one speed, or one interval: NaN, which is said
                found.append(np.corrcoef(speed[same], b[rows[same], -1])[0, 1])

    return float(np.mean(found)) if found else float("nan")


def score_submission(rates: Mapping[str, Any], true: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the scores of a data set's rates.

    Under ``nlb`` the benchmark's own, as far as targets allow: ``co-bps``, ``vel R2`` (``tp corr`` for dmfc_rsg),
    ``psth R2`` and ``fp-bps``, which is co-bps of all units in the bins after each trial. Beside them
    ``co_bps_per_unit``, which is no score of the benchmark.

    Arguments:
        rates: Predicted spikes per bin: ``eval_rates_heldin``, ``eval_rates_heldout`` (M, T, N), the same of
            ``train_``, and ``eval_rates_heldin_forward``, ``eval_rates_heldout_forward`` (M, F, N).
        true: ``eval_spikes_heldout`` (M, T, N), and where there are any ``train_behavior`` and ``eval_behavior``
            (M, T, C), for dmfc_rsg (M, C); ``train_decode_mask`` and ``eval_decode_mask`` (M, K); ``psth`` (J, T, N),
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
    """Writes a submission's HDF5 file, whole or not at all, in float32, and returns its path.

    Arguments:
        path: The file, ``.h5``.
        group: Name of the data set's group, see `group_name`.
        rates: Its arrays, see `score_submission`.
        num_units: Held-in and held-out units that it must have; 0 where any number will do.

    Raises:
        InputError: if rates are negative or not finite, or of another number of units; nothing is written then.
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

"""Scores by the definitions of the Neural Latents Benchmark '21, but for co-bps, which is `ndt.metrics.co_bps`.

Rates are in spikes per bin, arrays are trials by bins by units, held-in units before held-out ones.

Reference: Pei et al. (2021), Neural Latents Benchmark '21, https://arxiv.org/abs/2109.04463, and the benchmark's own
scorer (nlb_tools, evaluation.py, as of 2022), which the definitions follow where the two differ.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score  # finite even where nothing varies, as the benchmark reports it
from sklearn.model_selection import GridSearchCV

from ndt.metrics import co_bps

__all__ = ["ALPHAS", "NUM_FOLDS", "co_bps_per_unit", "fp_bps", "psth_r2", "ridge_r2", "tp_corr", "vel_r2"]

ALPHAS = np.logspace(-4, 0, 9)  # penalties of the ridge regression that NLB decodes velocity with
NUM_FOLDS = 5

# M = trials, T = bins, N = units, C = covariate dimensions, J = conditions, K = decoders, R = rows

Array = NDArray[np.float64]


def fp_bps(
    heldin_rates: ArrayLike, heldout_rates: ArrayLike, heldin_counts: ArrayLike, heldout_counts: ArrayLike
) -> float:
    """Returns forward-prediction bits per spike: co-bps of the bins after each trial, held-in and held-out units alike.

    Arguments:
        heldin_rates: Predicted spikes per bin of the held-in units after the trials, shape (M, T, N).
        heldout_rates: Those of the held-out units, shape (M, T, N').
        heldin_counts: Spikes per bin of the held-in units, NaN where not observed, shape (M, T, N).
        heldout_counts: Those of the held-out units, shape (M, T, N').
    """
    rates, counts = (
        np.concatenate([np.asarray(x, np.float64) for x in pair], -1)
        for pair in ((heldin_rates, heldout_rates), (heldin_counts, heldout_counts))
    )

    return co_bps(rates, counts)


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


def psth_r2(
    psth: ArrayLike, rates: ArrayLike, trials: Sequence[ArrayLike], jitter: NDArray[np.integer] | None = None
) -> float:
    """Returns the mean over units of the R² of trial-averaged rates against true PSTHs, all conditions at once.

    Bins in which a PSTH is NaN are left out, and so are conditions without a trial.

    Arguments:
        psth: True PSTHs in spikes per bin, NaN where there is none, shape (J, T, N).
        rates: Predicted spikes per bin of the evaluated trials, shape (M, T, N).
        trials: Which of the trials are of each condition, J of them.
        jitter: By how many bins each trial was cut late: its rates are moved so much later, shape (M,); None for none.
    """
    true, predicted = np.asarray(psth, np.float64), np.asarray(rates, np.float64)
    if true.ndim != 3 or true.shape[1:] != predicted.shape[1:] or len(true) != len(trials):
        raise ValueError(f"psth must be (J={len(trials)}, T, N) of rates {predicted.shape}, got {true.shape}")
    late = np.zeros(len(predicted), np.int64) if jitter is None else np.asarray(jitter, np.int64)
    pairs = []
    for average, rows in zip(true, (np.asarray(t, np.int64) for t in trials), strict=True):
        if len(rows):
            mean = np.mean([_later(predicted[m], int(late[m])) for m in rows], axis=0)
            known = ~np.isnan(average[:, 0])
            pairs.append((average[known], mean[known]))
    if not pairs:
        raise ValueError("psth must have a condition with a trial, got none")
    averages, means = (np.concatenate(x) for x in zip(*pairs, strict=True))
    if np.isnan(means).any():
        raise ValueError("rates must not be NaN where the PSTH is known")

    return float(r2_score(averages, means))


def _later(rates: Array, num_bins: int) -> Array:
    """Moves (T, N) rates by so many bins; NaN enters."""
    out = np.full_like(rates, np.nan)
    if num_bins >= 0:
        out[num_bins:] = rates[: len(rates) - num_bins]
    else:
        out[:num_bins] = rates[-num_bins:]

    return out


def vel_r2(
    train_rates: ArrayLike,
    train_behavior: ArrayLike,
    rates: ArrayLike,
    behavior: ArrayLike,
    train_masks: NDArray[np.bool_] | None = None,
    masks: NDArray[np.bool_] | None = None,
) -> float:
    """Returns how well ridge regression on predicted rates decodes velocity: `ridge_r2`, averaged over decoders.

    Arguments:
        train_rates: Predicted spikes per bin of the training trials, shape (M, T, N).
        train_behavior: Their velocity at the bins, lag applied, NaN where missing, shape (M, T, C).
        rates: Of the evaluated trials, shape (M', T', N).
        behavior: Of the evaluated trials, shape (M', T', C).
        train_masks: Which training trials each of K decoders is fitted on, shape (M, K); None for one on all.
        masks: Which evaluated trials it is scored on, shape (M', K).
    """
    train, test = (
        (np.asarray(x, np.float64), np.asarray(y, np.float64))
        for x, y in ((train_rates, train_behavior), (rates, behavior))
    )
    if (train_masks is None) != (masks is None):
        raise ValueError("train_masks and masks must both be given, or neither")
    fitted = np.ones((len(train[0]), 1), bool) if train_masks is None else train_masks
    scored = np.ones((len(test[0]), 1), bool) if masks is None else masks
    if fitted.shape[1] != scored.shape[1]:
        raise ValueError(f"masks must be of K={fitted.shape[1]} decoders, got {scored.shape[1]}")

    return float(
        np.mean(
            [
                ridge_r2(*_labelled(train, fitted[:, k]), *_labelled(test, scored[:, k]))[0]
                for k in range(fitted.shape[1])
            ]
        )
    )


def _labelled(trials: tuple[Array, Array], chosen: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Bins of chosen trials one after another: rates (R, N), behaviour (R, C); rows without its first are left out."""
    x, y = (part[chosen].reshape(-1, part.shape[-1]) for part in trials)
    known = ~np.isnan(y[:, 0])

    return x[known], y[known]


def ridge_r2(x: Array, y: Array, test_x: Array, test_y: Array) -> tuple[float, float]:
    r"""Returns the mean R² over dimensions of ridge regression on rows held back, and the penalty chosen.

    .. math:: \min_{W, b} \|Y - X W - b\|^2 + \alpha \|W\|^2

    The penalty is the one of `ALPHAS` with the best mean R² over `NUM_FOLDS` blocks of rows, each predicted from the
    others; of equals the smallest.

    Arguments:
        x: Rates of training rows, shape (R, N).
        y: Their behaviour, shape (R, C).
        test_x: Rates of the rows to score, shape (R', N).
        test_y: Their behaviour, shape (R', C).
    """
    if len(x) < 2 * NUM_FOLDS or len(test_x) < 2:
        raise ValueError(f"rows must be at least {2 * NUM_FOLDS} to fit on and 2 to score, got {len(x)}, {len(test_x)}")
    if any(np.isnan(part).any() for part in (x, y, test_x, test_y)):
        raise ValueError("rates, and behaviour beyond its first dimension, must not be NaN where that is known")
    found = GridSearchCV(Ridge(), {"alpha": ALPHAS}, cv=NUM_FOLDS).fit(x, y)

    return float(found.score(test_x, test_y)), float(found.best_params_["alpha"])


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

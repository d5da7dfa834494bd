"""Decoders that any new method has to beat, and controls that must fail.

All work on *pieces*: lists of arrays, each an uninterrupted run of bins. Neither lags nor filters cross from one piece
into the next; what lies before a piece counts as the training mean. All decoders are causal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from ndt.kalman import Kalman, fit_kalman
from ndt.metrics import r2
from ndt.pieces import Array, Masks, Pieces, Scaler, labelled, take

__all__ = [
    "ALPHAS",
    "Kalman",
    "Ridge",
    "Scaler",
    "TimeOnly",
    "fit_kalman",
    "fit_ridge",
    "fit_time_only",
    "lagged",
    "shuffled_targets",
]

ALPHAS = tuple(float(a) for a in 10 ** np.arange(0, 5.25, 0.5))  # counts are z-scored, so these are in rows of data


def lagged(counts: NDArray[np.generic], num_lags: int, fill: float = 0.0) -> Array:
    """Returns (T, N * num_lags): columns ``lag * N + n`` hold unit n's counts `lag` bins ago; lag 0 is the bin itself.

    Arguments:
        counts: Counts of one piece, shape (T, N).
        num_lags: Number of lags, at least 1.
        fill: What stands for bins before the piece.

    Example:
        >>> lagged(np.array([[1.0], [2.0], [3.0]]), 2)
        array([[1., 0.],
               [2., 1.],
               [3., 2.]])
    """
    x = np.asarray(counts, np.float64)
    T, N = x.shape
    out = np.full((T, num_lags, N), fill)
    for lag in range(min(num_lags, T)):
        out[lag:, lag] = x[: T - lag]

    return out.reshape(T, num_lags * N)


@dataclass(frozen=True)
class Ridge:
    """Ridge regression on z-scored lagged counts, also called a Wiener filter.

    Arguments:
        weights: From lagged z-scored counts to z-scored targets, shape (N * num_lags, C).
        intercept: Shape (C,).
        counts: Scaler of counts.
        targets: Scaler of targets.
        num_lags: Bins of history, the current one included.
        alpha: Penalty.
        valid_r2: R² on validation rows.
    """

    weights: Array
    intercept: Array
    counts: Scaler
    targets: Scaler
    num_lags: int
    alpha: float
    valid_r2: float

    def predict(self, counts: Pieces) -> list[Array]:
        """Returns targets, one (T, C) a piece."""
        return [self.targets.invert(_filter(self.counts.apply(x), self.weights) + self.intercept) for x in counts]


def fit_ridge(
    counts: Pieces,
    targets: Pieces,
    train: Masks,
    valid: Masks,
    *,
    bin_size: float,
    max_lag_s: float = 1.0,
    alphas: Sequence[float] = ALPHAS,
) -> Ridge:
    r"""Fits ridge regression; number of lags and penalty are those with the best validation R².

    .. math:: \min_{W, b} \|Y - X W - b\|^2 + \alpha \|W\|^2

    Arguments:
        counts: Counts, one (T, N) a piece; NaN where a unit was not observed.
        targets: Targets, one (T, C) a piece; rows with a NaN are unlabelled.
        train: Rows to fit on, one (T,) a piece.
        valid: Rows to choose on, one (T,) a piece.
        bin_size: Seconds.
        max_lag_s: Longest history tried, in seconds.
        alphas: Penalties tried.
    """
    train, valid = labelled(targets, train, "train"), labelled(targets, valid, "valid")
    scale_x, scale_y = Scaler.fit(counts, train), Scaler.fit(targets, train)
    x, y = [scale_x.apply(k) for k in counts], [scale_y.apply(v) for v in targets]
    N, num_rows = x[0].shape[1], sum(int(m.sum()) for m in train)
    longest = max(1, min(int(max_lag_s / bin_size + 1e-6), max(len(k) for k in x)))
    gram, cross, total = _normal_equations(x, y, train, longest)
    y_sum = take(y, train).sum(0)
    gram -= np.outer(total, total) / num_rows  # centring the design leaves the intercept unpenalised
    cross -= np.outer(total, y_sum) / num_rows

    best, true = (float("-inf"), 1, float(alphas[-1])), take(targets, valid)
    for num_lags in sorted({math.ceil(longest / share) for share in (1, 1.5, 2, 3, 5, 8, longest)}):
        size = N * num_lags
        design = np.concatenate([lagged(k, num_lags)[m] for k, m in zip(x, valid, strict=True)]).astype(np.float32)
        exact, quick = gram[:size, :size], gram[:size, :size].astype(np.float32)
        rounding = np.finfo(np.float32).eps * exact.trace()
        for alpha in alphas:  # float32 takes half the time, where the penalty exceeds its rounding
            weights = _solve(quick if alpha > rounding else exact, cross[:size], alpha)
            offset = (y_sum - total[:size] @ weights) / num_rows
            score = r2(true, scale_y.invert(design @ weights + offset))
            best = max(best, (score, num_lags, float(alpha)), key=lambda b: b[0])

    score, num_lags, alpha = best
    size = N * num_lags
    weights = _solve(gram[:size, :size], cross[:size], alpha)

    return Ridge(weights, (y_sum - total[:size] @ weights) / num_rows, scale_x, scale_y, num_lags, alpha, score)


def _solve(gram: Array, cross: Array, alpha: float) -> Array:
    penalised = gram.copy()
    penalised.flat[:: len(gram) + 1] += alpha

    factor = cho_factor(penalised, overwrite_a=True, check_finite=False)
    weights: Array = cho_solve(factor, cross.astype(gram.dtype), check_finite=False)

    return weights


def _normal_equations(x: list[Array], y: list[Array], train: Masks, num_lags: int) -> tuple[Array, Array, Array]:
    """Returns X'X, X'Y and X'1 over training rows of the lagged design X.

    The Gram matrix is nearly block Toeplitz: from block (i, j) to block (i + 1, j + 1) only those rows enter or leave
    where the training mask changes. So one block row is computed in full, and the others follow from edge rows.
    """
    N, L = x[0].shape[1], num_lags
    z = np.concatenate([np.pad(k, ((L, 0), (0, 0))) for k in x])  # the pads keep pieces from mixing
    mask = np.concatenate([np.pad(m, (L, 0)) for m in train]).astype(np.float64)
    rows = np.flatnonzero(mask)
    v = np.concatenate([np.pad(k, ((L, 0), (0, 0))) for k in y])[rows]
    total, cross, first = np.empty((L, N)), np.empty((L, N, v.shape[1])), np.empty((N, L, N))
    for lag in range(L):
        past = z[rows - lag]
        total[lag], cross[lag], first[:, lag] = past.sum(0), past.T @ v, z[rows].T @ past

    change = np.r_[mask[1:], 0.0] - mask
    edge = np.flatnonzero(change)
    edges = z[np.maximum(edge[:, None] - np.arange(L), 0)].reshape(len(edge), L * N)  # row 0 is a pad: zeros
    gram = ((edges * change[edge, None]).T @ edges).reshape(L, N, L, N)
    step = gram.copy()
    gram[0] = first
    for i in range(1, L):
        gram[i, :, 1:] = gram[i - 1, :, :-1] + step[i - 1, :, :-1]
        gram[i, :, 0] = gram[0, :, i].T

    return gram.reshape(L * N, L * N), cross.reshape(L * N, -1), total.reshape(-1)


@dataclass(frozen=True)
class TimeOnly:
    """Predicts from the time since a piece or trial began, without spikes: a smoothed mean over training rows.

    Arguments:
        table: Prediction at each number of bins since the start, shape (M, C).
        mean: Training mean, used beyond the table, shape (C,).
        width_bins: Standard deviation of the smoothing; infinite when the mean is best.
        valid_r2: R² on validation rows.
    """

    table: Array
    mean: Array
    width_bins: float
    valid_r2: float

    def predict(self, bins_since_start: Pieces) -> list[Array]:
        """Returns targets, one (T, C) a piece."""
        table = np.vstack([self.table, self.mean])
        return [table[np.minimum(np.asarray(b, np.int64), len(self.table))] for b in bins_since_start]


def fit_time_only(targets: Pieces, train: Masks, valid: Masks, bins_since_start: Pieces) -> TimeOnly:
    """Fits `TimeOnly`; the width of its smoothing is the one with the best validation R².

    Arguments:
        targets: Targets, one (T, C) a piece; rows with a NaN are unlabelled.
        train: Rows to fit on, one (T,) a piece.
        valid: Rows to choose on, one (T,) a piece.
        bins_since_start: Bins since the piece or trial began, 0 in its first bin, one (T,) a piece.
    """
    train, valid = labelled(targets, train, "train"), labelled(targets, valid, "valid")
    y, bins = take(targets, train), take(bins_since_start, train).astype(np.int64)
    mean, M = y.mean(0), int(bins.max()) + 1
    rows = np.bincount(bins, minlength=M).astype(np.float64)
    sums = np.stack([np.bincount(bins, weights=c - m, minlength=M) for c, m in zip(y.T, mean, strict=True)], 1)
    best = TimeOnly(np.zeros((0, y.shape[1])), mean, float("inf"), float("-inf"))
    for width in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, float("inf")):
        table = np.zeros((0, y.shape[1]))
        if np.isfinite(width):
            reach = np.arange(-int(3 * width), int(3 * width) + 1)
            kernel = np.exp(-0.5 * (reach / max(width, 1.0)) ** 2)
            near = np.stack([np.convolve(v, kernel)[len(reach) // 2 :][:M] for v in (rows, *sums.T)], 1)
            table = mean + near[:, 1:] / (near[:, :1] + 1.0)  # one row's worth of the mean
        model = TimeOnly(table, mean, width, 0.0)
        score = r2(take(targets, valid), take(model.predict(bins_since_start), valid))
        if score > best.valid_r2:
            best = TimeOnly(table, mean, width, score)

    return best


def shuffled_targets(targets: Pieces, train: Masks, valid: Masks, seed: int, block_bins: int = 40) -> list[Array]:
    """Returns targets whose training rows, and whose validation rows, have changed places in whole blocks.

    No block stays where it was, so that a decoder fitted on them has nothing to learn, while the targets keep their
    distribution and most of their smoothness. Rows left over from the last whole block become NaN; rows in neither mask
    stay as they are.

    Arguments:
        targets: Targets, one (T, C) a piece.
        train: Rows to fit on, one (T,) a piece.
        valid: Rows to choose on, one (T,) a piece.
        seed: Seed of the order.
        block_bins: Length of a block; shorter where there are fewer than four of them.
    """
    rng, stacked = np.random.default_rng(seed), np.concatenate([np.asarray(v, np.float64) for v in targets])
    out = stacked.copy()
    for mask in (labelled(targets, train, "train"), labelled(targets, valid, "valid")):
        rows = np.flatnonzero(np.concatenate(list(mask)))
        size = max(1, min(block_bins, len(rows) // 4))
        blocks = rows[: len(rows) // size * size].reshape(-1, size)
        order = rng.permutation(len(blocks))
        out[rows] = np.nan
        out[blocks[order]] = stacked[blocks[np.roll(order, 1)]]  # one cycle through all blocks: none stays

    return np.split(out, np.cumsum([len(v) for v in targets])[:-1])


def _filter(z: Array, weights: Array) -> Array:
    """Returns ``lagged(z) @ weights`` without building the lagged matrix."""
    out = np.zeros((len(z), weights.shape[1]))
    for lag, w in enumerate(weights.reshape(-1, z.shape[1], weights.shape[1])[: len(z)]):
        out[lag:] += z[: len(z) - lag] @ w

    return out

"""Decoders that any new method has to beat, and controls that must fail.

All work on *pieces*: lists of arrays, each an uninterrupted run of bins. Neither lags nor filters cross from one piece
into the next; what lies before a piece counts as the training mean. All decoders are causal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from ndt.errors import InputError
from ndt.metrics import r2

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

Array = NDArray[np.floating]
Pieces = Sequence[NDArray[np.generic]]
Masks = Sequence[NDArray[np.bool_]]


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
class Scaler:
    """Mean and standard deviation of each column, learnt on training rows; columns that do not vary are only centred.

    Arguments:
        mean: Shape (N,).
        std: Shape (N,).
    """

    mean: Array
    std: Array

    @classmethod
    def fit(cls, pieces: Pieces, rows: Masks) -> "Scaler":
        """Learns from the chosen rows of all pieces; NaN are left out."""
        x = _take(pieces, rows)
        known = np.maximum((~np.isnan(x)).sum(0), 1)
        mean = np.nansum(x, 0) / known
        std = np.sqrt(np.nansum((x - mean) ** 2, 0) / known)

        return cls(mean, np.where(std > 0, std, 1.0))

    def apply(self, x: NDArray[np.generic]) -> Array:
        """Returns z-scores; what is NaN (not observed) becomes 0, the training mean."""
        return np.nan_to_num((np.asarray(x, np.float64) - self.mean) / self.std)

    def invert(self, z: Array) -> Array:
        """Returns the values whose z-scores are `z`."""
        return z * self.std + self.mean


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
    train, valid = _labelled(targets, train, "train"), _labelled(targets, valid, "valid")
    scale_x, scale_y = Scaler.fit(counts, train), Scaler.fit(targets, train)
    x, y = [scale_x.apply(k) for k in counts], [scale_y.apply(v) for v in targets]
    N, num_rows = x[0].shape[1], sum(int(m.sum()) for m in train)
    longest = max(1, min(int(max_lag_s / bin_size + 1e-6), max(len(k) for k in x)))
    gram, cross, total = _normal_equations(x, y, train, longest)
    y_sum = _take(y, train).sum(0)
    gram -= np.outer(total, total) / num_rows  # centring the design leaves the intercept unpenalised
    cross -= np.outer(total, y_sum) / num_rows

    best: tuple[float, int, float, Array] | None = None
    true = _take(y, valid)
    for num_lags in sorted({-(-longest // k) for k in (1, 1.5, 2, 3, 5, 8, longest)}):
        num_lags, size = int(num_lags), N * int(num_lags)
        design = np.concatenate([lagged(k, num_lags)[m] for k, m in zip(x, valid, strict=True)])
        for alpha in alphas:
            penalised = gram[:size, :size].copy()
            penalised.flat[:: size + 1] += alpha
            weights = cho_solve(cho_factor(penalised, overwrite_a=True, check_finite=False), cross[:size])
            offset = (y_sum - total[:size] @ weights) / num_rows
            score = r2(true, design @ weights + offset)
            if best is None or score > best[0]:
                best = (score, num_lags, float(alpha), weights)

    assert best is not None
    score, num_lags, alpha, weights = best
    offset = (y_sum - total[: len(weights)] @ weights) / num_rows

    return Ridge(weights, offset, scale_x, scale_y, num_lags, alpha, score)


def _normal_equations(x: Pieces, y: Pieces, train: Masks, num_lags: int) -> tuple[Array, Array, Array]:
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
class Kalman:
    r"""Kalman filter whose state is the target, and with `order` 2 the target one bin earlier too.

    .. math:: x_{t+1} = A x_t + w_t, \qquad y_{t - \mathrm{lag}} = H x_t + q_t

    Reference: Wu et al. (2006), Neural Computation 18:80, https://doi.org/10.1162/089976606774841585

    Arguments:
        transition: A, shape (K, K).
        transition_noise: Covariance of w, shape (K, K).
        prior: Covariance of x at the start of a piece, shape (K, K).
        information: H' Q^-1 H with Q the covariance of q, shape (K, K).
        readout: Q^-1 H, so that `counts @ readout` is H' Q^-1 y, shape (N, K).
        counts: Scaler of counts.
        targets: Scaler of targets.
        lag_bins: Bins by which counts lead the state.
        order: 1 or 2.
        valid_r2: R² on validation rows.
    """

    transition: Array
    transition_noise: Array
    prior: Array
    information: Array
    readout: Array
    counts: Scaler
    targets: Scaler
    lag_bins: int
    order: int
    valid_r2: float = float("nan")

    def predict(self, counts: Pieces) -> list[Array]:
        """Returns targets, one (T, C) a piece."""
        C = len(self.targets.mean)
        return [self.targets.invert(self._states(self.counts.apply(x))[:, :C]) for x in counts]

    def _states(self, z: Array) -> Array:
        T, K = len(z), len(self.transition)
        evidence = np.zeros((T, K))
        evidence[min(self.lag_bins, T) :] = z[: max(T - self.lag_bins, 0)] @ self.readout
        states, state, covariance, settled = np.zeros((T, K)), np.zeros(K), self.prior, False
        gain = keep = np.eye(K)
        for t in range(T):
            if t > 0:
                state = self.transition @ state
            if t < self.lag_bins:  # no counts yet: the prior's mean and covariance stand
                continue
            if not settled:  # the covariance does not depend on counts, and soon stands still
                if t > self.lag_bins:
                    covariance = self.transition @ covariance @ self.transition.T + self.transition_noise
                previous = gain
                gain = np.linalg.solve(np.eye(K) + covariance @ self.information, covariance)
                keep = np.eye(K) - gain @ self.information
                covariance = (gain + gain.T) / 2
                settled = t > self.lag_bins and np.abs(gain - previous).max() < 1e-12 * np.abs(gain).max()
            state = keep @ state + gain @ evidence[t]
            states[t] = state

        return states


def fit_kalman(
    counts: Pieces,
    targets: Pieces,
    train: Masks,
    valid: Masks,
    *,
    bin_size: float,
    max_lag_s: float = 0.2,
    shrinkages: Sequence[float] = (1e-3, 1e-2, 1e-1, 0.5),
) -> Kalman:
    """Fits the Kalman filter; lag, order and shrinkage of the count noise are those with the best validation R².

    Arguments as of `fit_ridge`; besides:
        shrinkages: Shares by which the noise covariance is drawn towards its diagonal.
    """
    train, valid = _labelled(targets, train, "train"), _labelled(targets, valid, "valid")
    scale_x, scale_y = Scaler.fit(counts, train), Scaler.fit(targets, train)
    true = _take(targets, valid)
    best: Kalman | None = None
    for order in (1, 2):
        for lag_bins in range(int(max_lag_s / bin_size + 1e-6) + 1):
            for model in _kalman_candidates(counts, targets, train, (scale_x, scale_y), (order, lag_bins), shrinkages):
                score = r2(true, _take(model.predict(counts), valid))
                if best is None or score > best.valid_r2:
                    best = Kalman(**{**vars(model), "valid_r2": score})

    if best is None:
        raise InputError("Kalman filter", "train", "runs of at least 3 labelled bins", "shorter ones")
    return best


def _kalman_candidates(
    counts: Pieces,
    targets: Pieces,
    train: Masks,
    scalers: tuple[Scaler, Scaler],
    shape: tuple[int, int],
    shrinkages: Sequence[float],
) -> list[Kalman]:
    """Returns one filter per shrinkage for one order and lag; none where the data are too short."""
    (scale_x, scale_y), (order, lag) = scalers, shape
    past, now, seen, evidence = [], [], [], []
    for k, v, m in zip(counts, targets, train, strict=True):
        z, y = scale_x.apply(k), scale_y.apply(v)
        state = y if order == 1 else np.concatenate([y, np.vstack([y[:1], y[:-1]])], 1)
        whole = m if order == 1 else m & np.r_[False, m[:-1]]  # rows whose state is labelled throughout
        pair = whole[1:] & whole[:-1]
        past.append(state[:-1][pair])
        now.append(state[1:][pair])
        rows = np.flatnonzero(whole & (np.arange(len(m)) >= lag))
        seen.append(state[rows])
        evidence.append(z[rows - lag])
    x0, x1, x, z = (np.concatenate(p) for p in (past, now, seen, evidence))
    K, N = x.shape[1], z.shape[1]
    if min(len(x0), len(x)) <= K:
        return []

    tiny = 1e-9 * np.eye(K)  # a state that repeats itself (order 2) has a singular noise
    A = np.linalg.solve(x0.T @ x0 + tiny, x0.T @ x1).T
    W = (x1 - x0 @ A.T).T @ (x1 - x0 @ A.T) / len(x0)
    H = np.linalg.solve(x.T @ x + tiny, x.T @ z).T  # (N, K)
    Q = (z - x @ H.T).T @ (z - x @ H.T) / len(x)
    models = []
    for share in shrinkages:
        noise = (1 - share) * Q + share * np.diag(np.diag(Q)) + 1e-6 * np.eye(N)  # silent units have no variance
        readout = np.linalg.solve(noise, H)
        models.append(Kalman(A, W, x.T @ x / len(x), H.T @ readout, readout, scale_x, scale_y, lag, order))

    return models


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
    train, valid = _labelled(targets, train, "train"), _labelled(targets, valid, "valid")
    y, bins = _take(targets, train), _flat(bins_since_start, train).astype(np.int64)
    mean, M = y.mean(0), int(bins.max()) + 1
    rows = np.bincount(bins, minlength=M).astype(np.float64)
    sums = np.stack([np.bincount(bins, weights=c - m, minlength=M) for c, m in zip(y.T, mean, strict=True)], 1)
    best = TimeOnly(np.zeros((0, y.shape[1])), mean, float("inf"), float("-inf"))
    for width in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, float("inf")):
        table = np.zeros((0, y.shape[1]))
        if np.isfinite(width):
            reach = np.arange(-int(3 * width), int(3 * width) + 1)
            kernel = np.exp(-0.5 * (reach / max(width, 1.0)) ** 2)
            smooth = lambda v: np.convolve(v, kernel, "full")[len(reach) // 2 :][:M]  # noqa: B023
            near = smooth(rows)[:, None] + 1.0  # one row's worth of the mean
            table = mean + np.stack([smooth(s) for s in sums.T], 1) / near
        model = TimeOnly(table, mean, width, 0.0)
        score = r2(_take(targets, valid), _take(model.predict(bins_since_start), valid))
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
    for mask in (_labelled(targets, train, "train"), _labelled(targets, valid, "valid")):
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


def _take(pieces: Pieces, rows: Masks) -> Array:
    return np.concatenate([np.asarray(p, np.float64)[m] for p, m in zip(pieces, rows, strict=True)])


def _flat(pieces: Pieces, rows: Masks) -> NDArray[np.generic]:
    return np.concatenate([np.asarray(p)[m] for p, m in zip(pieces, rows, strict=True)])


def _labelled(targets: Pieces, rows: Masks, name: str) -> list[NDArray[np.bool_]]:
    """Returns the chosen rows that have a label."""
    masks = [m & ~np.isnan(np.asarray(v, np.float64)).any(1) for v, m in zip(targets, rows, strict=True)]
    if (found := sum(int(m.sum()) for m in masks)) < 2:
        raise InputError("baseline", name, "at least 2 labelled bins", found)

    return masks

"""Linear baselines: ridge regression and the Wiener filter on lagged counts.

All baselines work on *segments*: lists of arrays, each an uninterrupted run of bins. Lags and filters do not cross
segments; counts before a segment are taken to be the training mean. All decoders are causal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from ndt.evaluation.metrics import r2
from ndt.segments import Array, Masks, Scaler, Segments, labelled, take

__all__ = ["ALPHAS", "Lagged", "Ridge", "fit_ridge", "lagged", "ridge_weights"]

ALPHAS = tuple(float(a) for a in 10 ** np.arange(0, 5.25, 0.5))  # in rows of data, because counts are z-scored
SOLVABLE = 1e-6  # penalty of the Wiener filter a row: a millionth of the variance of a count


def lagged(counts: NDArray[np.generic], num_lags: int) -> Array:
    """Returns (T, N * num_lags) of counts (T, N): columns ``lag * N + n`` hold unit n's counts `lag` bins ago.

    Lag 0 is the bin itself; bins before the segment count 0.

    Example:
        >>> lagged(np.array([[1.0], [2.0], [3.0]]), 2)
        array([[1., 0.],
               [2., 1.],
               [3., 2.]])
    """
    x = np.asarray(counts, np.float64)
    T, N = x.shape
    out = np.zeros((T, num_lags, N))
    for lag in range(min(num_lags, T)):
        out[lag:, lag] = x[: T - lag]

    return out.reshape(T, num_lags * N)


@dataclass(frozen=True)
class Ridge:
    """Ridge regression on z-scored lagged counts; the Wiener filter has a negligible penalty.

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

    def predict(self, counts: Segments) -> list[Array]:
        """Returns predictions, one (T, C) a segment."""
        return [self.targets.invert(_filter(self.counts.apply(x), self.weights) + self.intercept) for x in counts]


def fit_ridge(
    counts: Segments,
    targets: Segments,
    train: Masks,
    valid: Masks,
    *,
    bin_size: float,
    max_lag_s: float = 1.0,
    alphas: Sequence[float] = ALPHAS,
) -> Ridge:
    r"""Fits ridge regression; the number of lags and the penalty have the best validation R².

    .. math:: \min_{W, b} \|Y - X W - b\|^2 + \alpha \|W\|^2

    Arguments:
        counts: Counts, one (T, N) a segment; NaN where a unit was not observed.
        targets: Targets, one (T, C) a segment; rows with a NaN are unlabelled.
        train: Rows to fit on, one (T,) a segment.
        valid: Rows to choose on, one (T,) a segment.
        bin_size: Seconds.
        max_lag_s: Longest history, in seconds.
        alphas: Candidate penalties.
    """
    rows = labelled(targets, train, "train"), labelled(targets, valid, "valid")

    return Lagged(counts, *rows, bin_size=bin_size, max_lag_s=max_lag_s).ridge([targets], alphas)[0]


class Lagged:
    """Lagged z-scored counts and their normal matrix, shared by all regressions with labels at the same rows.

    Arguments:
        counts: Counts, one (T, N) a segment; NaN where a unit was not observed.
        train: Rows to fit on, all labelled, one (T,) a segment.
        valid: Rows to choose on, all labelled, one (T,) a segment.
        bin_size: Seconds.
        max_lag_s: Longest history, in seconds.
    """

    def __init__(
        self, counts: Segments, train: Masks, valid: Masks, *, bin_size: float, max_lag_s: float = 1.0
    ) -> None:
        self.train, self.valid, self.scaler = train, valid, Scaler.fit(counts, train)
        self.x = [self.scaler.apply(k) for k in counts]
        self.longest = max(1, min(int(max_lag_s / bin_size + 1e-6), max(len(k) for k in counts)))
        self.num_rows = sum(int(m.sum()) for m in train)
        self.gram, self.total = _normal_matrix(self.x, train, self.longest)
        self.gram -= np.outer(self.total, self.total) / self.num_rows  # centred, the intercept goes unpenalised

    def ridge(self, targets: Sequence[Segments], alphas: Sequence[float] = ALPHAS) -> list[Ridge]:
        """Returns ridge regression of each of several targets, each with its own number of lags and penalty."""
        scalers = [Scaler.fit(y, self.train) for y in targets]
        z = [[scale.apply(v) for v in y] for scale, y in zip(scalers, targets, strict=True)]
        side = [self._right_side(y) for y in z]
        ends = np.cumsum([s.shape[1] for s, _ in side])[:-1]
        cross, means = np.concatenate([s for s, _ in side], 1), [m for _, m in side]
        true, N = [take(y, self.valid) for y in targets], self.x[0].shape[1]
        best = [(float("-inf"), 1, float(alphas[-1]))] * len(targets)
        for num_lags in sorted({math.ceil(self.longest / share) for share in (1, 1.5, 2, 3, 5, 8, self.longest)}):
            size = N * num_lags
            design = np.concatenate([lagged(k, num_lags)[m] for k, m in zip(self.x, self.valid, strict=True)])
            design = design.astype(np.float32)
            exact, quick = self.gram[:size, :size], self.gram[:size, :size].astype(np.float32)
            rounding = np.finfo(np.float32).eps * exact.trace()
            for alpha in alphas:  # float32 takes half the time; used if the penalty exceeds its rounding
                weights = ridge_weights(quick if alpha > rounding else exact, cross[:size], alpha)
                decoded = np.split(design @ weights, ends, 1)
                shift = np.split(self.total[:size] @ weights / self.num_rows, ends)
                for i, (scale, y) in enumerate(zip(scalers, true, strict=True)):
                    score = r2(y, scale.invert(decoded[i] - shift[i] + means[i]))
                    best[i] = max(best[i], (score, num_lags, float(alpha)), key=lambda b: b[0])

        columns = np.split(cross, ends, 1)
        return [self._ridge(columns[i], means[i], scalers[i], best[i]) for i in range(len(targets))]

    def wiener(self, targets: Segments) -> Ridge:
        """Returns the Wiener filter: least squares on lagged counts; the number of lags has the best validation R².

        Its penalty, `SOLVABLE` times the number of training rows, makes the solution unique if units are silent,
        duplicated or more than rows, and is negligible otherwise.
        """
        return self.ridge([targets], (SOLVABLE * self.num_rows,))[0]

    def _right_side(self, y: list[Array]) -> tuple[Array, Array]:
        """Returns X'Y, centred, and the mean of Y."""
        mean = take(y, self.train).mean(0)
        by_lag = np.zeros((self.longest, self.x[0].shape[1], len(mean)))
        for k, v, m in zip(self.x, y, self.train, strict=True):
            kept = np.where(m[:, None], v, 0.0)
            for lag in range(min(self.longest, len(k))):
                by_lag[lag] += k[: len(k) - lag].T @ kept[lag:]

        return by_lag.reshape(-1, len(mean)) - np.outer(self.total, mean), mean

    def _ridge(self, cross: Array, mean: Array, scaler: Scaler, best: tuple[float, int, float]) -> Ridge:
        score, num_lags, alpha = best
        size = self.x[0].shape[1] * num_lags
        weights = ridge_weights(self.gram[:size, :size], cross[:size], alpha)
        intercept = mean - self.total[:size] @ weights / self.num_rows

        return Ridge(weights, intercept, self.scaler, scaler, num_lags, alpha, score)


def ridge_weights(gram: Array, cross: Array, alpha: float) -> Array:
    r"""Returns :math:`(X^\top X + \alpha I)^{-1} X^\top Y`, (F, C).

    The products are shared by all penalties and lags; scikit-learn would compute them for each.

    Arguments:
        gram: X'X of centred columns, (F, F).
        cross: X'Y, (F, C).
        alpha: Penalty.
    """
    penalised = gram.copy()
    penalised.flat[:: len(gram) + 1] += alpha
    factor = cho_factor(penalised, overwrite_a=True, check_finite=False)  # scipy's `solve` takes four times as long

    return np.asarray(cho_solve(factor, cross.astype(gram.dtype), check_finite=False))


def _normal_matrix(x: list[Array], train: Masks, num_lags: int) -> tuple[Array, Array]:
    """Returns X'X and X'1 over training rows of the lagged design X.

    The Gram matrix is nearly block Toeplitz: blocks (i, j) and (i + 1, j + 1) differ only by rows at which the training
    mask changes. So one block row is computed in full, and the others follow from these rows.
    """
    N, L = x[0].shape[1], num_lags
    z = np.concatenate([np.pad(k, ((L, 0), (0, 0))) for k in x])  # the padding separates segments
    mask = np.concatenate([np.pad(m, (L, 0)) for m in train]).astype(np.float64)
    rows = np.flatnonzero(mask)
    total, first = np.empty((L, N)), np.empty((N, L, N))
    for lag in range(L):
        past = z[rows - lag]
        total[lag], first[:, lag] = past.sum(0), z[rows].T @ past

    change = np.r_[mask[1:], 0.0] - mask
    edge = np.flatnonzero(change)
    edges = z[np.maximum(edge[:, None] - np.arange(L), 0)].reshape(len(edge), L * N)  # row 0 is padding: zeros
    gram = ((edges * change[edge, None]).T @ edges).reshape(L, N, L, N)
    step = gram.copy()
    gram[0] = first
    for i in range(1, L):
        gram[i, :, 1:] = gram[i - 1, :, :-1] + step[i - 1, :, :-1]
        gram[i, :, 0] = gram[0, :, i].T

    return gram.reshape(L * N, L * N), total.reshape(-1)


def _filter(z: Array, weights: Array) -> Array:
    """Returns ``lagged(z) @ weights`` without building the lagged matrix."""
    out = np.zeros((len(z), weights.shape[1]))
    for lag, w in enumerate(weights.reshape(-1, z.shape[1], weights.shape[1])[: len(z)]):
        out[lag:] += z[: len(z) - lag] @ w

    return out

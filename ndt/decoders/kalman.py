"""A Kalman filter as a decoder."""

from dataclasses import dataclass, replace

import numpy as np

from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.segments import Array, Masks, Scaler, Segments, labelled, take, with_history

__all__ = ["Kalman", "fit_kalman"]

MOST_LAGS = 6  # candidates; more of them take longer and decode no better
SHRINKAGES = (1e-3, 1e-2, 1e-1, 0.5)  # candidates, of the noise covariance towards its diagonal


@dataclass(frozen=True)
class Kalman:
    r"""Kalman filter whose state is the target, and with `order` 2 also the target one bin earlier.

    .. math:: x_{t+1} = A x_t + w_t, \qquad y_{t - \mathrm{lag}} = H x_t + q_t

    Reference: Wu et al. (2006), Neural Computation 18:80, https://doi.org/10.1162/089976606774841585

    Arguments:
        transition: A, shape (K, K).
        transition_noise: Covariance of w, shape (K, K).
        prior: Covariance of x at the start of a segment, shape (K, K).
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

    def predict(self, counts: Segments) -> list[Array]:
        """Returns predictions, one (T, C) a segment."""
        return self.decode([self.counts.apply(x) for x in counts])

    def decode(self, z: list[Array]) -> list[Array]:
        """Returns predictions, one (T, C) a segment, from counts that `counts` has scaled."""
        C, gains = len(self.targets.mean), self._gains(max((len(x) for x in z), default=0))
        return [self.targets.invert(self._states(x, gains)[:, :C]) for x in z]

    def _gains(self, num_bins: int) -> list[tuple[Array, Array]]:
        """Returns for each bin with counts the matrices that multiply the predicted state and H' Q^-1 y.

        They do not depend on counts and converge; the list ends when they have.
        """
        K, covariance = len(self.transition), self.prior
        gains: list[tuple[Array, Array]] = []
        for _ in range(num_bins):
            gain = np.linalg.solve(np.eye(K) + covariance @ self.information, covariance)
            gain = (gain + gain.T) / 2  # the posterior covariance, symmetric up to rounding
            gains.append((np.eye(K) - gain @ self.information, gain))
            if len(gains) > 1 and np.abs(gain - gains[-2][1]).max() < 1e-12 * np.abs(gain).max():
                break
            covariance = self.transition @ gain @ self.transition.T + self.transition_noise

        return gains

    def _states(self, z: Array, gains: list[tuple[Array, Array]]) -> Array:
        """Returns the filtered states of one segment, (T, K); the prior mean before the first counts."""
        states, state = np.zeros((len(z), len(self.transition))), np.zeros(len(self.transition))
        evidence = z @ self.readout
        for t in range(self.lag_bins, len(z)):
            seen = t - self.lag_bins
            keep, gain = gains[min(seen, len(gains) - 1)]
            predicted = self.transition @ state if seen > 0 else state
            states[t] = state = keep @ predicted + gain @ evidence[seen]

        return states


def fit_kalman(
    counts: Segments, targets: Segments, train: Masks, valid: Masks, *, bin_size: float, max_lag_s: float = 0.2
) -> Kalman:
    """Fits the Kalman filter; lag, order and shrinkage of the count noise have the best validation R².

    Arguments as of `ndt.decoders.ridge.fit_ridge`.
    """
    train, valid = labelled(targets, train, "train"), labelled(targets, valid, "valid")
    scale_x, scale_y = Scaler.fit(counts, train), Scaler.fit(targets, train)
    x, y = [scale_x.apply(k) for k in counts], [scale_y.apply(v) for v in targets]
    (history, chosen), true = with_history(x, valid, bin_size), take(targets, valid)
    longest = int(max_lag_s / bin_size + 1e-6)
    lags = sorted({round(v) for v in np.linspace(0, longest, min(longest, MOST_LAGS - 1) + 1)})
    best: Kalman | None = None
    for order in (1, 2):
        for lag_bins in lags:
            for model in _kalman_candidates(x, y, train, (scale_x, scale_y), order, lag_bins):
                score = r2(true, take(model.decode(history), chosen))
                if best is None or score > best.valid_r2:
                    best = replace(model, valid_r2=score)

    if best is None:
        raise InputError("Kalman filter", "train", "runs of at least 3 labelled bins", "shorter ones")
    return best


def _kalman_candidates(
    scaled_counts: list[Array],
    scaled_targets: list[Array],
    train: Masks,
    scalers: tuple[Scaler, Scaler],
    order: int,
    lag: int,
) -> list[Kalman]:
    """Returns one filter per shrinkage for one order and lag; none if the data are too short."""
    past, now, seen, evidence = [], [], [], []
    for z, y, m in zip(scaled_counts, scaled_targets, train, strict=True):
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

    tiny = 1e-9 * np.eye(K)  # a state with a lagged copy (order 2) has singular noise
    A = np.linalg.solve(x0.T @ x0 + tiny, x0.T @ x1).T
    W = (x1 - x0 @ A.T).T @ (x1 - x0 @ A.T) / len(x0)
    H = np.linalg.solve(x.T @ x + tiny, x.T @ z).T  # (N, K)
    Q = (z - x @ H.T).T @ (z - x @ H.T) / len(x)
    models = []
    for share in SHRINKAGES:
        noise = (1 - share) * Q + share * np.diag(np.diag(Q)) + 1e-6 * np.eye(N)  # silent units have no variance
        readout = np.linalg.solve(noise, H)
        models.append(Kalman(A, W, x.T @ x / len(x), H.T @ readout, readout, *scalers, lag, order))

    return models

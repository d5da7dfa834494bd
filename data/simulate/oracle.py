"""The decoder that knows the truth's parameters: no causal decoder of the same spikes should do much better."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ndt.data.simulate.population import Tuning, transition, velocity

__all__ = ["oracle_velocity"]

NEWTON_STEPS = 3  # from the prediction, two reach the mode to rounding; the third is for rare jumps

Array = NDArray[np.float64]
Update = Callable[[Array, Array, Array], tuple[Array, Array]]  # counts (N,), mean (K,), covariance (K, K) -> the latter


def oracle_velocity(
    counts: NDArray[np.integer], valid: NDArray[np.bool_], tuning: Tuning, dispersion: float, bin_size: float
) -> Array:
    r"""Returns the velocity decoded causally from counts by the filter that knows all parameters, shape (T, 2).

    The state is the latents z at bin centres. For the nonlinear population each bin's posterior is approximated by a
    Gaussian at its mode, found by Fisher scoring (the Laplace-Gaussian filter); for the linear-Gaussian one this is the
    Kalman filter. The velocity is its mean under that Gaussian, by Gauss-Hermite quadrature.

    Reference: Koyama et al. (2010), JASA 105:170, https://doi.org/10.1198/jasa.2009.tm08326

    Arguments:
        counts: Spikes per bin, shape (T, N).
        valid: Bins that were observed; over the others the filter only predicts, shape (T,).
        tuning: The units' true tuning.
        dispersion: Of the spike counts; 0 if Poisson.
        bin_size: Seconds.
    """
    K, tuning, counts = tuning.weights.shape[1], tuning.select(~tuning.silent), counts[:, ~tuning.silent]
    F = transition(K, bin_size)
    Q = np.eye(K) - F @ F.T
    update = _kalman(tuning, dispersion, bin_size) if tuning.linear else _laplace(tuning, dispersion, bin_size)
    mean, covariance = np.zeros(K), np.eye(K)
    means, covariances = np.empty((len(counts), K)), np.empty((len(counts), 2, 2))
    for t, (k, seen) in enumerate(zip(counts.astype(np.float64), valid, strict=True)):
        if t > 0:
            mean, covariance = F @ mean, F @ covariance @ F.T + Q
        if seen:
            mean, covariance = update(k, mean, covariance)
        means[t], covariances[t] = mean, covariance[:2, :2]

    return _expected_velocity(means[:, :2], covariances, "linear_gaussian" if tuning.linear else "nonlinear")


def _expected_velocity(mean: Array, covariance: Array, dynamics: str) -> Array:
    """Returns the mean velocity under Gaussians (T, 2), (T, 2, 2) over intended velocity."""
    root = np.linalg.cholesky(covariance)
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    total: Array = np.zeros_like(mean)
    norm = float(weights.sum()) ** 2
    for x, p in zip(nodes, weights, strict=True):
        for y, q in zip(nodes, weights, strict=True):
            total += p * q / norm * velocity(mean + root @ np.array([x, y]), dynamics)

    return total


def _inverse(x: Array) -> Array:
    return np.asarray(np.linalg.inv(x), np.float64)


def _kalman(tuning: Tuning, dispersion: float, bin_size: float) -> Update:
    expected = np.exp(tuning.log_rate) * bin_size
    C = expected[:, None] * tuning.weights
    weighted = (C / (expected * (1 + dispersion * expected))[:, None]).T  # C' R^-1
    information = weighted @ C

    def update(k: Array, mean: Array, covariance: Array) -> tuple[Array, Array]:
        posterior = _inverse(_inverse(covariance) + information)
        return mean + posterior @ (weighted @ (k - expected - C @ mean)), posterior

    return update


def _laplace(tuning: Tuning, dispersion: float, bin_size: float) -> Update:
    base = tuning.base() + np.log(bin_size)

    def update(k: Array, mean: Array, covariance: Array) -> tuple[Array, Array]:
        precision = _inverse(covariance)
        z, posterior = mean, covariance
        for _ in range(NEWTON_STEPS):
            deviation, slope = tuning.slope(z)
            expected = np.exp(base + deviation)
            spread = 1 + dispersion * expected
            posterior = _inverse(precision + slope.T @ ((expected / spread)[:, None] * slope))
            z = z + posterior @ (slope.T @ ((k - expected) / spread) - precision @ (z - mean))

        return z, posterior

    return update

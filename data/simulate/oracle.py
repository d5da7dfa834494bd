"""The oracle decoder, which knows the true parameters: an upper reference for causal decoders of the same spikes."""

import numpy as np
from numpy.typing import NDArray

from ndt.data.simulate.population import Tuning, transition, velocity

__all__ = ["oracle_velocity"]

NEWTON_STEPS = 3  # from the prediction, two reach the mode to rounding; the third is for rare jumps

Array = NDArray[np.float64]


def oracle_velocity(counts: NDArray[np.integer], valid: NDArray[np.bool_], tuning: Tuning, bin_size: float) -> Array:
    r"""Returns the velocity that the filter with the true parameters decodes causally from counts, shape (T, 2).

    The state is the latents z at bin centres. The Laplace-Gaussian filter approximates each bin's posterior by a
    Gaussian at its mode, found by Fisher scoring. The decoded velocity is the mean velocity under that Gaussian, by
    Gauss-Hermite quadrature.

    Reference: Koyama et al. (2010), JASA 105:170, https://doi.org/10.1198/jasa.2009.tm08326

    Arguments:
        counts: Spikes per bin, shape (T, N).
        valid: Bins that were observed, shape (T,); in other bins the filter only predicts.
        tuning: The units' true tuning.
        bin_size: Seconds.
    """
    tuning, counts = tuning.select(~tuning.silent), counts[:, ~tuning.silent]
    F = transition(bin_size)
    K = len(F)
    Q = np.eye(K) - F @ F.T
    base = tuning.base() + np.log(bin_size)
    mean, covariance = np.zeros(K), np.eye(K)
    means, covariances = np.empty((len(counts), K)), np.empty((len(counts), 2, 2))
    for t, (k, seen) in enumerate(zip(counts.astype(np.float64), valid, strict=True)):
        if t > 0:
            mean, covariance = F @ mean, F @ covariance @ F.T + Q
        if seen:
            mean, covariance = _update(k, mean, covariance, tuning, base)
        means[t], covariances[t] = mean, covariance[:2, :2]

    return _expected_velocity(means[:, :2], covariances)


def _expected_velocity(mean: Array, covariance: Array) -> Array:
    """Returns the mean velocity under Gaussians (T, 2), (T, 2, 2) over intended velocity."""
    root = np.linalg.cholesky(covariance)
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    total: Array = np.zeros_like(mean)
    norm = float(weights.sum()) ** 2
    for x, p in zip(nodes, weights, strict=True):
        for y, q in zip(nodes, weights, strict=True):
            total += p * q / norm * velocity(mean + root @ np.array([x, y]))

    return total


def _inverse(x: Array) -> Array:
    return np.asarray(np.linalg.inv(x), np.float64)


def _update(k: Array, mean: Array, covariance: Array, tuning: Tuning, base: Array) -> tuple[Array, Array]:
    """Returns mode (K,) and covariance (K, K) of the posterior after counts k (N,); `base` in log spikes per bin."""
    precision = _inverse(covariance)
    z, posterior = mean, covariance
    for _ in range(NEWTON_STEPS):
        deviation, slope = tuning.slope(z)
        expected = np.exp(base + deviation)
        posterior = _inverse(precision + slope.T @ (expected[:, None] * slope))
        z = z + posterior @ (slope.T @ (k - expected) - precision @ (z - mean))

    return z, posterior

"""Scores: R² and angular error of what was decoded, and likelihoods of spike counts. Each name says its convention."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

__all__ = [
    "angular_error_deg",
    "bits_per_spike",
    "co_bps",
    "paired_difference",
    "poisson_nll",
    "r2",
    "r2_per_dim",
    "r2_uniform",
]

MIN_RATE = 1e-9  # NLB's floor for rates of zero, in spikes per bin


def _sums(true: ArrayLike, predicted: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns squared error and squared deviation from the mean, each summed over labelled rows, shape (C,)."""
    y, x = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    if y.shape != x.shape or y.ndim != 2:
        raise ValueError(f"true and predicted must both be (T, C), got {y.shape} and {x.shape}")
    labelled = ~np.isnan(y).any(1)
    y, x = y[labelled], x[labelled]
    mean = y.mean(0) if len(y) else np.zeros(y.shape[1])

    return np.sum((y - x) ** 2, 0), np.sum((y - mean) ** 2, 0)


def _ratio(error: Any, total: Any) -> Any:
    """Returns 1 - error / total; NaN where nothing varies, since R² is then undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(total) > 0, 1 - np.asarray(error) / np.asarray(total), np.nan)


def r2(true: ArrayLike, predicted: ArrayLike) -> float:
    r"""Returns the variance-weighted R² over all rows at once.

    .. math:: R^2 = 1 - \sum_{tc} (y_{tc} - \hat y_{tc})^2 / \sum_{tc} (y_{tc} - \bar y_c)^2

    Rows with a NaN in `true` are unlabelled and left out. NaN where `true` does not vary.

    Arguments:
        true: Measured covariates, shape (T, C).
        predicted: Decoded covariates, shape (T, C).

    Example:
        >>> r2([[0.0], [1.0], [2.0]], [[0.0], [1.0], [1.0]])
        0.5
    """
    error, total = _sums(true, predicted)

    return float(_ratio(error.sum(), total.sum()))


def r2_per_dim(true: ArrayLike, predicted: ArrayLike) -> NDArray[np.float64]:
    """Returns R² of each dimension, shape (C,); see `r2`."""
    return np.asarray(_ratio(*_sums(true, predicted)), np.float64)


def r2_uniform(true: ArrayLike, predicted: ArrayLike) -> float:
    """Returns the plain mean over dimensions of their R²; see `r2`."""
    return float(np.mean(r2_per_dim(true, predicted)))


def angular_error_deg(true: ArrayLike, predicted: ArrayLike) -> NDArray[np.float64]:
    """Returns the absolute difference of directions in degrees, 0 to 180, shape (T, C / 2); NaN where `true` is.

    Arguments:
        true: Cosine and sine of each angle side by side, shape (T, C).
        predicted: The same, of any length, since only directions count; none at all is 90 degrees off.

    Example:
        >>> angular_error_deg([[1.0, 0.0]], [[0.0, 3.0]])
        array([[90.]])
    """
    y, x = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    if y.shape != x.shape or y.ndim != 2 or y.shape[1] % 2:
        raise ValueError(f"true and predicted must both be (T, C) with C even, got {y.shape} and {x.shape}")
    (a, b), (c, d) = (y[:, ::2], y[:, 1::2]), (x[:, ::2], x[:, 1::2])
    error = np.degrees(np.abs(np.arctan2(a * d - b * c, a * c + b * d)))  # exact near 0 and 180, where arccos is not

    return np.where(np.isnan(error) | (np.hypot(c, d) > 0), error, 90.0)


def poisson_nll(rates: ArrayLike, counts: ArrayLike) -> float:
    r"""Returns the summed Poisson negative log-likelihood, in nats.

    .. math:: \sum_{tn} \lambda_{tn} - k_{tn} \log \lambda_{tn} + \log k_{tn}!

    Entries with a NaN in `counts` are left out; rates of zero are raised to 1e-9, as NLB does.

    Arguments:
        rates: Expected spikes per bin, at least 0, shape (..., N).
        counts: Spikes per bin, shape of `rates`.
    """
    rate, k = np.asarray(rates, np.float64), np.asarray(counts, np.float64)
    if rate.shape != k.shape:
        raise ValueError(f"rates and counts must have one shape, got {rate.shape} and {k.shape}")
    known = ~np.isnan(k)
    rate, k = rate[known], k[known]
    if np.isnan(rate).any() or (rate < 0).any():
        raise ValueError("rates must be at least 0 and not NaN wherever counts are known")
    rate = np.where(rate == 0, MIN_RATE, rate)

    return float(np.sum(rate - k * np.log(rate) + gammaln(k + 1)))


def bits_per_spike(nll_model: float, nll_null: float, num_spikes: float) -> float:
    """Returns how many bits per spike the model gains over the null model; likelihoods are summed and in nats."""
    if num_spikes <= 0:
        return float("nan")

    return float((nll_null - nll_model) / (num_spikes * np.log(2)))


def co_bps(rates: ArrayLike, counts: ArrayLike) -> float:
    """Returns co-smoothing bits per spike as the Neural Latents Benchmark defines it.

    Likelihoods are pooled over all trials, bins and units; the null rate of a unit is its mean count in the evaluation
    data given here. Averages of per-unit scores are another quantity.

    Reference: Pei et al. (2021), Neural Latents Benchmark '21, https://arxiv.org/abs/2109.04463

    Arguments:
        rates: Predicted spikes per bin of the held-out units, shape (..., N).
        counts: Their spikes per bin, NaN where not observed, shape of `rates`.
    """
    k = np.asarray(counts, np.float64)
    k = k.reshape(-1, k.shape[-1])
    seen = ~np.isnan(k)
    null = np.nansum(k, 0) / np.maximum(seen.sum(0), 1)  # a unit never observed enters no sum
    rate = np.asarray(rates, np.float64).reshape(k.shape)

    return bits_per_spike(poisson_nll(rate, k), poisson_nll(np.broadcast_to(null, k.shape), k), float(np.nansum(k)))


def paired_difference(values: Sequence[float], peers: Sequence[float]) -> tuple[float, float | None]:
    r"""Returns the mean difference of pairs and its standard error; one pair has no error.

    .. math:: \bar d = \tfrac1n \sum_s d_s, \quad \mathrm{se} = \sqrt{\tfrac{1}{n (n - 1)} \sum_s (d_s - \bar d)^2}

    Arguments:
        values: One of each pair (a seed), n in number.
        peers: What each is compared to, in the same order.
    """
    if len(values) != len(peers) or not len(values):
        raise ValueError(f"values and peers must be pairs, at least one, got {len(values)} and {len(peers)}")
    d = np.asarray(values, np.float64) - np.asarray(peers, np.float64)

    return float(d.mean()), float(d.std(ddof=1) / np.sqrt(len(d))) if len(d) > 1 else None

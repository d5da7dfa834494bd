"""R², angular error and other scores of predictions, and likelihoods of spike counts; names state conventions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from ndt.target import KINDS

__all__ = [
    "angular_error_deg",
    "bits_per_spike",
    "co_bps",
    "confusion",
    "paired_difference",
    "poisson_nll",
    "r2",
    "r2_per_dim",
    "r2_uniform",
    "score",
]

MIN_RATE = 1e-9  # NLB's floor for rates of zero, in spikes per bin
LEAST_PROBABILITY = 1e-6  # a true class with probability 0 costs log 1e6, not infinity

Array = NDArray[np.float64]


def _sums(true: ArrayLike, predicted: ArrayLike) -> tuple[Array, Array]:
    """Returns squared error and squared deviation from the mean, each summed over labelled rows, shape (C,)."""
    y, x = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    if y.shape != x.shape or y.ndim != 2:
        raise ValueError(f"true and predicted must both be (T, C), got {y.shape} and {x.shape}")
    labelled = ~np.isnan(y).any(1)
    y, x = y[labelled], x[labelled]
    mean = y.mean(0) if len(y) else np.zeros(y.shape[1])

    return np.sum((y - x) ** 2, 0), np.sum((y - mean) ** 2, 0)


def _ratio(error: Any, total: Any) -> Any:
    """Returns 1 - error / total; NaN if nothing varies, since R² is then undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(total) > 0, 1 - np.asarray(error) / np.asarray(total), np.nan)


def r2(true: ArrayLike, predicted: ArrayLike) -> float:
    r"""Returns the variance-weighted R² over all rows at once.

    .. math:: R^2 = 1 - \sum_{tc} (y_{tc} - \hat y_{tc})^2 / \sum_{tc} (y_{tc} - \bar y_c)^2

    Rows with a NaN in `true` are unlabelled and left out. NaN if `true` does not vary.

    Arguments:
        true: Measured targets, shape (T, C).
        predicted: Predictions, shape (T, C).

    Example:
        >>> r2([[0.0], [1.0], [2.0]], [[0.0], [1.0], [1.0]])
        0.5
    """
    error, total = _sums(true, predicted)

    return float(_ratio(error.sum(), total.sum()))


def r2_per_dim(true: ArrayLike, predicted: ArrayLike) -> Array:
    """Returns R² of each dimension, shape (C,); see `r2`."""
    return np.asarray(_ratio(*_sums(true, predicted)), np.float64)


def r2_uniform(true: ArrayLike, predicted: ArrayLike) -> float:
    """Returns the plain mean over dimensions of their R²; see `r2`."""
    return float(np.mean(r2_per_dim(true, predicted)))


def angular_error_deg(true: ArrayLike, predicted: ArrayLike) -> Array:
    """Returns the absolute difference of directions in degrees, 0 to 180, shape (T, C / 2); NaN where `true` is.

    Arguments:
        true: Cosine and sine of each angle side by side, shape (T, C).
        predicted: The same, of any length; a vector of length 0 has an error of 90 degrees.

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
    """Returns the gain over the null model in bits per spike, from summed negative log-likelihoods in nats."""
    if num_spikes <= 0:
        return float("nan")

    return float((nll_null - nll_model) / (num_spikes * np.log(2)))


def co_bps(rates: ArrayLike, counts: ArrayLike) -> float:
    """Returns co-smoothing bits per spike as the Neural Latents Benchmark defines it.

    Likelihoods are pooled over all trials, bins and units, unlike averages of per-unit scores. The null rate of a unit
    is its mean count in these evaluation data.

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


def paired_difference(values: Sequence[float], references: Sequence[float]) -> tuple[float, float | None]:
    r"""Returns the mean difference of pairs and its standard error; None for one pair.

    .. math:: \bar d = \tfrac1n \sum_s d_s, \quad \mathrm{se} = \sqrt{\tfrac{1}{n (n - 1)} \sum_s (d_s - \bar d)^2}

    Arguments:
        values: One value a pair (a seed), n in number.
        references: The value that each is compared to, in the same order.
    """
    if len(values) != len(references) or not len(values):
        raise ValueError(f"values and references must be pairs, at least one, got {len(values)} and {len(references)}")
    d = np.asarray(values, np.float64) - np.asarray(references, np.float64)

    return float(d.mean()), float(d.std(ddof=1) / np.sqrt(len(d))) if len(d) > 1 else None


def score(true: ArrayLike, predicted: ArrayLike, kind: str) -> dict[str, Any]:
    """Returns the scores of a target at its labelled rows, as plain numbers; NaN if undefined.

    All kinds have ``r2`` (variance-weighted; a Brier skill score for one-hot columns), ``r2_uniform`` (mean over
    columns), ``r2_per_dim`` and ``num_bins``.

    - *continuous*: ``rmse`` over all rows and dimensions, in the target's unit; ``correlation`` (Pearson's), mean over
      dimensions.
    - *angle*, columns cosine and sine of each: ``median_error_deg``, ``mean_error_deg`` (of the absolute difference of
      directions, mean over angles).
    - *class*, one column a class: ``accuracy`` of the likeliest class; ``recall``, the same of the rows of each class,
      NaN for one that does not occur; ``class_counts``, the rows of each class; ``balanced_accuracy``, the mean recall
      of classes that occur; ``chance``, the accuracy of the most frequent class; ``log_loss`` in nats, of
      probabilities that sum to 1, each at least 1e-6.

    Arguments:
        true: Measured values, shape (R, C); rows with a NaN are unlabelled and left out.
        predicted: Predictions, shape (R, C).
        kind: ``continuous``, ``angle`` or ``class``.

    Example:
        >>> score([[0.0, 1.0], [1.0, 0.0]], [[0.2, 0.8], [0.6, 0.4]], "class")["accuracy"]
        1.0
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    y, x = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    if y.shape != x.shape or y.ndim != 2:
        raise ValueError(f"true and predicted must both be (R, C), got {y.shape} and {x.shape}")
    labelled = ~np.isnan(y).any(1)
    y, x = y[labelled], x[labelled]
    found: dict[str, Any] = {"r2": r2(y, x), "r2_uniform": r2_uniform(y, x), "r2_per_dim": r2_per_dim(y, x)}
    if kind == "continuous":
        found |= _continuous(y, x)
    elif kind == "angle":
        found |= _angle(y, x)
    else:
        found |= _class(y, x)

    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found.items()} | {"num_bins": len(y)}


def confusion(true: ArrayLike, predicted: ArrayLike) -> NDArray[np.int64]:
    """Returns the number of labelled rows by true class (rows) and likeliest class (columns), (C, C).

    Arguments:
        true: One column a class, 1 for the true one, shape (R, C); rows with a NaN are left out.
        predicted: Probabilities, shape (R, C).

    Example:
        >>> confusion([[0.0, 1.0], [1.0, 0.0]], [[0.2, 0.8], [0.4, 0.6]])
        array([[0, 1],
               [0, 1]])
    """
    y, x = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    known = ~np.isnan(y).any(1)
    counts = np.zeros((y.shape[1],) * 2, np.int64)
    np.add.at(counts, (y[known].argmax(1), x[known].argmax(1)), 1)

    return counts


def _mean(x: Array) -> Array:
    """Returns the mean over rows; NaN without rows."""
    return x.mean(0) if len(x) else np.full(x.shape[1:], np.nan)


def _continuous(y: Array, x: Array) -> dict[str, Any]:
    dy, dx = y - _mean(y), x - _mean(x)
    with np.errstate(divide="ignore", invalid="ignore"):  # undefined if either does not vary
        correlation = _mean(dy * dx) / np.sqrt(_mean(dy**2) * _mean(dx**2))

    return {"rmse": float(np.sqrt(_mean((y - x) ** 2).mean())), "correlation": float(correlation.mean())}


def _angle(y: Array, x: Array) -> dict[str, Any]:
    error = angular_error_deg(y, x)
    median = np.median(error, 0) if len(error) else np.full(error.shape[1], np.nan)

    return {"median_error_deg": float(median.mean()), "mean_error_deg": float(_mean(error).mean())}


def _class(y: Array, x: Array) -> dict[str, Any]:
    label, counts = y.argmax(1), confusion(y, x)
    rows, right = counts.sum(1), counts.diagonal()
    occurs = rows > 0
    recall = np.where(occurs, right / np.maximum(rows, 1), np.nan)
    p = np.clip(x, LEAST_PROBABILITY, 1.0)
    p /= p.sum(1, keepdims=True)

    return {
        "accuracy": float(right.sum() / len(y)) if len(y) else float("nan"),
        "balanced_accuracy": float(_mean(recall[occurs])),
        "recall": recall,
        "class_counts": rows,
        "chance": float(rows.max() / len(y)) if len(y) else float("nan"),
        "log_loss": float(_mean(-np.log(p[np.arange(len(y)), label]))),
    }

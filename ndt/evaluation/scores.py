"""All scores of one decoded target, by its kind. Each is labelled by its convention, none is an average over runs."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ndt.evaluation.metrics import angular_error_deg, r2, r2_per_dim, r2_uniform

__all__ = ["KINDS", "score"]

KINDS = ("continuous", "angle", "class")
LEAST_PROBABILITY = 1e-6  # a class ruled out and yet true costs log 1e6, not infinity

Array = NDArray[np.float64]


def score(true: ArrayLike, predicted: ArrayLike, kind: str, *, trial: ArrayLike | None = None) -> dict[str, Any]:
    """Returns the scores of a target at its labelled rows, as plain numbers; NaN where one is undefined.

    All kinds have ``r2`` (variance-weighted), ``r2_uniform`` (mean over columns), ``r2_per_dim`` and ``num_bins``. Of
    one-hot columns r2 is a Brier skill score.

    - *continuous*: ``rmse`` over all rows and dimensions, in the target's unit; ``correlation`` (Pearson's), mean over
      dimensions.
    - *angle*, columns cosine and sine of each: ``median_error_deg``, ``mean_error_deg`` (of the absolute difference of
      directions, mean over angles).
    - *class*, one column a class: ``accuracy`` of the likeliest class; ``balanced_accuracy``, its mean over classes
      that occur; ``chance``, the accuracy of always naming the most frequent; ``log_loss`` in nats, of probabilities
      raised to at least 1e-6 that sum to 1. With trials, ``num_trials`` and ``trial_accuracy``: a trial is of the
      class whose mean probability over its labelled rows is largest, and truly of the one that most of them have.

    Arguments:
        true: Measured values, shape (R, C); rows with a NaN are unlabelled and left out.
        predicted: Decoded values, shape (R, C).
        kind: ``continuous``, ``angle`` or ``class``.
        trial: Trial that each row lies in, -1 for none, shape (R,); for classes only.

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
        if trial is not None:
            found |= _trials(y, x, np.asarray(trial)[labelled])

    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found.items()} | {"num_bins": len(y)}


def _mean(x: Array) -> Array:
    """Returns the mean over rows; NaN where there are none."""
    return x.mean(0) if len(x) else np.full(x.shape[1:], np.nan)


def _continuous(y: Array, x: Array) -> dict[str, Any]:
    dy, dx = y - _mean(y), x - _mean(x)
    with np.errstate(divide="ignore", invalid="ignore"):  # undefined where either does not vary
        correlation = _mean(dy * dx) / np.sqrt(_mean(dy**2) * _mean(dx**2))

    return {"rmse": float(np.sqrt(_mean((y - x) ** 2).mean())), "correlation": float(correlation.mean())}


def _angle(y: Array, x: Array) -> dict[str, Any]:
    error = angular_error_deg(y, x)
    median = np.median(error, 0) if len(error) else np.full(error.shape[1], np.nan)

    return {"median_error_deg": float(median.mean()), "mean_error_deg": float(_mean(error).mean())}


def _class(y: Array, x: Array) -> dict[str, Any]:
    label, hit = y.argmax(1), (y.argmax(1) == x.argmax(1)).astype(np.float64)
    rows = np.bincount(label, minlength=y.shape[1])
    occurs = rows > 0
    recall = np.bincount(label, hit, minlength=y.shape[1])[occurs] / rows[occurs]
    p = np.clip(x, LEAST_PROBABILITY, 1.0)
    p /= p.sum(1, keepdims=True)

    return {
        "accuracy": float(_mean(hit)),
        "balanced_accuracy": float(_mean(recall)),
        "chance": float(rows.max() / len(y)) if len(y) else float("nan"),
        "log_loss": float(_mean(-np.log(p[np.arange(len(y)), label]))),
    }


def _trials(y: Array, x: Array, trial: NDArray[Any]) -> dict[str, Any]:
    inside = trial >= 0
    _, number = np.unique(trial[inside], return_inverse=True)
    num_trials = int(number.max()) + 1 if len(number) else 0
    votes, truth = np.zeros((2, num_trials, y.shape[1]))
    np.add.at(votes, number, x[inside])  # a sum over its rows ranks classes as their mean does
    np.add.at(truth, number, y[inside])

    return {"num_trials": num_trials, "trial_accuracy": float(_mean((votes.argmax(1) == truth.argmax(1)) * 1.0))}

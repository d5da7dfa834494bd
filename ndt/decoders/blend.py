"""One prediction from several: a weighted mean whose weights decode validation bins best."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

__all__ = ["ensemble_weights", "combined"]

ZERO = 1e-3  # weights below are rounding

Rows = NDArray[np.floating]


def ensemble_weights(true: Rows, members: Mapping[str, Rows]) -> dict[str, float]:
    r"""Returns the weights, at least 0 and of sum 1, with the least squared error over all rows and columns.

    .. math:: \min_w \sum_{tc} \big(y_{tc} - \sum_m w_m \hat y_{m, tc}\big)^2, \quad w \ge 0, \quad \sum_m w_m = 1

    Each member alone is such a blend, so that on these rows the blend's variance-weighted R² is at least that of any.

    Reference: Breiman (1996), Stacked regressions, https://doi.org/10.1007/BF00117832

    Arguments:
        true: Measured values, (R, C); rows with a NaN are unlabelled and left out.
        members: What each decoded, (R, C).

    Example:
        >>> y = np.array([[0.0], [1.0], [3.0]])
        >>> ensemble_weights(y, {"twice": 2 * y, "nothing": 0 * y})
        {'twice': 0.5, 'nothing': 0.5}
    """
    y = np.asarray(true, np.float64)
    known = ~np.isnan(y).any(1)
    errors = np.stack([(np.asarray(x, np.float64)[known] - y[known]).ravel() for x in members.values()], 1)
    scale = np.sqrt(np.mean(errors**2)) or 1.0
    # With weights of sum 1 the blend's error is the blend of errors; nnls with a row of ones finds w up to a scale.
    gram = errors.T @ errors / (len(errors) * scale**2)
    half = np.linalg.cholesky(gram + 1e-9 * np.eye(len(gram)))  # equal members share their weight
    stacked = np.vstack([half.T, np.ones(len(gram))])
    found, _ = nnls(stacked, np.r_[np.zeros(len(gram)), 1.0])
    weights = found / found.sum()
    weights = np.where(weights < ZERO, 0.0, weights)
    weights = np.round(weights / weights.sum(), 6)

    return dict(zip(members, map(float, weights), strict=True))


def combined(members: Mapping[str, Rows], weights: Mapping[str, float]) -> Rows:
    """Returns the weighted mean of what members decoded, (R, C); a member of weight 0 need not be there."""
    return np.asarray(sum(w * np.asarray(members[name], np.float64) for name, w in weights.items() if w))

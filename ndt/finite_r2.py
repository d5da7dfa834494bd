"""R² as scikit-learn's ``r2_score`` has it, which public benchmarks report: a number even where nothing varies."""

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["finite_r2"]


def finite_r2(true: ArrayLike, predicted: ArrayLike, *, weighted: bool = False) -> float:
    r"""Returns the mean of the columns' R², each alike or weighted by its variance.

    .. math:: R^2_c = 1 - \sum_t (y_{tc} - \hat y_{tc})^2 / \sum_t (y_{tc} - \bar y_c)^2

    A column that does not vary counts 1 where it is predicted exactly and 0 where not; weighted, it counts nothing
    unless no column varies. `ndt.metrics.r2` says NaN in the first case and adds such a column's error in the second.

    Arguments:
        true: Without NaN, shape (T, C).
        predicted: Shape (T, C).

    Example:
        >>> finite_r2([[0.0, 5.0], [2.0, 5.0]], [[0.0, 5.0], [1.0, 6.0]])
        0.25
    """
    y, x = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    if y.shape != x.shape or y.ndim != 2 or len(y) < 2:
        raise ValueError(f"true and predicted must both be (T, C), T at least 2, got {y.shape} and {x.shape}")
    if np.isnan(y).any() or np.isnan(x).any():
        raise ValueError("true and predicted must be without NaN")
    error, total = np.sum((y - x) ** 2, 0), np.sum((y - y.mean(0)) ** 2, 0)
    varies = np.ptp(y, 0) > 0  # not total: that of a constant is what rounding of its mean leaves
    score = np.where(varies, 1 - error / np.where(varies, total, 1.0), np.where(error > 0, 0.0, 1.0))

    return float(np.average(score, weights=total if weighted and varies.any() else None))

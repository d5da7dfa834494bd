r"""Calibration of prediction intervals and of class probabilities: coverage over time and at several levels.

Half widths are stored for one level :math:`\ell`. At a level p they are scaled as for normal errors,
:math:`h_p = h \, z_p / z_\ell` with :math:`z_p = \Phi^{-1}((1 + p) / 2)`, so levels other than :math:`\ell` test
whether errors are normal. Class probabilities need no such assumption: among bins whose likeliest class has
probability p, a share p should belong to it.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from ndt.evaluation.bootstrap import block_bootstrap_mean

__all__ = ["LEVELS", "at_levels", "confidence", "noise", "over_time"]

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
PARTS = 10  # of the test split
FEWEST = 10  # rows for a share
REPLICATES = 200  # enough for error bars

Array = NDArray[np.float64]

# T = bins, K = dimensions with a half width, L = levels


def over_time(time: ArrayLike, covered: ArrayLike, parts: int = PARTS) -> tuple[Array, Array]:
    """Returns the mean time of each of P equal parts of the rows, (P,), and the coverage of its intervals, (P,).

    Parts have at least 10 rows, so fewer than 100 rows make fewer parts.

    Arguments:
        time: Seconds, ascending, shape (T,).
        covered: 1 if the truth lies in the interval, else 0, shape (T, K); rows with NaN are left out.
        parts: Number of parts.

    Example:
        >>> over_time([0.0, 1.0, 2.0, 3.0], [[1.0], [1.0], [0.0], [1.0]], parts=1)
        (array([1.5]), array([0.75]))
    """
    t, c = np.asarray(time, np.float64), np.asarray(covered, np.float64)
    known = ~np.isnan(c).any(1)
    t, c = t[known], c[known].mean(1)
    if not len(t):
        return np.zeros(0), np.zeros(0)
    groups = np.array_split(np.arange(len(t)), max(1, min(parts, len(t) // FEWEST)))

    return np.array([t[g].mean() for g in groups]), np.array([c[g].mean() for g in groups])


def noise(error: float | None, calibration_error: float | None, parts: int) -> float:
    r"""Returns the standard error of the coverage of one of P parts, :math:`\sqrt{P e^2 + c^2}`; NaN if unknown.

    Arguments:
        error: Standard error e of the coverage of the whole test split.
        calibration_error: Standard error c of coverage due to few validation rows; None counts as 0.
        parts: Number of equal parts P.

    Example:
        >>> round(noise(0.01, 0.0, 9), 3)
        0.03
    """
    if error is None or not np.isfinite(error):
        return float("nan")
    c = 0.0 if calibration_error is None or not np.isfinite(calibration_error) else calibration_error

    return float(np.sqrt(parts * error**2 + c**2))


def at_levels(misfit: ArrayLike, half_width: ArrayLike, segment: ArrayLike, *, level: float) -> tuple[Array, Array]:
    """Returns the coverage of intervals at each of `LEVELS`, (L,), and its standard error, (L,).

    Arguments:
        misfit: Error of each row (see `ndt.evaluation.conformal.misfit`), NaN if unlabelled, shape (T, K).
        half_width: Half widths at `level`, shape (T, K).
        segment: Segment of each row, ascending, shape (T,).
        level: Nominal coverage of the half widths.
    """
    s, half = np.asarray(misfit, np.float64), np.asarray(half_width, np.float64)
    z = norm.ppf((1 + np.array(LEVELS)) / 2) / norm.ppf((1 + level) / 2)
    found = [
        block_bootstrap_mean(np.where(np.isnan(s), np.nan, s <= half * scale), segment, replicates=REPLICATES)
        for scale in z.tolist()
    ]
    share, error = np.array(found).T

    return share, error


def confidence(true: ArrayLike, predicted: ArrayLike, segment: ArrayLike) -> tuple[Array, Array, Array]:
    """Returns the mean probability of the likeliest class, its accuracy, and the accuracy's standard error, (G,) each.

    The G groups of rows are bins of that probability, 0.1 wide, with at least 10 rows.

    Arguments:
        true: One-hot, NaN if unlabelled, shape (T, C).
        predicted: Probabilities, shape (T, C).
        segment: Segment of each row, ascending, shape (T,).
    """
    y, x, segments = np.asarray(true, np.float64), np.asarray(predicted, np.float64), np.asarray(segment)
    known = ~np.isnan(y).any(1) & ~np.isnan(x).any(1)
    y, x, segments = y[known], np.clip(x[known], 0.0, 1.0), segments[known]
    top, right = x.max(1, initial=0.0), (x.argmax(1) == y.argmax(1)) * 1.0
    group = np.minimum((10 * top + 1e-9).astype(np.int64), 9)  # 10 * 0.3 may round below 3
    rows = [np.flatnonzero(group == g) for g in range(10)]
    rows = [r for r in rows if len(r) >= FEWEST]
    error = [block_bootstrap_mean(right[r], segments[r], replicates=REPLICATES)[1] for r in rows]
    probability, share = ([float(v[r].mean()) for r in rows] for v in (top, right))

    return np.array(probability), np.array(share), np.array(error)

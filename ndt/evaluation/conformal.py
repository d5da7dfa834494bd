r"""Conformal prediction intervals of a stated coverage, and adaptive (online conformal) ones.

*Split conformal*: q is the :math:`\lceil (n + 1)(1 - \alpha) \rceil`-th smallest of the scores :math:`s_t` (absolute
errors, say) of n validation rows. If all rows are exchangeable, a new row's score is at most q with probability
:math:`1 - \alpha` or slightly more. With fewer than 9 rows 90 % is out of reach: q is then the largest score, which
guarantees :math:`n / (n + 1)`. Rows of a recording are not exchangeable: errors of neighbours are correlated, and
errors grow as units drift. So `Conformal.error` estimates the uncertainty of coverage due to few validation rows, and
*adaptive* widths follow the labels that arrive:

.. math:: h_t = h^0_t e^{\theta_t}, \quad \theta_{t + 1} = \theta_t + \gamma (\mathrm{miss}_t - \alpha).

The share of misses among T rows is exactly :math:`\alpha + (\theta_{T + 1} - \theta_1) / \gamma T`, which converges to
:math:`\alpha` as 1 / T if errors are bounded. This is the quantile tracking of Angelopoulos et al. on a logarithmic
scale, which has no unit and keeps widths finite.

Reference: Lei et al. (2018), Distribution-free predictive inference for regression, https://arxiv.org/abs/1604.04173;
Gibbs & Candès (2021), Adaptive conformal inference under distribution shift, https://arxiv.org/abs/2106.00263;
Angelopoulos, Candès & Tibshirani (2023), Conformal PID control for time series prediction,
https://arxiv.org/abs/2307.16895; Sadinle, Lei & Wasserman (2019), for classes, https://arxiv.org/abs/1609.00451
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ndt.evaluation.bootstrap import block_bootstrap_mean
from ndt.evaluation.metrics import angular_error_deg

__all__ = ["Conformal", "adaptive", "conformal_quantile", "misfit"]

GAMMA = 0.1  # from 0.01 to 0.2, narrow and quick to converge on the validation splits of five recordings
ROWS_PER_KNOT, MOST_KNOTS = 100, 10  # of the scale; few parameters from many rows cost no coverage
LEAST_SCALE = 0.05  # of the largest scale, which limits the effect of easy validation rows
LEAST_CLASS = 1e-6  # a half width of 0 could not grow
LARGEST = {"continuous": np.inf, "angle": 180.0, "class": 1.0}  # half width that covers everything

Array = NDArray[np.float64]


def misfit(true: ArrayLike, predicted: ArrayLike, kind: str) -> Array:
    """Returns the error of each row, at least 0, (R, K); NaN if it is unlabelled.

    *continuous*: absolute error of each dimension, K = C. *angle*: absolute error of each direction in degrees,
    K = C / 2. *class*: 1 less the probability of the true class, K = 1.

    Arguments:
        true: Measured values, shape (R, C).
        predicted: Predictions, shape (R, C).
        kind: ``continuous``, ``angle`` or ``class``.
    """
    y, x = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    if y.shape != x.shape or y.ndim != 2:
        raise ValueError(f"true and predicted must both be (R, C), got {y.shape} and {x.shape}")
    if kind == "continuous":
        found = np.abs(y - x)
    elif kind == "angle":
        found = angular_error_deg(y, x)
    elif kind == "class":
        found = np.maximum(1 - np.sum(x * y, 1, keepdims=True), 0.0)  # ridge predicts values above 1
    else:
        raise ValueError(f"kind must be continuous, angle or class, got {kind!r}")

    return np.where(np.isnan(y).any(1, keepdims=True), np.nan, found)


def conformal_quantile(scores: ArrayLike, level: float) -> Array:
    r"""Returns the :math:`\lceil (n + 1) \cdot level \rceil`-th smallest of n scores; infinity if n is too small.

    Arguments:
        scores: Scores, shape (n, K).
        level: Share of scores at or below the quantile, between 0 and 1.

    Example:
        >>> conformal_quantile([[3.0], [1.0], [2.0], [4.0]], 0.6)
        array([3.])
    """
    s = np.sort(np.asarray(scores, np.float64), 0)
    rank = math.ceil((len(s) + 1) * level - 1e-9)  # 100 * 0.55 is 55.00000000000001

    return s[rank - 1] if rank <= len(s) else np.full(s.shape[1], np.inf)


def adaptive(scores: ArrayLike, half_width: ArrayLike, *, level: float, gamma: float = GAMMA) -> Array:
    """Returns half widths adapted to the labels of earlier rows, (R, K); unlabelled rows do not change them.

    Arguments:
        scores: Errors as of `misfit`, rows in order of time, shape (R, K).
        half_width: Half widths to start from, shape (R, K).
        level: Nominal coverage, between 0 and 1.
        gamma: Step: the log width grows by ``gamma * level`` at a miss and falls by ``gamma * (1 - level)`` at a hit.
    """
    s, half = np.asarray(scores, np.float64), np.asarray(half_width, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(s / half)
    shift = np.zeros(ratio.shape)
    for k, column in enumerate(ratio.T.tolist()):  # plain numbers are ten times as fast as rows of an array
        theta = 0.0
        for row, known in enumerate(column):
            shift[row, k] = theta
            if not math.isnan(known):
                theta += gamma * ((known > theta) - (1 - level))

    return np.asarray(half * np.exp(shift))


@dataclass(frozen=True)
class Conformal:
    """Prediction intervals, prediction ± half width, or prediction sets of classes.

    With 200 validation rows or more, the half width is a quantile times a scale that grows with a row's difficulty: the
    prediction's distance from its mean for continuous targets, the shortness of the predicted vector for angles.
    The scale is the isotonic regression of validation errors on difficulty. With fewer rows, and for classes, it is 1.
    A prediction set holds the classes of probability 1 - half width or more; it may be empty.

    Arguments:
        kind: ``continuous``, ``angle`` or ``class``.
        level: Nominal coverage, between 0 and 1.
        quantile: Quantile of errors over scale, one a dimension, (K,); infinite without validation rows.
        centre: Mean prediction on validation rows, (C,).
        knots: Difficulties between which the scale is linear, ascending, one tuple a dimension.
        scales: The scale at each knot.
        error: Standard error of coverage due to few validation rows; NaN without any. Of fewer than five independent
            blocks of time it is that of exchangeable rows.
        attained: Coverage that exchangeable rows guarantee: `level`, or less with too few validation rows.
    """

    kind: str
    level: float
    quantile: tuple[float, ...]
    centre: tuple[float, ...]
    knots: tuple[tuple[float, ...], ...]
    scales: tuple[tuple[float, ...], ...]
    error: float
    attained: float

    def __post_init__(self) -> None:
        if not 0 < self.level < 1 or not 0 <= self.attained <= self.level or self.error < 0:
            raise ValueError("level must be between 0 and 1, attained at most level, and error at least 0")
        if not all(q >= 0 for q in self.quantile) or not np.isfinite(self.centre).all():
            raise ValueError("quantile must be at least 0 and centre finite")
        for knots, scales in zip(self.knots, self.scales, strict=True):
            if not np.all(np.diff(knots) > 0) or len(knots) != len(scales) or not all(s > 0 for s in scales):
                raise ValueError("knots must ascend, and have a scale above 0 each")

    @classmethod
    def fit(
        cls, true: ArrayLike, predicted: ArrayLike, kind: str, *, level: float = 0.9, segment: ArrayLike | None = None
    ) -> "Conformal":
        """Fits the intervals to validation rows, which the predictor was not trained on.

        Arguments:
            true: Measured values, shape (R, C); rows with a NaN are unlabelled and left out.
            predicted: Predictions, shape (R, C).
            kind: ``continuous``, ``angle`` or ``class``.
            level: Nominal coverage, between 0 and 1.
            segment: Segment of each row, ascending, (R,); see `ndt.evaluation.bootstrap`.
        """
        scores, x = misfit(true, predicted, kind), np.asarray(predicted, np.float64)
        labelled = ~np.isnan(scores).any(1)
        scores, x = scores[labelled], x[labelled]
        centre = x.mean(0) if len(x) else np.zeros(x.shape[1])
        hard = _difficulty(x, centre, kind)
        knots, scales = zip(*(_scale(h, s) for h, s in zip(hard.T, scores.T, strict=True)), strict=True)
        relative = scores / _interpolated(hard, knots, scales)
        n = len(scores)
        attained = min(level, n / (n + 1))
        quantile = conformal_quantile(relative, attained or level)
        if kind == "class":
            quantile = np.maximum(quantile, LEAST_CLASS)
        inside = (relative <= quantile).astype(np.float64)
        _, error = block_bootstrap_mean(inside, None if segment is None else np.asarray(segment)[labelled])
        if np.isnan(error):
            error = _exchangeable_error(n, attained)

        return cls(kind, level, tuple(quantile.tolist()), tuple(centre.tolist()), knots, scales, error, attained)

    def half_width(self, predicted: ArrayLike) -> Array:
        """Returns half widths, (R, K), of predictions, (R, C): in the unit, in degrees, or a probability."""
        hard = _difficulty(np.asarray(predicted, np.float64), np.array(self.centre), self.kind)

        return np.minimum(_interpolated(hard, self.knots, self.scales) * self.quantile, LARGEST[self.kind])

    def adapt(self, true: ArrayLike, predicted: ArrayLike) -> Array:
        """Returns adaptive half widths, (R, K), for rows in order of time; see `adaptive`.

        Arguments:
            true: Measured values, NaN if no label arrives, shape (R, C).
            predicted: Predictions, shape (R, C).
        """
        half = adaptive(misfit(true, predicted, self.kind), self.half_width(predicted), level=self.level)

        return np.minimum(half, LARGEST[self.kind])

    def covered(self, true: ArrayLike, predicted: ArrayLike, half_width: ArrayLike) -> Array:
        """Returns 1 if the truth, (R, C), lies within half widths, (R, K), else 0; NaN if it is unknown."""
        scores = misfit(true, predicted, self.kind)

        return np.where(np.isnan(scores), np.nan, scores <= np.asarray(half_width))

    def sets(self, predicted: ArrayLike, half_width: ArrayLike) -> NDArray[np.bool_]:
        """Returns each row's prediction set, (R, C), from probabilities, (R, C), and half widths, (R, 1)."""
        assert self.kind == "class", "only classes have prediction sets"

        return 1 - np.asarray(predicted, np.float64) <= np.asarray(half_width)

    def measure(self, true: ArrayLike, predicted: ArrayLike, segment: ArrayLike | None = None) -> dict[str, Any]:
        """Returns coverage and width on test rows, with and without adaptation, under the keys of metrics.json.

        Standard errors describe the test rows alone; without adaptation, `interval_calibration_error` adds to them.
        Widths are the mean half width of each dimension, or the mean size of prediction sets. ``interval_attained`` is
        there if validation rows are too few for the level. Arguments as of `fit`, rows in order of time.
        """
        found: dict[str, Any] = {"interval_calibration_error": self.error}
        if self.attained < self.level:
            found["interval_attained"] = self.attained
        share = f"coverage_{100 * self.level:g}"
        for name, half in (("interval", self.half_width(predicted)), ("adaptive", self.adapt(true, predicted))):
            mean, error = block_bootstrap_mean(self.covered(true, predicted, half), segment)
            width = self.sets(predicted, half).sum(1, keepdims=True) if self.kind == "class" else half
            found |= {f"{name}_{share}": mean, f"{name}_{share}_error": error}
            found[f"{name}_half_width" if self.kind != "class" else f"{name}_set_size"] = width.mean(0).tolist()

        return found


def _exchangeable_error(n: int, level: float) -> float:
    """Returns the standard deviation of coverage over draws of n validation rows, Beta(r, n + 1 - r) at rank r."""
    if not n:
        return float("nan")
    share = math.ceil((n + 1) * level - 1e-9) / (n + 1)

    return math.sqrt(share * (1 - share) / (n + 2))


def _difficulty(predicted: Array, centre: Array, kind: str) -> Array:
    """Returns the expected difficulty of each row, (R, K)."""
    if kind == "continuous":
        return np.abs(predicted - centre)
    if kind == "angle":
        return -np.hypot(predicted[:, ::2], predicted[:, 1::2])

    return np.zeros((len(predicted), 1))


def _scale(hard: Array, scores: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns knots and the isotonic mean score at each; for few rows, one knot of scale 1."""
    from sklearn.isotonic import isotonic_regression

    num_knots = min(len(hard) // ROWS_PER_KNOT, MOST_KNOTS)
    if num_knots < 2 or np.ptp(hard) == 0 or not scores.any():
        return (0.0,), (1.0,)
    parts = np.array_split(np.argsort(hard, kind="stable"), num_knots)
    knots = np.array([hard[p].mean() for p in parts])
    rising = isotonic_regression([scores[p].mean() for p in parts])
    scales = np.maximum(rising, LEAST_SCALE * rising[-1])
    new = np.r_[True, np.diff(knots) > 0]

    return tuple(knots[new].tolist()), tuple(scales[new].tolist())


def _interpolated(hard: Array, knots: tuple[tuple[float, ...], ...], scales: tuple[tuple[float, ...], ...]) -> Array:
    """Returns the scale of each row, (R, K)."""
    return np.stack([np.interp(h, k, s) for h, k, s in zip(hard.T, knots, scales, strict=True)], 1)

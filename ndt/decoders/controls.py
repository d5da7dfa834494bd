"""Controls: a time-only decoder, permuted and shifted targets, and ridge with time-varying gain."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt.decoders.ridge import Ridge
from ndt.evaluation.metrics import r2
from ndt.segments import Array, Masks, Segments, labelled, take

__all__ = [
    "TimeGainRidge",
    "TimeOnly",
    "fit_time_gain",
    "fit_time_only",
    "circularly_shifted_targets",
    "block_permuted_targets",
]

BLOCK_BINS = 40  # of permuted targets; shorter if rows would make fewer than four blocks
SHRINKAGES = (30.0, 10.0, 3.0, 1.0, 0.0)  # candidates, in rows; infinite shrinkage is ridge itself


@dataclass(frozen=True)
class TimeOnly:
    """Predicts the target from the time since a segment or trial began: a smoothed mean over training rows.

    Arguments:
        table: Prediction at each number of bins since the start, shape (M, C).
        mean: Training mean, used beyond the table, shape (C,).
        width_bins: Standard deviation of the smoothing; infinite if the mean predicts best.
        valid_r2: R² on validation rows.
    """

    table: Array
    mean: Array
    width_bins: float
    valid_r2: float

    def predict(self, bins_since_start: Segments) -> list[Array]:
        """Returns predictions, one (T, C) a segment."""
        table = np.vstack([self.table, self.mean])
        return [table[np.minimum(np.asarray(b, np.int64), len(self.table))] for b in bins_since_start]


def fit_time_only(targets: Segments, train: Masks, valid: Masks, bins_since_start: Segments) -> TimeOnly:
    """Fits `TimeOnly`; the smoothing is the candidate with the best validation R².

    Arguments as of `ndt.decoders.ridge.fit_ridge`; besides:
        bins_since_start: Bins since the segment or trial began, 0 in its first bin, one (T,) a segment.
    """
    train, valid = labelled(targets, train, "train"), labelled(targets, valid, "valid")
    y, bins = take(targets, train), take(bins_since_start, train).astype(np.int64)
    mean, M = y.mean(0), int(bins.max()) + 1
    rows = np.bincount(bins, minlength=M).astype(np.float64)
    sums = np.stack([np.bincount(bins, weights=c - m, minlength=M) for c, m in zip(y.T, mean, strict=True)], 1)
    best = TimeOnly(np.zeros((0, y.shape[1])), mean, float("inf"), float("-inf"))
    for width in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, float("inf")):
        table = np.zeros((0, y.shape[1]))
        if np.isfinite(width):
            offset = np.arange(-int(3 * width), int(3 * width) + 1)
            kernel = np.exp(-0.5 * (offset / max(width, 1.0)) ** 2)
            near = np.stack([np.convolve(v, kernel)[len(offset) // 2 :][:M] for v in (rows, *sums.T)], 1)
            table = mean + near[:, 1:] / (near[:, :1] + 1.0)  # shrunk to the mean by the weight of one row
        model = TimeOnly(table, mean, width, 0.0)
        score = r2(take(targets, valid), take(model.predict(bins_since_start), valid))
        if score > best.valid_r2:
            best = TimeOnly(table, mean, width, score)

    return best


@dataclass(frozen=True)
class TimeGainRidge:
    r"""Ridge regression times a gain for each bin since a segment or trial began, and each dimension.

    .. math:: \hat y_{tc} = g_{b(t) c} \, \hat y^\mathrm{ridge}_{tc}, \qquad
        g_{bc} = \frac{\sum_{t: b(t) = b} y_{tc} \hat y_{tc} + \tau s_c}{\sum_{t: b(t) = b} \hat y_{tc}^2 + \tau s_c}

    over validation rows, with :math:`s_c` the mean of :math:`\hat y_{tc}^2`. In a recording cut to movements, time
    predicts the speed but not the direction; this control measures what a clock adds to ridge.

    Arguments:
        ridge: Ridge regression.
        gains: At each number of bins since the start, shape (M, C); 1 beyond.
        shrinkage: :math:`\tau`, a number of further rows in which ridge is taken to be right.
        valid_r2: R² on validation rows, each with the gains of the other rows.
    """

    ridge: Ridge
    gains: Array
    shrinkage: float
    valid_r2: float

    def predict(self, counts: Segments, bins_since_start: Segments) -> list[Array]:
        """Returns predictions, one (T, C) a segment."""
        gains = np.vstack([self.gains, np.ones(self.gains.shape[1])])
        index = [np.minimum(np.asarray(b, np.int64), len(self.gains)) for b in bins_since_start]

        return [v * gains[b] for v, b in zip(self.ridge.predict(counts), index, strict=True)]


def fit_time_gain(
    ridge: Ridge, counts: Segments, targets: Segments, valid: Masks, bins_since_start: Segments
) -> TimeGainRidge:
    """Fits the gains on validation rows, because ridge fits its training rows more closely than new ones.

    The shrinkage has the best leave-one-row-out R²; of equal ones it is the larger. Each segment has one row a gain, so
    leaving a row out leaves the segment out of that gain.

    Arguments as of `ndt.decoders.ridge.fit_ridge` and `fit_time_only`; besides:
        ridge: Ridge regression fitted on other rows.
        valid: Rows to fit and to choose on, one (T,) a segment.
    """
    valid = labelled(targets, valid, "valid")
    y, p = take(targets, valid), take(ridge.predict(counts), valid)
    bins = take(bins_since_start, valid).astype(np.int64)
    M, s = int(bins.max()) + 1, (p**2).mean(0)
    product, square = (np.stack([np.bincount(bins, c, M) for c in x.T], 1) for x in (y * p, p**2))
    best = TimeGainRidge(ridge, np.ones((0, y.shape[1])), float("inf"), r2(y, p))
    for tau in SHRINKAGES:
        others = _ratio(product[bins] - y * p + tau * s, square[bins] - p**2 + tau * s)
        score = r2(y, others * p)
        if score > best.valid_r2 + 1e-12:  # not by rounding alone
            best = TimeGainRidge(ridge, _ratio(product + tau * s, square + tau * s), tau, score)

    return best


def _ratio(above: Array, below: Array) -> Array:
    """Returns above / below; 1 where `below` is 0."""
    return np.divide(above, below, out=np.ones_like(above), where=below > 0)


def block_permuted_targets(targets: Segments, train: Masks, valid: Masks, seed: int) -> list[Array]:
    """Returns targets whose training rows, and whose validation rows, are permuted in blocks.

    No block keeps its position, so counts do not predict the permuted targets. These keep their distribution and most
    of their smoothness. Rows after the last whole block take labels from half the rows away; rows in neither mask keep
    theirs.

    Arguments as of `ndt.decoders.ridge.fit_ridge`; besides:
        seed: Seed of the permutation.
    """
    rng = np.random.default_rng(seed)

    def source(n: int) -> NDArray[np.int64]:
        size = max(1, min(BLOCK_BINS, n // 4))
        blocks = np.arange(n // size * size).reshape(-1, size)
        order = rng.permutation(len(blocks))
        rows = _shifted(n)
        rows[blocks[order]] = blocks[np.roll(order, 1)]  # one cycle through all blocks: none keeps its position

        return rows

    return _reordered(targets, train, valid, source)


def circularly_shifted_targets(targets: Segments, train: Masks, valid: Masks) -> list[Array]:
    """Returns targets whose training rows, and whose validation rows, are shifted circularly by half their number.

    The shift keeps the order in time except at one seam. A decoder that predicts these targets uses slow drifts and
    rhythms that spikes and targets share by chance, not coding. Arguments as of `ndt.decoders.ridge.fit_ridge`.
    """
    return _reordered(targets, train, valid, _shifted)


def _shifted(n: int) -> NDArray[np.int64]:
    return (np.arange(n) - n // 2) % n


def _reordered(
    targets: Segments, train: Masks, valid: Masks, source: Callable[[int], NDArray[np.int64]]
) -> list[Array]:
    """Returns targets whose n labelled rows in each mask are reordered by the indices that `source(n)` returns."""
    stacked = np.concatenate([np.asarray(v, np.float64) for v in targets])
    out = stacked.copy()
    for mask in (labelled(targets, train, "train"), labelled(targets, valid, "valid")):
        rows = np.flatnonzero(np.concatenate(list(mask)))
        out[rows] = stacked[rows[source(len(rows))]]

    return np.split(out, np.cumsum([len(v) for v in targets])[:-1])

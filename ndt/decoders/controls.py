"""Controls: decoders without spikes, and with labels that are not theirs, which must fail; and ridge with a clock."""

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

BLOCK_BINS = 40  # of shuffled labels; fewer where there would be less than four blocks
SHRINKAGES = (30.0, 10.0, 3.0, 1.0, 0.0)  # numbers of rows tried, beside infinitely many


@dataclass(frozen=True)
class TimeOnly:
    """Predicts from the time since a segment or trial began, without spikes: a smoothed mean over training rows.

    Arguments:
        table: Prediction at each number of bins since the start, shape (M, C).
        mean: Training mean, used beyond the table, shape (C,).
        width_bins: Standard deviation of the smoothing; infinite when the mean is best.
        valid_r2: R² on validation rows.
    """

    table: Array
    mean: Array
    width_bins: float
    valid_r2: float

    def predict(self, bins_since_start: Segments) -> list[Array]:
        """Returns targets, one (T, C) a segment."""
        table = np.vstack([self.table, self.mean])
        return [table[np.minimum(np.asarray(b, np.int64), len(self.table))] for b in bins_since_start]


def fit_time_only(targets: Segments, train: Masks, valid: Masks, bins_since_start: Segments) -> TimeOnly:
    """Fits `TimeOnly`; the width of its smoothing is the one with the best validation R².

    Arguments:
        targets: Targets, one (T, C) a segment; rows with a NaN are unlabelled.
        train: Rows to fit on, one (T,) a segment.
        valid: Rows to choose on, one (T,) a segment.
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
            reach = np.arange(-int(3 * width), int(3 * width) + 1)
            kernel = np.exp(-0.5 * (reach / max(width, 1.0)) ** 2)
            near = np.stack([np.convolve(v, kernel)[len(reach) // 2 :][:M] for v in (rows, *sums.T)], 1)
            table = mean + near[:, 1:] / (near[:, :1] + 1.0)  # one row's worth of the mean
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

    over validation rows, with :math:`s_c` the mean of :math:`\hat y_{tc}^2`. In a recording cut to what moves, time
    says much of the speed and nothing of the direction: this is what a clock adds to ridge.

    Arguments:
        ridge: Ridge regression.
        gains: At each number of bins since the start, shape (M, C); 1 beyond.
        shrinkage: :math:`\tau`: as if so many rows more had been seen in which ridge was right.
        valid_r2: R² on validation rows, each with gains that the others set.
    """

    ridge: Ridge
    gains: Array
    shrinkage: float
    valid_r2: float

    def predict(self, counts: Segments, bins_since_start: Segments) -> list[Array]:
        """Returns targets, one (T, C) a segment."""
        gains = np.vstack([self.gains, np.ones(self.gains.shape[1])])
        place = [np.minimum(np.asarray(b, np.int64), len(self.gains)) for b in bins_since_start]

        return [v * gains[b] for v, b in zip(self.ridge.predict(counts), place, strict=True)]


def fit_time_gain(
    ridge: Ridge,
    counts: Segments,
    targets: Segments,
    valid: Masks,
    bins_since_start: Segments,
) -> TimeGainRidge:
    """Fits the gains on validation rows, since what ridge makes of its training rows is closer than it will be again.

    The shrinkage is the one with the best R² where each row is left out in turn; if in doubt the larger. A segment has
    each number of bins once, so that with its row a whole segment is left out of a gain.

    Arguments:
        ridge: Ridge regression fitted on other rows.
        counts: Counts, one (T, N) a segment; NaN where a unit was not observed.
        targets: Targets, one (T, C) a segment; rows with a NaN are unlabelled.
        valid: Rows to fit and to choose on, one (T,) a segment.
        bins_since_start: Bins since the segment or trial began, 0 in its first bin, one (T,) a segment.
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
        if score > best.valid_r2 + 1e-12:  # a rounding is no gain
            best = TimeGainRidge(ridge, _ratio(product + tau * s, square + tau * s), tau, score)

    return best


def _ratio(above: Array, below: Array) -> Array:
    """Returns above / below; 1 where there is nothing below."""
    known = below > 0

    return np.where(known, above, 1.0) / np.where(known, below, 1.0)


def block_permuted_targets(targets: Segments, train: Masks, valid: Masks, seed: int) -> list[Array]:
    """Returns targets whose training rows, and whose validation rows, have changed places in whole blocks.

    No block stays where it was, so that a decoder fitted on them has nothing to learn, while the targets keep their
    distribution and most of their smoothness. The rows left over from the last whole block take the labels from half
    the rows away; rows in neither mask, and unlabelled ones, stay as they are.

    Arguments:
        targets: Targets, one (T, C) a segment.
        train: Rows to fit on, one (T,) a segment.
        valid: Rows to choose on, one (T,) a segment.
        seed: Seed of the order.
    """
    rng = np.random.default_rng(seed)

    def source(n: int) -> NDArray[np.int64]:
        size = max(1, min(BLOCK_BINS, n // 4))
        blocks = np.arange(n // size * size).reshape(-1, size)
        order = rng.permutation(len(blocks))
        rows = _turned(n)
        rows[blocks[order]] = blocks[np.roll(order, 1)]  # one cycle through all blocks: none stays

        return rows

    return _moved(targets, train, valid, source)


def circularly_shifted_targets(targets: Segments, train: Masks, valid: Masks) -> list[Array]:
    """Returns targets whose training rows, and whose validation rows, are half a turn late.

    Labelled rows are taken one after another and turned in a circle by half their number, the farthest that there is.
    All order in time is kept but at one seam: what is decoded of these labels comes from slow drifts and rhythms that
    spikes and targets share by chance, not from coding.

    Arguments:
        targets: Targets, one (T, C) a segment.
        train: Rows to fit on, one (T,) a segment.
        valid: Rows to choose on, one (T,) a segment.
    """
    return _moved(targets, train, valid, _turned)


def _turned(n: int) -> NDArray[np.int64]:
    return (np.arange(n) - n // 2) % n


def _moved(targets: Segments, train: Masks, valid: Masks, source: Callable[[int], NDArray[np.int64]]) -> list[Array]:
    """Returns targets whose labelled rows of a mask, n in number, are those that `source` of n says instead."""
    stacked = np.concatenate([np.asarray(v, np.float64) for v in targets])
    out = stacked.copy()
    for mask in (labelled(targets, train, "train"), labelled(targets, valid, "valid")):
        rows = np.flatnonzero(np.concatenate(list(mask)))
        out[rows] = stacked[rows[source(len(rows))]]

    return np.split(out, np.cumsum([len(v) for v in targets])[:-1])

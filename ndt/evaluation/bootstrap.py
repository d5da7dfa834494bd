r"""Standard errors and confidence intervals of scores, by a block bootstrap over time.

Errors of neighbouring bins are correlated, so the bootstrap resamples blocks of L neighbouring bins. Each score is a
ratio of sums over rows, :math:`\theta = \sum_t u_t / \sum_t v_t`; its standard deviation over draws is the error.

A block begins at a random row. In a segment of at least 2 L rows it has L rows and wraps from the segment's end to its
start. Shorter segments enter whole, in order of time, until the block has L rows. So no block cuts a trial or joins a
long segment to another, and all rows have about the same probability. With many segments (trials), L is at least half
the median segment, so that most enter whole.

L and the bias of the variance at that length follow from the autocovariance of :math:`u_t - \theta v_t`, at the time
scale that asks for the longest blocks.

Reference: Künsch (1989), https://doi.org/10.1214/aos/1176347265; Politis & Romano (1992), A circular block-resampling
procedure for stationary data; Politis & White (2004), https://doi.org/10.1081/ETC-120028836, as corrected by Patton,
Politis & White (2009), https://doi.org/10.1080/07474930802459016; Flyvbjerg & Petersen (1989), Error estimates on
averages of correlated data, https://doi.org/10.1063/1.457480
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, t

__all__ = ["Bootstrap", "block_bootstrap_mean", "block_bootstrap_r2"]

REPLICATES = 1000
FEWEST_BLOCKS = 5  # with fewer, their variance is unknown
MOST_BLOCKS = 1000  # estimate an error to 2 %; longer blocks than the optimum are then harmless, and draws are quick
FEWEST_SUMS = 32  # whose autocorrelation can be told from noise
FEWEST_SEGMENTS = 20  # which then may be resampled whole
MOST_BIAS = 0.5  # largest share of the variance that the correction adds

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """A score and its bootstrap draws.

    Arguments:
        value: The score of the data.
        draws: Scores of resampled data, their distances to `value` corrected for the bias of blocks; empty if the data
            hold fewer than five blocks or do not vary.
        block: Block length in rows.
        num_blocks: Number of rows over rows a block; not an integer.
    """

    value: float
    draws: Array
    block: int
    num_blocks: float

    @property
    def error(self) -> float:
        """Standard error; NaN without draws."""
        return float(self.draws.std()) if len(self.draws) else float("nan")

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Returns the central interval that holds a share `level` of the draws; NaN without draws.

        It is widened by the ratio of Student's t to the normal distribution, since few blocks estimate the error badly.
        """
        if not len(self.draws):
            return float("nan"), float("nan")
        tails = (1 - level) / 2, (1 + level) / 2
        wider = t.ppf(tails[1], self.num_blocks - 1) / norm.ppf(tails[1])
        low, high = self.value + wider * (np.quantile(self.draws, tails) - self.value)

        return float(low), float(high)


def _length(R: int, G: float, level: float) -> int:
    r"""Returns the block length, in rows, that estimates the variance of a series' mean with least squared error.

    .. math:: L = (2 G^2 / D)^{1/3} R^{1/3}, \quad
        G = \sum_k \lambda(k / M) |k| \gamma_k, \quad D = \tfrac43 \big(\sum_k \lambda(k / M) \gamma_k\big)^2

    with the autocovariances :math:`\gamma_k`, both signs of k; the trapezoid :math:`\lambda`, 1 up to a half and 0 from
    1 on; and M twice the lag after which no autocorrelation is significant. At least 1, at most a third of the rows.
    """
    longest = max(1, R // 3 if G > 0 else R // (2 * FEWEST_BLOCKS))  # short blocks of an oscillation are conservative
    if level <= 0:
        return longest

    return int(np.clip(round(float(1.5 * (G / level) ** 2 * R) ** (1 / 3)), 1, longest))


def _noise(R: int) -> float:
    """Returns the autocorrelation from which on it is significant in a series of R rows."""
    return float(2 * np.sqrt(np.log10(R) / R))


def _spectrum(x: Array) -> tuple[float, float]:
    """Returns G and the sum of autocovariances (see `_length`) of a series, (R,); 0 and 1 if it does not vary."""
    R = len(x)
    x = x - x.mean() if R else x
    if R < 3 or not np.any(x):
        return 0.0, 1.0
    longest = -(-R // 3)
    power = np.abs(np.fft.rfft(x, 2 * R)) ** 2  # R zeros behind the series avoid wrapping
    covariance = np.fft.irfft(power, 2 * R)[: longest + 1] / R
    significant = np.flatnonzero(np.abs(covariance / covariance[0]) > _noise(R))
    quiet = np.diff(np.r_[significant, 2 * R]) > 5  # no significant lag among the five that follow
    M = min(2 * max(int(significant[quiet][0]), 1), longest)
    k = np.arange(M + 1)
    weighted = np.minimum(1.0, 2 * (1 - k / M)) * np.where(k, 2.0, 1.0) * covariance[: M + 1]

    return float(np.sum(k * weighted)), float(np.sum(weighted))


def _slowest(x: Array) -> tuple[float, float]:
    """Returns G and the sum of autocovariances of a series, (R,), at the scale that asks for the longest block.

    Slow errors under fast ones have autocorrelations that are too small to be significant, at so many lags that they
    matter. Sums of 2, 4, 8, … neighbours keep the slow part of the variance and have less of the fast one: their G
    estimates that of the rows, and their sum of autocovariances that of the rows, times the number of neighbours.
    """
    R, scale = len(x), 2
    best = _spectrum(x)
    while (n := R // scale) >= FEWEST_SUMS:
        sums = x[: n * scale].reshape(n, scale).sum(1)
        y = sums - sums.mean()
        G, level = _spectrum(sums)
        if y[1:] @ y[:-1] > _noise(n) * (y @ y) and min(G, level) > 0:
            best = max(best, (G, level / scale), key=lambda found: _length(R, *found))
        scale *= 2

    return best


def block_bootstrap_mean(
    rows: ArrayLike, segment: ArrayLike | None = None, *, seed: int = 0, replicates: int = REPLICATES
) -> tuple[float, float]:
    """Returns the mean of rows and its standard error.

    Arguments:
        rows: A value of each row, (R,), or several, (R, C), which are averaged; rows with NaN are left out.
        segment: Segment of each row, ascending, (R,); by default all lie in one.
        seed: Seed of the draws.
        replicates: Number of draws.

    Example:
        >>> block_bootstrap_mean([0.0, 1.0, 1.0])  # too few for an error
        (0.6666666666666666, nan)
    """
    x = np.asarray(rows, np.float64)
    x = x.mean(1) if x.ndim == 2 else x
    found = _bootstrap(x, np.ones(len(x)), segment, seed, replicates)

    return found.value, found.error


def block_bootstrap_r2(
    true: ArrayLike,
    predicted: ArrayLike,
    segment: ArrayLike | None = None,
    *,
    reference: ArrayLike | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Bootstrap:
    """Returns the variance-weighted R², or its difference to a reference's on the same rows, with its draws.

    Every draw measures deviations from the mean of all rows.

    Arguments:
        true: Measured targets, shape (R, C); rows with NaN are unlabelled and left out.
        predicted: Predictions, shape (R, C).
        segment, seed, replicates: As of `block_bootstrap_mean`.
        reference: Predictions of another decoder, shape (R, C); by default the mean, whose R² is 0.
    """
    y = np.array(true, np.float64)
    known = ~np.isnan(y).any(1)
    y[~known] = np.nan
    total = np.sum((y - (y[known].mean(0) if known.any() else 0.0)) ** 2, 1)
    other = total if reference is None else np.sum((y - np.asarray(reference, np.float64)) ** 2, 1)

    return _bootstrap(other - np.sum((y - np.asarray(predicted, np.float64)) ** 2, 1), total, segment, seed, replicates)


def _bootstrap(u: Array, v: Array, segment: ArrayLike | None, seed: int, replicates: int) -> Bootstrap:
    r"""Bootstraps :math:`\theta = \sum u / \sum v`; rows with NaN in u are left out."""
    known = ~np.isnan(u)
    segments = np.zeros(len(u), np.int64) if segment is None else np.asarray(segment)
    u, v, segments = u[known], v[known], segments[known]
    if not v.sum() > 0:
        return Bootstrap(value=float("nan"), draws=np.zeros(0), block=1, num_blocks=0.0)
    value = float(u.sum() / v.sum())
    influence = u - value * v
    undefined = Bootstrap(value=value, draws=np.zeros(0), block=1, num_blocks=float(len(u)))
    if np.ptp(influence) <= 1e-12 * np.abs(u).max(initial=0.0):  # rounding: nothing varies
        return undefined
    G, level = _slowest(influence)
    lengths = np.unique(segments, return_counts=True)[1]
    whole = int(np.median(lengths)) // 2 + 1 if len(lengths) >= FEWEST_SEGMENTS else 1  # shorter than 2 L: not cut
    block = max(_length(len(u), G, level), -(-len(u) // MOST_BLOCKS), whole)
    sums = _block_sums(np.stack([np.ones(len(u)), u, v], 1), segments, block)
    mean_rows = sums[:, 0].mean()
    num_blocks = len(u) / mean_rows
    if num_blocks < FEWEST_BLOCKS:
        return replace(undefined, block=block, num_blocks=num_blocks)

    order = np.random.default_rng(seed).integers(len(u), size=(replicates, round(num_blocks)))
    total_u, total_v = sums[order, 1].sum(1), sums[order, 2].sum(1)
    draws = np.divide(total_u, total_v, out=np.full(replicates, value), where=total_v > 0)
    missed = min(max(G / level, 0.0) / mean_rows, MOST_BIAS) if level > 0 else MOST_BIAS  # at block ends
    few = (num_blocks - 1) / num_blocks  # draws vary about the mean of these blocks, not the true mean

    return replace(
        undefined, draws=value + (draws - value) / np.sqrt((1 - missed) * few), block=block, num_blocks=num_blocks
    )


def _block_sums(x: Array, segment: NDArray[np.generic], block: int) -> Array:
    """Returns the sums of columns over the block that begins at each row, (R, K)."""
    R, K = x.shape
    first = np.flatnonzero(np.r_[True, segment[1:] != segment[:-1]])
    length = np.diff(np.r_[first, R])
    total = np.vstack([np.zeros((1, K)), np.cumsum(x, 0)])  # (R + 1, K)
    begin, rows = np.repeat(first, length), np.arange(R)
    end = begin + np.repeat(length, length)
    over = np.maximum(rows + block - end, 0)  # rows of the block beyond the segment's end, which wrap
    sums = total[np.minimum(rows + block, end)] - total[rows] + total[np.minimum(begin + over, end)] - total[begin]

    short = np.flatnonzero(length < 2 * block)
    if len(short):
        twice = np.r_[short, short]
        laps = np.r_[0, np.cumsum(length[twice])]
        each = total[first[twice] + length[twice]] - total[first[twice]]
        run = np.vstack([np.zeros((1, K)), np.cumsum(each, 0)])
        start = np.arange(len(short))
        stop = np.minimum(np.searchsorted(laps, laps[start] + block), start + len(short))
        of_segment = np.zeros((len(first), K))
        of_segment[short] = run[stop] - run[start]
        inside = np.repeat(length < 2 * block, length)
        sums[inside] = np.repeat(of_segment, length, 0)[inside]

    return sums

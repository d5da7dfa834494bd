r"""Which units of a day are which of an earlier day: from their spikes, without names and without labels.

Units are told apart by what each does alone (its rate, its autocorrelation, its variance, its coupling to all others)
and by how it goes with each other unit: correlations at a few lags. What is sought is the assignment of units of one
day to those of the other, each to at most one, with the largest evidence

.. math:: \sum_{ia} P_{ia} U_{ia} + \frac{\tau}{2} \sum_{ia} \sum_{jb} P_{ia} P_{jb} \, Q_{ij,ab}

where U and Q are the log likelihood ratios (`Likeness`) of what units, and pairs of units, do if they are the same and
if they are not. That is a quadratic assignment problem; it is solved from several starts by the Frank-Wolfe method.

Reference: Vogelstein et al. (2015), Fast approximate quadratic programming for graph matching,
https://doi.org/10.1371/journal.pone.0121002; `scipy.optimize.quadratic_assignment` has it for one matrix of weights and
assignments of all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import linear_sum_assignment

from ndt.segments import Array, Scaler, Segments

__all__ = ["Likeness", "match_units"]

# N, M = units of the old day and of the new, K = measures of a unit or of a pair of units

WIDTH = 0.1  # seconds of the bins in which units are compared; of 50, 100 and 150 ms the one that matched best
PAIR_LAGS = (0, 1, 2, 4)  # such bins
UNIT_LAGS = (1, 2, 3, 4, 6, 8, 12)
STAYS = 0.9  # correlation, from day to day, of what a unit does
MEASURES = 16  # a unit's correlations with all others follow from few latents: they tell as much as so many measures
LEAST = 0.5  # variance over units, relative to noise, of directions that are looked at
SHARE = 0.5  # of the units that are expected to be there on both days
STARTS, SCALE = 40, 3.0  # of the search, and the noise, in nats, that they are scattered by
LARGE = 64  # units, beyond which starts become fewer: the time of each grows with the cube
CERTAIN = 1e6  # nats
FEWEST_BINS, FEWEST_UNITS = 50, 3  # of a day, below which only what is known is matched
LASTS = 0.95  # correlation, from day to day, of what files say: places and waveforms
SIMILAR = 0.05  # of all variance of what files say: directions with less are left out


@dataclass(frozen=True)
class Likeness:
    r"""How much more likely two measurements are of one thing than of two.

    A thing's measures b vary over things with covariance B, and each day's measurement of them has noise:
    :math:`x = b + e, y = b' + e'`, where b and b' have correlation `STAYS` if it is the same thing, else 0. In the
    directions that make B and noise diagonal (variances :math:`\beta, \nu_x, \nu_y`) the log likelihood ratio is

    .. math:: \log \frac{p(x, y \mid \text{same})}{p(x) \, p(y)} = c + \sum_k u_k x_k^2 + v_k y_k^2 + w_k x_k y_k .

    Reference: Ioffe (2006), Probabilistic linear discriminant analysis, https://doi.org/10.1007/11744085_41.

    Arguments:
        old: Measures of the old day in those directions, centred, (..., K).
        new: Those of the new day, (..., K).
        of_old: u, (K,).
        of_new: v, (K,).
        of_both: w, (K,).
        constant: c.
    """

    old: Array
    new: Array
    of_old: Array
    of_new: Array
    of_both: Array
    constant: float

    @classmethod
    def fit(cls, measure: Callable[[Array], Array], old: Array, new: Array) -> "Likeness":
        """Returns the likeness of what is measured; the two halves of each day tell its noise.

        Arguments:
            measure: Takes counts, (T, N); returns measures, (..., K), NaN where there is nothing to be measured. Of
                pairs of units it returns the same of one and the other as of the other and the one, in another order.
            old: Counts of the old day.
            new: Counts of the new day.
        """
        x, y = measure(old), measure(new)
        noise_x, noise_y = _noise(measure, old), _noise(measure, new)
        noise = (noise_x + noise_y) / 2
        noise.flat[:: len(noise) + 1] += 1e-6 * np.trace(noise) / len(noise) + 1e-12  # measures that repeat each other
        total = sum(np.atleast_2d(np.cov(_rows(v).T, bias=True)) for v in (x, y)) / 2 - noise
        between, turn = eigh(total, noise)  # noise is 1 in these directions
        between, turn = between[between > LEAST], turn[:, between > LEAST]
        x, y = (np.nan_to_num((v - _rows(v).mean(0)) @ turn) for v in (x, y))
        s, t = (between + np.einsum("ik,ij,jk->k", turn, n, turn) for n in (noise_x, noise_y))
        c = STAYS * between
        det = s * t - c**2

        of_old, of_new = (1 / s - t / det) / 2, (1 / t - s / det) / 2

        return cls(x, y, of_old, of_new, of_both=c / det, constant=float(-0.5 * np.log(det / (s * t)).sum()))

    def units(self) -> Array:
        """Returns the log likelihood ratio of each old unit and each new one, (N, M); measures are (N, K)."""
        each = (self.old**2 @ self.of_old)[:, None] + (self.new**2 @ self.of_new)[None]

        return each + (self.old * self.of_both) @ self.new.T + self.constant

    def pairs(self, assigned: Array) -> Array:
        r"""Returns :math:`\sum_{jb} P_{jb} Q_{ij,ab}` of each old unit i and new unit a, (N, M).

        Arguments:
            assigned: P, (N, M); measures are of pairs, (N, N, K), zeros on the diagonal.
        """
        rows, columns = assigned.sum(1), assigned.sum(0)
        found = ((self.old**2 @ self.of_old) @ rows)[:, None] + ((self.new**2 @ self.of_new) @ columns)[None]
        for k, weight in enumerate(self.of_both):
            found += weight * (self.old[..., k] @ assigned @ self.new[..., k].T)
        others = assigned.sum() - rows[:, None] - columns + assigned  # a unit is no pair with itself

        return found + self.constant * others


def _rows(measures: Array) -> Array:
    rows = measures.reshape(-1, measures.shape[-1])

    return rows[~np.isnan(rows).any(1)]


def _noise(measure: Callable[[Array], Array], counts: Array) -> Array:
    """Covariance of a day's noise: a quarter of that of the halves' difference, as each half has twice as much."""
    half = len(counts) // 2
    rows = _rows(measure(counts[:half]) - measure(counts[half:]))

    return rows.T @ rows / len(rows) / 4


def match_units(
    old: Segments,
    new: Segments,
    bin_size: float,
    *,
    known: Sequence[tuple[int, int]] = (),
    columns: tuple[Array, Array] | None = None,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Returns which old unit each new one is, -1 where it seems to be none of them, (M,).

    Arguments:
        old: Counts of the old day in bins, one (T, N) a segment; NaN where a unit was not observed.
        new: Those of the new day, one (T, M) a segment.
        bin_size: Seconds.
        known: Old and new unit of each pair that is the same for sure.
        columns: What files say of each unit (depth, width of the waveform) and what stays: (N, K) and (M, K); columns
            with a NaN do not count.
        seed: Of the starts of the search.
    """
    width = max(1, round(WIDTH / bin_size))
    x, y = _coarse(old, width), _coarse(new, width)
    first, second = np.array(known, np.int64).reshape(-1, 2).T
    if min(*(int((~np.isnan(v)).any(1).sum()) for v in (x, y))) < FEWEST_BINS or min(len(x.T), len(y.T)) < FEWEST_UNITS:
        matched = np.full(len(y.T), -1)
        matched[second] = first
        return matched
    alone, together = Likeness.fit(_alone, x, y).units(), Likeness.fit(_together, x, y)
    if columns is not None:
        alone += _alike(*columns)
    alone[first] = alone[:, second] = -CERTAIN
    alone[first, second] = CERTAIN
    assigned = _assign(alone, together, seed)

    return np.where(assigned.any(0), assigned.argmax(0), -1)


def _coarse(segments: Segments, width: int) -> Array:
    """Returns counts in bins so many times as wide, segments below each other with bins between that nobody observed."""
    apart, found = np.full((max(*PAIR_LAGS, *UNIT_LAGS), segments[0].shape[1]), np.nan), []
    for segment in segments:
        whole = len(segment) // width
        found += [np.asarray(segment[: whole * width], np.float64).reshape(whole, width, -1).sum(1), apart]

    return np.concatenate(found)


def _standard(counts: Array) -> tuple[Array, Array]:
    """Returns z-scores, 0 where a unit was not observed or never changed, and 1 where it was observed, (T, N) each."""
    z = Scaler.fit([counts], [np.ones(len(counts), bool)]).apply(counts)

    return z, (~np.isnan(counts)).astype(np.float64)


def _alone(counts: Array) -> Array:
    """Measures of each unit: rate, variance over mean, autocorrelation, coupling to all others before it, (N, K)."""
    z, seen = _standard(counts)
    number = np.maximum(seen.sum(0), 1)
    mean = np.nansum(counts, 0) / number
    variance = np.nansum((counts - mean) ** 2, 0) / number
    found = [np.log(mean + 1e-3), np.log((variance + 1e-3) / (mean + 1e-3))]  # silent units stay finite
    found += [_mean_product(z, z, seen, lag) for lag in UNIT_LAGS]
    others = z.sum(1, keepdims=True) - z
    others /= np.maximum(others.std(0), 1e-9)
    found += [_mean_product(z, others, seen, lag) for lag in PAIR_LAGS]

    return np.stack(found, 1)


def _mean_product(later: Array, earlier: Array, seen: Array, lag: int) -> Array:
    number = (seen[lag:] * seen[: len(seen) - lag]).sum(0)

    return (later[lag:] * earlier[: len(seen) - lag]).sum(0) / np.maximum(number, 1)


def _together(counts: Array) -> Array:
    """Correlations of each pair of units, either later than the other; NaN of a unit with itself, (N, N, K)."""
    z, seen = _standard(counts)
    T, found = len(z), []
    for lag in PAIR_LAGS:
        matrix = z[lag:].T @ z[: T - lag] / np.maximum(seen[lag:].T @ seen[: T - lag], 1)
        np.fill_diagonal(matrix, np.nan)
        found += [matrix, matrix.T] if lag else [matrix]

    return np.stack(found, -1)


def _alike(old: Array, new: Array) -> Array:
    """Returns the log likelihood ratio of what files say of each old unit and each new one, (N, M)."""
    both = np.concatenate([old, new])
    both = both[:, np.isfinite(both).all(0) & (both.std(0) > 0)]
    if not both.shape[1]:
        return np.zeros((len(old), len(new)))
    both = (both - both.mean(0)) / both.std(0)
    variance, turn = np.linalg.eigh(np.atleast_2d(np.cov(both.T, bias=True)))
    chosen = variance > SIMILAR * variance.sum()
    x, y = np.split(both @ turn[:, chosen] / np.sqrt(variance[chosen]), [len(old)])
    left, K = 1 - LASTS**2, x.shape[1]
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None]

    return (LASTS * x @ y.T - LASTS**2 / 2 * squares) / left - K / 2 * np.log(left)


def _assign(alone: Array, together: Likeness, seed: int) -> Array:
    """Returns the assignment with the largest evidence that was found from all starts: zeros and ones, (N, M)."""
    N, M = alone.shape
    rng, even = np.random.default_rng(seed), np.full((N, M), 1 / max(N, M))
    weight = min(1.0, MEASURES / min(N, M))
    rewarded = alone + np.log(SHARE / (1 - SHARE) / max(N, M))  # what is rare must be more likely
    best: Array = np.zeros((N, M))
    most = -np.inf
    starts = max(2, round(STARTS * min(1.0, LARGE / max(N, M)) ** 2))
    for start in range(starts):
        scattered = alone + SCALE * start / starts * rng.standard_normal((N, M))
        found = _climbed(alone, together, (even + _all_assigned(scattered)) / 2 if start else even)
        for _ in range(10):
            gains = weight * together.pairs(found)
            evidence = float((found * (rewarded + gains / 2)).sum())
            if evidence > most:
                best, most = found, evidence
            before, found = found, _some_assigned(rewarded + gains)
            if not (before != found).any():
                break

    return _settled(rewarded, weight, together, best)


def _settled(rewarded: Array, weight: float, together: Likeness, assigned: Array) -> Array:
    """Takes away and adds pairs, one at a time, for as long as evidence grows."""
    assigned = assigned.copy()
    for _ in range(4 * len(assigned)):
        gains = rewarded + weight * together.pairs(assigned)
        free = (assigned.sum(1) == 0)[:, None] & (assigned.sum(0) == 0)[None]
        gains = np.where(assigned > 0, -gains, np.where(free, gains, -np.inf))
        if gains.max() <= 1e-9:
            break
        at = np.unravel_index(gains.argmax(), gains.shape)
        assigned[at] = 1 - assigned[at]

    return assigned


def _climbed(alone: Array, together: Likeness, assigned: Array) -> Array:
    """Climbs from a doubly stochastic assignment to one of as many units as there are on both days."""
    for _ in range(30):
        slope = alone + together.pairs(assigned)
        step = _all_assigned(slope) - assigned
        gain = float((slope * step).sum())
        if gain < 1e-6:
            break
        bend = float((step * together.pairs(step)).sum())
        assigned = assigned + (1.0 if bend >= 0 else min(1.0, -gain / bend)) * step

    return _all_assigned(assigned)


def _all_assigned(evidence: Array) -> Array:
    rows, columns = linear_sum_assignment(evidence, maximize=True)
    assigned = np.zeros_like(evidence)
    assigned[rows, columns] = 1.0

    return assigned


def _some_assigned(evidence: Array) -> Array:
    """Assigns units where that is more likely than not."""
    return _all_assigned(np.maximum(evidence, 0.0)) * (evidence > 0)

r"""Whether the input is still such as a model was fitted on: units that fell silent, and rates that shifted.

Counts are looked at as square roots, whose variance hardly depends on the rate, over a trailing window of observed
bins. What is not observed, and what lies before the first bin, counts as the training mean: absence is not silence.

*Shift*. Of the trailing mean :math:`m_{tn}` of :math:`\sqrt{k_{tn}} - \mu_n`, with its standard deviation :math:`s_n`
over training windows,

.. math:: z_{tn} = m_{tn} / s_n, \quad
    \mathrm{shift}_t = \mathrm{mean}_n(m_{tn}) / s, \quad
    \mathrm{distance}_t^2 = \mathrm{mean}_n \min(z_{tn}^2, 25).

The first tells that the whole population fires more or less, the second that units have changed, in whatever direction.
Rates drift within any recording, so limits come from blocks of training time held back in turn from the estimates that
they are compared with: as many of their bins are flagged as the stated rate of false alarms. On new data of the same
kind the rate is the same with 60 windows of training time or more, and some three times as high with 20.

*Lost*. A unit is lost after a silence longer than chance: one that the tail of its silences in training, taken as
exponential, would reach in 1 of 100 such recordings in any unit. How long that is, is each unit's `silence`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt.segments import Masks, Segments, take

__all__ = ["Flags", "InputDrift"]

BLOCKS = 5  # of training time, held back in turn
WINDOWS = 20  # that training time must hold at least; else they are shorter
MOST = 5.0  # standard deviations that one unit may add to the distance
TAIL = 0.05  # share of a unit's silences that make its tail
CHANCE = 0.01  # of any unit being called lost in as much time as the training split, were all as they were

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What was found at each of R bins.

    Arguments:
        flagged: Whether the input is out of range for any cause, (R,).
        shift: Shift of the population's rate in standard deviations, positive for more spikes, (R,).
        distance: Root mean square over units of their shifts in standard deviations, (R,).
        unit_shift: Shift of each unit's rate in standard deviations, (R, N).
        lost: Whether each unit is lost, (R, N).
    """

    flagged: NDArray[np.bool_]
    shift: Array
    distance: Array
    unit_shift: NDArray[np.float32]
    lost: NDArray[np.bool_]

    @property
    def silent_units(self) -> NDArray[np.int64]:
        """Indices of units that are lost in the last bin."""
        return np.flatnonzero(self.lost[-1]) if len(self.lost) else np.zeros(0, np.int64)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> "Flags":
        """Returns what was found at some bins."""
        return Flags(**{name: values[rows] for name, values in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class InputDrift:
    """The range of the counts that a model was fitted on.

    Arguments:
        window: Bins of the trailing window.
        mean: Mean square root of each unit's count, (N,); NaN where a unit was never observed.
        spread: Standard deviation of its trailing mean, (N,); at least what one spike a window makes.
        population: Standard deviation of the mean over units of trailing means.
        limit_shift: Largest `shift`, up or down, that is in range.
        limit_distance: Largest `distance` that is in range.
        silence: Observed bins without a spike after which each unit is lost, (N,); infinite where it fired too rarely.
    """

    window: int
    mean: Array
    spread: Array
    population: float
    limit_shift: float
    limit_distance: float
    silence: Array

    @classmethod
    def fit(
        cls, counts: Segments, train: Masks, bin_size: float, *, window: float = 5.0, false_alarms: float = 0.01
    ) -> "InputDrift":
        """Learns from training rows.

        Arguments:
            counts: Counts in order of time, one (T, N) a segment; NaN where a unit was not observed.
            train: Rows that the model was fitted on, one (T,) a segment.
            bin_size: Seconds.
            window: Trailing window in seconds; shorter where training rows are less than 20 of them.
            false_alarms: Share of bins like those of training that may be flagged.
        """
        x = take(counts, train)
        if len(x) < 2 * BLOCKS:
            raise ValueError(f"train must hold at least {2 * BLOCKS} rows, got {len(x)}")
        bins = max(1, min(round(window / bin_size), len(x) // WINDOWS))
        root = np.sqrt(x)
        mean, spread, population = _normal(root, bins)
        limit_shift, limit_distance = _limits(root, bins, false_alarms)
        silence = np.array([_silence(k[~np.isnan(k)], x.shape[1]) for k in x.T])

        return cls(
            window=bins,
            mean=mean,
            spread=spread,
            population=population,
            limit_shift=limit_shift,
            limit_distance=limit_distance,
            silence=silence,
        )

    def check(self, counts: Segments) -> Flags:
        """Looks at bins in order of time; causal. Windows and silences go on from one segment into the next.

        Arguments:
            counts: Counts, one (T, N) a segment, units as in training; NaN where a unit is not observed.
        """
        x = np.concatenate([np.asarray(k, np.float64) for k in counts])
        if x.shape[1] != len(self.mean):
            raise ValueError(f"counts must be (T, N={len(self.mean)}), got {x.shape[1]} units")
        shift, units, distance = _shifts(np.sqrt(x), self.window, self.mean, self.spread, self.population)
        lost = _silent(x) >= self.silence
        outside = (np.abs(shift) > self.limit_shift) | (distance > self.limit_distance)

        flagged, unit_shift = outside | lost.any(1), units.astype(np.float32)

        return Flags(flagged=flagged, shift=shift, distance=distance, unit_shift=unit_shift, lost=lost)


def _trailing(deviation: Array, window: int) -> Array:
    """Returns the mean over the last `window` rows; what is NaN, and what lies before the first row, counts as 0."""
    total = np.cumsum(np.nan_to_num(deviation), 0)
    mean = total / window
    mean[window:] -= total[:-window] / window

    return mean


def _normal(root: Array, window: int) -> tuple[Array, Array, float]:
    """Returns each unit's mean, the standard deviation of its trailing mean, and that of the population's."""
    observed = ~np.isnan(root)
    mean = np.nansum(root, 0) / np.maximum(observed.sum(0), 1)
    mean[~observed.any(0)] = np.nan
    trailing = _trailing(root - mean, window)[window - 1 :]
    whole = _trailing(observed * 1.0, window)[window - 1 :] > 1 - 0.5 / window  # observed in each of its bins
    square = np.sum(trailing**2 * whole, 0) / np.maximum(whole.sum(0), 1)
    least = 1 / window  # one spike

    return mean, np.maximum(np.sqrt(square), least), max(float(trailing.mean(1).std()), least / len(mean))


def _shifts(root: Array, window: int, mean: Array, spread: Array, population: float) -> tuple[Array, Array, Array]:
    """Returns the population's shift, (R,), each unit's, (R, N), and their distance, (R,)."""
    trailing = _trailing(root - mean, window)
    units = trailing / spread

    return trailing.mean(1) / population, units, np.sqrt(np.minimum(units**2, MOST**2).mean(1))


def _limits(root: Array, window: int, false_alarms: float) -> tuple[float, float]:
    """Returns limits of `shift` and `distance` that so many rows exceed, of blocks held back from the estimates."""
    found = []
    for rows in np.array_split(np.arange(len(root)), BLOCKS):
        shift, _, distance = _shifts(root[rows], window, *_normal(np.delete(root, rows, 0), window))
        found.append(np.abs([shift, distance])[:, window - 1 :])
    held = np.concatenate(found, 1)  # (2, rows), full windows only
    each = np.quantile(held, 1 - false_alarms / 2, axis=1)
    each = np.maximum(each, 1e-9)  # where nothing varies, anything else is out of range
    both = np.quantile((held / each[:, None]).max(0), 1 - false_alarms)  # the two alarms together, whatever they share

    return float(each[0] * both), float(each[1] * both)


def _silence(counts: Array, num_units: int) -> float:
    r"""Returns the silence, in bins, after which a unit is lost.

    Of the silences (bins between bins with spikes) the longest k exceed the next one by :math:`\mu` in the mean. If
    their tail is exponential, of which only these k are known, another silence as long exceeds it by more than y with
    probability :math:`(1 + y / k\mu)^{-k}`; y is where k times that is `CHANCE` over N.
    """
    silences = np.sort(np.diff(np.flatnonzero(counts > 0)) - 1)
    k = math.ceil(TAIL * len(silences))
    if len(silences) <= k:
        return math.inf
    mu = max(float(np.mean(silences[-k:] - silences[-k - 1])), 1.0)  # silences are known to a bin
    excess = k * mu * (math.pow(k * num_units / CHANCE, 1 / k) - 1)

    return float(math.ceil(max(silences[-k - 1] + excess, silences[-1] + 1)))


def _silent(counts: Array) -> NDArray[np.int64]:
    """Returns for how many observed bins each unit has been silent, this one included, (R, N)."""
    observed = np.cumsum(~np.isnan(counts), 0)
    last: NDArray[np.int64] = np.maximum.accumulate(np.where(counts > 0, observed, 0), 0)

    return observed - last

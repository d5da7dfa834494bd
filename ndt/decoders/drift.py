r"""Input drift: silent units and shifted rates, relative to the counts that a decoder was fitted on.

The statistics are trailing means of square-root counts, whose variance hardly depends on the rate. Unobserved entries,
and those before the first bin, count as the training mean: an unobserved unit is not a silent one.

*Shift*. Of the trailing mean :math:`m_{tn}` of :math:`\sqrt{k_{tn}} - \mu_n`, with its standard deviation :math:`s_n`
over training windows,

.. math:: z_{tn} = m_{tn} / s_n, \quad
    \mathrm{shift}_t = \mathrm{mean}_n(m_{tn}) / s, \quad
    \mathrm{distance}_t^2 = \mathrm{mean}_n \min(z_{tn}^2, 25).

The first measures a change of the population's rate, the second a change of units in either direction. Rates drift
within a recording, so the limits are cross-validated: each of five blocks of training time is compared with the
estimates of the others, and the limits flag the stated share of bins (false alarms), with an exponential tail of the
largest tenth. On new data of the same kind the share is about the same with 60 windows of training time or more (0.7 to
2.4 times in simulations of 30 to 1,500 units). So windows are shortened, across the segments of a cut recording, to 60
in training.

*Silence*. A unit is silent after more bins without a spike than chance explains: with an exponential tail of its
silences in training, its first and last included, any unit would reach that `silence` in 1 of 100 such recordings. Of
many units a few fall silent as rates drift, which hardly changes the input: a bin is flagged for silence if more units
are silent at once than in any held-back block of training, and at least 1 in 100.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt.segments import Masks, Segments, take

__all__ = ["Flags", "InputDrift"]

BLOCKS = 5  # of training time, for cross-validation
WINDOWS = 60  # of training time at least; the window is shortened to fit
MOST = 5.0  # standard deviations at which a unit's shift is clipped in the distance
TAIL = 0.05  # share of a unit's silences in the tail
TOP = 0.1  # share of bins in the tail of a statistic
CHANCE = 0.01  # probability of a false silent unit in as much time as the training split
MANY = 0.01  # share of units whose silence may change the input

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Flags:
    """The state of the input at each of R bins.

    Arguments:
        flagged: Whether the input is out of distribution for any cause, (R,).
        shift: Shift of the population's rate in standard deviations, positive for more spikes, (R,).
        distance: Root mean square over units of their shifts in standard deviations, (R,).
        unit_shift: Shift of each unit's rate in standard deviations, (R, N).
        silent: Whether each unit is silent, (R, N).
    """

    flagged: NDArray[np.bool_]
    shift: Array
    distance: Array
    unit_shift: NDArray[np.float32]
    silent: NDArray[np.bool_]

    @property
    def silent_units(self) -> NDArray[np.int64]:
        """Indices of units that are silent in the last bin."""
        return np.flatnonzero(self.silent[-1]) if len(self.silent) else np.zeros(0, np.int64)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> "Flags":
        """Returns the flags of some bins."""
        return Flags(**{name: values[rows] for name, values in vars(self).items()})


@dataclass(frozen=True)
class InputDrift:
    """Statistics of the counts that a decoder was fitted on, with limits beyond which input is out of distribution.

    Arguments:
        window: Bins of the trailing window.
        mean: Mean square root of each unit's count, (N,); NaN where a unit was never observed.
        spread: Standard deviation of its trailing mean, (N,); at least that of one spike a window.
        population: Standard deviation of the mean over units of trailing means.
        limit_shift: Largest absolute `shift` in distribution.
        limit_distance: Largest `distance` in distribution.
        silence: Observed bins without a spike after which a unit is silent, (N,); infinite if it fired too rarely.
        limit_silent: Number of silent units in distribution.
    """

    window: int
    mean: Array
    spread: Array
    population: float
    limit_shift: float
    limit_distance: float
    silence: Array
    limit_silent: int

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.spread) == len(self.silence):
            raise ValueError("mean, spread and silence must have a value of each unit")
        if not (np.all(np.asarray(self.spread) > 0) and self.population > 0 and self.window > 0):
            raise ValueError("window and standard deviations must be above 0")
        if not (np.all(np.asarray(self.silence) >= 0) and self.limit_shift >= 0 and self.limit_distance >= 0):
            raise ValueError("limits must be at least 0")

    @classmethod
    def fit(
        cls, counts: Segments, train: Masks, bin_size: float, *, window: float = 5.0, false_alarms: float = 0.01
    ) -> "InputDrift":
        """Fits the statistics to training rows.

        Arguments:
            counts: Counts in order of time, one (T, N) a segment; NaN where a unit was not observed.
            train: Rows that the decoder was fitted on, one (T,) a segment.
            bin_size: Seconds.
            window: Trailing window in seconds; shorter if training rows hold fewer than 60 windows.
            false_alarms: Share of bins to flag in data like the training data.
        """
        x = take(counts, train).astype(np.float64)
        if len(x) < 2 * BLOCKS:
            raise ValueError(f"train must hold at least {2 * BLOCKS} rows, got {len(x)}")
        bins = max(1, min(round(window / bin_size), len(x) // WINDOWS))
        root = np.sqrt(x)

        return cls(bins, *_normal(root, bins), *_limits(root, bins, false_alarms), _silences(x), _limit_silent(x))

    def check(self, counts: Segments) -> Flags:
        """Returns the flags of bins in order of time; causal. Windows and silences run across segments.

        Arguments:
            counts: Counts, one (T, N) a segment, units as in training; NaN where a unit is not observed.
        """
        x = np.concatenate([np.asarray(k, np.float64) for k in counts])
        if x.shape[1] != len(self.mean):
            raise ValueError(f"counts must be (T, N={len(self.mean)}), got {x.shape[1]} units")
        shift, units, distance = _shifts(np.sqrt(x), self.window, self.mean, self.spread, self.population)
        silent = _silent_bins(x) >= self.silence
        flagged = (np.abs(shift) > self.limit_shift) | (distance > self.limit_distance)
        flagged |= silent.sum(1) > self.limit_silent

        return Flags(
            flagged=flagged, shift=shift, distance=distance, unit_shift=units.astype(np.float32), silent=silent
        )


def _trailing(deviation: Array, window: int) -> Array:
    """Returns the mean over the last `window` rows; NaN and rows before the first count as 0."""
    total = np.cumsum(np.nan_to_num(deviation), 0)
    mean = total / window
    mean[window:] -= total[:-window] / window

    return mean


def _normal(root: Array, window: int) -> tuple[Array, Array, float]:
    """Returns each unit's mean, (N,), the standard deviation of its trailing mean, (N,), and the population's."""
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
    """Returns the limits of `shift` and `distance` that a share `false_alarms` of rows exceeds, cross-validated."""
    found = []
    for rows in np.array_split(np.arange(len(root)), BLOCKS):
        shift, _, distance = _shifts(root[rows], window, *_normal(np.delete(root, rows, 0), window))
        found.append(np.abs([shift, distance])[:, window - 1 :])
    tested = np.concatenate(found, 1)  # (2, rows), full windows only
    independent = tested.shape[1] / window
    each = np.array([_limit(values, false_alarms / 2, independent) for values in tested])
    each = np.maximum(each, 1e-9)  # if nothing varies, any change is out of distribution
    both = _limit((tested / each[:, None]).max(0), false_alarms, independent)  # corrects for the overlap of the two

    return float(each[0] * both), float(each[1] * both)


def _limit(values: Array, share: float, independent: float) -> float:
    """Returns the limit that a new value exceeds with probability `share`, by an exponential tail (see `_silence`).

    Arguments:
        values: Values, (R,).
        share: Probability, which may be smaller than one over the number of independent values.
        independent: Number of independent values, which is R over their correlation time.
    """
    top = max(TOP, share)
    start, k = float(np.quantile(values, 1 - top)), top * independent
    above = values[values > start]
    mu = float(np.mean(above - start)) if len(above) else 0.0

    return start + k * mu * (math.pow(top / share, 1 / k) - 1)


def _silences(counts: Array) -> Array:
    """Returns the number of bins after which each unit is silent, (N,)."""
    return np.array([_silence(k[~np.isnan(k)], counts.shape[1]) for k in counts.T])


def _limit_silent(counts: Array) -> int:
    """Returns the largest number of units that are silent at once in a block of training, relative to the others."""
    most = math.ceil(MANY * counts.shape[1]) - 1
    for rows in np.array_split(np.arange(len(counts)), BLOCKS):
        silent = _silent_bins(counts[rows]) >= _silences(np.delete(counts, rows, 0))
        most = max(most, int(silent.sum(1).max()))

    return most


def _silence(counts: Array, num_units: int) -> float:
    r"""Returns the number of bins without a spike after which a unit is silent.

    Of its silences (bins between bins with spikes, and before the first and after the last of them) the longest k
    exceed the next one by :math:`\mu` on average. If their tail is exponential, estimated from these k, a further
    silence in it exceeds that one by more than y with probability :math:`(1 + y / k\mu)^{-k}`. We choose y such that k
    times this probability is `CHANCE` over N.
    """
    spikes = np.flatnonzero(counts > 0)
    if len(spikes) < 3:
        return math.inf  # one silence between spikes has no tail
    silences = np.sort(np.diff(np.r_[-1, spikes, len(counts)]) - 1)
    k = math.ceil(TAIL * len(silences))
    mu = max(float(np.mean(silences[-k:] - silences[-k - 1])), 1.0)  # silences are measured to one bin
    excess = k * mu * (math.pow(k * num_units / CHANCE, 1 / k) - 1)

    return float(math.ceil(max(silences[-k - 1] + excess, silences[-1] + 1)))


def _silent_bins(counts: Array) -> NDArray[np.int64]:
    """Returns the number of observed bins since each unit's last spike, this bin included, (R, N)."""
    observed = np.cumsum(~np.isnan(counts), 0)
    last: NDArray[np.int64] = np.maximum.accumulate(np.where(counts > 0, observed, 0), 0)

    return observed - last

r"""Simple predictions of spike counts, with which a model's likelihood is compared: a smoother and a mean response.

Both read what any laboratory has without a model: a unit's own past counts, and its mean count at each time after the
start of a trial. Rates are in spikes per bin.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.sparse import csr_array

__all__ = ["MIN_MEAN", "Counts", "MeanResponse", "Smoother", "reference_nll"]

# T = bins, N = units, K = lags: bins since a trial's start

MIN_MEAN = 1e-4  # spikes per bin; a lower mean count is raised to it, or a single spike would make the NLL infinite
TIME_CONSTANTS = 2.0 ** np.arange(-1, 7.5, 0.5)  # bins
WEIGHTS = 2.0 ** np.arange(-1, 10.5, 0.5)  # bins at the mean count
TRIAL_WEIGHTS = 2.0 ** np.arange(-2, 13.5, 0.5)  # trials at the mean count

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Counts(NamedTuple):
    """Spikes per bin of a window, which of its entries are visible, and which are to be predicted; each (T, N)."""

    counts: NDArray[np.integer]
    visible: Mask
    predicted: Mask


def reference_nll(rates: Array, counts: NDArray[np.integer] | Array) -> float:
    """Returns the Poisson negative log-likelihood in nats, summed over entries, without the constant log k!."""
    return float(np.sum(rates) - np.sum(counts * np.log(rates)))


@dataclass(frozen=True)
class Smoother:
    r"""Causal exponential smoother of each unit's own visible counts, with the unit's mean count as prior.

    .. math:: \lambda_t = \Big(a \bar k + \sum_{s < t} e^{-(t - s) / \tau} k_s\Big)
        \Big/ \Big(a + \sum_{s < t} e^{-(t - s) / \tau}\Big)

    Sums run over the visible bins of the window. A unit without a visible bin before t has its mean count.

    Arguments:
        weight: Weight a of the mean count, in bins.
        time_constant: Time constant τ in bins.

    Example:
        >>> seen = np.ones((2, 1), bool)
        >>> Smoother(weight=1.0, time_constant=1 / np.log(2)).rates(np.array([[3], [0]]), seen, np.ones(1)).ravel()
        array([1.        , 1.66666667])
    """

    weight: float
    time_constant: float

    def rates(self, counts: NDArray[np.integer], visible: Mask, mean: Array) -> Array:
        """Returns rates of all entries, (T, N).

        Arguments:
            counts: Spikes per bin, (T, N).
            visible: Entries that may be read, (T, N).
            mean: Mean count of each unit, (N,).
        """
        spikes, bins = _history(counts, visible, self.time_constant)

        return (self.weight * mean + spikes) / (self.weight + bins)

    @classmethod
    def fit(cls, windows: Sequence[Counts], mean: Array) -> "Smoother":
        """Returns the smoother of largest likelihood on the entries to predict, on a grid of steps of √2.

        Arguments:
            windows: Windows of the training split.
            mean: Mean count of each unit, (N,).
        """
        best, found = np.inf, cls(float(WEIGHTS[-1]), 1.0)
        k, prior = _predicted([w.counts for w in windows], windows), _predicted([mean] * len(windows), windows)
        for time_constant in TIME_CONSTANTS:
            sums = [_history(w.counts, w.visible, time_constant) for w in windows]
            spikes, bins = (_predicted([pair[i] for pair in sums], windows) for i in range(2))
            if not bins.any():  # no history to weigh
                break
            for weight in WEIGHTS:
                if (nll := reference_nll((weight * prior + spikes) / (weight + bins), k)) < best:
                    best, found = nll, cls(float(weight), float(time_constant))

        return found


def _history(counts: NDArray[np.integer], visible: Mask, time_constant: float) -> tuple[Array, Array]:
    """Returns the decayed sums of visible counts and of visible bins before each bin, each (T, N)."""
    decay = np.exp(-1 / time_constant)
    read = [np.where(visible, counts, 0), visible]
    spikes, bins = (np.asarray(lfilter([0.0, decay], [1.0, -decay], x.astype(np.float64), axis=0)) for x in read)

    return spikes, bins


def _predicted(values: Sequence[NDArray[np.generic]], windows: Sequence[Counts]) -> Array:
    """Returns the values, each (T, N) or (N,), of the entries to predict of all windows."""
    pairs = zip(values, windows, strict=True)

    found: list[Array] = [np.broadcast_to(x, w.counts.shape)[w.predicted].astype(np.float64) for x, w in pairs]

    return np.concatenate([np.zeros(0), *found])


@dataclass(frozen=True)
class MeanResponse:
    r"""Mean count of each unit at each lag, the bins since a trial's start, shrunk towards its mean count.

    .. math:: \lambda_{kn} = (S_{kn} + a \bar k_n) / (M_{kn} + a)

    with the spikes S of the M trials in which the unit was observed at that lag. The weight a, in trials, maximises the
    likelihood of each trial under the rates of the other trials, on a grid of steps of √2.

    Arguments:
        weight: Weight a of the mean count.
        by_lag: Rates at lags 0 to K - 1, and the mean count in the last row, (K + 1, N).
    """

    weight: float
    by_lag: Array

    def rates(self, lag: NDArray[np.integer]) -> Array:
        """Returns rates at lags, (T, N): the mean count at negative lags and at those that no trial reached."""
        K = len(self.by_lag) - 1

        return self.by_lag[np.where((lag < 0) | (lag >= K), K, lag)]

    @classmethod
    def fit(
        cls, runs: Iterable[tuple[NDArray[np.integer], Mask, NDArray[np.integer]]], num_lags: int, mean: Array
    ) -> "MeanResponse":
        """Returns the mean response over training trials.

        Arguments:
            runs: Of each run of training bins: counts (T, N), whether units were observed (T, N), and lags (T,). Bins
                at lags outside 0 to K - 1 are not used. No trial has two bins at one lag.
            num_lags: Number of lags K.
            mean: Mean count of each unit, (N,).
        """
        spikes, trials = np.zeros((2, num_lags, len(mean)))
        parts: list[tuple[NDArray[np.integer], ...]] = [(np.zeros(0, np.int64),) * 3]
        for counts, valid, lag in runs:
            inside = (lag >= 0) & (lag < num_lags)
            k, at = np.where(valid, counts, 0)[inside].astype(np.float64), lag[inside]
            of_lag = csr_array((np.ones(len(at)), (at, np.arange(len(at)))), shape=(num_lags, len(at)))
            spikes += of_lag @ k
            trials += of_lag @ valid[inside].astype(np.float64)
            row, unit = np.nonzero(k)
            parts.append((at[row], unit, k[row, unit].astype(np.int64)))
        lag, unit, k = (np.concatenate(column) for column in zip(*parts, strict=True))

        def nll(weight: float) -> float:
            """Leave-one-out NLL: the spikes S, M - 1 trials and the weight give each trial's rate without itself."""
            held, prior = np.maximum(trials - 1, 0) + weight, weight * mean
            rates = np.sum(np.where(trials > 0, ((trials - 1) * spikes + trials * prior) / held, 0.0))
            own = (spikes[lag, unit] - k + prior[unit]) / held[lag, unit]
            return float(rates - np.sum(k * np.log(own)))

        weight = float(min(TRIAL_WEIGHTS, key=nll))

        return cls(weight, np.vstack([(spikes + weight * mean) / (trials + weight), mean]))

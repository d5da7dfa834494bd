"""Measures of units' activity in unlabelled time, from which the model knows units that it was not trained on."""

import numpy as np
from numpy.typing import NDArray

from ndt.data.trials import bins_in_trials, response_trials
from ndt.data.windows import BinnedSession
from ndt.model.tokens import ACTIVITY

__all__ = ["response_parts", "unit_activity"]

LAGS = (1, 2, 4)  # bins, of the autocorrelation
PARTS = 10  # equal parts of a trial, of the mean response
SMALL = 0.1  # spikes per bin, added to the mean: keeps silent units finite

# R = bins, N = units, A = measures, K = parts of a trial


def unit_activity(binned: BinnedSession, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    r"""Returns the measures `ACTIVITY` of each unit over the chosen bins in which it was observed, (N, A).

    With the count :math:`c_t` of a unit, its mean :math:`\mu`, and :math:`z_t = (c_t - \mu) / \sqrt{\mu + 0.1}`:

    - the mean count :math:`\mu` per bin, the logarithm of the rate in Hz plus 0.1, and the variance of counts over
      :math:`\mu + 0.05` (Fano factor, shrunk);
    - the autocorrelation :math:`\sum_t z_t z_{t + l} / \sum_t z_t^2` at lags l of 1, 2 and 4 bins of a segment;
    - the mean product of :math:`z_t` with the population's mean of z in the same bin, standardised;
    - the mean response in ten equal parts of a trial, less :math:`\mu`: over :math:`\sqrt{\mu + 0.1}`, and over its own
      standard deviation across parts (its shape); zeros without trials (`ndt.data.trials.response_trials`).

    Nothing but spikes, and the times of trials, is used. A unit that was never observed has zeros.

    Arguments:
        binned: The session's bins.
        chosen: Bins to use, (R,): those of the training split, or of a calibration span before what is predicted.
    """
    counts = binned.all_counts()
    counts[~chosen] = np.nan
    seen = ~np.isnan(counts)
    number = np.maximum(seen.sum(0), 1)
    mean = np.nansum(counts, 0, dtype=np.float64) / number
    z = np.where(seen, (counts - mean) / np.sqrt(mean + SMALL), 0.0).astype(np.float32)
    power = (z**2).sum(0) / number
    found = [mean, np.log(mean / binned.bin_size + 0.1), power * (mean + SMALL) / (mean + 0.05)]
    for lag in LAGS:
        same = binned.segment[lag:] == binned.segment[:-lag]
        pairs = np.maximum((seen[lag:] & seen[:-lag] & same[:, None]).sum(0), 1)
        found.append((z[lag:] * z[:-lag] * same[:, None]).sum(0) / pairs / (power + 0.05))
    population = z.mean(1)
    spread = float(population[chosen].std()) if chosen.any() else 0.0
    found.append((z * (population / max(spread, 1e-6))[:, None]).sum(0) / number)
    response = _responses(binned, counts, mean)
    own = np.sqrt(response.var(0) + 0.02 * (mean + 0.05))
    table = np.concatenate([np.stack(found), response / np.sqrt(mean + SMALL), response / own]).T
    assert table.shape[1] == len(ACTIVITY), "a column for each measure"

    return table.astype(np.float32)


def response_parts(binned: BinnedSession) -> NDArray[np.int64]:
    """Returns the part of its trial (`response_trials`) that each bin's centre lies in, 0 to 9; -1 for none, (R,)."""
    trials, centre = response_trials(binned.session), binned.start + binned.bin_size / 2
    row, _ = bins_in_trials(trials, centre, binned.bin_size)
    part, inside = np.full(len(binned), -1), row >= 0
    start, end = trials.start[row[inside]], trials.end[row[inside]]
    part[inside] = np.minimum((centre[inside] - start) / (end - start) * PARTS, PARTS - 1).astype(int)

    return part


def _responses(binned: BinnedSession, counts: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the mean count in each part of a trial less the mean count, (K, N); 0 for parts without a bin."""
    part = response_parts(binned)
    found = np.zeros((PARTS, len(mean)))
    for k in range(PARTS):
        rows = counts[part == k]
        seen = (~np.isnan(rows)).sum(0)
        total = np.nansum(rows, 0, dtype=np.float64)
        found[k] = np.where(seen > 0, total / np.maximum(seen, 1) - mean, 0.0)

    return found

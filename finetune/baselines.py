"""The baselines of a decoder, on its bins and its split."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.baselines import fit_ridge, fit_time_only, shuffled_targets
from ndt.config import FinetuneConfig
from ndt.data.windows import Grid
from ndt.metrics import r2

__all__ = ["Baselines"]

Rows = NDArray[np.floating]


@dataclass(frozen=True)
class Baselines:
    """What the baselines decode at every bin, (R, C) each.

    Arguments:
        ridge: Ridge on lagged counts; penalty and lags chosen on validation.
        shuffled: The same, fitted to labels in the wrong order: its R² must be near 0.
        time_only: From the time since the piece began, without spikes.
        chosen: Penalty and lags of ridge.
    """

    ridge: Rows
    shuffled: Rows
    time_only: Rows
    chosen: dict[str, Any]

    @classmethod
    def fit(
        cls, grid: Grid, targets: Rows, train: NDArray[np.bool_], valid: NDArray[np.bool_], config: FinetuneConfig
    ) -> "Baselines":
        """Fits all on the training bins and chooses on the validation bins."""
        cuts = np.flatnonzero(np.diff(grid.piece)) + 1
        pieces = partial(np.split, indices_or_sections=cuts)
        counts = np.full((len(grid), grid.session.num_units), np.nan, np.float32)
        for first, last in grid.runs(np.ones(len(grid), bool)):
            found, observed = grid.counts(first, last)
            counts[first:last] = np.where(observed, found, np.nan)
        x, y, fit_on, choose_on = pieces(counts), pieces(targets), pieces(train), pieces(valid)
        fit = partial(fit_ridge, bin_size=grid.bin_size, max_lag_s=config.max_lag)
        ridge = fit(x, y, fit_on, choose_on)
        mixed = shuffled_targets(y, fit_on, choose_on, config.seed)
        shuffled = fit(x, mixed, fit_on, choose_on)
        place = pieces(grid.place)
        clock = fit_time_only(y, fit_on, choose_on, place)

        return cls(
            np.concatenate(ridge.predict(x)),
            np.concatenate(shuffled.predict(x)),
            np.concatenate(clock.predict(place)),
            {"alpha": ridge.alpha, "num_lags": ridge.num_lags},
        )

    def scores(self, targets: Rows, rows: NDArray[np.bool_]) -> dict[str, Any]:
        """Returns the R² (variance-weighted) of each at some rows."""
        decoded = {"ridge": self.ridge, "shuffled": self.shuffled, "time_only": self.time_only}
        scored = {name: {"r2": r2(targets[rows], found[rows])} for name, found in decoded.items()}
        scored["ridge"] |= self.chosen

        return scored

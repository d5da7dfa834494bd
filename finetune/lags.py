"""Chooses by how much what is decoded follows the spikes, on validation."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ndt.config import FinetuneConfig
from ndt.data.targets import build_targets
from ndt.data.windows import VALID, BinnedSession
from ndt.decoders.ridge import fit_ridge
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.target import Target, labelled

__all__ = ["choose_lag"]

LEAST = 10  # bins with a label at every lag, for training and for validation


def choose_lag(
    binned: BinnedSession,
    names: Sequence[str] | str | None,
    lags: Sequence[float],
    chosen: NDArray[np.bool_],
    config: FinetuneConfig,
) -> tuple[float, dict[float, float]]:
    """Returns the lag in seconds with the best validation R² of ridge, and that of each; of equals, that nearest 0.

    Ridge is fitted to all lags at once, with one penalty and one history. All are fitted and scored on the same bins:
    those that have a label at every lag, or long lags would be asked about other moments than short ones. R² is
    variance-weighted and, of several parts, their mean.

    Arguments:
        binned: The session's bins.
        names: What is decoded; see `build_targets`.
        lags: Lags to choose from, in seconds, at least one.
        chosen: Bins to train on, (R,).
        config: Fine-tuning; uses `max_lag`, the longest history.

    Raises:
        InputError: if too few bins have a label at every lag.
    """
    targets = [
        build_targets(binned.session, names, binned.start, binned.bin_size, lag=x, split=binned.split) for x in lags
    ]
    counts = binned.all_counts()
    each = [_scores(binned, counts, targets, part, chosen, config.max_lag) for part in range(len(targets[0].parts))]
    scores = dict(zip(map(float, lags), np.mean(each, 0).tolist(), strict=True))

    return max(scores, key=lambda lag: (scores[lag], -abs(lag))), scores


def _scores(
    binned: BinnedSession,
    counts: NDArray[np.float32],
    targets: list[Target],
    part: int,
    chosen: NDArray[np.bool_],
    max_lag: float,
) -> list[float]:
    """R² of one part at each lag."""
    everywhere = np.stack([labelled(target, part) for target in targets]).all(0)
    train, valid = chosen & everywhere, (binned.split == VALID) & everywhere
    if (least := min(int(train.sum()), int(valid.sum()))) < LEAST:
        expected = f"at least {LEAST} training and validation bins with a label at every lag (try shorter lags)"
        raise InputError(binned.session.session_id, f"lag of {targets[0].parts[part].name}", expected, least)
    side = np.concatenate([target.values[:, target.columns(part)] for target in targets], 1)
    segments = partial(np.split, indices_or_sections=np.flatnonzero(np.diff(binned.segment)) + 1)
    x = segments(counts)
    fit = partial(fit_ridge, bin_size=binned.bin_size, max_lag_s=max_lag)
    ridge = fit(x, segments(side), segments(train), segments(valid))
    true, decoded = side[valid], np.concatenate(ridge.predict(x))[valid]
    each = (np.split(values, len(targets), 1) for values in (true, decoded))

    return [r2(y, found) for y, found in zip(*each, strict=True)]

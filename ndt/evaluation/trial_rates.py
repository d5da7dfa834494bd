"""Rates of held-out units, and of bins to come, in the trials of a session: what co-smoothing asks of a model."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ndt.errors import InputError
from ndt.model.inference import per_bin
from ndt.model.likelihood import CAP
from ndt.model.tokens import Batch, Window
from ndt.model.transformer import NDT
from ndt.model.vocabulary import Rows
from ndt.session import Session
from ndt.spikes import bin_spikes, observed_bins

__all__ = ["trial_rates"]

# M = trials, T = bins that are seen, F = bins after them, N = units, R = bins of a batch

Span = tuple[int, int, int]  # bins `first … last - 1` of a trial are a window, of which those from `keep` on are kept


def trial_rates(
    model: NDT,
    session: Session,
    start: NDArray[np.float64],
    num_bins: int,
    *,
    forward: int = 0,
    heldout: NDArray[np.bool_] | None = None,
    mean_counts: NDArray[np.float64] | None = None,
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """Returns predicted spikes per bin in all bins of trials, (M, T + F, N), units in the order of the session.

    The model sees the units that are not held out in the first T bins of the trial, where they were observed, and
    nothing else: no spike before the trial, after those bins, or of a held-out unit. A trial longer than the model's
    windows is cut into windows that overlap by half.

    Arguments:
        model: A model that knows the session's units and contexts, see `NDT.extended`; left in the mode it was in.
        session: The session.
        start: Start of each trial's first bin in seconds, (M,).
        num_bins: Bins T that are seen; their width is the model's.
        forward: Bins F after them.
        heldout: Units that are hidden, (N,); None for none.
        mean_counts: Spikes per bin of each unit, (N,); by default those that the model knows.
        batch_size: Windows at once.

    Raises:
        InputError: if so many bins after the trial leave the model's longest window none to see.
    """
    rows, T, N = model.vocabulary.rows(session), num_bins + forward, session.num_units
    spans = _spans(num_bins, forward, model.spec.window_bins, session.session_id)
    seen = np.ones(N, bool) if heldout is None else ~np.asarray(heldout, bool)
    means = None if mean_counts is None else np.asarray(mean_counts, np.float64)

    def read(batch: Batch) -> Tensor:
        """Rates of all units in each bin, (R, N); tokens lie by bin and patch, the last patch padded."""
        log_rates = model.log_rates(batch, model.encode(batch), every=True).float().clamp(max=CAP)
        return log_rates.exp().reshape(len(batch.bin_time), -1)[:, :N]

    windows = _windows(session, np.asarray(start, np.float64), model.spec.bin_size, spans, num_bins, seen, rows, means)
    found = per_bin(model, windows, read, len(start) * T, batch_size).reshape(len(start), T, N)
    out = np.empty_like(found)
    out[:, :, rows.order] = found

    return out


def _spans(num_bins: int, forward: int, longest: int, where: str) -> list[Span]:
    """Windows that cover a trial once, each but the first with half a window of history."""
    T = num_bins + forward
    if T <= longest:
        return [(0, 0, T)]
    if forward >= longest:
        raise InputError(where, "forward", f"fewer bins than the model's longest window ({longest})", forward)
    step = max(min(longest // 2, longest - forward), 1)
    ends = [longest, *range(longest + step, T, step), T]
    keeps = [0, *ends[:-1]]

    return [(max(last - longest, 0), keep, last) for keep, last in zip(keeps, ends, strict=True)]


def _windows(
    session: Session,
    start: NDArray[np.float64],
    bin_size: float,
    spans: list[Span],
    num_bins: int,
    seen: NDArray[np.bool_],
    rows: Rows,
    means: NDArray[np.float64] | None,
) -> Iterator[tuple[Window, int]]:
    """Yields windows of trials laid end to end, and the first bin that is kept of each.

    Every entry is valid: what was not observed is asked for like what is hidden.
    """
    T = spans[-1][-1]
    for m, begin in enumerate(start):
        counts = bin_spikes(session, float(begin), bin_size, T)
        visible = observed_bins(session, float(begin), bin_size, T) & seen
        visible[num_bins:] = False
        for first, keep, last in spans:
            part, index = slice(first, last), (m * T + first, m * T + last)
            hidden, valid = ~visible[part], np.ones_like(visible[part])
            window = rows.window(
                counts[part], valid, hidden=hidden, mean_counts=means, index=index, session=session.session_id
            )
            yield window, m * T + keep

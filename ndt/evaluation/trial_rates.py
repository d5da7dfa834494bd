"""Predicted rates in trials, of held-out units and of later bins, as co-smoothing and forward prediction need."""

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

# M = trials, T = visible bins, F = bins after them, N = units, R = bins of a batch

Span = tuple[int, int, int]  # first, keep, last: a window of bins `first … last - 1`; rates are kept from `keep` on


def trial_rates(
    model: NDT,
    session: Session,
    start: NDArray[np.float64],
    num_bins: int,
    *,
    forward: int = 0,
    heldout: NDArray[np.bool_] | None = None,
    activity: NDArray[np.float32] | None = None,
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """Returns predicted spikes per bin in all bins of trials, (M, T + F, N), units in the order of the session.

    The model reads only observed counts of held-in units in the first T bins of the trial. A trial longer than the
    model's windows is cut into windows that overlap by half.

    Arguments:
        model: A model that knows the session's units and contexts, see `NDT.extended`; its mode does not change.
        session: The session.
        start: Start of each trial's first bin in seconds, (M,).
        num_bins: Visible bins T, of the model's width.
        forward: Bins F after them.
        heldout: Held-out units, (N,); None for none.
        activity: Measures of each unit's activity, (N, A); by default the model's.
        batch_size: Windows at once.

    Raises:
        InputError: if F leaves no visible bin in the model's longest window.
    """
    rows, T, N = model.rows(session), num_bins + forward, session.num_units
    spans = _spans(num_bins, forward, model.spec.window_bins, session.session_id)
    heldin = np.ones(N, bool) if heldout is None else ~np.asarray(heldout, bool)

    def read(batch: Batch) -> Tensor:
        """Returns rates of all units in each bin, (R, N); tokens are ordered by bin and patch, the last one padded."""
        log_rates = model.log_rates(batch, model.encode(batch), every=True).float().clamp(max=CAP)
        return log_rates.exp().reshape(len(batch.bin_time), -1)[:, :N]

    windows = _windows(
        session, np.asarray(start, np.float64), model.spec.bin_size, spans, num_bins, heldin, rows, activity
    )
    found = per_bin(model, windows, read, len(start) * T, batch_size).reshape(len(start), T, N)
    out = np.empty_like(found)
    out[:, :, rows.order] = found

    return out


def _spans(num_bins: int, forward: int, longest: int, where: str) -> list[Span]:
    """Returns windows that cover a trial, each but the first with half a window of history."""
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
    heldin: NDArray[np.bool_],
    rows: Rows,
    activity: NDArray[np.float32] | None,
) -> Iterator[tuple[Window, int]]:
    """Yields windows of concatenated trials, and the first bin that each keeps.

    Every entry is valid: the model predicts unobserved entries like hidden ones.
    """
    T = spans[-1][-1]
    for m, begin in enumerate(start):
        counts = bin_spikes(session, float(begin), bin_size, T)
        visible = observed_bins(session, float(begin), bin_size, T) & heldin
        visible[num_bins:] = False
        for first, keep, last in spans:
            part, index = slice(first, last), (m * T + first, m * T + last)
            hidden, valid = ~visible[part], np.ones_like(visible[part])
            window = rows.window(
                counts[part], valid, hidden=hidden, activity=activity, index=index, session=session.session_id
            )
            yield window, m * T + keep

"""Rates of held-out units, and of bins to come, in the trials of a session: what co-smoothing asks of a model."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ndt.errors import InputError
from ndt.likelihood import CAP
from ndt.model import NDT
from ndt.session import Session
from ndt.spikes import bin_edges, bin_spikes, unit_valid
from ndt.tokens import Window, pack
from ndt.vocabulary import Rows

__all__ = ["observed_bins", "trial_rates"]

# M = trials, T = bins that are seen, F = bins after them, N = units, S = patches


class _Span(NamedTuple):
    """Bins ``first … last - 1`` of a trial are one window, of which those from `keep` on are kept."""

    first: int
    keep: int
    last: int


def observed_bins(session: Session, start: float, bin_size: float, T: int) -> NDArray[np.bool_]:
    """Returns (T, N): True where the unit was observed through the whole bin, and the session was.

    Arguments:
        session: The session.
        start: Start of the first bin in seconds.
        bin_size: Bin width in seconds.
        T: Number of bins.
    """
    edges, slack, pieces = bin_edges(start, bin_size, T), 1e-6 * bin_size, session.observed.coalesce()
    if len(pieces) == 0:
        return np.zeros((T, session.num_units), bool)
    row = np.maximum(np.searchsorted(pieces.start, edges[:-1] + slack, side="right") - 1, 0)
    inside = (edges[:-1] >= pieces.start[row] - slack) & (edges[1:] <= pieces.end[row] + slack)

    return unit_valid(session, start, bin_size, T) & inside[:, None]


@torch.no_grad()
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
    hidden = np.zeros(N, bool) if heldout is None else np.asarray(heldout, bool)
    means = None if mean_counts is None else np.asarray(mean_counts, np.float64)
    training, device, P = model.training, next(model.parameters()).device, model.config.units_per_patch
    model.eval()
    out = np.full((len(start), T, N), np.nan, np.float32)
    todo = _windows(model, session, np.asarray(start, np.float64), spans, num_bins, hidden, rows, means)
    while some := list(islice(todo, batch_size)):
        batch = pack([window for _, _, window in some], P).to(device)
        log_rates = model.log_rates(batch, model.encode(batch), every=True).float().clamp(max=CAP)
        each = np.split(log_rates.exp().cpu().numpy(), np.cumsum([_num_tokens(w, P) for _, _, w in some])[:-1])
        for (m, span, window), rates in zip(some, each, strict=True):
            rates = rates.reshape(len(window.counts), -1)[:, :N]  # (bins, S * P), the last patch padded
            out[m, span.keep : span.last, rows.order] = rates[span.keep - span.first :].T
    model.train(training)

    return out


def _num_tokens(window: Window, P: int) -> int:
    return len(window.counts) * -(-window.counts.shape[1] // P)


def _spans(num_bins: int, forward: int, longest: int, where: str) -> list[_Span]:
    """Windows that cover a trial once, each but the first with half a window of history."""
    T = num_bins + forward
    if T <= longest:
        return [_Span(0, 0, T)]
    if forward >= longest:
        raise InputError(where, "forward", f"fewer bins than the model's longest window ({longest})", forward)
    step = max(min(longest // 2, longest - forward), 1)
    ends = [longest, *range(longest + step, T, step), T]
    keeps = [0, *ends[:-1]]

    return [_Span(max(last - longest, 0), keep, last) for keep, last in zip(keeps, ends, strict=True)]


def _windows(
    model: NDT,
    session: Session,
    start: NDArray[np.float64],
    spans: list[_Span],
    num_bins: int,
    hidden: NDArray[np.bool_],
    rows: Rows,
    means: NDArray[np.float64] | None,
) -> Iterator[tuple[int, _Span, Window]]:
    """Yields trial, span and window. Every entry is valid: what was not observed is asked for like what is hidden."""
    bin_size, T = model.spec.bin_size, spans[-1].last
    for m, begin in enumerate(start):
        counts = bin_spikes(session, float(begin), bin_size, T)
        seen = observed_bins(session, float(begin), bin_size, T) & ~hidden
        seen[num_bins:] = False
        for span in spans:
            part = slice(span.first, span.last)
            valid, name = np.ones_like(seen[part]), session.session_id
            yield m, span, rows.window(counts[part], valid, hidden=~seen[part], mean_counts=means, session=name)

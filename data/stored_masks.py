"""Fixed masks of windows, by which models are compared and selected, and the references that they have to surpass."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ndt.data.activity import unit_activity
from ndt.data.trials import bins_in_trials, response_trials
from ndt.data.windows import MIN_BINS, TEST, TRAIN, VALID, BinnedSession, TrainingData
from ndt.errors import InputError
from ndt.evaluation.count_references import MIN_MEAN, Counts, MeanResponse, Smoother, reference_nll
from ndt.evaluation.metrics import bits_per_spike
from ndt.model.likelihood import count_nll
from ndt.model.masking import draw_mask
from ndt.model.tokens import Window, pack
from ndt.model.transformer import NDT

__all__ = ["VALID_MASKS", "ValidWindow", "masked_likelihood", "session_likelihood", "valid_windows"]

Lags = NDArray[np.int64]
Span = tuple[int, int]  # first bin of a window, and the bin after it

VALID_WINDOWS = 192  # largest number of validation windows, so that validation is a small part of training
VALID_SEED = 977
VALID_PATCH = 32  # units per patch of the random mask, the same for all models
VALID_MASKS = {"random": 0.5, "unit": 0.5, "forward": 0.4}  # ratio of each kind; see `ndt.model.masking`
MOST_LAGS = 1000  # bins of a mean response, so that recordings in one long trial do not fill the memory


@dataclass(frozen=True)
class ValidWindow:
    """A window with its mask of this kind.

    Arguments:
        kind: Kind of mask.
        window: The window.
        reference_nll: NLL of the hidden entries in nats, summed: under each unit's ``mean`` count on the train split,
            a ``smoother`` of its visible counts, and its ``mean_response`` if there are trials or at least ten
            segments; see `ndt.evaluation.count_references`.
    """

    kind: str
    window: Window
    reference_nll: Mapping[str, float]

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Hidden entries that were observed, (T, N)."""
        assert self.window.hidden is not None, "a mask hides something"
        return self.window.hidden & self.window.valid


def valid_windows(
    sessions: Sequence[TrainingData], window_bins: int, *, split: int = VALID, references: bool = False
) -> list[ValidWindow]:
    """Returns adjacent validation windows of all sessions, each with every kind of mask.

    A mask is a function of its kind, its session and the window's first bin: all models with the same bin width and
    window predict the same entries.

    Arguments:
        sessions: Training data of each session; the windows carry its labels.
        window_bins: Longest window.
        split: `VALID` or `TEST`: split of the windows.
        references: Whether to fit the references, besides mean counts, on the sessions' chosen bins.
    """
    found = [
        (i, span) for i, s in enumerate(sessions) for span in _spans(s.binned, s.binned.split == split, window_bins)
    ]
    chosen = [found[k] for k in _spread(len(found), VALID_WINDOWS // len(VALID_MASKS))]
    fitted = {}
    for i in sorted({i for i, _ in chosen}):
        data = sessions[i]
        spans = list(_spans(data.binned, data.chosen, window_bins)) if references else []
        fitted[i] = _References(data, [spans[k] for k in _spread(len(spans), -(-len(chosen) // len(sessions)))])
    stored = []
    for kind in VALID_MASKS:
        for i, (begin, end) in chosen:
            masked, labels = fitted[i].masked(kind, begin, end), sessions[i].labels
            window = replace(masked.window, target=None if labels is None else labels[begin:end])
            stored.append(replace(masked, window=window, reference_nll=fitted[i].nll(masked)))

    return stored


def _spans(binned: BinnedSession, chosen: NDArray[np.bool_], window_bins: int) -> Iterator[Span]:
    """Yields adjacent windows of the chosen bins."""
    for first, last in binned.runs(chosen):
        for begin in range(first, last, window_bins):
            if (end := min(begin + window_bins, int(last))) - begin >= MIN_BINS:
                yield int(begin), end


def _spread(number: int, most: int) -> list[int]:
    """Returns at most `most` of the indices below `number`, evenly spread."""
    return np.unique(np.linspace(0, number - 1, min(most, number)).round()).astype(int).tolist()


class _References:
    """Masked windows of a session, and its references, fitted once on training bins.

    Arguments:
        data: The session; references are fitted on its chosen bins.
        spans: Windows of these bins, on whose masks smoothers are fitted; none for mean counts alone.
    """

    def __init__(self, data: TrainingData, spans: Sequence[Span]) -> None:
        self.data, self.binned, self.rows = data, data.binned, data.rows
        self.mean = np.maximum(data.activity[self.rows.order, 0].astype(np.float64), MIN_MEAN)
        self.smoothers, self.response = {}, None
        if spans:
            for kind in VALID_MASKS:
                self.smoothers[kind] = Smoother.fit([_counts(self.masked(kind, *span)) for span in spans], self.mean)
            self.lag = _lags(self.binned)
            self.response = self._mean_response(data.chosen)

    def masked(self, kind: str, begin: int, end: int) -> ValidWindow:
        """Returns the window of bins ``begin … end - 1`` with its mask."""
        name = f"{kind}/{self.binned.session.session_id}".encode()
        rng = np.random.default_rng([VALID_SEED, zlib.crc32(name), begin])
        hidden = draw_mask(end - begin, self.rows.group, [kind], VALID_MASKS[kind], VALID_PATCH, rng)
        window = self.binned.window(begin, end, self.rows, self.data.activity)

        return ValidWindow(kind, replace(window, hidden=hidden), {})

    def nll(self, masked: ValidWindow) -> dict[str, float]:
        """Returns `ValidWindow.reference_nll`."""
        counts, visible, predicted = _counts(masked)
        rates = {"mean": np.broadcast_to(self.mean, counts.shape)}
        if self.smoothers:
            rates["smoother"] = self.smoothers[masked.kind].rates(counts, visible, self.mean)
        if self.response is not None:
            rates["mean_response"] = self.response.rates(self.lag[slice(*masked.window.index)])

        return {name: reference_nll(rate[predicted], counts[predicted]) for name, rate in rates.items()}

    def _mean_response(self, train: NDArray[np.bool_]) -> MeanResponse | None:
        """Returns the mean response, units in the order of windows; None without training trials."""
        num_lags = min(int(self.lag[train].max(initial=-1)) + 1, MOST_LAGS)
        if not num_lags:
            return None
        order = self.rows.order
        each = ((*self.binned.counts(first, last), self.lag[first:last]) for first, last in self.binned.runs(train))

        return MeanResponse.fit(((k[:, order], valid[:, order], lag) for k, valid, lag in each), num_lags, self.mean)


def _counts(masked: ValidWindow) -> Counts:
    window = masked.window

    return Counts(window.counts, window.valid & ~masked.predicted, masked.predicted)


def _lags(binned: BinnedSession) -> Lags:
    """Returns the number of bins since the start of each bin's trial (`response_trials`), (R,); -1 outside."""
    centre = binned.start + binned.bin_size / 2

    return bins_in_trials(response_trials(binned.session), centre, binned.bin_size)[1]


@torch.no_grad()
def masked_likelihood(model: NDT, valid: Sequence[ValidWindow]) -> dict[str, float]:
    """Returns NLL (nats per unit and bin), NLL of constant rates, and bits per spike relative to constant rates.

    Values are over all masks, and for each kind under ``kind/…``. The likelihood is Poisson with the predicted means,
    for any training loss; constant rates are each unit's mean on the train split. The ``score`` is the mean over kinds
    of bits per spike. Beside them stand ``bits_per_spike_smoother`` and, if all sessions have trials or at least ten
    segments, ``bits_per_spike_mean_response``: bits per spike of these references, for the same entries.
    """
    found: dict[str, float] = {}
    kinds = {f"{kind}/": [v for v in valid if v.kind == kind] for kind in VALID_MASKS}
    nll = {prefix: _nll(model, [v.window for v in chosen]) for prefix, chosen in kinds.items()}
    for prefix, chosen in {**kinds, "": valid}.items():
        entries = sum(int(v.predicted.sum()) for v in chosen)
        spikes = sum(int(v.window.counts[v.predicted].sum()) for v in chosen)
        null = sum(v.reference_nll["mean"] for v in chosen)
        total = nll[prefix] if prefix else sum(nll.values())
        found[f"{prefix}nll"], found[f"{prefix}null_nll"] = total / entries, null / entries
        found[f"{prefix}bits_per_spike"] = bits_per_spike(total, null, spikes)
        for name in ("smoother", "mean_response"):
            if all(name in v.reference_nll for v in valid):
                reference = sum(v.reference_nll[name] for v in chosen)
                found[f"{prefix}bits_per_spike_{name}"] = bits_per_spike(reference, null, spikes)

    return {"score": float(np.mean([found[f"{kind}/bits_per_spike"] for kind in VALID_MASKS])), **found}


def _nll(model: NDT, windows: Sequence[Window]) -> float:
    """NLL summed over hidden entries."""
    device, total = next(model.parameters()).device, 0.0
    for first in range(0, len(windows), 32):
        batch = pack(windows[first : first + 32], model.config.units_per_patch).to(device)
        total += float(count_nll(model.log_rates(batch, model.encode(batch)), batch))

    return total


def session_likelihood(model: NDT, binned: BinnedSession, split: int = TEST) -> dict[str, float]:
    """Returns `masked_likelihood` on one split of a session on which the model need not have been trained.

    Mean counts and references are computed from the session's train split.

    Arguments:
        model: A model that knows the session's units and contexts, see `NDT.extended`; its mode does not change.
        binned: The session at the model's bin width.
        split: `VALID` or `TEST`.

    Raises:
        InputError: if the bin width is another, or the split has no window.
    """
    where, spec = binned.session.session_id, model.spec
    if abs(binned.bin_size - spec.bin_size) > 1e-9:
        raise InputError(where, "bin width", f"{spec.bin_size:g} s, the model's", f"{binned.bin_size:g} s")
    train = binned.split == TRAIN
    data = TrainingData(binned, train, model.rows(binned.session), unit_activity(binned, train))
    windows = valid_windows([data], spec.window_bins, split=split, references=True)
    if not windows:
        raise InputError(where, "split", f"an unbroken run of {MIN_BINS} bins", "none")
    training = model.training
    found = masked_likelihood(model.eval(), windows)
    model.train(training)

    return found

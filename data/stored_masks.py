"""The stored masks that models are compared and chosen by: which entries of validation windows they must predict."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt.data.windows import MIN_BINS, TRAIN, VALID, BinnedSession
from ndt.evaluation.metrics import bits_per_spike
from ndt.model.likelihood import poisson_nll
from ndt.model.masking import draw_mask
from ndt.model.tokens import Batch, Window, pack
from ndt.model.transformer import NDT
from ndt.model.vocabulary import Rows, Vocabulary

__all__ = ["VALID_MASKS", "ValidWindow", "masked_likelihood", "valid_windows"]

Labels = NDArray[np.float32]

VALID_WINDOWS = 192  # at most so many validation windows: validation is a minor share of training
VALID_SEED = 977
VALID_PATCH = 32  # of the random mask, whatever the model's patches: all models are asked the same
VALID_MASKS = {"random": 0.5, "unit": 0.5, "forward": 0.4}  # kinds, and the ratio of each; see `ndt.model.masking`


@dataclass(frozen=True)
class ValidWindow:
    """A validation window with one of the stored masks."""

    kind: str
    window: Window


def valid_windows(
    binned_sessions: Sequence[BinnedSession],
    vocabulary: Vocabulary,
    window_bins: int,
    labels: Sequence[Labels] | None = None,
    train: Sequence[NDArray[np.bool_]] | None = None,
) -> list[ValidWindow]:
    """Returns the stored set of masks: validation windows side by side over all sessions, each kind of mask in turn.

    A mask is a function of its kind, its session and the window's first bin, so that all models that share bin width
    and window are asked the same.

    Arguments:
        binned_sessions: Binned sessions.
        vocabulary: Rows of their units and contexts.
        window_bins: Longest window.
        labels: Standardised labels of each session at its bins, (R, C).
        train: Bins of each session that its units' mean counts come from, (R,); by default its training split.
    """
    found = []
    for i, binned in enumerate(binned_sessions):
        rows = vocabulary.rows(binned.session)
        rates = binned.mean_counts(binned.split == TRAIN if train is None else train[i])
        for first, last in binned.runs(binned.split == VALID):
            for begin in range(first, last, window_bins):
                if (end := min(begin + window_bins, last)) - begin >= MIN_BINS:
                    target = None if labels is None else labels[i][begin:end]
                    found.append((binned, begin, end, rows, rates, target))
    keep = np.unique(np.linspace(0, len(found) - 1, min(VALID_WINDOWS // len(VALID_MASKS), len(found))).round())

    return [_asked(kind, *found[int(i)]) for kind in VALID_MASKS for i in keep]


def _asked(
    kind: str,
    binned: BinnedSession,
    begin: int,
    end: int,
    rows: Rows,
    rates: NDArray[np.float64],
    target: Labels | None,
) -> ValidWindow:
    name = f"{kind}/{binned.session.session_id}".encode()
    rng = np.random.default_rng([VALID_SEED, zlib.crc32(name), int(begin)])
    hidden = draw_mask(int(end - begin), rows.group, [kind], VALID_MASKS[kind], VALID_PATCH, rng)

    return ValidWindow(kind, replace(binned.window(begin, end, rows, rates), hidden=hidden, target=target))


@torch.no_grad()
def masked_likelihood(model: NDT, valid: Sequence[ValidWindow]) -> dict[str, float]:
    """Returns NLL (nats per unit and bin), that of constant rates, and bits per spike over them.

    Over all stored masks at once, and for each kind under ``kind/…``. Likelihoods are Poisson's of the predicted means,
    whatever the model was trained with; constant rates are each unit's mean on its training split. The ``score`` is the
    mean of the kinds' bits per spike.
    """
    found: dict[str, float] = {}
    sums = {kind: _sums(model, [v.window for v in valid if v.kind == kind]) for kind in VALID_MASKS}
    for prefix, (nll, null, spikes, entries) in {**sums, "": np.sum(list(sums.values()), 0)}.items():
        at = f"{prefix}/" if prefix else ""
        found[f"{at}nll"], found[f"{at}null_nll"] = nll / entries, null / entries
        found[f"{at}bits_per_spike"] = bits_per_spike(nll, null, spikes)

    return {"score": float(np.mean([found[f"{kind}/bits_per_spike"] for kind in VALID_MASKS])), **found}


def _sums(model: NDT, windows: Sequence[Window]) -> NDArray[np.float64]:
    """Sums over hidden entries: NLL, NLL of constant rates, spikes, entries."""
    device, total = next(model.parameters()).device, np.zeros(4)
    for at in range(0, len(windows), 32):
        batch = pack(windows[at : at + 32], model.config.units_per_patch).to(device)
        log_rates = model(batch).log_rates
        predicted = batch.predicted
        counts, hidden = batch.counts[predicted], batch.hidden[predicted]
        constant = _constant_log_rates(batch)[predicted]
        nll, null = poisson_nll(log_rates, counts, hidden), poisson_nll(constant, counts, hidden)
        total += [float(nll), float(null), float(counts[hidden].sum()), float(hidden.sum())]

    return total


def _constant_log_rates(batch: Batch) -> Tensor:
    """Log of each unit's mean count in its own session, laid out as the batch's tokens, (L, P).

    A rate of zero is raised to one spike in ten thousand bins, or a single validation spike would make it infinite.
    """
    return batch.mean_counts.clamp(min=1e-4).log()[batch.members[batch.patch]]

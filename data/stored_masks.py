"""Fixed masks of validation windows, by which models are compared and selected."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ndt.data.windows import MIN_BINS, VALID, TrainingData
from ndt.evaluation.metrics import bits_per_spike
from ndt.model.likelihood import poisson_nll
from ndt.model.masking import draw_mask
from ndt.model.tokens import Window, pack
from ndt.model.transformer import NDT

__all__ = ["VALID_MASKS", "ValidWindow", "masked_likelihood", "valid_windows"]

VALID_WINDOWS = 192  # largest number of validation windows, so that validation is a small part of training
VALID_SEED = 977
VALID_PATCH = 32  # units per patch of the random mask, the same for all models
VALID_MASKS = {"random": 0.5, "unit": 0.5, "forward": 0.4}  # ratio of each kind; see `ndt.model.masking`


@dataclass(frozen=True)
class ValidWindow:
    """A validation window with its mask of this kind."""

    kind: str
    window: Window


def valid_windows(sessions: Sequence[TrainingData], window_bins: int) -> list[ValidWindow]:
    """Returns adjacent validation windows of all sessions, each with every kind of mask.

    A mask is a function of its kind, its session and the window's first bin: all models with the same bin width and
    window predict the same entries.

    Arguments:
        sessions: Training data of each session; the windows carry its labels.
        window_bins: Longest window.
    """
    found = []
    for data in sessions:
        binned, labels = data.binned, data.labels
        for first, last in binned.runs(binned.split == VALID):
            for begin in range(first, last, window_bins):
                if (end := min(begin + window_bins, last)) - begin >= MIN_BINS:
                    target = None if labels is None else labels[begin:end]
                    found.append((binned, begin, end, data, target))
    keep = np.unique(np.linspace(0, len(found) - 1, min(VALID_WINDOWS // len(VALID_MASKS), len(found))).round())

    chosen = []
    for kind, ratio in VALID_MASKS.items():
        for binned, begin, end, data, target in (found[int(i)] for i in keep):
            name = f"{kind}/{binned.session.session_id}".encode()
            rng = np.random.default_rng([VALID_SEED, zlib.crc32(name), int(begin)])
            hidden = draw_mask(int(end - begin), data.rows.group, [kind], ratio, VALID_PATCH, rng)
            window = replace(binned.window(begin, end, data.rows, data.activity), hidden=hidden, target=target)
            chosen.append(ValidWindow(kind, window))

    return chosen


@torch.no_grad()
def masked_likelihood(model: NDT, valid: Sequence[ValidWindow]) -> dict[str, float]:
    """Returns NLL (nats per unit and bin), NLL of constant rates, and bits per spike relative to constant rates.

    Values are over all masks, and for each kind under ``kind/…``. The likelihood is Poisson with the predicted means,
    for any training loss; constant rates are each unit's mean on the train split. The ``score`` is the mean over kinds
    of bits per spike.
    """
    found: dict[str, float] = {}
    sums = {f"{kind}/": _sums(model, [v.window for v in valid if v.kind == kind]) for kind in VALID_MASKS}
    for prefix, (nll, null, spikes, entries) in {**sums, "": np.sum(list(sums.values()), 0)}.items():
        found[f"{prefix}nll"], found[f"{prefix}null_nll"] = nll / entries, null / entries
        found[f"{prefix}bits_per_spike"] = bits_per_spike(nll, null, spikes)

    return {"score": float(np.mean([found[f"{kind}/bits_per_spike"] for kind in VALID_MASKS])), **found}


def _sums(model: NDT, windows: Sequence[Window]) -> NDArray[np.float64]:
    """Sums over hidden entries: NLL, NLL of constant rates, spikes, entries."""
    device, total = next(model.parameters()).device, np.zeros(4)
    for first in range(0, len(windows), 32):
        batch = pack(windows[first : first + 32], model.config.units_per_patch).to(device)
        log_rates = model(batch).log_rates
        predicted = batch.predicted
        counts, hidden = batch.counts[predicted], batch.hidden[predicted]
        # a mean count of 0 is raised to 1e-4 per bin, or a single validation spike would make the NLL infinite
        constant = batch.activity[:, 0].clamp(min=1e-4).log()[batch.members[batch.patch]][predicted]
        nll, null = poisson_nll(log_rates, counts, hidden), poisson_nll(constant, counts, hidden)
        total += [float(nll), float(null), float(counts[hidden].sum()), float(hidden.sum())]

    return total

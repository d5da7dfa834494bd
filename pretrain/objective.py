"""Masked modelling: predict the counts of hidden patches from the visible ones."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt.config import PretrainConfig
from ndt.data.sampler import Sampler
from ndt.data.windows import TRAIN, VALID, Grid
from ndt.errors import InputError
from ndt.likelihood import poisson_nll
from ndt.masking import random_mask
from ndt.metrics import bits_per_spike
from ndt.model import NDT
from ndt.tokens import Batch, Window, pack
from ndt.vocabulary import Vocabulary

__all__ = ["MaskedModelling"]

VALID_WINDOWS = 256  # at most so many validation windows: validation is a minor share of training
VALID_SEED = 977  # the same masks for every model that validates on the same sessions


class MaskedModelling:
    """Objective of pretraining: the Poisson likelihood of hidden patches.

    Arguments:
        grids: Binned sessions.
        vocabulary: Rows of their units and contexts.
        config: Pretraining.
        window_bins: Longest window.
    """

    def __init__(self, grids: Sequence[Grid], vocabulary: Vocabulary, config: PretrainConfig, window_bins: int) -> None:
        self.config, self.patch = config, config.model.units_per_patch
        train = [g.block == TRAIN for g in grids]
        self.sampler = Sampler(
            grids, train, vocabulary, window_bins=window_bins, min_bins=config.min_bins, seed=config.seed
        )
        self.valid = _valid_windows(grids, vocabulary, config, window_bins)
        if not self.valid:
            expected = f"an unbroken run of {config.min_bins} bins"
            raise InputError(grids[0].session.session_id, "validation block", expected, "none")

    def batch(self, step: int, rows: range) -> Batch:
        """Returns these windows of the global batch of a step, with their masks."""
        windows = []
        for place in rows:
            rng = self.sampler.generator(step, place)
            _, window = self.sampler.draw(rng)
            windows.append(_hide(window, self.config.mask_ratio, self.patch, rng))

        return pack(windows, self.patch)

    def targets(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Returns the number of hidden, valid unit-bins."""
        return {"nll": _wanted(batch).sum()}

    def losses(self, model: torch.nn.Module, batch: Batch, step: int) -> dict[str, tuple[Tensor, float]]:
        """Returns the likelihood of the hidden, valid unit-bins."""
        log_rates, _ = model(batch)

        return {"nll": (poisson_nll(log_rates, batch.counts, _wanted(batch)), 1.0)}

    def learns(self, name: str, step: int) -> bool:
        """Everything learns."""
        return True

    @torch.no_grad()
    def validate(self, model: NDT) -> dict[str, float]:
        """Returns NLL (nats per unit and bin), that of constant rates, and bits per spike over them.

        Constant rates are each unit's mean on its training block.
        """
        model.eval()
        device = next(model.parameters()).device
        nll = null = spikes = entries = 0.0
        for at in range(0, len(self.valid), 32):
            windows, rates = zip(*self.valid[at : at + 32], strict=True)
            batch = pack(windows, self.patch).to(device)
            log_rates, _ = model(batch)
            wanted = _wanted(batch)
            constant = _constant_log_rates(batch, windows, rates).to(device)
            nll += float(poisson_nll(log_rates, batch.counts, wanted))
            null += float(poisson_nll(constant, batch.counts, wanted))
            spikes += float(batch.counts[wanted].sum())
            entries += float(wanted.sum())
        bits = bits_per_spike(nll, null, spikes)

        return {"score": -nll / entries, "nll": nll / entries, "null_nll": null / entries, "bits_per_spike": bits}


def _wanted(batch: Batch) -> Tensor:
    """What the likelihood is summed over, (L, P)."""
    return batch.hidden[:, None] & batch.valid


def _hide(window: Window, ratio: float, patch: int, rng: np.random.Generator) -> Window:
    T, N = window.counts.shape

    return replace(window, hidden=random_mask((T, math.ceil(N / patch)), ratio, rng))


def _valid_windows(
    grids: Sequence[Grid], vocabulary: Vocabulary, config: PretrainConfig, window_bins: int
) -> list[tuple[Window, NDArray[np.float64]]]:
    """Validation windows with masks, side by side over all sessions, and each unit's mean count on training bins."""
    found = []
    for s, grid in enumerate(grids):
        rows = vocabulary.rows(grid.session)
        rates = grid.mean_counts(grid.block == TRAIN)[rows.order]
        for first, last in grid.runs(grid.block == VALID):
            for begin in range(first, last, window_bins):
                end = min(begin + window_bins, last)
                if end - begin >= config.min_bins:
                    rng = np.random.default_rng([VALID_SEED, s, begin])
                    window = _hide(grid.window(begin, end, rows), config.mask_ratio, config.model.units_per_patch, rng)
                    found.append((window, rates))
    keep = np.unique(np.linspace(0, len(found) - 1, min(VALID_WINDOWS, len(found))).round().astype(int))

    return [found[i] for i in keep]


def _constant_log_rates(batch: Batch, windows: Sequence[Window], rates: Sequence[NDArray[np.float64]]) -> Tensor:
    """Log of each unit's mean count in its own session, laid out as the batch's tokens, (L, P).

    A rate of zero is raised to one spike in ten thousand bins, or a single validation spike would make it infinite.
    """
    row = np.full((len(windows), int(batch.unit.max()) + 1), 1e-4)  # of each window's session, by vocabulary row
    for w, (window, rate) in enumerate(zip(windows, rates, strict=True)):
        row[w, window.unit] = np.maximum(rate, 1e-4)
    units, window_of = batch.unit.cpu()[batch.member.cpu()].numpy(), batch.window.cpu().numpy()

    return torch.from_numpy(np.log(row[window_of[:, None], units]).astype(np.float32))

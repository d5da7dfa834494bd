"""Masked modelling: predicts the counts of hidden entries from the visible ones."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt.config import PretrainConfig
from ndt.data.stored_masks import masked_likelihood, valid_windows
from ndt.data.windows import MIN_BINS, TRAIN, BinnedSession, Sampler
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.model.decoding_loss import decoding_loss, num_labels
from ndt.model.likelihood import count_nll
from ndt.model.masking import draw_mask
from ndt.model.tokens import Batch, Window, pack
from ndt.model.transformer import NDT, TABLES
from ndt.model.vocabulary import Vocabulary
from ndt.session import Session
from ndt.target import Part, part_columns

__all__ = ["MaskedModelling"]

DECODING_WEIGHT = 0.2  # of the decoding loss, relative to the masked loss

Labels = NDArray[np.float32]


class MaskedModelling:
    """Objective of pretraining: negative log likelihood of hidden entries, plus a decoding loss if labels are given.

    Arguments:
        binned_sessions: Binned sessions, all with one bin width.
        vocabulary: Rows of their units and contexts.
        config: Pretraining.
        window_bins: Longest window.
        labels: Standardised labels of each session at its bins, (R, C), NaN where missing; None for no decoding.
        parts: Parts of the target, the columns of `labels`.
        shared_mask: Whether one mask is drawn for all windows of a batch.
    """

    def __init__(
        self,
        binned_sessions: Sequence[BinnedSession],
        vocabulary: Vocabulary,
        config: PretrainConfig,
        window_bins: int,
        labels: Sequence[Labels] | None = None,
        parts: Sequence[Part] = (),
        shared_mask: bool = False,
    ) -> None:
        self.config, self.patch = config, config.model.units_per_patch
        self.labels, self.parts, self.shared_mask = labels, parts, shared_mask
        train = [g.split == TRAIN for g in binned_sessions]
        self.sampler = Sampler(binned_sessions, train, vocabulary, window_bins=window_bins, seed=config.seed)
        self.shuffled = [_shuffles(g.session, config.shuffle_units) for g in binned_sessions]
        self.valid = valid_windows(binned_sessions, vocabulary, window_bins, labels)
        if not self.valid:
            expected = f"an unbroken run of {MIN_BINS} bins"
            raise InputError(binned_sessions[0].session.session_id, "validation split", expected, "none")

    def batch(self, step: int, rows: range) -> Batch:
        """Returns these windows of the global batch of a step, with their masks."""
        return pack([self._window(step, sample) for sample in rows], self.patch)

    def _window(self, step: int, sample: int) -> Window:
        """Returns one training window: units shuffled, entries hidden."""
        config, rng = self.config, self.sampler.generator(step, sample)
        session, window = self.sampler.draw(rng)
        rows = self.sampler.rows[session]
        T, N = window.counts.shape
        keep = np.arange(N)
        if self.shuffled[session]:
            keep = rng.permutation(keep)
        if self.shared_mask:
            rng = np.random.default_rng([config.seed, step])
        first = step < config.mask.random_only_steps and "random" in config.mask.kinds
        kinds = ("random",) if first else config.mask.kinds
        hidden = draw_mask(T, rows.group[keep], kinds, config.mask.ratio, self.patch, rng)
        assert window.mean_counts is not None, "the sampler sets the mean counts of its sessions"

        return replace(
            window,
            counts=window.counts[:, keep],
            valid=window.valid[:, keep],
            unit=window.unit[keep],
            mean_counts=window.mean_counts[keep],
            hidden=hidden,
            target=None if self.labels is None else self.labels[session][slice(*window.index)],
        )

    def targets(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Returns the number of hidden entries, and that of labelled bins, summed over parts."""
        numbers = {"nll": batch.hidden.sum()}
        if self.labels is not None:
            numbers["mse"] = num_labels(batch.target, self.parts)

        return numbers

    def losses(self, model: torch.nn.Module, batch: Batch, step: int) -> dict[str, tuple[Tensor, float]]:
        """Returns the negative log likelihood of the hidden entries, and the loss over labelled bins and parts."""
        prediction = model(batch)
        terms = {"nll": (count_nll(prediction.log_rates, batch), 1.0)}
        if self.labels is not None:
            error = decoding_loss(prediction.decoded, batch.target, self.parts)
            terms["mse"] = (error, DECODING_WEIGHT)

        return terms

    def rate(self, name: str, step: int) -> float:
        """Returns the learning rate factor: `embedding_lr_scale` for embeddings of units and contexts, else 1."""
        return self.config.embedding_lr_scale if name in TABLES else 1.0

    @torch.no_grad()
    def validate(self, model: NDT) -> dict[str, float]:
        """Returns `masked_likelihood` on the stored masks, and R² of the target, if labelled, as ``r2``."""
        model.eval()
        found = masked_likelihood(model, self.valid)
        if any(not np.isnan(v.window.target).all() for v in self.valid if v.window.target is not None):
            found["r2"] = self._r2(model)

        return found

    def _r2(self, model: NDT) -> float:
        """R² (variance-weighted; mean over parts) on windows with random masks, hidden entries hidden."""
        some = [v.window for v in self.valid if v.kind == "random"]
        batch = pack(some, self.patch).to(next(model.parameters()).device)
        true, decoded = batch.target.cpu().numpy(), model.decode(batch, model.encode(batch)).float().cpu()
        found = []
        for part, columns in zip(self.parts, part_columns(self.parts), strict=True):
            mine = decoded[:, columns].softmax(1) if part.kind == "class" else decoded[:, columns]
            found.append(r2(true[:, columns], mine.numpy()))

        return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")


def _shuffles(session: Session, shuffle_units: str) -> bool:
    """Whether units of a session change patches: under ``auto``, if no other session can share them."""
    if shuffle_units != "auto":
        return shuffle_units == "always"

    return all(str(u).startswith(f"{session.session_id}/") for u in session.units.id)

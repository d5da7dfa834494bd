"""The objective of training: counts of hidden entries are predicted from visible ones, and targets are decoded."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt.config import FinetuneConfig, PretrainConfig
from ndt.data.stored_masks import ValidWindow, masked_likelihood, valid_windows
from ndt.data.windows import MIN_BINS, VALID, Sampler, TrainingData
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.model.decoding_loss import decoding_loss, num_labels
from ndt.model.likelihood import count_nll
from ndt.model.masking import draw_mask
from ndt.model.tokens import Batch, Window, pack
from ndt.model.transformer import NDT, RESIDUALS
from ndt.session import Session
from ndt.target import Part, part_columns

__all__ = ["AUXILIARY_WEIGHT", "MaskedModelling"]

MASKED_UNITS = 32  # units of a masked group in a bin, if patches are larger
AUXILIARY_WEIGHT = 0.3  # of the loss of auxiliary targets, relative to that of the target


class MaskedModelling:
    """The masked loss, and the decoding loss where labels exist.

    The masked loss is the negative log likelihood of hidden entries per spike. The decoding loss
    (`ndt.model.decoding_loss`) of a part with labels per bin counts each labelled bin; one with labels per trial counts
    each trial of a window twice: at its last bin there, and at a random one, so that parts of trials are decoded too.

    Arguments:
        sessions: Training data of each session, all with one bin width.
        model: The model.
        config: Settings; uses `mask`, `masked_weight`, `unit_dropout`, `embedding_lr_scale` and `seed`.
    """

    def __init__(self, sessions: Sequence[TrainingData], model: NDT, config: PretrainConfig | FinetuneConfig) -> None:
        self.sessions, self.config, self.spec = sessions, config, model.spec
        self.patch, self.shared_mask = model.config.units_per_patch, model.SHARED_MASK
        self.undecoded = round(model.UNDECODED / model.spec.bin_size)
        self.sampler = Sampler(sessions, window_bins=model.spec.window_bins, seed=config.seed)
        self.shuffled = [model.KNOWS_UNITS and _shuffles(s.binned.session, self.patch) for s in sessions]

    @cached_property
    def valid(self) -> list[ValidWindow]:
        """Windows of the validation splits with stored masks; none if no session has a validation split.

        Raises:
            InputError: if no validation split has an unbroken run of bins.
        """
        found = valid_windows(self.sessions, self.spec.window_bins)
        if not found and any((s.binned.split == VALID).any() for s in self.sessions):
            where = self.sessions[0].binned.session.session_id
            raise InputError(where, "validation split", f"an unbroken run of {MIN_BINS} bins", "none")

        return found

    def batch(self, step: int, rows: range) -> Batch:
        """Returns these windows of the global batch of a step, with their masks and labels."""
        return pack([self._window(step, sample) for sample in rows], self.patch)

    def _window(self, step: int, sample: int) -> Window:
        """Returns one training window: units left out, entries hidden, labels set."""
        config, rng = self.config, self.sampler.generator(step, sample)
        session, window = self.sampler.draw(rng)
        data = self.sessions[session]
        T, N = window.counts.shape
        order = rng.permutation(N) if self.shuffled[session] else np.arange(N)
        if self.shuffled[session]:
            window = _reordered(window, order)
        absent = np.less(rng.random(N), config.unit_dropout * rng.random())
        target = None if data.labels is None else self._labels(data.labels[slice(*window.index)], window, rng)
        hidden = None
        if rng.random() < config.mask.share:
            mask_rng = np.random.default_rng([config.seed, step]) if self.shared_mask else rng
            first = step < config.mask.random_only_steps and "random" in config.mask.kinds
            kinds = ("random",) if first else config.mask.kinds
            units = min(self.patch, MASKED_UNITS)
            hidden = draw_mask(T, data.rows.group[order], kinds, config.mask.ratio, units, mask_rng)

        return replace(window, valid=window.valid & ~absent, hidden=hidden, target=target)

    def _labels(self, labels: NDArray[np.float32], window: Window, rng: np.random.Generator) -> NDArray[np.float32]:
        """Returns the labels of a window; of a trial's, those at its last bin and at a random one are kept."""
        labels = labels.copy()
        labels[: self.undecoded] = np.nan
        parts = self.spec.parts
        for i, (part, columns) in enumerate(zip(parts, part_columns(parts), strict=True)):
            if part.per and window.trial is not None:
                keep = np.zeros(len(labels), bool)
                for trial in np.unique(window.trial[:, i]):
                    bins = np.flatnonzero((window.trial[:, i] == trial) & ~np.isnan(labels[:, columns]).any(1))
                    if trial >= 0 and len(bins):
                        keep[[bins[-1], rng.choice(bins)]] = True
                labels[~keep, columns] = np.nan

        return labels

    def targets(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Returns the number of spikes of hidden entries, and those of labels of target and auxiliary targets."""
        numbers = {}
        if self.config.masked_weight:
            numbers["nll"] = batch.counts[batch.hidden].sum()
        for name, columns, parts in self._terms():
            numbers[name] = num_labels(batch.target[:, columns], parts)

        return numbers

    def losses(self, model: torch.nn.Module, batch: Batch, step: int) -> dict[str, tuple[Tensor, float]]:
        """Returns the sums that belong to `targets`, and their weights."""
        config, terms = self.config, {}
        prediction = model(batch, rates=config.masked_weight > 0)
        if config.masked_weight:
            terms["nll"] = (count_nll(prediction.log_rates, batch), config.masked_weight)
        for name, columns, parts in self._terms():
            error = decoding_loss(prediction.decoded[:, columns], batch.target[:, columns], parts)
            terms[name] = (error, AUXILIARY_WEIGHT if name == "auxiliary" else 1.0)

        return terms

    def _terms(self) -> list[tuple[str, slice, tuple[Part, ...]]]:
        """Returns name, columns and parts of each decoding loss."""
        if (target := self.spec.target) is None or all(s.labels is None for s in self.sessions):
            return []
        C = len(target.dims)
        found = [("target", slice(0, C), target.parts)]

        return found + ([("auxiliary", slice(C, None), target.auxiliary)] if target.auxiliary else [])

    def rate(self, name: str, step: int) -> float:
        """Returns the learning rate factor: `embedding_lr_scale` for the residuals of units and contexts, else 1."""
        return self.config.embedding_lr_scale if name in RESIDUALS else 1.0

    def validate(self, model: NDT) -> dict[str, float]:
        """Returns `scores` on the stored masks of the validation splits; nothing without validation splits."""
        return self.scores(model, self.valid) if self.valid else {}

    @torch.no_grad()
    def scores(self, model: NDT, valid: Sequence[ValidWindow]) -> dict[str, float]:
        """Returns `masked_likelihood`, and R² of the target, if labelled, as ``r2``.

        The score is the mean of bits per spike, plus R² if labelled.
        """
        model.eval()
        found = masked_likelihood(model, valid)
        if any(not np.isnan(v.window.target).all() for v in valid if v.window.target is not None):
            found["r2"] = self._r2(model, valid)
            found["score"] += float(np.nan_to_num(found["r2"]))

        return found

    def _r2(self, model: NDT, valid: Sequence[ValidWindow]) -> float:
        """R² (variance-weighted; mean over parts) on windows with random masks, with nothing hidden.

        A part with labels per trial is scored at each trial's last bin in its window.
        """
        assert self.spec.target is not None, "labelled sessions have a target"
        windows = [replace(v.window, hidden=None) for v in valid if v.kind == "random"]
        batch = pack(windows, self.patch).to(next(model.parameters()).device)
        true, decoded, parts, found = batch.target.cpu().numpy(), model.decode(batch).float().cpu(), self.spec.parts, []
        last = np.ones(len(true), bool)
        for i, (part, columns) in enumerate(zip(self.spec.target.parts, part_columns(parts), strict=False)):
            mine, rows = decoded[:, columns], last
            if part.per:
                key = torch.stack([batch.bin_window, batch.trial[:, i]], 1).cpu().numpy()
                rows = np.r_[(key[1:] != key[:-1]).any(1), True]
            mine = mine.softmax(1) if part.kind == "class" else mine
            found.append(r2(true[rows][:, columns], mine.numpy()[rows]))

        return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")


def _reordered(window: Window, order: NDArray[np.int64]) -> Window:
    """Returns a window with its units in another order, so that they change patches."""
    assert window.activity is not None, "the sampler sets the activity of its sessions"

    return replace(
        window,
        counts=window.counts[:, order],
        valid=window.valid[:, order],
        unit=window.unit[order],
        activity=window.activity[order],
    )


def _shuffles(session: Session, units_per_patch: int) -> bool:
    """Whether units change patches: if there are several, and no other session can share the units."""
    own = all(str(u).startswith(f"{session.session_id}/") for u in session.units.id)

    return own and session.num_units > units_per_patch

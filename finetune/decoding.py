"""Decoding targets, with the masked loss beside it."""

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt.config import FinetuneConfig
from ndt.data.sampler import Sampler
from ndt.data.stored_masks import masked_likelihood, valid_windows
from ndt.data.windows import MIN_BINS, VALID, BinnedSession
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.finetune.strategies import STRATEGIES, part_of
from ndt.model.decoding_loss import decoding_loss, num_labels
from ndt.model.inference import per_bin
from ndt.model.likelihood import count_nll
from ndt.model.masking import random_mask
from ndt.model.tokens import Batch, pack
from ndt.model.transformer import NDT
from ndt.target import Target, part_columns

__all__ = ["Decoding", "decode"]

PREDICTS = ("mask_token", "rate_position.", "rate_decoder.", "rate_norm.", "rates.")  # rates, and only them
AUXILIARY_WEIGHT = 0.3  # of the loss of auxiliary targets, relative to that of the target


class Decoding:
    """Objective of fine-tuning: the loss of what is decoded (`decoding_loss`), and the likelihood of hidden patches.

    For the first `embedding_warmup_steps` only the unit and context tables learn, on the masked loss alone: they then say who the
    units of a new session are before the trunk is touched, and need no label for it. What was pretrained stays still
    for the first `freeze_steps`: with seconds of labels the best decoder is found before it moves, with minutes after.
    What learns at all is said by the way to adapt (`ndt.finetune.strategies`), ``full`` where nobody chose one; a way whose
    steps are on the masked loss alone warms up to the end.

    Arguments:
        binned: The session's bins.
        chosen: Bins to train on, (R,).
        targets: What is decoded in its unit, 1 or 0 for each class, NaN where unlabelled, (R, C).
        model: The model; its specification says how the target is standardised.
        config: Fine-tuning.
        new: How the names of parameters begin that were not pretrained; an empty name is all.
        auxiliary: What is learned beside, as `auxiliary_values` has it, with the parts of the model's specification.
    """

    def __init__(
        self,
        binned: BinnedSession,
        chosen: NDArray[np.bool_],
        targets: NDArray[np.float32],
        model: NDT,
        config: FinetuneConfig,
        new: tuple[str, ...] = (),
        auxiliary: Target | None = None,
    ) -> None:
        spec = model.spec
        assert spec.target is not None, "fine-tuning trains a decoder"
        self.binned, self.chosen, self.true, self.config, self.new = binned, chosen, targets, config, new
        self.patch, self.window_bins = spec.config.units_per_patch, spec.window_bins
        self.sampler = Sampler(
            [binned],
            [chosen],
            spec.vocabulary,
            window_bins=spec.window_bins,
            seed=config.seed,
        )
        self.strategy = STRATEGIES.get(config.strategy, STRATEGIES["full"])
        self.embedding_warmup_steps = config.train.steps if self.strategy.masked else config.embedding_warmup_steps
        self.valid = []
        if self.strategy.masked:
            self.valid = valid_windows([binned], spec.vocabulary, spec.window_bins, train=[chosen])
            if not self.valid:
                expected = f"an unbroken run of {MIN_BINS} bins"
                raise InputError(binned.session.session_id, "validation split", expected, "none")
        self.target, self.standard = spec.target, spec.target.standardise(targets)
        self.auxiliary = auxiliary or Target.unlabelled(spec.target.auxiliary, len(binned))
        self.standard = np.concatenate([self.standard, self.auxiliary.values], 1)
        self.lag_bins = round(model.UNDECODED / binned.bin_size)

    def batch(self, step: int, rows: range) -> Batch:
        """Returns these windows of the global batch of a step, with their masks and labels."""
        windows = []
        for place in rows:
            rng = self.sampler.generator(step, place)
            _, w = self.sampler.draw(rng)
            T, N = w.counts.shape
            absent = np.less(rng.random(N), self.config.unit_dropout * rng.random())
            hidden = random_mask((T, math.ceil(N / self.patch)), self.config.mask_ratio, rng)
            hidden = np.repeat(hidden, self.patch, axis=1)[:, :N]
            target = self.standard[w.index[0] : w.index[1]].copy()
            target[: self.lag_bins] = np.nan
            windows.append(replace(w, valid=w.valid & ~absent, hidden=hidden, target=target))

        return pack(windows, self.patch)

    def targets(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Returns the number of hidden, valid unit-bins, and that of labelled bins, summed over parts."""
        warm, terms = step < self.embedding_warmup_steps, {}
        if warm or self.config.masked_weight > 0:
            terms["nll"] = batch.hidden.sum()
        if not warm:
            terms |= self.labels(batch)

        return terms

    def losses(self, model: torch.nn.Module, batch: Batch, step: int) -> dict[str, tuple[Tensor, float]]:
        """Returns the loss over labelled bins and parts, and the likelihood of hidden, valid unit-bins."""
        warm, weight = step < self.embedding_warmup_steps, self.config.masked_weight
        prediction = model(batch, rates=warm or weight > 0, detach_latents="" in self.new)
        terms = {}
        if prediction.log_rates is not None:
            value = count_nll(prediction.log_rates, batch)
            terms["nll"] = (value, 1.0 if warm else weight)
        if not warm:
            terms |= self.decoding_losses(prediction.decoded, batch)

        return terms

    def labels(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the number of labelled bins, summed over parts: of what is delivered, and of what is beside it."""
        C = len(self.target.dims)
        terms = {"mse": num_labels(batch.target[:, :C], self.target.parts)}
        if self.auxiliary.parts:
            terms["auxiliary"] = num_labels(batch.target[:, C:], self.auxiliary.parts)

        return terms

    def decoding_losses(self, decoded: Tensor, batch: Batch) -> dict[str, tuple[Tensor, float]]:
        """Returns the losses that go with `labels`, summed over labelled bins and parts."""
        C = len(self.target.dims)
        terms = {"mse": (decoding_loss(decoded[:, :C], batch.target[:, :C], self.target.parts), 1.0)}
        if self.auxiliary.parts:
            beside = decoding_loss(decoded[:, C:], batch.target[:, C:], self.auxiliary.parts)
            terms["auxiliary"] = (beside, AUXILIARY_WEIGHT)

        return terms

    def rate(self, name: str, step: int) -> float:
        """Returns the rate of tables, of what is new, and of what was pretrained, as far as the way lets them learn.

        While the run warms up, all but the tables rest; without a masked loss, so does what predicts rates.
        """
        config, part = self.config, part_of(name, self.new)
        if part not in self.strategy.learns:
            return 0.0
        if part == "tables":
            return config.embedding_lr_scale
        if step < self.embedding_warmup_steps or (name.startswith(PREDICTS) and not config.masked_weight):
            return 0.0
        if part == "new":
            return 1.0

        return config.backbone_lr_scale if step >= config.freeze_steps else 0.0

    def validate(self, model: NDT) -> dict[str, float]:
        """Returns R² (variance-weighted) on the validation split: the mean over parts, and that of each of several.

        Where labels are not learned from, they choose nothing either: then it returns `masked_likelihood`.

        That of classes is of their columns: one less the squared error of the probabilities (Brier's score) over that
        of the classes' shares. Parts that do not vary there have none, and do not count.

        Raises:
            InputError: if no part has labels that vary.
        """
        if self.valid:
            model.eval()
            return masked_likelihood(model, self.valid)
        rows = self.binned.split == VALID
        true, decoded, parts = self.true[rows], decode(model, self.binned, rows)[rows], self.target.parts
        each = {}
        for part, columns in zip(parts, part_columns(parts), strict=True):
            bins = model.R2_BINS if part.kind == "continuous" else None
            each[part.name] = _r2(true[:, columns], decoded[:, columns], bins)
        found = [score for score in each.values() if not np.isnan(score)]
        if not found:
            raise InputError(self.binned.session.session_id, "validation split", "labels that vary", "none")
        named = {f"r2/{n}": score for n, score in each.items() if len(each) > 1 and not np.isnan(score)}

        return {"score": float(np.mean(found)), "r2": float(np.mean(found)), **named}


def _r2(true: NDArray[np.float32], decoded: NDArray[np.float32], bins: int | None) -> float:
    """R² (variance-weighted); where `bins` is given, the mean over pieces of about as many, below -10 counting zero."""
    if bins is None:
        return r2(true, decoded)
    pieces = np.array_split(np.arange(len(true)), max(len(true) // bins, 1))
    each = np.array([r2(true[rows], decoded[rows]) for rows in pieces])

    return float(np.where(each < -10, 0.0, each).mean())


def decode(model: NDT, binned: BinnedSession, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Returns what is decoded in its unit, classes as probabilities, at the chosen bins, NaN elsewhere, (R, C).

    Causal.
    """
    assert model.spec.target is not None, "the model decodes"
    windows = binned.cover(chosen, model.spec.window_bins, model.vocabulary.rows(binned.session))

    return model.spec.target.restore(per_bin(model, windows, model.decode, len(binned)))

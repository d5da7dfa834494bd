"""Objective of fine-tuning: the decoding loss, plus the masked loss of pretraining."""

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt.config import FinetuneConfig
from ndt.data.stored_masks import masked_likelihood, valid_windows
from ndt.data.windows import MIN_BINS, VALID, BinnedSession, Sampler
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

RATE_PARTS = ("mask_token", "rate_position.", "rate_decoder.", "rate_norm.", "rates.")  # used by the masked loss alone
AUXILIARY_WEIGHT = 0.3  # of the loss of auxiliary targets, relative to that of the target


class Decoding:
    """Objective of fine-tuning: the decoding loss (`decoding_loss`), and the negative log likelihood of hidden patches.

    For the first `embedding_warmup_steps` only the embeddings of units and contexts learn, on the masked loss alone.
    They so identify the units of a new session, without labels, before the backbone changes. Pretrained parameters are
    frozen for the first `freeze_steps`: with seconds of labels the best decoder is found before they change, with
    minutes after. The strategy (`ndt.finetune.strategies`; ``full`` by default) determines which parameters learn at
    all. A strategy on the masked loss alone stays in the warm-up to the end.

    Arguments:
        binned: The session's bins.
        chosen: Bins to train on, (R,).
        targets: Labels in their unit, 1 or 0 for each class, NaN where unlabelled, (R, C).
        model: The model; its specification standardises the target.
        config: Fine-tuning.
        new: Prefixes of the names of parameters that were not pretrained; an empty prefix is all.
        auxiliary: Auxiliary targets (`auxiliary_values`), with the parts of the model's specification.
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
        self.latents = self.fixed_latents(model)

    def fixed_latents(self, model: NDT) -> NDArray[np.float32] | None:
        """Returns None: the model encodes each window anew."""
        return None

    def batch(self, step: int, rows: range) -> Batch:
        """Returns these windows of the global batch of a step, with their masks and labels."""
        windows = []
        for sample in rows:
            rng = self.sampler.generator(step, sample)
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
        """Returns the loss over labelled bins and parts, and the negative log likelihood of hidden, valid unit-bins."""
        warm, weight = step < self.embedding_warmup_steps, self.config.masked_weight
        # the encoder of a model from scratch would overfit the labels of a single session
        prediction = model(batch, rates=warm or weight > 0, detach_latents="" in self.new)
        terms = {}
        if prediction.log_rates is not None:
            value = count_nll(prediction.log_rates, batch)
            terms["nll"] = (value, 1.0 if warm else weight)
        if not warm:
            terms |= self.decoding_losses(prediction.decoded, batch)

        return terms

    def labels(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the number of labelled bins, summed over parts: of the target, and of auxiliary targets."""
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
            auxiliary = decoding_loss(decoded[:, C:], batch.target[:, C:], self.auxiliary.parts)
            terms["auxiliary"] = (auxiliary, AUXILIARY_WEIGHT)

        return terms

    def rate(self, name: str, step: int) -> float:
        """Returns the learning rate factor of a parameter, 0 if the strategy freezes it.

        During the warm-up only embeddings learn. Without a masked loss, the parameters that predict rates are frozen.
        """
        config, part = self.config, part_of(name, self.new)
        if part not in self.strategy.learns:
            return 0.0
        if part == "embeddings":
            return config.embedding_lr_scale
        if step < self.embedding_warmup_steps or (name.startswith(RATE_PARTS) and not config.masked_weight):
            return 0.0
        if part == "new":
            return 1.0

        return config.backbone_lr_scale if step >= config.freeze_steps else 0.0

    def validate(self, model: NDT) -> dict[str, float]:
        """Returns R² (variance-weighted) on the validation split: the mean over parts, and each part's if several.

        R² of classes is the Brier skill score: 1 - squared error of the probabilities / squared error of the class
        frequencies. Parts that do not vary on validation are left out. A strategy without labels selects without them
        too: it returns `masked_likelihood`.

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
    """R² (variance-weighted); if `bins` is given, the mean over chunks of that size, with 0 for R² below -10."""
    if bins is None:
        return r2(true, decoded)
    chunks = np.array_split(np.arange(len(true)), max(len(true) // bins, 1))
    each = np.array([r2(true[rows], decoded[rows]) for rows in chunks])

    return float(np.where(each < -10, 0.0, each).mean())


def decode(model: NDT, binned: BinnedSession, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Returns causal predictions of the target in its unit, classes as probabilities, NaN at other bins, (R, C)."""
    assert model.spec.target is not None, "the model has a decoder"
    windows = binned.cover(chosen, model.spec.window_bins, model.vocabulary.rows(binned.session))

    return model.spec.target.restore(per_bin(model, windows, model.decode, len(binned)))

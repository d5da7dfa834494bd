"""Decoding a covariate, with the masked loss beside it."""

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt.config import FinetuneConfig
from ndt.data.sampler import Sampler
from ndt.data.windows import VALID, Grid
from ndt.decoder import squared_error
from ndt.inference import per_bin
from ndt.likelihood import count_nll
from ndt.masking import random_mask
from ndt.metrics import r2
from ndt.model import NDT, TABLES
from ndt.tokens import Batch, pack

__all__ = ["Decoding", "decode"]

PREDICTS = ("mask_token", "rate_place.", "rate_decoder.", "rate_norm.", "rates.", "dispersion.")  # rates, and only them
COMPAT_LAG = 0.12  # seconds at the start of a window that NDT2 does not decode
COMPAT_BATCH = 64 * 50  # bins of a batch over which NDT2 takes one R²


class Decoding:
    """Objective of fine-tuning: squared error of the standardised covariate, and the likelihood of hidden patches.

    For the first `warm_steps` only the unit and context tables learn, on the masked loss alone: they then say who the
    units of a new session are before the trunk is touched, and need no label for it. What was pretrained stays still
    for the first `still_steps`: with seconds of labels the best decoder is found before it moves, with minutes after.

    Arguments:
        grid: The session's bins.
        chosen: Bins to train on, (R,).
        targets: Covariate in its unit, NaN where unlabelled, (R, C).
        model: The model; its specification says how the covariate is standardised.
        config: Fine-tuning.
        new: How the names of parameters begin that were not pretrained; an empty name is all.
    """

    def __init__(
        self,
        grid: Grid,
        chosen: NDArray[np.bool_],
        targets: NDArray[np.float32],
        model: NDT,
        config: FinetuneConfig,
        new: tuple[str, ...] = (),
    ) -> None:
        spec = model.spec
        assert spec.covariate is not None, "fine-tuning trains a decoder"
        self.grid, self.true, self.config, self.new = grid, targets, config, new
        self.patch, self.window_bins = spec.config.units_per_patch, spec.window_bins
        self.sampler = Sampler(
            [grid], [chosen], spec.vocabulary, window_bins=spec.window_bins, min_bins=config.min_bins, seed=config.seed
        )
        self.standard = spec.covariate.standardise(targets)
        self.lag_bins = round(COMPAT_LAG / grid.bin_size) if spec.config.compat else 0

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
        """Returns the number of hidden, valid unit-bins, and that of labelled bins times dimensions."""
        warm, terms = step < self.config.warm_steps, {}
        if warm or self.config.masked_weight > 0:
            terms["nll"] = batch.hidden.sum()
        if not warm:
            terms["mse"] = (~batch.target.isnan()).sum()

        return terms

    def losses(self, model: torch.nn.Module, batch: Batch, step: int) -> dict[str, tuple[Tensor, float]]:
        """Returns squared error over labelled bins and dimensions, and the likelihood of hidden, valid unit-bins."""
        warm, weight = step < self.config.warm_steps, self.config.masked_weight
        prediction = model(batch, rates=warm or weight > 0)
        terms = {}
        if prediction.log_rates is not None:
            value = count_nll(prediction.log_rates, prediction.log_dispersion, batch)
            terms["nll"] = (value, 1.0 if warm else weight)
        if not warm:
            terms["mse"] = (squared_error(prediction.decoded, batch.target), 1.0)

        return terms

    def rate(self, name: str, step: int) -> float:
        """Returns the rate of tables, of what is new, and of what was pretrained.

        While the run warms up, all but the tables rest; without a masked loss, so does what predicts rates.
        """
        config = self.config
        if name in TABLES:
            return config.table_rate
        if step < config.warm_steps or (name.startswith(PREDICTS) and not config.masked_weight):
            return 0.0
        if name.startswith(self.new):
            return 1.0

        return config.trunk_rate if step >= config.still_steps else 0.0

    def validate(self, model: NDT) -> dict[str, float]:
        """Returns R² (variance-weighted) on the validation block."""
        rows = self.grid.block == VALID
        true, decoded = self.true[rows], decode(model, self.grid, rows)[rows]
        if not model.config.compat:
            score = r2(true, decoded)
        else:  # as published: averaged over batches, a bad one counting zero
            parts = np.array_split(np.arange(len(true)), max(len(true) // COMPAT_BATCH, 1))
            each = np.array([r2(true[p], decoded[p]) for p in parts])
            score = float(np.where(each < -10, 0.0, each).mean())

        return {"score": score, "r2": score}


def decode(model: NDT, grid: Grid, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Returns the decoded covariate in its unit at the chosen bins, NaN elsewhere, (R, C). Causal."""
    assert model.spec.covariate is not None, "the model decodes"
    windows = grid.cover(chosen, model.spec.window_bins, model.vocabulary.rows(grid.session))

    return model.spec.covariate.restore(per_bin(model, windows, model.decode, len(grid)))

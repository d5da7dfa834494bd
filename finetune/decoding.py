"""Objective of fine-tuning: that of pretraining, on one session, in stages, selected by its decoding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ndt.config import FinetuneConfig
from ndt.data.objective import MaskedModelling
from ndt.data.windows import VALID, BinnedSession, TrainingData
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.finetune.strategies import Stage, part_of
from ndt.model.inference import per_bin
from ndt.model.transformer import NDT, RESIDUALS
from ndt.target import Target, part_columns, scored_bins

__all__ = ["Decoding", "decode"]


class Decoding(MaskedModelling):
    """The decoding loss and the masked loss of one session.

    Arguments:
        data: Training data of the session.
        target: Its labels.
        model: The model.
        config: Settings; besides those of `MaskedModelling` uses `backbone_lr_scale`.
        stages: Stages of training (`ndt.finetune.strategies.stages`).
        pretrained: Whether the backbone was pretrained.
    """

    config: FinetuneConfig

    def __init__(
        self,
        data: TrainingData,
        target: Target,
        model: NDT,
        config: FinetuneConfig,
        stages: Sequence[Stage],
        pretrained: bool,
    ) -> None:
        super().__init__([data], model, config)
        self.data, self.true, self.stages, self.pretrained = data, target, stages, pretrained

    def rate(self, name: str, step: int) -> float:
        """Returns the learning rate factor of a parameter, 0 if the stage of this step freezes it."""
        part, config = part_of(name), self.config
        ends = np.cumsum([stage.steps for stage in self.stages])
        stage = self.stages[min(int(np.searchsorted(ends, step, side="right")), len(self.stages) - 1)]
        if part not in stage.learns:
            return 0.0
        if name in RESIDUALS:
            return config.embedding_lr_scale

        return 1.0 if part == "heads" or not self.pretrained else config.backbone_lr_scale

    def validate(self, model: NDT) -> dict[str, float]:
        """Returns R² (variance-weighted) on the validation split: the mean over parts, and each part's if several.

        R² of classes is the Brier skill score: 1 - squared error of the probabilities / squared error of the class
        frequencies; a trial counts once. Parts that do not vary on validation are left out. A strategy without labels
        selects without them too, by `masked_likelihood`.

        Raises:
            InputError: if no part has labels that vary.
        """
        if self.data.labels is None:
            return super().validate(model)
        binned, parts = self.data.binned, self.true.parts
        rows = binned.split == VALID
        decoded, each = decode(model, binned, rows), {}
        for i, (part, columns) in enumerate(zip(parts, part_columns(parts), strict=True)):
            chosen = scored_bins(self.true, i, rows)
            bins = model.R2_BINS if part.kind == "continuous" else None
            each[part.name] = _r2(self.true.values[chosen, columns], decoded[chosen, columns], bins)
        found = [score for score in each.values() if not np.isnan(score)]
        if not found:
            raise InputError(binned.session.session_id, "validation split", "labels that vary", "none")
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
    assert model.spec.target is not None, "the model has a target"
    windows = binned.cover(chosen, model.spec.window_bins, model.rows(binned.session))

    return model.spec.target.restore(per_bin(model, windows, model.decode, len(binned)))

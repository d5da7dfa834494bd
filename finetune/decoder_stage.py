"""Decoder training stage: trains the decoder alone, on latents that are computed once."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt.finetune.decoding import Decoding
from ndt.model.inference import per_bin
from ndt.model.tcn import TCNDecoder
from ndt.model.tokens import Batch, pack
from ndt.model.transformer import NDT

__all__ = ["DecoderStage"]

READIN_LR_SCALE = 50.0  # read-in weights start at zero and need to reach order 1 within hundreds of steps


class DecoderStage(Decoding):
    """Objective of the decoder training stage: the decoding loss, on windows with fixed latents.

    Encoding takes nine tenths of the time of a step, and a TCN needs more steps than the encoder. So this stage encodes
    each training bin once, with the past of its segment, and then trains only the decoder and its read-in weights. A
    decoder of counts alone needs no latents, and no steps of the whole network before.

    Arguments as of `Decoding`; the model's encoder must not change afterwards.
    """

    def fixed_latents(self, model: NDT) -> NDArray[np.float32] | None:
        """Returns latents of the training bins, (R, D), 0 elsewhere; None if the decoder reads none."""
        decoder = model.decoder
        assert isinstance(decoder, TCNDecoder)
        if not decoder.reads_latents:
            return None
        windows = self.binned.cover(self.chosen, self.window_bins, model.vocabulary.rows(self.binned.session))

        return np.nan_to_num(per_bin(model, windows, model.latents, len(self.binned)))

    def batch(self, step: int, rows: range) -> Batch:
        """Returns these windows of the global batch of a step, with their latents and labels."""
        windows = []
        for sample in rows:
            _, w = self.sampler.draw(self.sampler.generator(step, sample))
            here = slice(*w.index)
            latents = None if self.latents is None else self.latents[here]
            windows.append(replace(w, target=self.standard[here], latents=latents))

        return pack(windows, self.patch)

    def targets(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Returns the number of labelled bins, summed over parts."""
        return self.labels(batch)

    def losses(self, model: torch.nn.Module, batch: Batch, step: int) -> dict[str, tuple[Tensor, float]]:
        """Returns the loss over labelled bins and parts."""
        return self.decoding_losses(model(batch, rates=False).decoded, batch)

    def rate(self, name: str, step: int) -> float:
        """Returns the learning rate factor: 1 for the decoder, `readin_lr_scale` for its read-in weights, else 0."""
        if name == "readin":
            return READIN_LR_SCALE

        return 1.0 if name.startswith("decoder.") else 0.0

"""The decoder alone, on latents that stay as they are: many cheap steps after the dear ones of the whole network."""

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
    """Objective of refinement: the loss of what is decoded, on windows whose latents are known.

    Encoding is nine tenths of a step, and convolutions over bins need more steps than the encoder has use for. So the
    encoder stops, each bin is encoded once with the past that it has in its segment, and the decoder goes on by itself,
    with what it reads of each unit. Nothing else learns. A decoder of counts alone needs nothing encoded, and no steps
    of the whole network before.

    Arguments as of `Decoding`; the model's encoder must not change afterwards.
    """

    def begin(self, model: NDT) -> "DecoderStage":
        """Encodes all bins that are trained on, and returns itself."""
        decoder = model.decoder
        assert isinstance(decoder, TCNDecoder)
        self.latents: NDArray[np.float32] | None = None
        if decoder.reads_latents:
            windows = self.binned.cover(self.chosen, self.window_bins, model.vocabulary.rows(self.binned.session))
            self.latents = np.nan_to_num(per_bin(model, windows, model.latents, len(self.binned)))

        return self

    def batch(self, step: int, rows: range) -> Batch:
        """Returns these windows of the global batch of a step, with their latents and labels."""
        windows = []
        for place in rows:
            _, w = self.sampler.draw(self.sampler.generator(step, place))
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
        """Returns the rate of the decoder and of what it reads of units; all else rests."""
        if name == "readin":
            return READIN_LR_SCALE

        return 1.0 if name.startswith("decoder.") else 0.0

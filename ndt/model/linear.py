"""Linear decoder: an affine map from the latents of the last bins to the target."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ndt.model.checkpoint import ModelSpec
from ndt.model.tcn import places, shifted
from ndt.model.tokens import Batch

__all__ = ["LinearDecoder"]

HISTORY, MOST_BINS = 0.25, 10  # seconds and largest number of bins of latents; more gave no gain

# R = bins of the batch, D = width, C = target dimensions


class LinearDecoder(nn.Module):
    r"""Causal linear filter of latents.

    .. math:: y_t = b + \sum_{l < L} W_l z_{t - l}

    where latents of bins before the window are zero.

    Arguments:
        spec: Specification of a model with a target.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()

        assert spec.target is not None, "a decoder has a target"
        self.bins = max(1, min(round(HISTORY / spec.bin_size), MOST_BINS, spec.window_bins // 2))
        self.readout = nn.Linear(self.bins * spec.config.width, len(spec.target.dims))

    def forward(self, batch: Batch, latents: Float[Tensor, "R D"]) -> Float[Tensor, "R C"]:
        """Returns the target at each bin, standardised."""
        return self.readout(self.read(batch, latents))

    def read(self, batch: Batch, latents: Float[Tensor, "R D"]) -> Float[Tensor, "R LD"]:
        """Returns the features of each bin: its latent and those of the preceding bins."""
        place = places(batch)

        return torch.cat([shifted(latents, place, lag) for lag in range(self.bins)], 1)

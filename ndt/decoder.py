"""Decodes covariates: one query a bin over the encoder's latents."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ndt.attention import Layout
from ndt.config import ModelConfig
from ndt.layers import Block
from ndt.tokens import Batch

__all__ = ["CovariateDecoder"]


class CovariateDecoder(nn.Module):
    """Asks once per bin what the covariate is.

    A query starts from the mean latent of its bin, reads the tokens of its past and present, then its fellow queries.

    Reference: Ye et al. (2023); `ndt` starts queries from the bin's own latents, where NDT2 starts from zeros.

    Arguments:
        config: Architecture.
        covariate_dims: Dimensions C.
    """

    def __init__(self, config: ModelConfig, covariate_dims: int) -> None:
        super().__init__()

        self.query = nn.Linear(config.width, config.width)
        self.time = nn.Embedding(config.max_bins, config.width) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(config, cross=True) for _ in range(config.num_decoder_layers))
        self.norm = nn.LayerNorm(config.width)
        self.readout = nn.Linear(config.width, covariate_dims)

    def forward(
        self, pooled: Float[Tensor, "R D"], batch: Batch, memory: Float[Tensor, "M D"], memory_layout: Layout
    ) -> Float[Tensor, "R C"]:
        """Returns the covariate at each bin, standardised."""
        layout = Layout(torch.bincount(batch.bin_window, minlength=batch.num_windows).tolist(), batch.bin_time)
        x = self.query(pooled)
        if self.time is not None:
            x = x + self.time(batch.bin_time)
        for block in self.blocks:
            x = block(x, layout, memory, memory_layout)

        return self.readout(self.norm(x))

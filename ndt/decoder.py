"""Decodes covariates: one query a bin over the encoder's latents."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ndt.attention import CONTEXT
from ndt.config import ModelConfig
from ndt.layers import Block, look_up
from ndt.routes import Arrangement, across, arrange
from ndt.tokens import Batch

__all__ = ["CovariateDecoder", "squared_error"]

# R = bins of the batch, M = rows of the memory, K = context tokens, C = covariate dimensions, D = width


def squared_error(decoded: Float[Tensor, "R C"], target: Float[Tensor, "R C"]) -> Tensor:
    """Returns the sum over what is labelled; NaN is not."""
    missing = target.isnan()

    return torch.where(missing, 0.0, decoded.float() - target.nan_to_num()).square().sum()


class CovariateDecoder(nn.Module):
    """Asks once per bin what the covariate is.

    ``pooled``: a query is the mean latent of its bin and reads context tokens and the queries of its past, by masks
    that every fused kernel knows. ``cross`` (NDT2): a query is its bin's time alone and reads all tokens of its past
    and present, then the queries of its past.

    Reference: Ye et al. (2023); both ways are theirs, but for what the pooled query starts from.

    Arguments:
        config: Architecture.
        covariate_dims: Dimensions C.
    """

    def __init__(self, config: ModelConfig, covariate_dims: int) -> None:
        super().__init__()

        self.config = config
        self.pooled = config.covariates == "pooled"
        self.query = nn.Linear(config.width, config.width) if self.pooled else None
        self.time = nn.Embedding(config.max_bins, config.width) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(config, cross=not self.pooled) for _ in range(config.num_decoder_layers))
        self.norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()
        self.readout = nn.Linear(config.width, covariate_dims)

    def forward(
        self,
        batch: Batch,
        latents: Float[Tensor, "R D"],
        context: Float[Tensor, "K D"],
        context_window: Tensor,
        memory: Float[Tensor, "M D"],
        memory_rows: Arrangement,
    ) -> Float[Tensor, "R C"]:
        """Returns the covariate at each bin, standardised.

        Arguments:
            batch: The batch.
            latents: Mean latent of each bin.
            context: Context tokens.
            context_window: Window of each, ascending, (K,).
            memory: Context tokens and encoded tokens, as `memory_rows` says.
            memory_rows: Arrangement of the memory.
        """
        x = torch.zeros_like(latents) if self.query is None else self.query(latents)
        if self.time is not None:
            x = x + look_up(self.time, batch.bin_time, "max_bins")
        if not self.pooled:
            x = self._crossed(batch, x, memory, memory_rows)
        else:
            x = self._pooled(batch, x, context, context_window)

        return self.readout(self.norm(x))

    def _pooled(self, batch: Batch, x: Tensor, context: Tensor, context_window: Tensor) -> Tensor:
        window = torch.cat([context_window, batch.bin_window])
        time = torch.cat([torch.full_like(context_window, CONTEXT), batch.bin_time])
        order = torch.argsort(window, stable=True)
        rows = arrange(
            window[order],
            time[order],
            torch.zeros_like(time),
            batch.num_windows,
            order="sequential" if self.config.causal else "joint",
            causal=self.config.causal,
            reach=self.config.reach,
        )
        x = torch.cat([context, x]).index_select(0, order)
        for i, block in enumerate(self.blocks):
            x = block(x, rows, rows.route(i))

        return torch.empty_like(x).index_copy(0, order, x)[len(context) :]

    def _crossed(self, batch: Batch, x: Tensor, memory: Tensor, memory_rows: Arrangement) -> Tensor:
        c = self.config
        order = "joint" if not c.causal else "sequential"
        slot = torch.zeros_like(batch.bin_time)
        rows = arrange(
            batch.bin_window, batch.bin_time, slot, batch.num_windows, order=order, causal=c.causal, reach=c.reach
        )
        across_rows = replace(across(rows, memory_rows, c.reach), bidirectional=not c.causal)
        for i, block in enumerate(self.blocks):
            x = block(x, rows, rows.route(i), memory, memory_rows, across_rows)

        return x

"""Decodes covariates: one query a bin over the encoder's latents."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ndt.attention import CONTEXT
from ndt.config import ModelConfig
from ndt.layers import Block, look_up
from ndt.routes import Arrangement, across, arrange
from ndt.target import Part, place_columns
from ndt.tokens import Batch

__all__ = ["CovariateDecoder", "decoding_loss", "num_labels"]

# R = bins of the batch, M = rows of the memory, K = context tokens, C = covariate dimensions, D = width


def decoding_loss(decoded: Float[Tensor, "Q C"], target: Float[Tensor, "R C"], parts: Sequence[Part]) -> Tensor:
    r"""Returns the sum over labelled bins and parts; over `num_labels` it is their mean.

    A part's loss at a bin is the mean squared error of its standardised columns, or of K classes the cross-entropy of
    the softmax over its logits,

    .. math:: -\frac{1}{\log K} \sum_k y_k \log \frac{e^{x_k}}{\sum_j e^{x_j}} ,

    so that what knows nothing, a mean or equal chances, costs 1 of every part.

    Arguments:
        decoded: Standardised values, and logits of classes; of several decoders, one after another (Q a multiple of R),
            their mean loss counts.
        target: Standardised values, and 1 or 0 for each class; a part with a NaN at a bin has no label there.
        parts: What the columns are.
    """
    copies = max(len(decoded) // max(len(target), 1), 1)
    target = target.repeat(copies, 1)
    total = torch.zeros((), device=decoded.device)
    for part, columns in zip(parts, place_columns(parts), strict=True):
        x, y = decoded[:, columns].float(), target[:, columns]
        missing = y.isnan().any(1, keepdim=True)
        y = y.nan_to_num()
        if part.kind == "class":
            surprise = -(y * x.log_softmax(1)).sum(1, keepdim=True)
            total = total + torch.where(missing, 0.0, surprise).sum() / math.log(part.num_columns)
        else:
            total = total + torch.where(missing, 0.0, x - y).square().sum() / part.num_columns

    return total / copies


def num_labels(target: Float[Tensor, "R C"], parts: Sequence[Part]) -> Tensor:
    """Returns the number of labelled bins, summed over parts."""
    return torch.stack([(~target[:, columns].isnan().any(1)).sum() for columns in place_columns(parts)]).sum()


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

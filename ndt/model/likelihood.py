"""Poisson likelihood of spike counts, summed in nats, without the constant log y!."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ndt.model.tokens import Batch

__all__ = ["count_nll", "poisson_nll"]

CAP = 8.0  # log rates are capped at 3000 spikes per bin, to avoid overflow


def poisson_nll(
    log_rates: Float[Tensor, "*shape"], counts: Int[Tensor, "*shape"], valid: Bool[Tensor, "*shape"]
) -> Tensor:
    r"""Returns the sum over valid entries of :math:`e^z - y z`."""
    z, y = log_rates.float().clamp(max=CAP), counts.float()

    return torch.where(valid, z.exp() - y * z, 0.0).sum()


def count_nll(log_rates: Float[Tensor, "W P"], batch: Batch) -> Tensor:
    """Returns the sum over the batch's hidden entries, for predictions of the tokens `Batch.predicted`."""
    return poisson_nll(log_rates, batch.counts[batch.predicted], batch.hidden[batch.predicted])

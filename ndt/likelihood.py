"""Poisson likelihood of spike counts."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["poisson_nll"]


def poisson_nll(
    log_rates: Float[Tensor, "*shape"], counts: Int[Tensor, "*shape"], valid: Bool[Tensor, "*shape"]
) -> Tensor:
    r"""Returns the sum over valid entries of :math:`e^z - y z`, in nats; no model changes :math:`\log y!`, left out.

    Log rates are capped at 8 (3000 spikes a bin): one wild step must not overflow.
    """
    z, y = log_rates.float().clamp(max=8.0), counts.float()

    return torch.where(valid, z.exp() - y * z, 0.0).sum()

"""Likelihoods of spike counts, summed in nats; no model changes the log of y!, which both leave out."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ndt.tokens import Batch

__all__ = ["count_nll", "negative_binomial_nll", "poisson_nll"]

CAP = 8.0  # log rates are capped at 3000 spikes a bin: one wild step must not overflow


def poisson_nll(
    log_rates: Float[Tensor, "*shape"], counts: Int[Tensor, "*shape"], valid: Bool[Tensor, "*shape"]
) -> Tensor:
    r"""Returns the sum over valid entries of :math:`e^z - y z`."""
    z, y = log_rates.float().clamp(max=CAP), counts.float()

    return torch.where(valid, z.exp() - y * z, 0.0).sum()


def negative_binomial_nll(
    log_rates: Float[Tensor, "*shape"],
    log_dispersion: Float[Tensor, "*shape"],
    counts: Int[Tensor, "*shape"],
    valid: Bool[Tensor, "*shape"],
) -> Tensor:
    r"""Returns the sum over valid entries of :math:`-\log p(y) - \log y!`, where the variance is :math:`\mu + a \mu^2`.

    .. math:: \log\Gamma(r) - \log\Gamma(y + r) + (y + r) \log(1 + a \mu) - y \log(a \mu), \quad r = 1 / a

    As the dispersion :math:`a` goes to zero it becomes Poisson's. Log dispersions below -7 are raised to it: there the
    difference of the two log-gammas has no digits left in float32.
    """
    z, y = log_rates.float().clamp(max=CAP), counts.float()
    s = log_dispersion.float().clamp(-7.0, 3.0)
    r, log_am = torch.exp(-s), s + z
    nll = torch.lgamma(r) - torch.lgamma(y + r) + (y + r) * torch.log1p(log_am.exp()) - y * log_am

    return torch.where(valid, nll, 0.0).sum()


def count_nll(log_rates: Float[Tensor, "W P"], log_dispersion: Float[Tensor, "W P"] | None, batch: Batch) -> Tensor:
    """Returns the sum over the batch's hidden entries, from predictions for its tokens `Batch.wanted`."""
    counts, hidden = batch.counts[batch.wanted], batch.hidden[batch.wanted]
    if log_dispersion is None:
        return poisson_nll(log_rates, counts, hidden)

    return negative_binomial_nll(log_rates, log_dispersion, counts, hidden)

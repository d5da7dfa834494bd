"""Heads read the rates of units, and each part of a target, from the encoder's latents."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ndt.config import ModelConfig
from ndt.model.history import recent_counts
from ndt.model.identity import Population
from ndt.model.layers import Dropout
from ndt.model.tokens import Batch
from ndt.target import Part

__all__ = ["BinHead", "RateHead", "TargetHeads", "TrialHead"]

GATHERED = 2**23  # size up to which keys are copied for each token: many small products would cost more
OWN = (0.5, 0.05, 0.15, 0.3)  # initial weights of a unit's mean count and of its recent counts
FASTER = 10.0  # learning rate of their logits over that of other weights: there are four of them
MOST_SCORE = 10.0  # of attention pooling, so that its exponential stays finite

# L = tokens, W = chosen tokens, P = units of a patch, J = patches of the batch, U = units of the batch, D = width,
# E = width of a unit's vector, R = bins of the batch, C = columns of a part, H = parts


class RateHead(nn.Module):
    r"""Reads the firing rates of a patch's units from its token's latent, as factors of their own recent counts.

    .. math:: \log \lambda_n = \log \Big(\pi_0 \mu_n + \sum_k \pi_k m_{nk}\Big) + u_n^\top W z + w^\top u_n

    with the unit's mean count :math:`\mu_n`, causal averages :math:`m_{nk}` of its own visible counts
    (`ndt.model.history`) and learned weights :math:`\pi` that sum to 1. A latent has too few dimensions to hold the
    recent counts of a thousand units, which any smoother knows; a new model predicts the rates of a smoother.

    Arguments:
        config: Architecture; uses `width`, `unit_width`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

        self.latent = nn.Linear(config.width, config.unit_width)
        self.unit = nn.Linear(config.unit_width, config.unit_width)
        self.base = nn.Linear(config.unit_width, 1)
        self.own = nn.Parameter(torch.tensor(OWN).log() / FASTER)  # logits of the weights
        with torch.no_grad():
            self.unit.weight *= 3  # the latent's weights start at zero: larger keys shorten the initial plateau
        for layer in (self.latent, self.base):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, z: Float[Tensor, "W D"], batch: Batch, chosen: Bool[Tensor, " L"], population: Population
    ) -> Float[Tensor, "W P"]:
        """Returns log rates of the units of the chosen tokens, in log spikes per bin."""
        keys = torch.cat([self.unit(population.vectors), self.base(population.vectors)], 1)  # (U, E + 1)
        own = self._own(batch, chosen, population.mean_counts)
        keys = F.embedding(batch.members, keys)  # (J, P, E + 1)
        latent = F.pad(self.latent(z), (0, 1), value=1.0)  # (W, E + 1); the constant 1 multiplies the base

        patch = batch.patch[chosen]  # with few patches, one matrix product for each is faster than copies of keys
        if len(patch) * keys[0].numel() <= GATHERED and len(keys) > len(patch) // 8:
            each = F.embedding(patch, keys.flatten(1)).view(len(patch), *keys.shape[1:])  # (W, P, E + 1)
            return own + (each @ latent[..., None])[..., 0]
        patch, order = patch.sort(stable=True)  # one matrix product for each patch
        sizes = torch.bincount(patch, minlength=len(keys)).tolist()
        parts = [x @ key.T for x, key in zip(latent[order].split(sizes), keys, strict=True) if len(x)]
        if not parts:
            return latent.new_zeros(0, batch.members.shape[1])

        return own + torch.cat(parts)[torch.argsort(order)]

    def _own(self, batch: Batch, chosen: Bool[Tensor, " L"], mean_counts: Float[Tensor, " U"]) -> Float[Tensor, "W P"]:
        """Returns the logarithm of the weighted mean of the units' mean and recent counts."""
        mean = F.embedding(batch.members, mean_counts.clamp(min=1e-4)[:, None])[..., 0]  # finite if silent
        recent = recent_counts(batch, chosen, mean)
        weight = (FASTER * self.own).softmax(0).to(recent.dtype)

        return (weight[0] * mean[batch.patch[chosen]] + recent @ weight[1:]).log()


class BinHead(nn.Module):
    """A part with a label per bin: an affine map of the bin's latent.

    Arguments:
        config: Architecture; uses `width`.
        num_columns: Columns C of the part.
    """

    def __init__(self, config: ModelConfig, num_columns: int) -> None:
        super().__init__()

        self.linear = nn.Linear(config.width, num_columns)

    def forward(self, latents: Float[Tensor, "R D"], batch: Batch, trial: Int[Tensor, " R"]) -> Float[Tensor, "R C"]:
        """Returns the part at each bin: standardised values, or logits of classes."""
        return self.linear(latents)


class TrialHead(nn.Module):
    r"""A part with a label per trial: attention pooling over the trial's bins so far, then an affine map.

    .. math:: y_t = b + W \sum_{s \le t} \frac{e^{a^\top z_s}}{\sum_{r \le t} e^{a^\top z_r}} z_s

    over the bins s, r of the window that belong to the trial of bin t. At a trial's last bin it has read all of it.
    Bins outside trials are pooled like a trial.

    Arguments:
        config: Architecture; uses `width`, `dropout`.
        num_columns: Columns C of the part.
    """

    def __init__(self, config: ModelConfig, num_columns: int) -> None:
        super().__init__()

        self.score = nn.Linear(config.width, 1, bias=False)
        nn.init.zeros_(self.score.weight)  # the mean over bins at first
        self.dropout = Dropout(config.dropout)
        self.linear = nn.Linear(config.width, num_columns)

    def forward(self, latents: Float[Tensor, "R D"], batch: Batch, trial: Int[Tensor, " R"]) -> Float[Tensor, "R C"]:
        """Returns the part at each bin, read from its trial's bins up to it."""
        if not len(latents):
            return self.linear(latents)
        new = torch.ones_like(trial, dtype=torch.bool)
        new[1:] = (trial[1:] != trial[:-1]) | (batch.bin_window[1:] != batch.bin_window[:-1])
        first = new.nonzero()[:, 0][new.cumsum(0) - 1]  # first bin of each bin's trial in its window
        weight = self.score(latents).clamp(-MOST_SCORE, MOST_SCORE).double().exp()
        sums = torch.cat([weight, weight * latents], 1).cumsum(0)  # float64: sums over a batch cancel
        before = torch.where(first[:, None] > 0, sums[(first - 1).clamp(min=0)], 0.0)
        total = sums - before
        pooled = (total[:, 1:] / total[:, :1]).to(latents.dtype)

        return self.linear(self.dropout(pooled))


class TargetHeads(nn.ModuleList):
    """One head for each part of a target.

    Arguments:
        config: Architecture.
        parts: The parts.
    """

    def __init__(self, config: ModelConfig, parts: Sequence[Part]) -> None:
        super().__init__((TrialHead if part.per else BinHead)(config, part.num_columns) for part in parts)

    def forward(self, latents: Float[Tensor, "R D"], batch: Batch) -> Float[Tensor, "R V"]:
        """Returns the columns of all parts at each bin: standardised values, and logits of classes."""
        none = torch.full((len(latents),), -1, device=latents.device)
        trials = batch.trial.unbind(1) if batch.trial.shape[1] == len(self) else [none] * len(self)

        return torch.cat([head(latents, batch, trial) for head, trial in zip(self, trials, strict=True)], 1)

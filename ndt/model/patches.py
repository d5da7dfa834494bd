"""Embeds the counts of a patch's units, and reads their firing rates from a latent, by identity embeddings of units."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ndt.config import ModelConfig
from ndt.model.tokens import Batch

__all__ = ["MAX_COUNT", "Population", "PatchEmbedding", "RateReadout"]

MAX_COUNT = 20  # larger spike counts are clipped, as in NDT2
GATHERED = 2**23  # size up to which keys are copied for each token: many small products would cost more

# L = tokens, W = chosen tokens, P = units of a patch, J = patches of the batch, U = units of the batch, D = width,
# E = width of an identity embedding, A = count levels


class Population(NamedTuple):
    """Units of a batch.

    Arguments:
        vectors: Identity embedding of each unit, (U, E).
        mean_counts: Spikes per bin of each unit, (U,).
    """

    vectors: Tensor
    mean_counts: Tensor


class PatchEmbedding(nn.Module):
    r"""Embeds the counts of the visible units of a patch.

    .. math::
        x = \frac{1}{\sqrt P}\, V \sum_{n \in \text{patch}}
            \left[ f(a_{c_n} + U u_n) + \frac{c_n - \mu_n}{\sqrt{\mu_n + 0.1}}\, W u_n \right]

    where :math:`c_n` is the count, :math:`a` the count embedding, :math:`u_n` the identity embedding, :math:`\mu_n` the
    mean count and :math:`f` a GELU. The bracket depends only on a unit and its count, and is computed once for each
    pair in the batch: its cost does not grow with the number of tokens.

    Arguments:
        config: Architecture; uses `width`, `unit_width`, `units_per_patch`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

        D, E = config.width, config.unit_width
        self.scale = config.units_per_patch**-0.5
        self.count = nn.Embedding(MAX_COUNT + 1, D)
        self.unit = nn.Linear(E, D)
        self.gain = nn.Linear(E, D, bias=False)
        self.out = nn.Linear(D, D)

    def forward(self, batch: Batch, chosen: Bool[Tensor, " L"], population: Population) -> Float[Tensor, "W D"]:
        """Returns one embedding for each chosen token; hidden and invalid entries contribute nothing."""
        A = self.count.num_embeddings
        seen, member = batch.seen[chosen], batch.members[batch.patch[chosen]]
        pair = member * A + batch.counts[chosen].clamp(max=A - 1)  # (W, P)
        used = torch.zeros(len(population.mean_counts) * A + 1, dtype=torch.bool, device=pair.device)
        used[torch.where(seen, pair, len(used) - 1)] = True
        used[-1] = False
        pairs = used.nonzero()[:, 0]
        row = used.cumsum(0) - 1  # index of each pair among those that occur

        unit, level = pairs // A, pairs % A
        mean = population.mean_counts[unit]
        standard = (level - mean) / (mean + 0.1).sqrt()  # 0.1 keeps silent units finite
        inner = F.embedding(unit, self.unit(population.vectors)) + self.count(level)
        table = F.gelu(inner) + standard[:, None] * F.embedding(unit, self.gain(population.vectors))
        table = torch.cat([table, table.new_zeros(1, table.shape[-1])])
        index = torch.where(seen, row[pair], len(pairs))
        total = F.embedding_bag(index, table, mode="sum", padding_idx=len(pairs))

        return self.out(self.scale * total)


class RateReadout(nn.Module):
    r"""Reads the firing rates of a patch's units from a token's latent.

    .. math:: \log \lambda_n = \log \mu_n + u_n^\top W z + w^\top u_n

    where :math:`\mu_n` is the unit's mean count; a new model predicts constant rates.

    Arguments:
        config: Architecture; uses `width`, `unit_width`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

        self.latent = nn.Linear(config.width, config.unit_width)
        self.unit = nn.Linear(config.unit_width, config.unit_width)
        self.base = nn.Linear(config.unit_width, 1)
        with torch.no_grad():
            self.unit.weight *= 3  # the latent's weights start at zero: larger keys shorten the initial plateau
        for layer in (self.latent, self.base):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, z: Float[Tensor, "W D"], batch: Batch, chosen: Bool[Tensor, " L"], population: Population
    ) -> Float[Tensor, "W P"]:
        """Returns log rates of the units of the chosen tokens, in log spikes per bin."""
        base = self.base(population.vectors)[:, 0] + population.mean_counts.clamp(min=1e-4).log()  # finite if silent
        keys = torch.cat([self.unit(population.vectors), base[:, None]], 1)  # (U, E + 1)
        keys = F.embedding(batch.members, keys)  # (J, P, E + 1)
        latent = F.pad(self.latent(z), (0, 1), value=1.0)  # (W, E + 1); the constant 1 multiplies the base

        patch = batch.patch[chosen]
        if len(patch) * keys[0].numel() <= GATHERED:
            each = F.embedding(patch, keys.flatten(1)).view(len(patch), *keys.shape[1:])  # (W, P, E + 1)
            return (each @ latent[..., None])[..., 0]
        patch, order = patch.sort(stable=True)  # one matrix product for each patch
        sizes = torch.bincount(patch, minlength=len(keys)).tolist()
        parts = [x @ key.T for x, key in zip(latent[order].split(sizes), keys, strict=True) if len(x)]
        if not parts:
            return latent.new_zeros(0, batch.members.shape[1])

        return torch.cat(parts)[torch.argsort(order)]

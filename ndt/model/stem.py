"""The stem: counts of a patch's units enter through unit vectors, followed by a short temporal convolution."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ndt.config import ModelConfig
from ndt.model.identity import Population
from ndt.model.layers import Dropout
from ndt.model.tokens import Batch

__all__ = ["ReadIn", "Stem", "at_lags"]

CLIP = 6.0  # standard deviations, so that one burst does not dominate a sum over units

# L = tokens, P = units of a patch, J = patches of the batch, E = width of a unit's vector, D = width


class ReadIn(nn.Module):
    r"""Sums the vectors of a patch's visible units, weighted by their standardised counts.

    .. math:: x = \frac{\sqrt{N}}{|S|} \sum_{n \in S} \frac{c_n - \mu_n}{\sqrt{\mu_n + 0.1}}\, u_n

    over the visible units :math:`S` of the :math:`N` observed ones of a token, with counts :math:`c_n`, mean counts
    :math:`\mu_n` and unit vectors :math:`u_n`. 0.1 keeps silent units finite.

    Arguments:
        dropout: Probability that a count is replaced by its mean in training.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()

        self.dropout = Dropout(dropout)

    def forward(self, batch: Batch, population: Population) -> Float[Tensor, "L E"]:
        """Returns one vector for each token; zeros without visible units."""
        vectors, seen = population.vectors, batch.seen
        patch, order = batch.patch.sort(stable=True)
        sizes = torch.bincount(patch, minlength=len(batch.members)).tolist()
        mean = population.mean_counts
        mean, scale = (F.embedding(batch.members, x[:, None])[..., 0] for x in (mean, (mean + 0.1).rsqrt()))
        keys = F.embedding(batch.members, vectors)  # (J, P, E)
        parts, rows = [], order.split(sizes)
        for row, m, s, key in zip(rows, mean, scale, keys, strict=True):  # one matrix product for each patch
            z = ((batch.counts[row] - m) * s).clamp(-CLIP, CLIP)
            parts.append(self.dropout((z * seen[row]).to(key.dtype)) @ key)
        total = torch.cat(parts)[torch.argsort(order)]
        seen, valid = seen.sum(1).to(total.dtype), batch.valid.sum(1).to(total.dtype)

        return total * (valid.sqrt() / seen.clamp(min=1))[:, None]


def at_lags(batch: Batch, lags: list[int]) -> list[Int[Tensor, " L"]]:
    """Returns for each lag the token of the same patch and window that many bins earlier, L where there is none."""
    bins, slots = (int(x.max()) + 1 if len(x) else 1 for x in (batch.time, batch.slot))
    L = batch.num_tokens
    table = torch.full((batch.num_windows * slots * bins,), L, device=batch.time.device)
    sequence = (batch.window * slots + batch.slot) * bins
    table[sequence + batch.time] = torch.arange(L, device=batch.time.device)
    found = []
    for lag in lags:
        time = batch.time - lag
        inside = (time >= 0) & (time < bins)
        found.append(torch.where(inside, table[sequence + time.clamp(0, bins - 1)], L))

    return found


class Stem(nn.Module):
    """Read-in, and residual convolutions over time of three taps, whose dilation doubles with each layer.

    Arguments:
        config: Architecture; uses `width`, `unit_width`, `num_stem_layers`, `dropout`, `count_dropout`, `causal`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

        D = config.width
        self.causal = config.causal
        self.read_in = ReadIn(config.count_dropout)
        self.linear = nn.Linear(config.unit_width, D)
        self.layers = nn.ModuleList(nn.Linear(3 * D, D) for _ in range(config.num_stem_layers))
        self.dropout = Dropout(config.dropout)

    def forward(self, batch: Batch, population: Population) -> Float[Tensor, "L D"]:
        """Returns one vector for each token; it depends on visible entries alone."""
        x = self.linear(self.read_in(batch, population))
        for i, layer in enumerate(self.layers):
            lags = [2 * 2**i, 2**i] if self.causal else [2**i, -(2**i)]
            padded = torch.cat([x, x.new_zeros(1, x.shape[1])])  # zeros before a window's first bin
            taps = [padded.index_select(0, row) for row in at_lags(batch, lags)]
            x = x + self.dropout(F.gelu(layer(torch.cat([*taps, x], 1))))

        return x

"""Temporal convolutional network (TCN): decodes targets from counts, and from the encoder's latents."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ndt.config import ModelConfig
from ndt.model.layers import Dropout
from ndt.model.patches import Population
from ndt.model.tokens import Batch

__all__ = ["TCNDecoder", "PopulationReadIn", "places", "shifted"]

# L = tokens, P = units of a patch, J = patches of the batch, R = bins of the batch, N = units of a window, D = width,
# E = width of an identity embedding, G = width of the convolutions, C = target dimensions, A = auxiliary dimensions,
# V = C + A


def places(batch: Batch) -> Int[Tensor, "R 2"]:
    """Returns the number of bins before and after each bin in its window."""
    lengths = torch.bincount(batch.bin_window, minlength=batch.num_windows)

    return torch.stack([batch.bin_time, lengths[batch.bin_window] - 1 - batch.bin_time], 1)


def shifted(x: Float[Tensor, "R G"], place: Int[Tensor, "R 2"], bins: int) -> Float[Tensor, "R G"]:
    """Returns for each bin the row `bins` earlier (later if negative) in its window; zeros outside the window.

    Arguments:
        x: One row for each bin, window after window.
        place: Number of bins before and after each bin in its window.
        bins: Shift.
    """
    if bins == 0:
        return x
    size = min(abs(bins), len(x))
    moved = F.pad(x, (0, 0, size, 0))[: len(x)] if bins > 0 else F.pad(x, (0, 0, 0, size))[size:]
    inside = place[:, 0 if bins > 0 else 1] >= abs(bins)

    return torch.where(inside[:, None], moved, 0.0)


class PopulationReadIn(nn.Module):
    r"""Sums units' read-in vectors, weighted by their standardised counts.

    .. math:: x_t = \frac{\sqrt{N_t}}{|S_t|} \sum_{n \in S_t} \frac{c_{tn} - \mu_n}{\sqrt{\mu_n + 0.1}}\, u_n

    over the visible units :math:`S_t` of the :math:`N_t` observed ones. This is the input of a linear decoder whose
    weights are the vectors; sessions with the same units share them.

    Arguments:
        dropout: Probability that a count is replaced by its mean in training.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()

        self.dropout = Dropout(dropout)

    def forward(self, batch: Batch, population: Population) -> Float[Tensor, "R E"]:
        """Returns one vector for each bin; zeros without visible units."""
        R, vectors = len(batch.bin_time), population.vectors
        mean = population.mean_counts[batch.members][batch.patch]  # (L, P)
        far = ((batch.counts - mean) * (mean + 0.1).rsqrt()).clamp(-6, 6)  # so that one burst does not dominate the sum
        z = self.dropout(torch.where(batch.seen, far, 0.0).to(vectors.dtype))
        row = batch.bin_index()
        patch, order = batch.patch.sort(stable=True)
        keys = F.embedding(batch.members, vectors)  # (J, P, E)
        sizes = torch.bincount(patch, minlength=len(keys)).tolist()
        parts = [x @ key for x, key in zip(z[order].split(sizes), keys, strict=True) if len(x)]
        total = vectors.new_zeros(R, vectors.shape[1])
        if parts:
            total = total.index_add(0, row[order], torch.cat(parts).to(total.dtype))
        seen, valid = (
            total.new_zeros(R).index_add(0, row, m.sum(1).to(total.dtype)) for m in (batch.seen, batch.valid)
        )

        return total * (valid.sqrt() / seen.clamp(min=1))[:, None]


class _Convolutions(nn.Module):
    """One member: residual convolutions of three taps, whose dilation doubles with each layer."""

    def __init__(self, config: ModelConfig, num_outputs: int) -> None:
        super().__init__()

        G = config.tcn_width
        self.causal = config.causal
        self.latents = None if config.decoder_reads_counts else nn.Linear(config.width, G)
        self.counts = nn.Linear(config.unit_width, G, bias=self.latents is None)
        self.layers = nn.ModuleList(nn.Linear(3 * G, G) for _ in range(config.num_tcn_layers))
        self.dropout = Dropout(config.tcn_dropout)
        self.readout = nn.Linear(G, num_outputs)

    def forward(
        self, place: Int[Tensor, "R 2"], population: Float[Tensor, "R E"], latents: Float[Tensor, "R D"] | None
    ) -> Float[Tensor, "R V"]:
        """Returns the target at each bin, standardised."""
        x = self.counts(population)
        if self.latents is not None:
            assert latents is not None, "a decoder of latents reads them"
            x = x + self.latents(self.dropout(latents))
        for i, layer in enumerate(self.layers):
            taps = (2 * 2**i, 2**i, 0) if self.causal else (2**i, 0, -(2**i))
            x = x + self.dropout(F.gelu(layer(torch.cat([shifted(x, place, t) for t in taps], 1))))

        return self.readout(x)


class TCNDecoder(nn.Module):
    """The mean of several TCNs over a window's bins, each of which reads counts, and optionally latents.

    A member of n layers reads 2 (2^n - 1) bins of the past, so that a stream has bounded state. Each member has its own
    loss, dropout and initial weights; the members therefore differ, and their mean has a smaller error than any.

    Reference: Bai et al. (2018), Temporal convolutional networks, https://arxiv.org/abs/1803.01271; residual layers of
    dilated causal convolutions.

    Arguments:
        config: Architecture; uses `decoder`, `tcn_width`, `num_tcn_layers`, `tcn_dropout`, `count_dropout` and
            `num_members`.
        target_dims: Dimensions C.
        auxiliary_dims: Dimensions A of auxiliary targets.
    """

    def __init__(self, config: ModelConfig, target_dims: int, auxiliary_dims: int = 0) -> None:
        super().__init__()

        self.config, self.target_dims = config, target_dims
        self.reads_latents = not config.decoder_reads_counts
        self.read_in = PopulationReadIn(config.count_dropout)
        self.stacks = nn.ModuleList(
            _Convolutions(config, target_dims + auxiliary_dims) for _ in range(config.num_members)
        )

    def forward(
        self, batch: Batch, latents: Float[Tensor, "R D"] | None, population: Population
    ) -> Float[Tensor, "Q V"]:
        """Returns the target at each bin, standardised, (R, C).

        In training, it returns the outputs of all members, concatenated along bins, including auxiliary targets.

        Arguments:
            batch: The batch.
            latents: Mean latent of each bin; None for a decoder of counts.
            population: The batch's units; their vectors are the read-in vectors of all members, concatenated.
        """
        place = places(batch)
        read = self._read(batch, population)
        each = [stack(place, x, latents) for stack, x in zip(self.stacks, read, strict=True)]

        return torch.cat(each) if self.training else torch.stack(each).mean(0)[:, : self.target_dims]

    def _read(self, batch: Batch, population: Population) -> Sequence[Float[Tensor, "R E"]]:
        """Returns each member's read-in of the counts; in training, with a dropout mask for each."""
        num_members, vectors = len(self.stacks), population.vectors
        if not self.training:
            return self.read_in(batch, population).chunk(num_members, 1)

        return [self.read_in(batch, Population(v, population.mean_counts)) for v in vectors.chunk(num_members, 1)]

"""Decodes targets by convolutions over bins: of the counts themselves, and of the encoder's latents."""

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
# E = width of a unit's vector, G = width of the convolutions, C = target dimensions, A = those of what is learned
# beside, V = C + A


def places(batch: Batch) -> Int[Tensor, "R 2"]:
    """Returns how many bins there are before and behind each in its window."""
    lengths = torch.bincount(batch.bin_window, minlength=batch.num_windows)

    return torch.stack([batch.bin_time, lengths[batch.bin_window] - 1 - batch.bin_time], 1)


def shifted(x: Float[Tensor, "R G"], place: Int[Tensor, "R 2"], bins: int) -> Float[Tensor, "R G"]:
    """Returns for each bin the row so many bins earlier (later if negative) in its window; zeros where there is none.

    Arguments:
        x: One row a bin, window after window.
        place: Bins before and behind each in its window.
        bins: How far.
    """
    if bins == 0:
        return x
    size = min(abs(bins), len(x))
    moved = F.pad(x, (0, 0, size, 0))[: len(x)] if bins > 0 else F.pad(x, (0, 0, 0, size))[size:]
    inside = place[:, 0 if bins > 0 else 1] >= abs(bins)

    return torch.where(inside[:, None], moved, 0.0)


class PopulationReadIn(nn.Module):
    r"""Sums units' vectors, each weighted by how far its count is from its mean.

    .. math:: x_t = \frac{\sqrt{N_t}}{|S_t|} \sum_{n \in S_t} \frac{c_{tn} - \mu_n}{\sqrt{\mu_n + 0.1}}\, u_n

    over the units :math:`S_t` that are seen, of the :math:`N_t` that were observed. It is what a linear decoder reads,
    with unit vectors for weights; so what one session's vectors have learned, another's with the same units know.

    Arguments:
        dropout: Share of counts set to their mean while training.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()

        self.dropout = Dropout(dropout)

    def forward(self, batch: Batch, population: Population) -> Float[Tensor, "R E"]:
        """Returns one vector a bin; zeros where nothing is seen."""
        R, vectors = len(batch.bin_time), population.vectors
        mean = population.mean_counts[batch.members][batch.patch]  # (L, P)
        far = ((batch.counts - mean) * (mean + 0.1).rsqrt()).clamp(-6, 6)  # one burst must not drown the population
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
    """One stack: residual convolutions of three taps, each twice as far apart as in the one before."""

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
        """Returns what is decoded at each bin, standardised."""
        x = self.counts(population)
        if self.latents is not None:
            assert latents is not None, "a decoder of latents has them"
            x = x + self.latents(self.dropout(latents))
        for i, layer in enumerate(self.layers):
            taps = (2 * 2**i, 2**i, 0) if self.causal else (2**i, 0, -(2**i))
            x = x + self.dropout(F.gelu(layer(torch.cat([shifted(x, place, t) for t in taps], 1))))

        return self.readout(x)


class TCNDecoder(nn.Module):
    """The mean of a few stacks of convolutions over a window's bins, each of which reads counts, and latents if asked.

    A stack of n layers reaches 2 (2^n - 1) bins back, so that the state of a stream is bounded. Each stack learns by
    itself, with its own dropout and from its own start: stacks then differ, and their mean errs less than any.

    Reference: Bai et al. (2018), Temporal convolutional networks, https://arxiv.org/abs/1803.01271; residual stacks of
    dilated causal convolutions.

    Arguments:
        config: Architecture; uses `decoder`, `tcn_width`, `num_tcn_layers`, `tcn_dropout`, `count_dropout` and
            `num_members`.
        target_dims: Dimensions C.
        auxiliary_dims: Dimensions A of what is learned beside it.
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

        While training, what each stack says, one after another, and behind the target what is learned beside it.

        Arguments:
            batch: The batch.
            latents: Mean latent of each bin; None where counts alone are read.
            population: The batch's units, with the vectors that each stack reads them by, side by side.
        """
        place = places(batch)
        read = self._read(batch, population)
        each = [stack(place, x, latents) for stack, x in zip(self.stacks, read, strict=True)]

        return torch.cat(each) if self.training else torch.stack(each).mean(0)[:, : self.target_dims]

    def _read(self, batch: Batch, population: Population) -> Sequence[Float[Tensor, "R E"]]:
        """Returns what each stack reads of the counts; while training, without other counts each."""
        num_members, vectors = len(self.stacks), population.vectors
        if not self.training:
            return self.read_in(batch, population).chunk(num_members, 1)

        return [self.read_in(batch, Population(v, population.mean_counts)) for v in vectors.chunk(num_members, 1)]

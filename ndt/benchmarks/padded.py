"""The peer of the packed model: a transformer on padded sequences, as others train on the same tokens.

It attends to all tokens; a hidden token is replaced by a learned vector.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ndt.config import ModelConfig
from ndt.model.likelihood import poisson_nll
from ndt.model.tokens import Batch

__all__ = ["Padded", "PaddedTransformer", "padded", "padded_loss"]

# B = sequences, L = tokens of the longest, P = units of a patch, D = width


@dataclass(frozen=True, kw_only=True)
class Padded:
    """Sequences padded at their ends to the longest of the batch.

    Arguments:
        counts: Spikes of each unit of each token, shape (B, L, P).
        predicted: Counts that the model must predict, shape (B, L, P).
        padding: Whether there is no token, shape (B, L).
        time: Bin of each token, shape (B, L); the bin of padding is later than all.
    """

    counts: Int[Tensor, "B L P"]
    predicted: Bool[Tensor, "B L P"]
    padding: Bool[Tensor, "B L"]
    time: Int[Tensor, "B L"]

    @property
    def hidden(self) -> Bool[Tensor, "B L"]:
        """Whether any count of the token must be predicted."""
        return self.predicted.any(-1)

    @property
    def attended(self) -> Bool[Tensor, "B 1 L L"]:
        """Mask of causal attention: each token attends to the tokens of its own and of earlier bins."""
        return ((self.time[:, :, None] >= self.time[:, None, :]) & ~self.padding[:, None, :])[:, None]


def padded(batch: Batch, sequences: int) -> list[Padded]:
    """Returns a batch in parts of at most `sequences` sequences, all padded to the longest sequence of the batch."""
    lengths = torch.bincount(batch.window, minlength=batch.num_windows).tolist()

    def parts(x: Tensor, fill: int = 0) -> tuple[Tensor, ...]:
        return pad_sequence(list(x.split(lengths)), batch_first=True, padding_value=fill).split(sequences)

    columns = {
        "counts": parts(torch.where(batch.valid, batch.counts.long(), 0)),
        "predicted": parts(batch.hidden),
        "padding": parts(torch.zeros_like(batch.window, dtype=torch.bool), 1),
        "time": parts(batch.time, int(batch.time.max()) + 1),
    }

    return [Padded(**dict(zip(columns, part, strict=True))) for part in zip(*columns.values(), strict=True)]


class PaddedTransformer(nn.Module):
    """Pre-norm blocks around `scaled_dot_product_attention` with a Boolean mask B x 1 x L x L, causal by bin.

    Counts are embedded linearly, and positions in the sequence are learned.

    Arguments:
        config: Architecture; encoder and decoder layers form one stack.
        longest: Tokens of the longest sequence.
    """

    def __init__(self, config: ModelConfig, longest: int) -> None:
        super().__init__()

        D, P, self.num_heads = config.width, config.units_per_patch, config.num_heads
        self.embed, self.readout = nn.Linear(P, D), nn.Linear(D, P)
        self.mask_token = nn.Parameter(0.02 * torch.randn(D))
        self.position = nn.Parameter(0.02 * torch.randn(longest, D))
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(D),
                    "query_key_value": nn.Linear(D, 3 * D),
                    "out": nn.Linear(D, D),
                    "feedforward": nn.Sequential(
                        nn.LayerNorm(D), nn.Linear(D, config.feedforward * D), nn.GELU(),
                        nn.Linear(config.feedforward * D, D),
                    ),
                }
            )
            for _ in range(config.num_layers + config.num_decoder_layers)
        )  # fmt: skip
        self.norm, self.dropout = nn.LayerNorm(D), nn.Dropout(config.dropout)

    def forward(self, x: Padded) -> Float[Tensor, "B L P"]:
        """Returns log rates, in log spikes per bin."""
        tokens, attended = self.embed(x.counts.to(self.embed.weight.dtype)), x.attended
        z = torch.where(x.hidden[..., None], self.mask_token.to(tokens.dtype), tokens) + self.position
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            heads = layer["query_key_value"](layer["norm"](z)).unflatten(-1, (3, self.num_heads, -1))
            q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B, H, L, E) each
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=attended)
            z = z + self.dropout(layer["out"](y.transpose(1, 2).flatten(2)))
            z = z + self.dropout(layer["feedforward"](z))

        return self.readout(self.norm(z))


def padded_loss(model: nn.Module, x: Padded) -> Float[Tensor, ""]:
    """Returns the Poisson negative log-likelihood of the hidden counts, summed."""
    return poisson_nll(model(x), x.counts, x.predicted)

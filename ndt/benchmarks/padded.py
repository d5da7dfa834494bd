"""What others train on the same tokens: a padded transformer that sees all of them, hidden ones as a learned vector."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

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
        predicted: Which of them the model must predict, shape (B, L, P).
        hidden: Whether any of the token must be predicted, shape (B, L).
        padding: Whether there is no token, shape (B, L).
        time: Bin of each token; of padding, later than all, shape (B, L).
    """

    counts: Int[Tensor, "B L P"]
    predicted: Bool[Tensor, "B L P"]
    hidden: Bool[Tensor, "B L"]
    padding: Bool[Tensor, "B L"]
    time: Int[Tensor, "B L"]


def padded(batch: Batch, sequences: int) -> list[Padded]:
    """Returns a batch padded, in parts of so many sequences, each part as long as the longest sequence of all."""
    lengths = torch.bincount(batch.window, minlength=batch.num_windows)
    B, L = batch.num_windows, int(lengths.max())
    place = torch.arange(len(batch.window), device=batch.window.device) - (lengths.cumsum(0) - lengths)[batch.window]
    predicted = batch.hidden
    kept = torch.where(batch.valid, batch.counts.long(), 0)
    late = int(batch.time.max()) + 1
    columns = {"counts": kept, "predicted": predicted, "hidden": predicted.any(-1), "padding": None, "time": batch.time}
    whole = {}
    for name, x in columns.items():
        fill = {"padding": True, "time": late}.get(name, 0)
        x = torch.zeros_like(predicted[:, 0]) if x is None else x
        whole[name] = x.new_full((B, L, *x.shape[1:]), fill)
        whole[name][batch.window, place] = x

    return [Padded(**{k: x[i : i + sequences] for k, x in whole.items()}) for i in range(0, B, sequences)]


class PaddedTransformer(nn.Module):
    """Pre-norm blocks around `scaled_dot_product_attention` with a Boolean mask B x 1 x L x L, causal by bin.

    Counts are embedded linearly, hidden tokens are a learned vector, and places in the sequence are learned.

    Arguments:
        config: Architecture; all its layers are in one stack.
        longest: Tokens of the longest sequence.
    """

    def __init__(self, config: ModelConfig, longest: int) -> None:
        super().__init__()

        D, P, self.num_heads = config.width, config.units_per_patch, config.num_heads
        self.embed, self.readout = nn.Linear(P, D), nn.Linear(D, P)
        self.mask_token = nn.Parameter(0.02 * torch.randn(D))
        self.place = nn.Parameter(0.02 * torch.randn(longest, D))
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
        """Returns log rates."""
        seen = (x.time[:, :, None] >= x.time[:, None, :]) & ~x.padding[:, None, :]
        tokens = self.embed(x.counts.to(self.embed.weight.dtype))
        z = torch.where(x.hidden[..., None], self.mask_token.to(tokens.dtype), tokens) + self.place
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            heads = layer["query_key_value"](layer["norm"](z)).unflatten(-1, (3, self.num_heads, -1))
            q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B, H, L, E) each
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None])
            z = z + self.dropout(layer["out"](y.transpose(1, 2).flatten(2)))
            z = z + self.dropout(layer["feedforward"](z))

        return self.readout(self.norm(z))


def padded_loss(model: nn.Module, x: Padded) -> Float[Tensor, ""]:
    """Returns the Poisson likelihood of what is hidden, summed."""
    return poisson_nll(model(x), x.counts, x.predicted)

"""Transformer blocks over packed sequences."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from ndt.config import ModelConfig
from ndt.model.attention import attention
from ndt.model.attention_patterns import AttentionPattern, PackedLayout

__all__ = ["Attention", "Block", "Dropout", "FeedForward", "rotate"]

LAYER_SCALE = 0.1  # initial scale of a residual branch

# L = rows of all sequences together, D = width, H = heads, E = dimensions of a head


def rotate(x: Float[Tensor, "L H E"], layout: PackedLayout, *, key: bool) -> Float[Tensor, "L H E"]:
    r"""Rotary embedding: rotates the first half of each head's dimensions by angles proportional to time.

    The score of a query at t and a key at s then depends on t - s and not on t. Keys of context tokens have no time:
    their rotated half is zero, otherwise their score would depend on the query's absolute time.

    Reference: Su et al. (2021), eq. 34, https://arxiv.org/abs/2104.09864; half of the dimensions only.
    """
    phases = layout.phases(x.shape[-1] // 4, x.dtype, key=key)  # (L, 1, E / 4)
    pairs = 2 * phases.shape[-1]  # adjacent dimensions as a complex number: twice as fast as cosines and sines
    a, rest = x.split([pairs, x.shape[-1] - pairs], dim=-1)
    rotated = torch.view_as_complex(rearrange(a, "l h (f two) -> l h f two", two=2).to(phases.real.dtype)) * phases

    return torch.cat([torch.view_as_real(rotated).flatten(-2).to(x.dtype), rest], dim=-1)


class Attention(nn.Module):
    """Multi-head attention of packed rows to themselves, or to a memory (cross-attention).

    Arguments:
        config: Architecture; uses `width`, `num_heads`, `locality_bias`.
        rotary: Whether scores depend on differences in time (`rotate`).
    """

    def __init__(self, config: ModelConfig, *, rotary: bool = True) -> None:
        super().__init__()

        D = config.width
        self.num_heads, self.rotary = config.num_heads, rotary
        self.query = nn.Linear(D, D)
        self.key_value = nn.Linear(D, 2 * D)
        self.out = nn.Linear(D, D)
        if rotary and config.locality_bias:
            self._add_locality_bias(config.locality_bias)

    def _add_locality_bias(self, largest: float) -> None:
        r"""Initialises heads with scores that fall with distance in time.

        Biases :math:`b_h` of the rotated dimensions add :math:`b_h^2 \sum_f \cos(\omega_f (t - s))` to scores, which is
        largest at zero distance. They rise from 0 in the first head, which has no preference, to `largest` in the last.
        """
        D, H = self.query.in_features, self.num_heads
        strength = torch.linspace(0, largest, H)[:, None]
        quarter = D // H // 4
        with torch.no_grad():
            for bias in (self.query.bias, self.key_value.bias[:D]):
                bias.view(H, -1)[:, : 2 * quarter : 2] = strength

    def forward(
        self,
        x: Float[Tensor, "L D"],
        layout: PackedLayout,
        pattern: AttentionPattern,
        memory: Float[Tensor, "M D"] | None = None,
        memory_layout: PackedLayout | None = None,
        keep: Int[Tensor, " R"] | None = None,
    ) -> Float[Tensor, "R D"]:
        """Returns attention of all rows, or of the rows `keep`.

        Arguments:
            x: Rows of the queries.
            layout: Their layout.
            pattern: Which rows attend to which.
            memory: Rows of the keys and values; None for self-attention.
            memory_layout: Their layout.
            keep: Rows to return.
        """
        if memory is None or memory_layout is None:
            memory_layout = layout
            weight = torch.cat([self.query.weight, self.key_value.weight])  # one matrix product in place of two
            x = F.linear(x, weight, torch.cat([self.query.bias, self.key_value.bias]))
            q, k, v = rearrange(x, "l (three h e) -> three l h e", three=3, h=self.num_heads)
        else:
            q = rearrange(self.query(x), "l (h e) -> l h e", h=self.num_heads)
            k, v = rearrange(self.key_value(memory), "m (kv h e) -> kv m h e", kv=2, h=self.num_heads)
        if self.rotary and pattern.timed:  # all tokens of a bin have the same time
            q, k = rotate(q, layout, key=False), rotate(k, memory_layout, key=True)

        heads = rearrange(attention(q, k, v, pattern), "l h e -> l (h e)")

        return self.out(heads if keep is None else heads.index_select(0, keep))


class Dropout(nn.Module):
    """Dropout with a faster mask on CPUs.

    torch draws the mask of a CPU tensor number by number on one thread, which takes a seventh of a training step on two
    cores. Here each 64 random bits give four mask entries; the probability is rounded to a multiple of 1 / 65536.

    Arguments:
        p: The probability.
    """

    def __init__(self, p: float) -> None:
        super().__init__()

        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Zeroes entries with probability p in training, and scales the others by 1 / (1 - p)."""
        if not self.training or not self.p:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = round(self.p * 2**16)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        keep = bits[: x.numel()].view(x.shape) >= dropped - 2**15

        return x * keep.to(x.dtype).mul_(2**16 / (2**16 - dropped))  # a product with bools takes longer


class FeedForward(nn.Module):
    """SwiGLU with the number of parameters of a two-layer MLP: its hidden width is two thirds of the MLP's.

    Reference: Shazeer (2020), https://arxiv.org/abs/2002.05202.

    Arguments:
        config: Architecture; uses `width`, `feedforward`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

        D = config.width
        hidden = -(-2 * config.feedforward * D // 24) * 8  # two thirds, rounded up to a multiple of 8
        self.inner = nn.Linear(D, 2 * hidden)
        self.outer = nn.Linear(hidden, D)

    def forward(self, x: Float[Tensor, "L D"]) -> Float[Tensor, "L D"]:
        """Returns the transformed rows, each independently."""
        # Splitting the weights, not the output: the gradients of output halves would be joined by a copy.
        parts = zip(self.inner.weight.chunk(2), self.inner.bias.chunk(2), strict=True)
        gate, x = (F.linear(x, weight, bias) for weight, bias in parts)

        return self.outer(F.silu(gate) * x)


class Block(nn.Module):
    r"""Transformer block: attention, then feed-forward, each a residual branch of normalised rows.

    .. math:: x \leftarrow x + \gamma \odot f(\mathrm{LayerNorm}(x))

    The scales :math:`\gamma` are learned from a tenth (`LAYER_SCALE`), and each branch is left out of a window at
    random in training (`drop_path`): otherwise attention memorises windows of a session with few units.

    Reference: Touvron et al. (2021), layer scale, https://arxiv.org/abs/2103.17239; Huang et al. (2016), stochastic
    depth, https://arxiv.org/abs/1603.09382.

    Arguments:
        config: Architecture.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

        D = config.width
        self.norm, self.attention = nn.LayerNorm(D), Attention(config)
        self.feedforward_norm, self.feedforward = nn.LayerNorm(D), FeedForward(config)
        self.scale, self.feedforward_scale = (nn.Parameter(torch.full((D,), LAYER_SCALE)) for _ in range(2))
        self.dropout, self.drop_path = Dropout(config.dropout), config.drop_path

    def forward(self, x: Float[Tensor, "L D"], layout: PackedLayout, pattern: AttentionPattern) -> Float[Tensor, "L D"]:
        """Returns all transformed rows."""
        keep = self._kept(x, layout)
        x = x + keep * self.scale * self.dropout(self.attention(self.norm(x), layout, pattern))

        return x + keep * self.feedforward_scale * self.dropout(self.feedforward(self.feedforward_norm(x)))

    def _kept(self, x: Tensor, layout: PackedLayout) -> Tensor | float:
        """Returns for each row whether its window keeps the branches, (L, 1), scaled to a mean of 1."""
        if not self.training or not self.drop_path:
            return 1.0
        kept = (torch.rand(len(layout.lengths), device=x.device) >= self.drop_path).to(x.dtype) / (1 - self.drop_path)

        return kept.repeat_interleave(layout.lengths.to(x.device))[:, None]

"""Transformer blocks over packed sequences."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ndt.attention import Layout, attention
from ndt.config import ModelConfig

__all__ = ["Attention", "Block", "rotate"]

# L = tokens of all sequences together, D = width, H = heads, E = dimensions of a head


def rotate(x: Float[Tensor, "L H E"], layout: Layout, *, key: bool) -> Float[Tensor, "L H E"]:
    r"""Turns the first half of each head's dimensions by angles proportional to time.

    The score of a query at t and a key at s then depends on t - s and not on t. Keys of context tokens have no time:
    their turned half is set to zero, or their score would depend on the query's absolute time.

    Reference: Su et al. (2021), eq. 34, https://arxiv.org/abs/2104.09864; half of the dimensions only.
    """
    cos, sin = layout.phases(x.shape[-1] // 4, x.dtype, key=key)  # (L, 1, E / 4)
    quarter = x.shape[-1] // 4
    a, b, rest = x.split([quarter, quarter, x.shape[-1] - 2 * quarter], dim=-1)

    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)


class Attention(nn.Module):
    """Multi-head attention of packed queries over packed keys.

    Arguments:
        config: Architecture; uses `width`, `num_heads`, `positions`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

        self.num_heads, self.rotary = config.num_heads, config.positions == "rotary"
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(
        self, x: Float[Tensor, "L D"], memory: Float[Tensor, "M D"], queries: Layout, keys: Layout
    ) -> Float[Tensor, "L D"]:
        """Returns what each query token reads from the memory tokens that it may see."""
        q = rearrange(self.query(x), "l (h e) -> l h e", h=self.num_heads)
        k, v = rearrange(self.key_value(memory), "m (kv h e) -> kv m h e", kv=2, h=self.num_heads)
        if self.rotary:
            q, k = rotate(q, queries, key=False), rotate(k, keys, key=True)

        return self.out(rearrange(attention(q, k, v, queries, keys), "l h e -> l (h e)"))


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, optionally preceded by attention to a memory, then feed-forward.

    Reference: cross before self, as in NDT2's covariate decoder (Ye et al. 2023); pre-norm instead of its post-norm
    trains without a long warm-up.

    Arguments:
        config: Architecture; uses `width`, `num_heads`, `positions`, `feedforward`, `dropout`.
        cross: Whether the block attends to a memory first.
    """

    def __init__(self, config: ModelConfig, *, cross: bool = False) -> None:
        super().__init__()

        D = config.width
        self.cross_norm = nn.LayerNorm(D) if cross else None
        self.cross = Attention(config) if cross else None
        self.norm = nn.LayerNorm(D)
        self.attention = Attention(config)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(D),
            nn.Linear(D, config.feedforward * D),
            nn.GELU(),
            nn.Linear(config.feedforward * D, D),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "L D"],
        layout: Layout,
        memory: Float[Tensor, "M D"] | None = None,
        memory_layout: Layout | None = None,
    ) -> Float[Tensor, "L D"]:
        """Returns the transformed tokens; `memory` is required by, and only by, a block made with ``cross=True``."""
        if self.cross is not None and self.cross_norm is not None:
            if memory is None or memory_layout is None:
                raise ValueError("this block attends to a memory, got none")
            x = x + self.dropout(self.cross(self.cross_norm(x), memory, layout, memory_layout))
        normed = self.norm(x)
        x = x + self.dropout(self.attention(normed, normed, layout, layout))

        return x + self.dropout(self.feedforward(x))

"""Attention over packed sequences beside padded scaled-dot-product attention, forward and backward."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ndt.attention import Layout
from ndt.attention import attention as packed_attention
from ndt.benchmarks.hardware import device
from ndt.benchmarks.peers import Padded, padded
from ndt.benchmarks.ragged import preset, ragged
from ndt.benchmarks.timing import interleaved, row
from ndt.benchmarks.train import PARTS
from ndt.config import BenchConfig
from ndt.tokens import Batch

__all__ = ["attention"]


def attention(config: BenchConfig, *, longest: int = 1500) -> list[dict[str, Any]]:
    """Measures attention alone at the preset's width and heads; the peer's mask is batch x 1 x length x length."""
    model, where = preset(config.preset).model, device()
    data = ragged(model.units_per_patch, sequences=config.sequences, longest=longest)
    batch = data.batch.to(where)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    heads = (model.num_heads, model.width // model.num_heads)
    parts = padded(batch, PARTS if where.type == "cpu" else batch.num_windows)
    calls = {"packed": _packed(batch, heads, dtype), "padded_sdpa": _padded(parts, heads, dtype)}
    seconds = interleaved(calls, config.repeats)
    own, peer = ([len(batch.time) / s for s in seconds[name]] for name in calls)

    return [row(f"attention.packed.{config.precision}", own, "tokens/s", "padded_sdpa", peer)]


def _inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(shape, device=device()).to(dtype).requires_grad_() for _ in range(3))

    return q, k, v


def _packed(batch: Batch, heads: tuple[int, int], dtype: torch.dtype) -> Callable[[], None]:
    inputs = _inputs((len(batch.time), *heads), dtype)
    layout = Layout(torch.bincount(batch.window, minlength=batch.num_windows).tolist(), batch.time)

    def call() -> None:
        out = packed_attention(*inputs, layout, layout)
        torch.autograd.grad(out.sum(), inputs)

    return call


def _padded(parts: list[Padded], heads: tuple[int, int], dtype: torch.dtype) -> Callable[[], None]:
    H, E = heads
    inputs = [_inputs((len(p.time), H, p.time.shape[1], E), dtype) for p in parts]

    def call() -> None:
        for p, qkv in zip(parts, inputs, strict=True):
            seen = (p.time[:, :, None] >= p.time[:, None, :]) & ~p.padding[:, None, :]
            out = F.scaled_dot_product_attention(*qkv, attn_mask=seen[:, None])
            torch.autograd.grad(out.sum(), qkv)

    return call

"""Attention over packed sequences beside padded scaled-dot-product attention, forward and backward."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ndt.benchmarks.padded import Padded, padded
from ndt.benchmarks.ragged import preset, ragged
from ndt.benchmarks.timing import device, interleaved, row
from ndt.benchmarks.train import PARTS
from ndt.config import BenchConfig
from ndt.model.attention import attention as packed_attention
from ndt.model.attention import chosen_backend
from ndt.model.kernels import BACKENDS
from ndt.model.layout import PackedLayout, packed_layout
from ndt.train.memory import keep_freed_memory

__all__ = ["attention", "list_backends"]

ORDERS, PEER = ("axial", "joint"), "padded_sdpa"


def attention(config: BenchConfig, *, longest: int = 1500) -> list[dict[str, Any]]:
    """Measures attention alone at the preset's width and heads; the peer's mask is batch x 1 x length x length."""
    model, where = preset(config.preset).model, device()
    keep_freed_memory()  # as the trainer does
    data = ragged(model.units_per_patch, sequences=config.sequences, longest=longest)
    batch = data.batch.to(where)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    heads = (model.num_heads, model.width // model.num_heads)
    parts = padded(batch, PARTS if where.type == "cpu" else batch.num_windows)
    rows = {x: packed_layout(batch.window, batch.time, batch.slot, batch.num_windows, order=x) for x in ORDERS}
    calls = {order: _packed(rows[order], heads, dtype) for order in ORDERS} | {PEER: _padded(parts, heads, dtype)}
    seconds = interleaved(calls, config.repeats)
    layers = {order: len(rows[order].patterns) for order in ORDERS}  # a call takes each route, a layer one of them
    rates = {x: [batch.num_tokens * layers.get(x, 1) / s for s in taken] for x, taken in seconds.items()}

    names = {x: f"attention.{x}.{_backend(rows[x], dtype)}.{config.precision}" for x in ORDERS}

    return [row(names[x], rates[x], "tokens/s", PEER, rates[PEER]) for x in ORDERS]


def list_backends() -> list[dict[str, Any]]:
    """Returns for each mask and precision which backend is chosen here, and why the others are not."""
    found, where = [], device()
    for mask, attention_window in (("full", 0), ("causal", 0), ("causal", 100), ("time", 0)):
        for dtype in (torch.float32, torch.bfloat16):
            refusals = {name: b.unsupported(mask, attention_window, where, dtype) for name, b in BACKENDS.items()}
            chosen = chosen_backend(mask, attention_window, where, dtype)
            name = next(name for name, b in BACKENDS.items() if b is chosen)
            precision = "bf16" if dtype == torch.bfloat16 else "fp32"
            found.append(
                {
                    "mask": mask,
                    "attention_window": attention_window,
                    "precision": precision,
                    "device": where.type,
                    "chosen": name,
                }
                | {"refusals": {k: v for k, v in refusals.items() if v}}
            )

    return found


def _backend(rows: PackedLayout, dtype: torch.dtype) -> str:
    used = {chosen_backend(r.mask, r.attention_window, device(), dtype) for r in rows.patterns}

    return "+".join(name for name, b in BACKENDS.items() if b in used)


def _inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(shape, device=device()).to(dtype).requires_grad_() for _ in range(3))

    return q, k, v


def _packed(rows: PackedLayout, heads: tuple[int, int], dtype: torch.dtype) -> Callable[[], None]:
    inputs = _inputs((len(rows.time), *heads), dtype)

    def call() -> None:
        for pattern in rows.patterns:
            torch.autograd.grad(packed_attention(*inputs, pattern).sum(), inputs)

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

"""``ndt bench attention``: packed attention beside padded scaled-dot-product attention, forward and backward."""

from collections.abc import Callable
from itertools import product
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
from ndt.model.attention_patterns import PackedLayout, packed_layout
from ndt.model.kernels import BACKENDS
from ndt.train.memory import keep_freed_memory

__all__ = ["attention", "list_backends"]

ORDERS, PEER = ("axial", "joint"), "padded_sdpa"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
MASKS = (("full", 0), ("causal", 0), ("causal", 100), ("time", 0))  # with attention windows in bins; 0 is unlimited


def attention(config: BenchConfig, *, sequences: int = 30, longest: int = 1500) -> list[dict[str, Any]]:
    """Measures tokens/s of attention alone, at the preset's width and number of heads, for each order of attention."""
    model, where, dtype = preset(config.preset).model, device(), PRECISIONS[config.precision]
    keep_freed_memory()  # as the trainer does
    batch = ragged(model.units_per_patch, sequences=sequences, longest=longest).batch.to(where)
    heads = (model.num_heads, model.width // model.num_heads)
    parts = padded(batch, PARTS if where.type == "cpu" else batch.num_windows)
    layouts = {x: packed_layout(batch.window, batch.time, batch.slot, batch.num_windows, order=x) for x in ORDERS}
    calls = {order: _packed(layouts[order], heads, dtype) for order in ORDERS} | {PEER: _padded(parts, heads, dtype)}
    seconds = interleaved(calls, config.repeats)
    patterns = {x: len(layouts[x].patterns) for x in ORDERS}  # a call computes all of them, a layer one
    rates = {x: [batch.num_tokens * patterns.get(x, 1) / s for s in taken] for x, taken in seconds.items()}
    names = {x: f"attention.{x}.{_backend(layouts[x], dtype)}.{config.precision}" for x in ORDERS}

    return [row(names[x], rates[x], "tokens/s", PEER, rates[PEER]) for x in ORDERS]


def list_backends() -> list[dict[str, Any]]:
    """Returns for each mask and precision the backend that this machine uses, and why it refuses the others."""
    found, where = [], device()
    for (mask, attention_window), (precision, dtype) in product(MASKS, PRECISIONS.items()):
        refusals = {name: b.unsupported(mask, attention_window, where, dtype) for name, b in BACKENDS.items()}
        chosen = chosen_backend(mask, attention_window, where, dtype)
        found.append({
            "mask": mask, "attention_window": attention_window, "precision": precision, "device": where.type,
            "chosen": next(name for name, b in BACKENDS.items() if b is chosen),
            "refusals": {k: v for k, v in refusals.items() if v},
        })  # fmt: skip

    return found


def _backend(layout: PackedLayout, dtype: torch.dtype) -> str:
    used = {chosen_backend(r.mask, r.attention_window, device(), dtype) for r in layout.patterns}

    return "+".join(name for name, b in BACKENDS.items() if b in used)


def _inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(shape, device=device()).to(dtype).requires_grad_() for _ in range(3))

    return q, k, v


def _packed(layout: PackedLayout, heads: tuple[int, int], dtype: torch.dtype) -> Callable[[], None]:
    inputs = _inputs((len(layout.time), *heads), dtype)

    def call() -> None:
        for pattern in layout.patterns:
            torch.autograd.grad(packed_attention(*inputs, pattern).sum(), inputs)

    return call


def _padded(parts: list[Padded], heads: tuple[int, int], dtype: torch.dtype) -> Callable[[], None]:
    H, E = heads
    inputs = [_inputs((len(p.time), H, p.time.shape[1], E), dtype) for p in parts]

    def call() -> None:
        for p, qkv in zip(parts, inputs, strict=True):
            out = F.scaled_dot_product_attention(*qkv, attn_mask=p.attended)
            torch.autograd.grad(out.sum(), qkv)

    return call

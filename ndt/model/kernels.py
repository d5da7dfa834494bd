"""Kernels for packed attention, one class each; `ndt.model.attention` takes the first in `BACKENDS` that has the mask.

On CUDA: xformers, torch's `varlen_attn` and FlexAttention, each for the masks that it supports. On every device:
scaled-dot-product attention, one call for each run of sequences of equal size.
"""

from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from ndt.model.attention_patterns import CONTEXT, AttentionPattern

__all__ = ["BACKENDS", "Backend", "Flex", "Sdpa", "Varlen", "Xformers"]

SHORT = 160  # keys of a sequence up to which matrix products beat the fused kernel on a CPU, by 1.3 to 4 times
FEW = 8  # keys up to which products without a copy do
HALF = (torch.float16, torch.bfloat16)

# Q = queries of all sequences, K = keys of all sequences, H = heads, E = dimensions of a head; in one run of equal
# sequences: c = sequences, n = queries of each, m = keys of each


@runtime_checkable
class Backend(Protocol):
    """A kernel for packed attention."""

    def unsupported(self, mask: str, attention_window: int, device: torch.device, dtype: torch.dtype) -> str:
        """Returns why the kernel does not support this attention; empty if it does."""
        ...

    def attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: AttentionPattern) -> Tensor:
        """Returns (Q, H, E) for queries (Q, H, E), and keys and values (K, H, E), ordered by sequence."""
        ...


class Xformers:
    """`xformers.ops.memory_efficient_attention` with block-diagonal biases."""

    def unsupported(self, mask: str, attention_window: int, device: torch.device, dtype: torch.dtype) -> str:
        if device.type != "cuda":
            return "xformers has kernels for CUDA only"
        if mask == "time" or attention_window:
            return _index_masks_only("xformers' block-diagonal biases", mask)

        return "" if _xformers() is not None else "xformers is not installed, or does not import"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: AttentionPattern) -> Tensor:
        ops = _xformers()
        bias = pattern.cache.get("xformers")
        if bias is None:
            bias = pattern.cache["xformers"] = xformers_bias(pattern)

        return cast("Tensor", ops.memory_efficient_attention(q[None], k[None], v[None], attn_bias=bias)[0])


def xformers_bias(pattern: AttentionPattern) -> Any:
    """Returns xformers' bias for the masks ``full`` and ``causal``."""
    from xformers.ops.fmha import attn_bias

    sizes = (pattern.queries.lengths.tolist(), pattern.keys.lengths.tolist())
    bias = attn_bias.BlockDiagonalMask.from_seqlens(*sizes, device=pattern.queries.time.device)

    return bias.make_causal_from_bottomright() if pattern.mask == "causal" else bias


class Varlen:
    """`torch.nn.attention.varlen.varlen_attn`, FlashAttention over packed sequences."""

    def unsupported(self, mask: str, attention_window: int, device: torch.device, dtype: torch.dtype) -> str:
        if device.type != "cuda":
            return "varlen_attn has kernels for CUDA only"
        if dtype not in HALF:
            return f"varlen_attn takes float16 and bfloat16, not {str(dtype).removeprefix('torch.')}"
        if mask == "time" or attention_window:
            return _index_masks_only("varlen_attn", mask)
        try:
            from torch.nn.attention import varlen  # noqa: F401
        except ImportError:
            return "this torch has no varlen_attn"

        return ""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: AttentionPattern) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        queries, keys = pattern.queries, pattern.keys
        window = (-1, 0) if pattern.mask == "causal" else (-1, -1)  # FlashAttention's causal mask is aligned at the end
        sizes = (queries.offsets, keys.offsets, queries.max_length, keys.max_length)

        return cast("Tensor", varlen_attn(q, k, v, *sizes, window_size=window))


class Flex:
    """`torch.nn.attention.flex_attention`: compiles a kernel for any mask, which takes a minute at the first call."""

    def unsupported(self, mask: str, attention_window: int, device: torch.device, dtype: torch.dtype) -> str:
        return "" if device.type == "cuda" else "FlexAttention has a backward pass on CUDA only"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: AttentionPattern) -> Tensor:
        from torch.nn.attention.flex_attention import flex_attention

        block_mask = pattern.cache.get("flex")
        if block_mask is None:
            block_mask = pattern.cache["flex"] = flex_mask(pattern)
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # (1, H, length, E)
        out = _compiled("flex", flex_attention)(q, k, v, block_mask=block_mask)

        return cast("Tensor", out[0].transpose(0, 1))


def flex_mask(pattern: AttentionPattern) -> Any:
    """Returns FlexAttention's block mask for a pattern."""
    from torch.nn.attention.flex_attention import create_block_mask

    queries, keys, device = pattern.queries, pattern.keys, pattern.queries.time.device
    numbers = torch.arange(len(queries.lengths), device=device)
    sequence_q, sequence_k = (numbers.repeat_interleave(s.lengths.to(device)) for s in (queries, keys))
    end_q, end_k = queries.offsets[1:].long(), keys.offsets[1:].long()

    def allowed(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        allowed = sequence_q[i] == sequence_k[j]
        if pattern.mask == "causal":  # both indices count from the end of their sequence
            allowed = allowed & (end_k[sequence_k[j]] - j >= end_q[sequence_q[i]] - i)
        elif pattern.mask == "time":
            allowed = allowed & (keys.time[j] <= queries.time[i])
        if pattern.attention_window:
            near = keys.time[j] > queries.time[i] - pattern.attention_window
            allowed = allowed & ((keys.time[j] == CONTEXT) | near)

        return allowed

    # Compiled, it never materialises the mask of all pairs.
    make = _compiled("mask", create_block_mask) if device.type == "cuda" else create_block_mask

    return make(allowed, None, None, len(queries.time), len(keys.time), device=device)


class Sdpa:
    """`torch.nn.functional.scaled_dot_product_attention`, one call for each run of sequences of equal size.

    Sequences sorted by length form few runs: thousands of short sequences take a handful of calls. On a CPU it computes
    in float32 even under bfloat16 autocast, because its bfloat16 backward pass is slow for short sequences.
    """

    def unsupported(self, mask: str, attention_window: int, device: torch.device, dtype: torch.dtype) -> str:
        return ""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: AttentionPattern) -> Tensor:
        if q.device.type == "cpu" and q.dtype in HALF:
            with torch.autocast("cpu", enabled=False):
                return self._attend(q.float(), k.float(), v.float(), pattern).to(q.dtype)

        return self._attend(q, k, v, pattern)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: AttentionPattern) -> Tensor:
        runs, parts = pattern.runs, []
        sizes_q, sizes_k = [c * n for c, n, _ in runs], [c * m for c, _, m in runs]
        biases = _biases(pattern, q.dtype) if q.device.type == "cpu" else [None] * len(runs)
        split = zip(q.split(sizes_q), k.split(sizes_k), v.split(sizes_k), runs, biases, strict=True)
        for i, (q_i, k_i, v_i, (c, n, m), bias) in enumerate(split):
            if not c * n:
                continue
            if not m:
                parts.append(torch.zeros_like(q_i))
                continue
            a, b, d = q_i.unflatten(0, (c, n)), k_i.unflatten(0, (c, m)), v_i.unflatten(0, (c, m))
            if bias is not None:
                parts.append(_matrix_attention(a, b, d, bias).flatten(0, 1))
                continue
            mask = _sdpa_masks(pattern)[i]
            a, b, d = (x.transpose(1, 2) for x in (a, b, d))  # (c, H, n, E)
            causal = pattern.mask == "causal" and mask is None and n > 1
            out = F.scaled_dot_product_attention(a, b, d, attn_mask=mask, is_causal=causal)
            parts.append(out.transpose(1, 2).flatten(0, 1))

        return torch.cat(parts) if parts else torch.zeros_like(q)


def _matrix_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention of short sequences by matrix products, (c, n, H, E); the bias broadcasts to (c, H, n, m)."""
    (c, n, H, E), m = q.shape, k.shape[1]
    if m == 1:
        return v.expand_as(q)
    if m <= FEW and not bias.ndim:
        score = torch.einsum("cnhe,cmhe->cnmh", q, k) * E**-0.5
        return torch.einsum("cnmh,cmhe->cnhe", score.softmax(2), v)
    q, k, v = (x.transpose(1, 2).reshape(c * H, -1, E) for x in (q, k, v))
    score = torch.bmm(q * E**-0.5, k.transpose(1, 2)).view(c, H, n, m)
    score = score.add_(bias) if bias.ndim else score
    out = torch.bmm(score.softmax(-1).view(c * H, n, m), v)

    return out.view(c, H, n, E).transpose(1, 2)


def _biases(pattern: AttentionPattern, dtype: torch.dtype) -> list[Tensor | None]:
    """Additive masks of the runs that `_matrix_attention` computes; None for the others.

    A scalar if every query attends to every key, else (1 or c, 1, n, m). A run with a query that has no allowed key
    stays with the kernel: its softmax would be NaN.
    """
    key = f"bias {dtype}"
    if key not in pattern.cache:
        biases: list[Tensor | None] = []
        for (c, n, m), mask in zip(pattern.runs, _sdpa_masks(pattern), strict=True):
            if not c * n * m or m > SHORT:
                biases.append(None)
                continue
            if mask is None and pattern.mask == "causal" and n > 1:
                mask = torch.ones(1, 1, n, m, dtype=torch.bool).tril()
            bias = torch.zeros(() if mask is None else mask.shape, dtype=dtype)
            if mask is not None:
                bias.masked_fill_(~mask, -torch.inf)
            biases.append(bias if mask is None or bool(mask.any(-1).all()) else None)
        pattern.cache[key] = biases

    return cast("list[Tensor | None]", pattern.cache[key])


def _sdpa_masks(pattern: AttentionPattern) -> list[Tensor | None]:
    """One mask for each run, (1 or c, 1, n, m), built once for all layers; None if the kernel needs none."""
    if "sdpa" not in pattern.cache:
        masks: list[Tensor | None] = []
        times = (
            pattern.queries.time.split([c * n for c, n, _ in pattern.runs]),
            pattern.keys.time.split([c * m for c, _, m in pattern.runs]),
        )
        for query_time, key_time, (c, n, m) in zip(*times, pattern.runs, strict=True):
            plain = not pattern.attention_window and (pattern.mask == "full" or (pattern.mask == "causal" and n == m))
            if plain or not c * n * m:
                masks.append(None)
                continue
            if pattern.mask == "causal" and not pattern.attention_window:
                query_time, key_time, c = query_time[:n], key_time[:m], 1  # the same for every sequence of the run
            masks.append(pattern.allowed(query_time.view(c, n), key_time.view(c, m))[:, None])
        pattern.cache["sdpa"] = masks

    return cast("list[Tensor | None]", pattern.cache["sdpa"])


def _index_masks_only(name: str, mask: str) -> str:
    wanted = "the mask by time" if mask == "time" else "an attention window in bins with context tokens"

    return f"{name} support masks by index in the sequence, not {wanted}"


def _xformers() -> Any:
    """xformers.ops, or None. The import takes seconds, and can raise any error if torch has another version."""
    if "xformers" not in _LOADED:
        try:
            import xformers.ops as ops
        except Exception:
            ops = None
        _LOADED["xformers"] = ops

    return _LOADED["xformers"]


def _compiled(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if name not in _LOADED:
        _LOADED[name] = torch.compile(function, dynamic=True)

    return cast("Callable[..., Any]", _LOADED[name])


_LOADED: dict[str, Any] = {}

BACKENDS: dict[str, Backend] = {"xformers": Xformers(), "varlen": Varlen(), "flex": Flex(), "sdpa": Sdpa()}

"""Kernels for packed attention, one class each. `ndt.model.attention` chooses among them in the order of `BACKENDS`.

On CUDA: xformers, torch's `varlen_attn`, FlexAttention, where each can express the mask. Anywhere: scaled-dot-product
attention, one call a run of sequences of equal size.
"""

from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from ndt.model.layout import CONTEXT, AttentionPattern

__all__ = ["BACKENDS", "Backend", "Flex", "Sdpa", "Varlen", "Xformers"]

SHORT = 160  # keys of a sequence up to which plain products beat the fused kernel on a CPU: 1.3 to 4 times
FEW = 8  # and up to which products that need no copy do
HALF = (torch.float16, torch.bfloat16)


@runtime_checkable
class Backend(Protocol):
    """A kernel for packed attention."""

    def refusal(self, mask: str, attention_window: int, device: torch.device, dtype: torch.dtype) -> str:
        """Returns why it cannot do this, or nothing where it can."""
        ...

    def attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: AttentionPattern) -> Tensor:
        """Returns (Q, H, E) for queries (Q, H, E), and keys and values (K, H, E), laid out as the route's sequences."""
        ...


class Xformers:
    """`xformers.ops.memory_efficient_attention` with block-diagonal biases."""

    def refusal(self, mask: str, attention_window: int, device: torch.device, dtype: torch.dtype) -> str:
        if device.type != "cuda":
            return "xformers has kernels for CUDA only"
        if mask == "time" or attention_window:
            return _token_causal("xformers' block-diagonal biases", mask)

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

    def refusal(self, mask: str, attention_window: int, device: torch.device, dtype: torch.dtype) -> str:
        if device.type != "cuda":
            return "varlen_attn has kernels for CUDA only"
        if dtype not in HALF:
            return f"varlen_attn takes float16 and bfloat16, not {str(dtype).removeprefix('torch.')}"
        if mask == "time" or attention_window:
            return _token_causal("varlen_attn", mask)
        try:
            from torch.nn.attention import varlen  # noqa: F401
        except ImportError:
            return "this torch has no varlen_attn"

        return ""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: AttentionPattern) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        queries, keys = pattern.queries, pattern.keys
        window = (-1, 0) if pattern.mask == "causal" else (-1, -1)  # FlashAttention's causal mask ends at the last key
        out = varlen_attn(q, k, v, queries.ends, keys.ends, queries.longest, keys.longest, window_size=window)

        return cast("Tensor", out)


class Flex:
    """`torch.nn.attention.flex_attention`: compiles a kernel for any mask; a minute at the first call."""

    def refusal(self, mask: str, attention_window: int, device: torch.device, dtype: torch.dtype) -> str:
        return "" if device.type == "cuda" else "FlexAttention has a backward pass on CUDA only"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: AttentionPattern) -> Tensor:
        block_mask = pattern.cache.get("flex")
        if block_mask is None:
            block_mask = pattern.cache["flex"] = flex_mask(pattern)
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # (1, H, length, E)

        return cast("Tensor", _flex()(q, k, v, block_mask=block_mask)[0].transpose(0, 1))


def flex_mask(pattern: AttentionPattern) -> Any:
    """Returns FlexAttention's block mask for a route."""
    from torch.nn.attention.flex_attention import create_block_mask

    device = pattern.queries.time.device
    numbers = torch.arange(len(pattern.queries.lengths), device=device)
    owner, other = (numbers.repeat_interleave(s.lengths.to(device)) for s in (pattern.queries, pattern.keys))
    at, since = pattern.queries.time, pattern.keys.time
    end_q, end_k = pattern.queries.ends[1:].long(), pattern.keys.ends[1:].long()

    def seen(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        found = owner[i] == other[j]
        if pattern.mask == "causal":  # both counted from the end of their sequence
            found = found & (end_k[other[j]] - j >= end_q[owner[i]] - i)
        elif pattern.mask == "time":
            found = found & (since[j] <= at[i])
        if pattern.attention_window:
            found = found & ((since[j] == CONTEXT) | (since[j] > at[i] - pattern.attention_window))

        return found

    make = _compiled("mask", create_block_mask) if device.type == "cuda" else create_block_mask

    return make(seen, None, None, len(at), len(since), device=device)  # compiled, no mask of all pairs is ever made


class Sdpa:
    """`torch.nn.functional.scaled_dot_product_attention`, one call a run of sequences of equal size.

    Sorted routes have few runs, so that thousands of short sequences are a handful of calls. On CPU it computes in
    float32 also where the matrix products around it are bfloat16: its backward pass is slow for short sequences there.
    """

    def refusal(self, mask: str, attention_window: int, device: torch.device, dtype: torch.dtype) -> str:
        return ""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: AttentionPattern) -> Tensor:
        dtype = q.dtype
        if q.device.type == "cpu" and dtype in HALF:
            with torch.autocast("cpu", enabled=False):
                return self._attend(q.float(), k.float(), v.float(), pattern).to(dtype)

        return self._attend(q, k, v, pattern)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: AttentionPattern) -> Tensor:
        runs, parts = pattern.runs, []
        sizes_q, sizes_k = [c * n for c, n, _ in runs], [c * m for c, _, m in runs]
        short = _biases(pattern, q.dtype) if q.device.type == "cpu" else [None] * len(runs)
        split = zip(q.split(sizes_q), k.split(sizes_k), v.split(sizes_k), runs, short, strict=True)
        for i, (q_i, k_i, v_i, (c, n, m), bias) in enumerate(split):
            if not c * n:
                continue
            if not m:
                parts.append(torch.zeros_like(q_i))
                continue
            a, b, d = q_i.unflatten(0, (c, n)), k_i.unflatten(0, (c, m)), v_i.unflatten(0, (c, m))
            if bias is not None:
                parts.append(_short(a, b, d, bias).flatten(0, 1))
                continue
            mask = _sdpa_masks(pattern)[i]
            a, b, d = (x.transpose(1, 2) for x in (a, b, d))  # (c, H, n, E)
            causal = pattern.mask == "causal" and mask is None and n > 1
            out = F.scaled_dot_product_attention(a, b, d, attn_mask=mask, is_causal=causal)
            parts.append(out.transpose(1, 2).flatten(0, 1))

        return torch.cat(parts) if parts else torch.zeros_like(q)


def _short(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention of sequences of few keys by plain products, (c, n, H, E); the bias has a shape of (…, n, m) or none."""
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
    """What is added to the scores of each run that plain products attend faster; None of the others.

    A scalar where every query reads every key, else (1 or c, 1, n, m). Queries that read nothing stay with the kernel.
    """
    key = f"short {dtype}"
    if key not in pattern.cache:
        found: list[Tensor | None] = []
        for (c, n, m), mask in zip(pattern.runs, _sdpa_masks(pattern), strict=True):
            if not c * n * m or m > SHORT:
                found.append(None)
                continue
            if mask is None and pattern.mask == "causal" and n > 1:
                mask = torch.ones(1, 1, n, m, dtype=torch.bool).tril()
            bias = torch.zeros(() if mask is None else mask.shape, dtype=dtype)
            if mask is not None:
                bias.masked_fill_(~mask, -torch.inf)
            found.append(bias if mask is None or bool(mask.any(-1).all()) else None)
        pattern.cache[key] = found

    return cast("list[Tensor | None]", pattern.cache[key])


def _sdpa_masks(pattern: AttentionPattern) -> list[Tensor | None]:
    """One mask a run, (1 or c, 1, n, m); None where the kernel needs none. Made once for all layers."""
    if "sdpa" not in pattern.cache:
        found: list[Tensor | None] = []
        times = (
            pattern.queries.time.split([c * n for c, n, _ in pattern.runs]),
            pattern.keys.time.split([c * m for c, _, m in pattern.runs]),
        )
        for at, since, (c, n, m) in zip(*times, pattern.runs, strict=True):
            plain = not pattern.attention_window and (pattern.mask == "full" or (pattern.mask == "causal" and n == m))
            if plain or not c * n * m:
                found.append(None)
                continue
            if pattern.mask == "causal" and not pattern.attention_window:
                at, since, c = at[:n], since[:m], 1  # the same in every sequence of the run
            found.append(pattern.seen(at.view(c, n), since.view(c, m))[:, None])
        pattern.cache["sdpa"] = found

    return cast("list[Tensor | None]", pattern.cache["sdpa"])


def _token_causal(name: str, mask: str) -> str:
    what = "the mask by time" if mask == "time" else "a reach in bins with context tokens"

    return f"{name} know masks by place in the sequence, not {what}"


def _xformers() -> Any:
    """xformers.ops, or None. Its import takes seconds, and fails in ways of its own where torch is another version."""
    if "xformers" not in _LOADED:
        try:
            import xformers.ops as ops
        except Exception:
            ops = None
        _LOADED["xformers"] = ops

    return _LOADED["xformers"]


def _flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return _compiled("flex", flex_attention)


def _compiled(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if name not in _LOADED:
        _LOADED[name] = torch.compile(function, dynamic=True)

    return cast("Callable[..., Any]", _LOADED[name])


_LOADED: dict[str, Any] = {}

BACKENDS: dict[str, Backend] = {"xformers": Xformers(), "varlen": Varlen(), "flex": Flex(), "sdpa": Sdpa()}

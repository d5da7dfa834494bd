"""Attention over packed sequences: one function, whatever the mask and the kernel. `ndt.model.layout` says who reads whom."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Float
from torch import Tensor

from ndt.errors import InputError
from ndt.model.kernels import BACKENDS, Backend
from ndt.model.layout import AttentionPattern

__all__ = ["attention", "chosen_backend", "using_backend"]

# L = rows of queries, M = rows of keys, H = heads, E = dimensions of one

BACKEND: ContextVar[str] = ContextVar("backend", default="auto")


@contextmanager
def using_backend(name: str) -> Iterator[None]:
    """Makes `attention` use one backend, or choose with ``auto``.

    Example:
        >>> with using_backend("sdpa"):
        ...     type(chosen_backend("time", 0, torch.device("cpu"), torch.float32)).__name__
        'Sdpa'
    """
    if name not in ("auto", *BACKENDS):
        raise InputError("settings", "attention backend", f"auto or one of {', '.join(BACKENDS)}", name)
    token = BACKEND.set(name)
    try:
        yield
    finally:
        BACKEND.reset(token)


def chosen_backend(mask: str, attention_window: int, device: torch.device, dtype: torch.dtype) -> Backend:
    """Returns the backend that `attention` uses: the one asked for, else the first that can.

    Raises:
        InputError: if the one asked for cannot, with its reason.
    """
    name = BACKEND.get()
    if name != "auto":
        reason = BACKENDS[name].refusal(mask, attention_window, device, dtype)
        if reason:
            raise InputError("settings", f"attention backend {name}", "one that can", reason)
        return BACKENDS[name]

    return next(b for b in BACKENDS.values() if not b.refusal(mask, attention_window, device, dtype))


def attention(
    q: Float[Tensor, "L H E"], k: Float[Tensor, "M H E"], v: Float[Tensor, "M H E"], pattern: AttentionPattern
) -> Float[Tensor, "L H E"]:
    """Returns scaled-dot-product attention of each query over the keys that its route lets it read.

    Nothing is padded, and no mask is larger than a sequence's queries by its keys. A query that reads nothing gets
    zeros.

    Raises:
        InputError: if the backend that `using_backend` asked for cannot express the mask, or cannot run here.
    """
    backend = chosen_backend(pattern.mask, pattern.attention_window, q.device, q.dtype)
    q = pattern.queries.lay_out(q)
    if pattern.keys is pattern.queries:
        k, v = pattern.queries.lay_out(k), pattern.queries.lay_out(v)
    elif pattern.keys.rows is not None:
        k, v = k.index_select(0, pattern.keys.rows), v.index_select(0, pattern.keys.rows)

    return pattern.queries.put_back(backend.attend(q, k, v, pattern))

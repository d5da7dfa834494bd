"""Attention over packed sequences: gathers rows by an attention pattern, and calls a kernel."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Float
from torch import Tensor

from ndt.errors import InputError
from ndt.model.attention_patterns import AttentionPattern
from ndt.model.kernels import BACKENDS, Backend

__all__ = ["attention", "chosen_backend", "using_backend"]

# L = rows of queries, M = rows of keys, H = heads, E = dimensions of a head

BACKEND: ContextVar[str] = ContextVar("backend", default="auto")


@contextmanager
def using_backend(name: str) -> Iterator[None]:
    """Makes `attention` use the named backend within the context; ``auto`` lets it choose.

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
    """Returns the backend that `attention` uses: the one of `using_backend`, else the first that supports the mask.

    Raises:
        InputError: if the backend of `using_backend` does not support it; the error gives the reason.
    """
    name = BACKEND.get()
    if name == "auto":
        return next(b for b in BACKENDS.values() if not b.unsupported(mask, attention_window, device, dtype))
    if reason := BACKENDS[name].unsupported(mask, attention_window, device, dtype):
        raise InputError("settings", f"attention backend {name}", "a backend that supports this attention", reason)

    return BACKENDS[name]


def attention(
    q: Float[Tensor, "L H E"], k: Float[Tensor, "M H E"], v: Float[Tensor, "M H E"], pattern: AttentionPattern
) -> Float[Tensor, "L H E"]:
    """Returns scaled-dot-product attention of each query over the keys that the pattern allows.

    Nothing is padded, and no mask is larger than the queries of a sequence times its keys. A query without an allowed
    key gets zeros.

    Raises:
        InputError: if the backend of `using_backend` does not support the mask, or this device or precision.
    """
    backend = chosen_backend(pattern.mask, pattern.attention_window, q.device, q.dtype)
    q = pattern.queries.gather(q)
    if pattern.keys is pattern.queries:
        k, v = pattern.queries.gather(k), pattern.queries.gather(v)
    elif pattern.keys.rows is not None:
        k, v = k.index_select(0, pattern.keys.rows), v.index_select(0, pattern.keys.rows)

    return pattern.queries.scatter(backend.attend(q, k, v, pattern))

"""Attention over packed sequences: one function, whatever the mask and the kernel.

Rows of a packed tensor are tokens of many sequences. A `Route` says which rows make up which sequence, and who reads
whom. Three masks suffice:

- ``full``: a query reads all keys of its sequence.
- ``causal``: by place. The last query reads all keys, each earlier one reads one key less. Keys put before the queries
  (context tokens) are thus read by all. Every fused kernel knows this mask.
- ``time``: by bin. A query reads the keys whose bin is not later than its own; context tokens, whose bin is `CONTEXT`,
  are read by all and read only each other. NDT2's mask, which no fused kernel but FlexAttention knows.

A query may also read no further back than `Route.reach` bins.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ndt.backends import BACKENDS, Backend
from ndt.errors import InputError

__all__ = ["CONTEXT", "MASKS", "Route", "Sequences", "attention", "chosen_backend", "using_backend"]

CONTEXT = -1  # bin of context tokens, before every bin
MASKS = ("full", "causal", "time")

# L = rows of queries, M = rows of keys, Q and K = the same as sequences lay them out, H = heads, E = dimensions of one


class _Permuted(torch.autograd.Function):
    """Rows in another order, each once: `index_select` cannot know that, and adds gradients up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)

        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inverse,), (gradient,) = ctx.saved_tensors, gradients

        return gradient.index_select(0, inverse), None, None


def _permuted(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    permuted: Tensor = _Permuted.apply(x, order, inverse)  # type: ignore[no-untyped-call]

    return permuted


@dataclass(eq=False)
class Sequences:
    """Sequences of rows of a packed tensor.

    Arguments:
        lengths: Tokens of each sequence, on the CPU, shape (S,). A sequence may be empty.
        time: Bin of each token, sequence after sequence, `CONTEXT` for context tokens, shape (Q,).
        rows: Row of each token in the packed tensor, shape (Q,); None where the tensor holds the sequences as they are.
    """

    lengths: Int[Tensor, " S"]
    time: Int[Tensor, " Q"]
    rows: Int[Tensor, " Q"] | None = None

    def lay_out(self, x: Float[Tensor, "L H E"]) -> Float[Tensor, "Q H E"]:
        """Returns rows of a packed tensor, sequence after sequence; each must stand in one of them, once."""
        return x if self.rows is None else _permuted(x, self.rows, self.inverse)

    def put_back(self, x: Float[Tensor, "Q H E"]) -> Float[Tensor, "L H E"]:
        """Returns what `lay_out` returned in the order of the packed tensor."""
        return x if self.rows is None else _permuted(x, self.inverse, self.rows)

    @cached_property
    def inverse(self) -> Int[Tensor, " Q"]:
        """Where each row of the packed tensor stands in the sequences; each must stand there once."""
        assert self.rows is not None, "rows in their own order need no inverse"
        order = torch.arange(len(self.rows), device=self.rows.device)

        return torch.empty_like(self.rows).index_copy(0, self.rows, order)

    @cached_property
    def ends(self) -> Int[Tensor, " ends"]:
        """Where each sequence begins, and where the last one ends: (S + 1,) int32 on the device of `time`."""
        ends = torch.zeros(len(self.lengths) + 1, dtype=torch.int32)
        ends[1:] = self.lengths.cumsum(0)

        return ends.to(self.time.device)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.lengths.max()) if len(self.lengths) else 0


@dataclass(eq=False)
class Route:
    """Which rows read which.

    Arguments:
        queries: Sequences of the rows that read; each row stands in one of them, once.
        keys: As many sequences of the rows that are read; a row may stand in several. The same object as `queries`
            where sequences read themselves.
        mask: One of `MASKS`.
        reach: How many bins back a query reads, its own included; 0 for all. Context tokens are read from anywhere.
        bidirectional: Of the mask ``time``: whether data read all data of their sequence.
        timed: Whether tokens of one sequence are of different bins.
    """

    queries: Sequences
    keys: Sequences
    mask: str = "time"
    reach: int = 0
    bidirectional: bool = False
    timed: bool = True
    cache: dict[str, object] = field(default_factory=dict, repr=False)  # what a kernel makes once for all layers

    def __post_init__(self) -> None:
        assert self.mask in MASKS, self.mask
        assert len(self.queries.lengths) == len(self.keys.lengths), "every sequence of queries has one of keys"

    @cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        """Runs of sequences of equal size: how many, and the queries and keys of each."""
        sizes = torch.stack([self.queries.lengths, self.keys.lengths], 1)
        unique, number = sizes.unique_consecutive(dim=0, return_counts=True)

        return [(c, n, m) for c, (n, m) in zip(number.tolist(), unique.tolist(), strict=True)]

    def seen(self, query_time: Int[Tensor, "*s n"], key_time: Int[Tensor, "*s m"]) -> Bool[Tensor, "*s n m"]:
        """Returns what queries read of keys, both of whole sequences of equal size, given by their bins."""
        n, m = query_time.shape[-1], key_time.shape[-1]
        at, since = query_time[..., :, None], key_time[..., None, :]
        seen = torch.ones(*query_time.shape[:-1], n, m, dtype=torch.bool, device=query_time.device)
        if self.mask == "causal":
            seen = seen.tril(m - n)
        elif self.mask == "time":
            seen = (since == CONTEXT) | (at != CONTEXT) if self.bidirectional else since <= at
        if self.reach:
            seen = seen & ((since == CONTEXT) | (since > at - self.reach))

        return seen


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


def chosen_backend(mask: str, reach: int, device: torch.device, dtype: torch.dtype) -> Backend:
    """Returns the backend that `attention` uses: the one asked for, else the first that can.

    Raises:
        InputError: if the one asked for cannot, with its reason.
    """
    name = BACKEND.get()
    if name != "auto":
        reason = BACKENDS[name].refusal(mask, reach, device, dtype)
        if reason:
            raise InputError("settings", f"attention backend {name}", "one that can", reason)
        return BACKENDS[name]

    return next(b for b in BACKENDS.values() if not b.refusal(mask, reach, device, dtype))


def attention(
    q: Float[Tensor, "L H E"], k: Float[Tensor, "M H E"], v: Float[Tensor, "M H E"], route: Route
) -> Float[Tensor, "L H E"]:
    """Returns scaled-dot-product attention of each query over the keys that its route lets it read.

    Nothing is padded, and no mask is larger than a sequence's queries by its keys. A query that reads nothing gets
    zeros.

    Raises:
        InputError: if the backend that `using_backend` asked for cannot express the mask, or cannot run here.
    """
    backend = chosen_backend(route.mask, route.reach, q.device, q.dtype)
    q = route.queries.lay_out(q)
    if route.keys is route.queries:
        k, v = route.queries.lay_out(k), route.queries.lay_out(v)
    elif route.keys.rows is not None:
        k, v = k.index_select(0, route.keys.rows), v.index_select(0, route.keys.rows)

    return route.queries.put_back(backend.attend(q, k, v, route))

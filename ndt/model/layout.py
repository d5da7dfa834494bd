"""Who reads whom: sequences of rows of a packed tensor, and the orders in which tokens of windows read each other.

Rows of a packed tensor are tokens of many sequences. A `AttentionPattern` says which rows make up which sequence, and who reads
whom. Three masks suffice:

- ``full``: a query reads all keys of its sequence.
- ``causal``: by place. The last query reads all keys, each earlier one reads one key less. Keys put before the queries
  (context tokens) are thus read by all. Every fused kernel knows this mask.
- ``time``: by bin. A query reads the keys whose bin is not later than its own; context tokens, whose bin is `CONTEXT`,
  are read by all and read only each other. NDT2's mask, which no fused kernel but FlexAttention knows.

A query may also read no further back than `AttentionPattern.attention_window` bins.

`arrange` makes the routes of windows, in one of two orders:

- ``factorised``: layers in turn read along time (each slot of a window by itself, causal) and across a bin (all slots).
  It needs only masks that every fused kernel knows.
- ``joint`` (NDT2): one sequence a window, masked by bin, so that tokens of one bin read each other.

Context tokens stand before the data of their window, are read by all of it, and never read data of a causal model: else
the future could travel through them.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

__all__ = ["CONTEXT", "MASKS", "PackedLayout", "AttentionPattern", "Sequences", "arrange"]

CONTEXT = -1  # bin of context tokens, before every bin
MASKS = ("full", "causal", "time")

# L = rows of queries, M = rows of keys, Q and K = the same as sequences lay them out, H = heads, E = dimensions of one,
# B = windows, S = sequences, V = rows that are not context tokens


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
class AttentionPattern:
    """Which rows read which.

    Arguments:
        queries: Sequences of the rows that read; each row stands in one of them, once.
        keys: As many sequences of the rows that are read; a row may stand in several. The same object as `queries`
            where sequences read themselves.
        mask: One of `MASKS`.
        attention_window: How many bins back a query reads, its own included; 0 for all. Context tokens are read from anywhere.
        timed: Whether tokens of one sequence are of different bins.
    """

    queries: Sequences
    keys: Sequences
    mask: str = "time"
    attention_window: int = 0
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
            seen = since <= at
        if self.attention_window:
            seen = seen & ((since == CONTEXT) | (since > at - self.attention_window))

        return seen


@dataclass(eq=False)
class PackedLayout:
    """Rows of a packed tensor: window after window, in each its context tokens, then its tokens by bin and slot.

    Arguments:
        time: Bin of each row, `CONTEXT` for context tokens, shape (L,).
        lengths: Rows of each window, on the CPU, shape (B,).
        patterns: Layer i reads along ``routes[i % len(routes)]``.
    """

    time: Int[Tensor, " L"]
    lengths: Int[Tensor, " B"]
    patterns: list[AttentionPattern]
    _phases: dict[tuple[int, torch.dtype, bool], Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def data(self) -> Int[Tensor, " V"]:
        """Which rows are not context tokens."""
        return (self.time != CONTEXT).nonzero()[:, 0]

    def pattern(self, layer: int) -> AttentionPattern:
        """Returns the route of a layer."""
        return self.patterns[layer % len(self.patterns)]

    def phases(self, num: int, dtype: torch.dtype, *, key: bool) -> Complex[Tensor, "L 1 num"]:
        """Returns each row's turn at `num` frequencies, as complex numbers of length 1; of context keys, zeros.

        Angles are made in float64, since float32 loses a radian at late times; the numbers have 64 bits a part where
        `dtype` has, else 32: there are no complex numbers of bfloat16.
        """
        precision = torch.complex128 if dtype == torch.float64 else torch.complex64
        if (at := (num, precision, key)) not in self._phases:
            frequency = 1000.0 ** -(torch.arange(num, device=self.time.device, dtype=torch.float64) / num)
            angle = self.time.double()[:, None, None] * frequency  # (L, 1, num)
            length = (self.time != CONTEXT).double()[:, None, None] if key else torch.ones_like(angle)
            self._phases[at] = torch.polar(length.expand_as(angle), angle).to(precision)

        return self._phases[at]


def arrange(
    window: Int[Tensor, " L"],
    time: Int[Tensor, " L"],
    slot: Int[Tensor, " L"],
    num_windows: int,
    *,
    order: str,
    causal: bool = True,
    attention_window: int = 0,
) -> PackedLayout:
    """Returns how rows are read that lie as `PackedLayout` says.

    Arguments:
        window: Window of each row, ascending.
        time: Bin of each row within its window.
        slot: Slot of each row; of context tokens, any.
        num_windows: Windows B.
        order: ``factorised`` or ``joint``.
        causal: Whether data read only their past and present; ``joint`` is always causal.
        attention_window: How many bins back a row reads, its own included; 0 for all.
    """
    lengths = torch.bincount(window, minlength=num_windows).cpu()
    if order == "factorised":
        mask = "causal" if causal else "full"
        patterns = [_along(window, time, slot, lengths, mask, attention_window), _within(window, time, lengths)]
    else:
        rows = Sequences(lengths, time)
        patterns = [AttentionPattern(rows, rows, "time", attention_window)]

    return PackedLayout(time, lengths, patterns)


def _along(
    window: Tensor, time: Tensor, slot: Tensor, lengths: Tensor, mask: str, attention_window: int
) -> AttentionPattern:
    """Each slot of a window along time, its keys preceded by the window's context tokens."""
    data = (time != CONTEXT).nonzero()[:, 0]
    key = window[data] * (int(slot.max()) + 1 if len(slot) else 1) + slot[data]
    key, order = key.sort(stable=True)  # by bin within a slot, as they lay
    _, number = key.unique_consecutive(return_counts=True)
    rows = data[order]
    of = window[rows[number.cumsum(0) - number]]  # window of each sequence

    return _route(rows, number, of, window, time, lengths, mask, attention_window, prefix=True)


def _within(window: Tensor, time: Tensor, lengths: Tensor) -> AttentionPattern:
    """Each bin of a window."""
    rows = (time != CONTEXT).nonzero()[:, 0]
    key = window[rows] * (int(time.max()) + 1 if len(time) else 1) + time[rows]
    _, number = key.unique_consecutive(return_counts=True)
    of = window[rows[number.cumsum(0) - number]]

    return _route(rows, number, of, window, time, lengths, "full", 0, prefix=False)


def _route(
    rows: Tensor,
    number: Tensor,
    of: Tensor,
    window: Tensor,
    time: Tensor,
    lengths: Tensor,
    mask: str,
    attention_window: int,
    *,
    prefix: bool,
) -> AttentionPattern:
    """Sequences of data rows, sorted by their length, and after them one of each window's context tokens.

    Arguments:
        rows: Data rows, sequence after sequence.
        number: Rows of each sequence.
        of: Window of each sequence.
        window: Window of all rows.
        time: Bin of all rows.
        lengths: Rows of each window.
        mask: Of the route.
        attention_window: Of the route.
        prefix: Whether sequences of data read the context tokens of their window.
    """
    starts = (lengths.cumsum(0) - lengths).to(rows.device)  # where each window's context tokens begin
    contexts = torch.bincount(window[time == CONTEXT], minlength=len(lengths))
    sized = torch.argsort(number * (int(contexts.max()) + 1 if len(contexts) else 1) + contexts[of], stable=True)
    begin, number, of = (number.cumsum(0) - number)[sized], number[sized], of[sized]

    pool = torch.cat([rows, torch.arange(len(window), device=rows.device)])  # data rows, then rows by their place
    own, size = torch.cat([begin, len(rows) + starts]), torch.cat([number, contexts])
    query_rows = pool[_ragged(own, size)]
    queries = Sequences(size.cpu(), time[query_rows], query_rows)
    if not prefix:
        return AttentionPattern(queries, queries, mask, attention_window, timed=False)
    read = torch.stack([torch.cat([len(rows) + starts[of], own[len(of) :]]), own], 1).flatten()
    amount = torch.stack([torch.cat([contexts[of], torch.zeros_like(contexts)]), size], 1)
    key_rows = pool[_ragged(read, amount.flatten())]

    return AttentionPattern(queries, Sequences(amount.sum(1).cpu(), time[key_rows], key_rows), mask, attention_window)


def _ragged(start: Int[Tensor, " S"], length: Int[Tensor, " S"]) -> Int[Tensor, " L"]:
    """Returns ``start[i], start[i] + 1, …`` of each length, one after another."""
    shift = start - (length.cumsum(0) - length)

    return shift.repeat_interleave(length) + torch.arange(int(length.sum()), device=start.device)

"""Attention patterns: which tokens attend to which, for many windows packed into one tensor without padding.

A packed tensor holds window after window; in each, first its context tokens (session, subject, task), then its data
tokens (a patch of units in a bin), ordered by bin and slot. Queries attend to keys of the same sequence only. An
`AttentionPattern` lists the sequences of queries and of keys, and one of three masks within a sequence:

- ``full``: a query attends to all keys of its sequence.
- ``causal``: by index, aligned at the end. The last query attends to all keys, each earlier query to one key less. Keys
  placed before the first query (context tokens) are therefore visible to every query. Every fused kernel has this mask.
- ``time``: by bin. A query attends to keys of its own and earlier bins. Context tokens have bin `CONTEXT`, before all
  others: every query attends to them, and they attend only to each other. Only FlexAttention has this mask fused.

With an attention window of w bins, a query attends to no data token more than w - 1 bins back.

`packed_layout` returns the patterns of a model's layers, for one of two orders:

- ``axial`` (ours): two layers over time, then one over space, and so on. Over time, the tokens of one slot of a window
  attend to themselves and to earlier bins of that slot, and to the window's context tokens; over space, all tokens of
  one bin attend to each other. Both masks exist in every fused kernel.
- ``joint`` (NDT2): each window is one sequence with the mask ``time``, so that a token attends to all slots of its own
  and of earlier bins.

Context tokens attend to context tokens of their window (over time, if causal, to themselves and those before) and never
to data tokens: otherwise they would carry information from the future to the past.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

__all__ = ["CONTEXT", "MASKS", "AttentionPattern", "PackedLayout", "Sequences", "packed_layout"]

CONTEXT = -1  # bin of context tokens, before every bin
MASKS = ("full", "causal", "time")

# L = rows of the packed tensor, Q = rows ordered by sequence, H = heads, E = dimensions of a head, B = windows,
# S = sequences, V = data rows


class _Permuted(torch.autograd.Function):
    """Rows in another order, each once. The gradient of `index_select` would be accumulated; this one is permuted."""

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
        rows: Row of each token in the packed tensor, shape (Q,); None if the tensor is ordered by sequence already.
    """

    lengths: Int[Tensor, " S"]
    time: Int[Tensor, " Q"]
    rows: Int[Tensor, " Q"] | None = None

    def gather(self, x: Float[Tensor, "L H E"]) -> Float[Tensor, "Q H E"]:
        """Returns rows of a packed tensor ordered by sequence; each row must belong to exactly one sequence."""
        return x if self.rows is None else _permuted(x, self.rows, self.inverse)

    def scatter(self, x: Float[Tensor, "Q H E"]) -> Float[Tensor, "L H E"]:
        """Inverts `gather`: returns rows in the order of the packed tensor."""
        return x if self.rows is None else _permuted(x, self.inverse, self.rows)

    @cached_property
    def inverse(self) -> Int[Tensor, " Q"]:
        """Index into `rows` of each row of the packed tensor."""
        assert self.rows is not None, "rows in their own order need no inverse"
        order = torch.arange(len(self.rows), device=self.rows.device)

        return torch.empty_like(self.rows).index_copy(0, self.rows, order)

    @cached_property
    def offsets(self) -> Int[Tensor, " offsets"]:
        """First token of each sequence, and the end of the last: (S + 1,) int32 on the device of `time`."""
        offsets = torch.zeros(len(self.lengths) + 1, dtype=torch.int32)
        offsets[1:] = self.lengths.cumsum(0)

        return offsets.to(self.time.device)

    @cached_property
    def max_length(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.lengths.max()) if len(self.lengths) else 0


@dataclass(eq=False)
class AttentionPattern:
    """Which queries attend to which keys.

    Arguments:
        queries: Sequences of queries; each row of the packed tensor belongs to exactly one.
        keys: As many sequences of keys; a row may belong to several. For self-attention within the sequences it is the
            same object as `queries`.
        mask: One of `MASKS`.
        attention_window: Number of bins that a query attends to, its own included, besides context
            tokens; 0 for all.
        timed: Whether the tokens of a sequence have different bins.
    """

    queries: Sequences
    keys: Sequences
    mask: str = "time"
    attention_window: int = 0
    timed: bool = True
    cache: dict[str, object] = field(default_factory=dict, repr=False)  # masks that a kernel builds once for all layers

    def __post_init__(self) -> None:
        assert self.mask in MASKS, self.mask
        assert len(self.queries.lengths) == len(self.keys.lengths), "every sequence of queries has one of keys"

    @cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        """Runs of adjacent sequences of equal size: (sequences, queries of each, keys of each)."""
        sizes = torch.stack([self.queries.lengths, self.keys.lengths], 1)
        unique, number = sizes.unique_consecutive(dim=0, return_counts=True)

        return [(c, n, m) for c, (n, m) in zip(number.tolist(), unique.tolist(), strict=True)]

    def allowed(self, query_time: Int[Tensor, "*s n"], key_time: Int[Tensor, "*s m"]) -> Bool[Tensor, "*s n m"]:
        """Returns the attention mask, True for allowed pairs, of whole sequences of equal size, given by their bins."""
        n, m = query_time.shape[-1], key_time.shape[-1]
        query, key = query_time[..., :, None], key_time[..., None, :]
        allowed = torch.ones(*query_time.shape[:-1], n, m, dtype=torch.bool, device=query_time.device)
        if self.mask == "causal":
            allowed = allowed.tril(m - n)
        elif self.mask == "time":
            allowed = key <= query
        if self.attention_window:
            allowed = allowed & ((key == CONTEXT) | (key > query - self.attention_window))

        return allowed


@dataclass(eq=False)
class PackedLayout:
    """Positions of the rows of a packed tensor in time and windows, and the attention patterns of the layers.

    Arguments:
        time: Bin of each row, `CONTEXT` for context tokens, shape (L,).
        lengths: Rows of each window, on the CPU, shape (B,).
        patterns: Layer i has the pattern ``patterns[i % len(patterns)]``.
    """

    time: Int[Tensor, " L"]
    lengths: Int[Tensor, " B"]
    patterns: list[AttentionPattern]
    _phases: dict[tuple[int, torch.dtype, bool], Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def data(self) -> Int[Tensor, " V"]:
        """Indices of the data rows."""
        return (self.time != CONTEXT).nonzero()[:, 0]

    def pattern(self, layer: int) -> AttentionPattern:
        """Returns the attention pattern of a layer."""
        return self.patterns[layer % len(self.patterns)]

    def phases(self, num: int, dtype: torch.dtype, *, key: bool) -> Complex[Tensor, "L 1 num"]:
        """Returns the rotary phases of each row at `num` frequencies: unit complex numbers, or zero for context keys.

        Angles are computed in float64, since float32 loses a radian at late times. The parts of the result have 64 bits
        if `dtype` has, else 32: torch has no complex numbers of bfloat16.
        """
        precision = torch.complex128 if dtype == torch.float64 else torch.complex64
        if (cached := (num, precision, key)) not in self._phases:
            frequency = 1000.0 ** -(torch.arange(num, device=self.time.device, dtype=torch.float64) / num)
            angle = self.time.double()[:, None, None] * frequency  # (L, 1, num)
            length = (self.time != CONTEXT).double()[:, None, None] if key else torch.ones_like(angle)
            self._phases[cached] = torch.polar(length.expand_as(angle), angle).to(precision)

        return self._phases[cached]


def packed_layout(
    window: Int[Tensor, " L"],
    time: Int[Tensor, " L"],
    slot: Int[Tensor, " L"],
    num_windows: int,
    *,
    order: str,
    causal: bool = True,
    attention_window: int = 0,
) -> PackedLayout:
    """Returns the layout of a packed tensor.

    Arguments:
        window: Window of each row, ascending.
        time: Bin of each row within its window.
        slot: Slot of each row; ignored for context tokens.
        num_windows: Windows B.
        order: ``axial`` or ``joint``.
        causal: Whether data tokens attend to their past and present only; ``joint`` is always causal.
        attention_window: Number of bins that a token attends to, its own included; 0 for all.
    """
    lengths = torch.bincount(window, minlength=num_windows).cpu()
    if order == "joint":
        rows = Sequences(lengths, time)
        return PackedLayout(time, lengths, [AttentionPattern(rows, rows, "time", attention_window)])
    over_time, over_space = (_data_sequences(window, time, index) for index in (slot, time))
    queries, keys = _with_contexts(*over_time, window, time, lengths)
    within_bin, _ = _with_contexts(*over_space, window, time, lengths)
    mask = "causal" if causal else "full"

    timed = AttentionPattern(queries, keys, mask, attention_window)

    return PackedLayout(time, lengths, [timed, timed, AttentionPattern(within_bin, within_bin, "full", timed=False)])


def _data_sequences(window: Tensor, time: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Data rows that share window and `index` (their slot, or their bin): rows by sequence, and sequence lengths."""
    rows = (time != CONTEXT).nonzero()[:, 0]
    key = window[rows] * (int(index.max()) + 1 if len(index) else 1) + index[rows]
    key, order = key.sort(stable=True)  # rows of a sequence stay in the order of their bins and slots
    _, number = key.unique_consecutive(return_counts=True)

    return rows[order], number


def _with_contexts(
    rows: Tensor, number: Tensor, window: Tensor, time: Tensor, lengths: Tensor
) -> tuple[Sequences, Sequences]:
    """Queries and keys of data sequences, sorted by length, then of one sequence of context tokens for each window.

    Keys of a data sequence are its window's context tokens and the sequence itself.

    Arguments:
        rows: Data rows, sequence after sequence.
        number: Rows of each data sequence.
        window: Window of all rows.
        time: Bin of all rows.
        lengths: Rows of each window.
    """
    starts = (lengths.cumsum(0) - lengths).to(rows.device)  # first context token of each window
    contexts = torch.bincount(window[time == CONTEXT], minlength=len(lengths))
    begin = number.cumsum(0) - number
    owner = window[rows[begin]]  # window of each sequence
    by_size = torch.argsort(number * (int(contexts.max()) + 1 if len(contexts) else 1) + contexts[owner], stable=True)
    begin, number, owner = begin[by_size], number[by_size], owner[by_size]

    pool = torch.cat([rows, torch.arange(len(window), device=rows.device)])  # data rows, then all rows by their index
    first, size = torch.cat([begin, len(rows) + starts]), torch.cat([number, contexts])
    query_rows = pool[_ranges(first, size)]
    key_first = torch.stack([torch.cat([len(rows) + starts[owner], first[len(owner) :]]), first], 1).flatten()
    key_size = torch.stack([torch.cat([contexts[owner], torch.zeros_like(contexts)]), size], 1)
    key_rows = pool[_ranges(key_first, key_size.flatten())]

    return (
        Sequences(size.cpu(), time[query_rows], query_rows),
        Sequences(key_size.sum(1).cpu(), time[key_rows], key_rows),
    )


def _ranges(start: Int[Tensor, " S"], length: Int[Tensor, " S"]) -> Int[Tensor, " L"]:
    """Returns ``start[i], start[i] + 1, …`` of each length, concatenated."""
    shift = start - (length.cumsum(0) - length)

    return shift.repeat_interleave(length) + torch.arange(int(length.sum()), device=start.device)

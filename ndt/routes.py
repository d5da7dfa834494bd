"""Orders in which tokens read each other: from windows, bins and slots of tokens to the routes of attention.

- ``joint`` (NDT2): one sequence a window, masked by bin, so that tokens of one bin read each other.
- ``sequential``: one sequence a window in the order (bin, slot), causal by place. Of its own bin a token reads the
  slots before its own.
- ``factorised``: layers in turn read along time (each slot of a window by itself, causal) and across a bin (all slots).

The last two need only masks that every fused kernel knows. Context tokens stand before the data of their window, are
read by all of it, and never read data of a causal model: else the future could travel through them.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Complex, Int
from torch import Tensor

from ndt.attention import CONTEXT, Route, Sequences

__all__ = ["Arrangement", "across", "arrange"]

# L = rows, S = sequences, K = context tokens of a window


@dataclass(eq=False)
class Arrangement:
    """Rows of a packed tensor: window after window, in each its context tokens, then its tokens by bin and slot.

    Arguments:
        time: Bin of each row, `CONTEXT` for context tokens, shape (L,).
        lengths: Rows of each window, on the CPU, shape (B,).
        routes: Layer i reads along ``routes[i % len(routes)]``.
    """

    time: Int[Tensor, " L"]
    lengths: Int[Tensor, " B"]
    routes: list[Route]
    _phases: dict[tuple[int, torch.dtype, bool], Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def data(self) -> Int[Tensor, " V"]:
        """Which rows are not context tokens."""
        return (self.time != CONTEXT).nonzero()[:, 0]

    def route(self, layer: int) -> Route:
        """Returns the route of a layer."""
        return self.routes[layer % len(self.routes)]

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
    reach: int = 0,
) -> Arrangement:
    """Returns how rows are read that lie as `Arrangement` says.

    Arguments:
        window: Window of each row, ascending.
        time: Bin of each row within its window.
        slot: Slot of each row; of context tokens, any.
        num_windows: Windows B.
        order: ``joint``, ``sequential`` or ``factorised``.
        causal: Whether data read only their past and present; ``sequential`` is always causal.
        reach: How many bins back a row reads, its own included; 0 for all.
    """
    lengths = torch.bincount(window, minlength=num_windows).cpu()
    if order == "factorised":
        mask = "causal" if causal else "full"
        routes = [_along(window, time, slot, lengths, mask, reach), _within(window, time, lengths)]
    else:
        rows = Sequences(lengths, time)
        mask = "time" if order == "joint" else "causal"
        routes = [Route(rows, rows, mask, reach, bidirectional=not causal)]

    return Arrangement(time, lengths, routes)


def across(queries: Arrangement, keys: Arrangement, reach: int = 0) -> Route:
    """Returns the route by which rows of one arrangement read the present and past of another's same window."""
    return Route(Sequences(queries.lengths, queries.time), Sequences(keys.lengths, keys.time), "time", reach)


def _along(window: Tensor, time: Tensor, slot: Tensor, lengths: Tensor, mask: str, reach: int) -> Route:
    """Each slot of a window along time, its keys preceded by the window's context tokens."""
    data = (time != CONTEXT).nonzero()[:, 0]
    key = window[data] * (int(slot.max()) + 1 if len(slot) else 1) + slot[data]
    key, order = key.sort(stable=True)  # by bin within a slot, as they lay
    _, number = key.unique_consecutive(return_counts=True)
    rows = data[order]
    of = window[rows[number.cumsum(0) - number]]  # window of each sequence

    return _route(rows, number, of, window, time, lengths, mask, reach, prefix=True)


def _within(window: Tensor, time: Tensor, lengths: Tensor) -> Route:
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
    reach: int,
    *,
    prefix: bool,
) -> Route:
    """Sequences of data rows, sorted by their length, and after them one of each window's context tokens.

    Arguments:
        rows: Data rows, sequence after sequence.
        number: Rows of each sequence.
        of: Window of each sequence.
        window: Window of all rows.
        time: Bin of all rows.
        lengths: Rows of each window.
        mask: Of the route.
        reach: Of the route.
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
        return Route(queries, queries, mask, reach, timed=False)
    read = torch.stack([torch.cat([len(rows) + starts[of], own[len(of) :]]), own], 1).flatten()
    amount = torch.stack([torch.cat([contexts[of], torch.zeros_like(contexts)]), size], 1)
    key_rows = pool[_ragged(read, amount.flatten())]

    return Route(queries, Sequences(amount.sum(1).cpu(), time[key_rows], key_rows), mask, reach)


def _ragged(start: Int[Tensor, " S"], length: Int[Tensor, " S"]) -> Int[Tensor, " L"]:
    """Returns ``start[i], start[i] + 1, …`` of each length, one after another."""
    shift = start - (length.cumsum(0) - length)

    return shift.repeat_interleave(length) + torch.arange(int(length.sum()), device=start.device)

"""Attention patterns are those of the docstring of `ndt.model.attention_patterns`, row by row, for ragged windows."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import reads
from strategies import seeds

from ndt.model.attention_patterns import CONTEXT, AttentionPattern, PackedLayout, packed_layout

ORDERS = ("joint", "axial")


@dataclass(frozen=True)
class Rows:
    """Rows as an arrangement lays them, each (window, bin or CONTEXT, slot), and the number of windows."""

    rows: list[tuple[int, int, int]]
    number: int


@st.composite
def laid(draw: st.DrawFn) -> Rows:
    """Windows of up to 5 bins x 3 slots, of which any token may be missing, each with 0 to 3 context tokens."""
    number, rng, rows = draw(st.integers(1, 4)), np.random.default_rng(draw(seeds)), []
    for b in range(number):
        T, S, kept = draw(st.integers(0, 5)), draw(st.integers(1, 3)), draw(st.sampled_from([0.0, 0.5, 1.0]))
        rows += [(b, CONTEXT, 0)] * draw(st.integers(0, 3))
        rows += [(b, t, s) for t in range(T) for s in range(S) if rng.random() < kept]

    return Rows(rows, number)


def arranged(some: Rows, order: str, causal: bool, attention_window: int) -> PackedLayout:
    columns = torch.tensor(some.rows, dtype=torch.int64).reshape(-1, 3).unbind(1)
    return packed_layout(*columns, some.number, order=order, causal=causal, attention_window=attention_window)


def pairs(pattern: AttentionPattern, L: int, M: int) -> torch.Tensor:
    """Allowed pairs of rows, (L, M), of a pattern's sequences; no pair may occur twice."""
    rows = [torch.arange(n) if s.rows is None else s.rows for s, n in ((pattern.queries, L), (pattern.keys, M))]
    torch.testing.assert_close(rows[0].sort().values, torch.arange(L))  # each row is a query once
    q, k = reads(pattern).nonzero().unbind(1)
    found = torch.zeros(L, M, dtype=torch.int64).index_put((rows[0][q], rows[1][k]), torch.tensor(1), accumulate=True)
    assert (found <= 1).all()
    return found.bool()


def expected(some: Rows, order: str, layer: int, causal: bool, attention_window: int) -> torch.Tensor:
    """Allowed pairs by the words of the docstring."""
    found = torch.zeros(len(some.rows), len(some.rows), dtype=torch.bool)
    for i, (window, t, slot) in enumerate(some.rows):
        for j, (other, u, place) in enumerate(some.rows):
            if window != other:
                continue
            across_bin = order == "axial" and layer % 3 == 2
            if u == CONTEXT:  # stands before data, which reads it; contexts read each other, in order where by place
                by_place = causal and not across_bin and order != "joint"
                reads_it = (t == CONTEXT and (j <= i or not by_place)) or (t != CONTEXT and not across_bin)
            elif t == CONTEXT:
                reads_it = False
            elif across_bin:
                reads_it = u == t
            else:
                same = place == slot or order != "axial"
                reads_it = same and (u <= t or not causal) and (not attention_window or u > t - attention_window)
            found[i, j] = reads_it
    return found


@pytest.mark.parametrize(
    ("order", "causal"),
    [("joint", True), ("axial", True), ("axial", False)],
)
@settings(max_examples=30)
@given(some=laid(), attention_window=st.sampled_from([0, 1, 2]))
def test_attention_patterns_are_those_of_the_docstring(order, causal, some, attention_window) -> None:
    rows, L = arranged(some, order, causal, attention_window), len(some.rows)
    assert len(rows.patterns) == (3 if order == "axial" else 1)
    for layer in range(6 if order == "axial" else 2):
        path = rows.pattern(layer)
        for laid_rows in (path.queries, path.keys):
            at = rows.time if laid_rows.rows is None else rows.time[laid_rows.rows]
            torch.testing.assert_close(laid_rows.time, at, rtol=0, atol=0)
        torch.testing.assert_close(pairs(path, L, L), expected(some, order, layer, causal, attention_window))
    torch.testing.assert_close(rows.data, torch.tensor([i for i, r in enumerate(some.rows) if r[1] != CONTEXT]).long())


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=20)
@given(some=laid())
def test_through_any_number_of_layers_no_data_token_depends_on_the_future_and_no_context_on_data(order, some) -> None:
    rows, L = arranged(some, order, causal=True, attention_window=0), len(some.rows)
    heard = torch.eye(L, dtype=torch.bool)
    for layer in range(4):
        step = pairs(rows.pattern(layer), L, L) | torch.eye(L, dtype=torch.bool)  # residual connection
        heard = (step.float() @ heard.float()) > 0
    window, time, _ = torch.tensor(some.rows, dtype=torch.int64).reshape(-1, 3).unbind(1)
    same = window[:, None] == window
    assert not heard[~same].any()
    assert not heard[same & (time > time[:, None])].any()  # contexts lie before every bin
    data = time != CONTEXT
    torch.testing.assert_close(heard[data][:, ~data], same[data][:, ~data])  # all data hears all contexts of its window


def test_axial_layers_over_time_and_over_space_together_attend_to_all_of_the_past() -> None:
    some = Rows([(0, t, s) for t in range(4) for s in range(3)], 1)
    rows = arranged(some, "axial", causal=True, attention_window=0)
    along, within = (pairs(rows.pattern(i), 12, 12).float() for i in (1, 2))
    time = torch.arange(12) // 3
    torch.testing.assert_close((within @ along) > 0, time <= time[:, None])


def test_sequences_of_axial_patterns_are_sorted_so_that_equal_ones_are_one_call() -> None:
    sizes = [3, 1, 3, 2, 1] * 40
    some = Rows([(b, t, 0) for b, n in enumerate(sizes) for t in range(n)], len(sizes))
    runs = arranged(some, "axial", causal=True, attention_window=0).pattern(0).runs
    assert [r for r in runs if r[1]] == [(80, 1, 1), (40, 2, 2), (80, 3, 3)]

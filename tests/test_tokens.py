"""Packing: each valid count is in the batch once, in its place, and nothing else is."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import windows

from ndt.tokens import Batch, Window, pack

P = 3


def entries(batch: Batch) -> list[tuple[int, ...]]:
    """(window, bin, row of unit, count, hidden) of each valid entry of a batch."""
    found = []
    for token, unit in batch.valid.nonzero().tolist():
        row = int(batch.unit[batch.member[token, unit]])
        place = (int(batch.window[token]), int(batch.time[token]), row)
        found.append((*place, int(batch.counts[token, unit]), bool(batch.hidden[token])))
    return sorted(found)


@given(some=st.lists(windows(), min_size=1, max_size=4))
def test_each_valid_count_is_packed_once(some) -> None:
    some = [replace(w, unit=w.unit + 10 * len(w.unit)) for w in some]  # windows of as many units are of one session
    batch, expected = pack(some, P), []
    for b, w in enumerate(some):
        for t, n in zip(*np.nonzero(w.valid), strict=True):
            expected.append((b, t, w.unit[n], w.counts[t, n], bool(w.hidden[t, n // P])))
    assert entries(batch) == sorted(expected)
    assert not batch.counts[~batch.valid].any()
    assert batch.valid.any(1).all()  # no token without a unit
    assert (batch.window.diff() >= 0).all()


@given(some=st.lists(windows(), min_size=1, max_size=4))
def test_bins_and_targets_stay_in_order(some) -> None:
    batch = pack(some, P)
    np.testing.assert_array_equal(batch.target, np.concatenate([w.target for w in some]))
    np.testing.assert_array_equal(batch.bin_window, np.repeat(np.arange(len(some)), [len(w.counts) for w in some]))
    row = batch.bin_index()
    torch.testing.assert_close(batch.bin_time[row], batch.time)
    torch.testing.assert_close(batch.bin_window[row], batch.window)


def test_by_hand() -> None:
    window = Window(
        counts=np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]], np.uint8),
        valid=np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]], bool),
        unit=np.array([7, 5, 6, 9]),
        context=np.array([4, 2, 0]),
    )
    batch = pack([window, window], P)
    expected = [[1, 2, 3], [4, 0, 0], [5, 0, 7], [9, 0, 0]]  # unit 3 was not there in bin 1, units 0 to 2 not in bin 2
    np.testing.assert_array_equal(batch.counts, expected * 2)
    np.testing.assert_array_equal(batch.time, [0, 0, 1, 2] * 2)
    np.testing.assert_array_equal(batch.slot, [0, 1, 0, 1] * 2)
    np.testing.assert_array_equal(batch.member, [[0, 1, 2], [3, 0, 0], [0, 0, 2], [3, 0, 0]] * 2)
    np.testing.assert_array_equal(batch.unit, [7, 5, 6, 9])  # one session, one copy of its units
    np.testing.assert_array_equal(batch.context, [[4, 2, 0]] * 2)
    np.testing.assert_array_equal(batch.window, [0] * 4 + [1] * 4)
    assert not batch.hidden.any()
    assert batch.target.shape == (6, 0)
    assert batch.num_windows == 2


def test_counts_do_not_wrap() -> None:
    full = np.full((1, 1), 255, np.uint8)
    window = Window(counts=full, valid=full > 0, unit=np.array([0]), context=np.array([0]))
    assert pack([window], P).counts.tolist() == [[255, 0, 0]]

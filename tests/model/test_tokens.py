"""A packed batch contains each valid count once, at its position, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import random_window
from strategies import windows

from ndt.errors import InputError
from ndt.model.tokens import ACTIVITY, Batch, Window, pack

P = 3


def entries(batch: Batch) -> list[tuple[int, ...]]:
    """(window, bin, row of unit, count, hidden) of each valid entry of a batch."""
    found = []
    for token, place in batch.valid.nonzero().tolist():
        row = int(batch.unit[batch.members[batch.patch[token], place]])
        where = (int(batch.window[token]), int(batch.time[token]), row)
        found.append((*where, int(batch.counts[token, place]), bool(batch.hidden[token, place])))
    return sorted(found)


@given(some=st.lists(windows(), min_size=1, max_size=4))
def test_each_valid_count_is_packed_once(some) -> None:
    some = [replace(w, unit=w.unit + 10 * len(w.unit)) for w in some]  # windows of as many units are of one session
    batch, expected = pack(some, P), []
    for b, w in enumerate(some):
        for t, n in zip(*np.nonzero(w.valid), strict=True):
            expected.append((b, t, w.unit[n], w.counts[t, n], bool(w.hidden[t, n])))
    assert entries(batch) == sorted(expected)
    assert not batch.counts[~batch.valid].any()
    assert not batch.hidden[~batch.valid].any()
    assert batch.valid.any(1).all()  # no token without a unit
    torch.testing.assert_close(
        batch.seen.int() + batch.hidden.int() + (~batch.valid).int(), torch.ones_like(batch.counts).int()
    )
    torch.testing.assert_close(batch.visible, batch.seen.any(1))
    torch.testing.assert_close(batch.predicted, batch.hidden.any(1))
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
        hidden=np.array([[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool),
    )
    batch = pack([window, replace(window, context=np.array([], np.int64), hidden=None)], P)
    expected = [[1, 2, 3], [4, 0, 0], [5, 0, 7], [9, 0, 0]]  # unit 3 was not there in bin 1, units 0 to 2 not in bin 2
    np.testing.assert_array_equal(batch.counts, expected * 2)
    np.testing.assert_array_equal(batch.time, [0, 0, 1, 2] * 2)
    np.testing.assert_array_equal(batch.slot, [0, 1, 0, 1] * 2)
    np.testing.assert_array_equal(batch.patch, [0, 1, 0, 1] * 2)  # one session, one copy of its patches
    np.testing.assert_array_equal(batch.unit, [5, 6, 7, 9])  # and of its units, sorted by row
    np.testing.assert_array_equal(batch.members, [[2, 0, 1], [3, 0, 0]])
    np.testing.assert_array_equal(batch.context, [4, 2, 0])
    np.testing.assert_array_equal(batch.context_window, [0, 0, 0])
    np.testing.assert_array_equal(batch.window, [0] * 4 + [1] * 4)
    np.testing.assert_array_equal(batch.hidden[:4], [[0, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(batch.visible, [True, False, False, True] + [True] * 4)
    np.testing.assert_array_equal(batch.predicted, [True, True, True, False] + [False] * 4)
    assert batch.target.shape == (6, 0)
    assert batch.num_windows == 2


def test_units_in_another_order_have_patches_of_their_own() -> None:
    """As shuffled units have."""
    one = Window(
        counts=np.array([[1, 2, 3, 4]], np.uint8), valid=np.ones((1, 4), bool), unit=np.arange(4), context=np.arange(1)
    )
    other = replace(one, unit=one.unit[::-1].copy(), counts=one.counts[:, ::-1].copy())
    batch = pack([one, other, one], P)
    np.testing.assert_array_equal(batch.unit, [0, 1, 2, 3])  # the units themselves are shared
    np.testing.assert_array_equal(batch.members, [[0, 1, 2], [3, 0, 0], [3, 2, 1], [0, 0, 0]])
    np.testing.assert_array_equal(batch.patch, [0, 1, 2, 3, 0, 1])
    assert entries(batch) == sorted((b, 0, n, n + 1, False) for b in range(3) for n in range(4))


def test_units_have_the_activity_of_their_session() -> None:
    """Two sessions of the same units: activity belongs to a session, and follows the order of its window."""
    rng = np.random.default_rng(0)
    one = random_window(2, 4, rng)
    activity = rng.standard_normal((2, 4, len(ACTIVITY))).astype(np.float32)
    moved = np.array([2, 0, 3, 1])
    some = [replace(one, activity=activity[0]), replace(one, activity=activity[1]), one]
    some.append(
        replace(
            one, activity=activity[0, moved], unit=one.unit[moved], counts=one.counts[:, moved],
            valid=one.valid[:, moved], hidden=one.hidden[:, moved],
        )
    )  # fmt: skip
    batch = pack(some, P)
    np.testing.assert_array_equal(batch.unit, [0, 1, 2, 3] * 3)
    np.testing.assert_array_equal(batch.activity[:8], np.concatenate(activity))
    assert batch.activity[8:].isnan().all()  # that of the model
    first = [0, 4, 8, 0]  # the last window has the units of the first, in patches of its own
    for b, w in enumerate(some):
        for token in (batch.window == b).nonzero()[:, 0].tolist():
            for place in batch.valid[token].nonzero()[:, 0].tolist():
                member = int(batch.members[batch.patch[token], place])
                assert member == first[b] + w.unit[3 * int(batch.slot[token]) + place]


def test_a_token_has_as_many_entries_as_the_largest_session_has_units_and_at_most_a_patch() -> None:
    rng = np.random.default_rng(0)
    some = [random_window(2, n, rng) for n in (2, 4)]
    assert pack(some, 2048).counts.shape[1] == 4
    assert pack(some[:1], 2048).counts.shape[1] == 2
    assert pack(some, 3).counts.shape[1] == 3
    alone, together = (entries(pack(w, 2048)) for w in (some[:1], some))
    assert [e for e in together if e[0] == 0] == alone


def test_trials_of_each_part_are_packed_by_bin() -> None:
    rng = np.random.default_rng(0)
    one, other = random_window(2, 4, rng), random_window(3, 4, rng)
    trial = np.array([[4, -1], [5, 2]])
    batch = pack([replace(one, trial=trial), other], P)
    np.testing.assert_array_equal(batch.trial, [[4, -1], [5, 2]] + [[-1, -1]] * 3)
    assert pack([one], P).trial.shape == (2, 0)


def test_a_window_without_target_has_no_labels_beside_one_that_has() -> None:
    rng = np.random.default_rng(0)
    batch = pack([random_window(2, 4, rng), replace(random_window(3, 4, rng), target=None)], P)
    np.testing.assert_array_equal(batch.target.isnan().all(1), [False] * 2 + [True] * 3)


def test_windows_that_do_not_fit_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="batch: windows: expected at least one, found none"):
        pack([], P)
    with pytest.raises(InputError, match=r"batch: targets: .*same dimensions.*, found \[1, 2\] dimensions"):
        pack([random_window(2, 4, rng, dims=d) for d in (2, 1)], P)


def test_counts_do_not_wrap() -> None:
    full = np.full((1, 1), 255, np.uint8)
    window = Window(counts=full, valid=full > 0, unit=np.array([0]), context=np.array([0]))
    assert pack([window], P).counts.tolist() == [[255]]

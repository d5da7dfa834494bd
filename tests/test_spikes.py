import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ndt.intervals import Intervals
from ndt.session import Session, Spikes, Units
from ndt.spikes import bin_edges, bin_spikes, num_bins, unit_valid

N, BIN_SIZE = 3, 0.25
TICKS = st.lists(st.tuples(st.integers(0, 64), st.integers(0, N - 1)), max_size=60)  # 1/16 s: exact in binary


def session(times, unit, observed=None):
    order = np.argsort(times, kind="stable")
    spikes = Spikes(timestamps=np.asarray(times, float)[order], unit_index=np.asarray(unit, np.int32)[order])
    units = Units(id=np.array([f"u{n}" for n in range(N)]), observed=observed)
    return Session(session_id="s", subject="x", spikes=spikes, units=units, observed=Intervals([0.0], [4.0]))


@given(TICKS)
def test_each_spike_inside_is_counted_once(spikes):
    times, unit = [t / 16 for t, _ in spikes], [n for _, n in spikes]
    counts = bin_spikes(session(times, unit), 0.0, BIN_SIZE, T=16)

    inside = [n for t, n in zip(times, unit, strict=True) if 0.0 <= t < 4.0]
    np.testing.assert_array_equal(counts.sum(axis=0), np.bincount(inside, minlength=N))


@given(TICKS, st.integers(0, 12), st.integers(0, 12))
def test_counts_agree_with_a_loop_over_half_open_bins(spikes, start, T):
    times, unit = [t / 16 for t, _ in spikes], [n for _, n in spikes]
    counts = bin_spikes(session(times, unit), start / 16, BIN_SIZE, T)

    slow = np.zeros((T, N), int)
    for t, n in zip(times, unit, strict=True):
        for k in range(T):
            slow[k, n] += start / 16 + k * BIN_SIZE <= t < start / 16 + (k + 1) * BIN_SIZE
    np.testing.assert_array_equal(counts, slow)


@given(TICKS, st.integers(1, 15))
def test_binning_a_whole_is_binning_its_parts(spikes, cut):
    whole = session([t / 16 for t, _ in spikes], [n for _, n in spikes])
    parts = [bin_spikes(whole, 0.0, BIN_SIZE, cut), bin_spikes(whole, cut * BIN_SIZE, BIN_SIZE, 16 - cut)]

    np.testing.assert_array_equal(np.concatenate(parts), bin_spikes(whole, 0.0, BIN_SIZE, 16))


def test_a_spike_on_an_edge_belongs_to_the_later_bin_and_one_on_the_last_edge_to_none():
    counts = bin_spikes(session([0.0, 0.25, 0.5], [0, 0, 0]), 0.0, BIN_SIZE, T=2)

    np.testing.assert_array_equal(counts[:, 0], [1, 1])


def test_edges_that_are_not_exact_in_binary_still_count_each_spike_once():
    edges = bin_edges(0.1, 0.02, 500)
    counts = bin_spikes(session(edges[:-1], np.zeros(500, int)), 0.1, 0.02, 500)

    np.testing.assert_array_equal(counts[:, 0], np.ones(500))


@given(st.integers(0, 480))
def test_bins_of_one_grid_are_the_same_from_wherever_one_starts(first):
    edges = bin_edges(0.1, 0.02, 500)
    whole = session(edges[:-1], np.arange(500) % N)

    expected = bin_spikes(whole, 0.1, 0.02, 500)[first : first + 20]
    np.testing.assert_array_equal(bin_spikes(whole, 0.1, 0.02, 20, first), expected)


def test_bursts_saturate_instead_of_wrapping():
    assert bin_spikes(session(np.full(300, 0.1), np.zeros(300, int)), 0.0, BIN_SIZE, 1)[0, 0] == 255


def test_whole_bins_forgive_rounding_only():
    assert [num_bins(0.3, 0.1), num_bins(0.299, 0.1), num_bins(776.8, 0.05)] == [3, 2, 15536]


ROWS = st.lists(st.tuples(st.integers(0, 64), st.integers(0, 64), st.integers(0, N - 1)), max_size=8)


@given(ROWS)
def test_bins_are_valid_where_the_unit_was_observed_all_through(rows):
    rows = [(min(a, b) / 16, max(a, b) / 16, n) for a, b, n in rows]
    per_unit = [Intervals([a for a, _, m in rows if m == n], [b for _, b, m in rows if m == n]) for n in range(N)]
    per_unit = [observed.coalesce() for observed in per_unit]
    unit_index = np.repeat(np.arange(N), [len(observed) for observed in per_unit])
    start, end = (np.concatenate([getattr(o, side) for o in per_unit]) for side in ("start", "end"))
    valid = unit_valid(session([], [], Intervals(start, end, {"unit_index": unit_index})), 0.0, BIN_SIZE, T=16)

    ticks = (np.arange(64) / 16).reshape(16, 4)  # the four sixteenths of each bin
    slow = np.stack([observed.contains(ticks).all(axis=1) for observed in per_unit], axis=1)
    np.testing.assert_array_equal(valid, slow)


def test_units_without_observation_of_their_own_are_valid_throughout():
    assert unit_valid(session([], []), 0.0, BIN_SIZE, T=4).all()

"""Counts against a slow oracle that compares each spike with each edge in float64."""

import itertools

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from ndt.data.counts import bin_file, read_counts
from ndt.data.reading import Reading
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Session, Spikes, Units
from ndt.spikes import bin_edges, bin_spikes, num_bins, unit_valid
from tests.realdata import real_file

BINS = [0.001, 0.005, 0.02, 0.05, 0.1, 1 / 3]


NAMES = itertools.count()  # HDF5 opens no two files of one name


def memory_file(**tables):
    file = h5py.File(f"memory{next(NAMES)}", "w", driver="core", backing_store=False)
    for name, values in tables.items():
        file[name.replace("__", "/")] = values
    return file


def written(trains, rows=None, invalid=()):
    """A file in memory with a units table; `rows` are the observation intervals of each unit."""
    tables = {
        "units__id": np.arange(len(trains)),
        "units__spike_times": np.concatenate([*trains, np.zeros(0)]),
        "units__spike_times_index": np.cumsum([len(t) for t in trains]),
    }
    if rows is not None:
        tables["units__obs_intervals"] = np.concatenate([np.reshape(r, (-1, 2)) for r in rows])
        tables["units__obs_intervals_index"] = np.cumsum([len(r) for r in rows])
    if len(invalid):
        tables["intervals__invalid_times__start_time"], tables["intervals__invalid_times__stop_time"] = np.array(
            invalid
        ).T
    return memory_file(**tables)


@st.composite
def sessions(draw):
    """Pieces, trains and bins: gaps, spikes on edges and next to them, huge and negative clock offsets, full bins."""
    rng = np.random.default_rng(draw(seeds))
    clock = draw(st.sampled_from([0.0, -123.456, 1e5 + 0.1, 1.6e9, -1e9]))
    bin_size = draw(st.sampled_from(BINS))
    number = draw(st.integers(1, 4))
    lengths = rng.integers(1, 30, number) * bin_size + rng.choice([0.0, 0.4, 0.999]) * bin_size
    ends = np.cumsum(lengths + rng.choice([0.5, 3.0], number) * bin_size)
    pieces = np.stack([ends - lengths, ends], 1) + clock
    trains = []
    for _ in range(draw(st.integers(1, 3))):
        edges = np.concatenate([a + np.arange(31) * bin_size for a, _ in pieces])
        near = np.concatenate([edges, np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf), pieces.ravel()])
        some = rng.choice(near, rng.integers(0, 60))
        anywhere = rng.uniform(pieces.min() - bin_size, pieces.max() + bin_size, rng.integers(0, 200))
        burst = np.full(rng.choice([0, 0, 300]), rng.choice(edges))
        trains.append(np.sort(np.concatenate([some, anywhere, burst])))
    return pieces, trains, bin_size


def oracle(pieces, trains, bin_size):
    """Each spike compared with both edges of each bin; bins are laid from the start of each piece."""
    rows = []
    for a, b in pieces:
        edges = [a + k * bin_size for k in range(num_bins(b - a, bin_size) + 1)]
        for left, right in itertools.pairwise(edges):
            inside = [sum(1 for t in train if left <= t < right and a <= t < b) for train in trains]
            rows.append(np.minimum(inside, 255))
    return np.array(rows).reshape(-1, len(trains))


@settings(max_examples=500)
@given(sessions())
def test_both_ways_of_counting_are_the_oracle(case) -> None:
    pieces, trains, bin_size = case
    expected = oracle(pieces, trains, bin_size)
    file = written(trains, [pieces] * len(trains))
    found = bin_file(file, bin_size, Reading("memory"))
    np.testing.assert_array_equal(found.counts, expected)

    observed = Intervals(*pieces.T)
    kept = [t[observed.contains(t)] for t in trains]
    times, unit = np.concatenate(kept), np.repeat(np.arange(len(kept)), list(map(len, kept)))
    order = np.argsort(times, kind="stable")
    session = Session(
        session_id="x", subject="x", observed=observed,
        spikes=Spikes(timestamps=times[order], unit_index=unit[order]),
        units=Units(id=np.arange(len(kept)).astype(str)),
    )  # fmt: skip
    by_window = [bin_spikes(session, a, bin_size, num_bins(b - a, bin_size)) for a, b in pieces]
    np.testing.assert_array_equal(np.concatenate(by_window), expected)


def test_starts_and_pieces_of_bins() -> None:
    rows = [[(10.0, 10.25), (20.0, 20.1)]]
    found = bin_file(written([np.array([10.05, 20.0])], rows), 0.1, Reading("memory"))
    np.testing.assert_array_equal(found.start, [10.0, 10.1, 20.0])
    np.testing.assert_array_equal(found.piece, [0, 0, 1])
    np.testing.assert_array_equal(found.counts[:, 0], [1, 0, 1])


def test_units_observed_apart_and_invalid_times() -> None:
    rows = [[(0.0, 1.0)], [(0.5, 2.0)]]
    trains = [np.array([0.15, 0.65, 1.5]), np.array([0.15, 0.65, 1.5])]
    found = bin_file(written(trains, rows, invalid=[(1.4, 1.6)]), 0.1, Reading("memory"))
    counts = {round(t, 6): tuple(c) for t, c in zip(found.start, found.counts.tolist(), strict=True) if sum(c)}
    assert counts == {0.1: (1, 0), 0.6: (1, 1)}  # 1.5 is after the first unit's end, and invalid for the second


def test_without_obs_intervals_bins_go_from_the_first_spike_to_the_last() -> None:
    found = bin_file(written([np.array([3.0, 3.5]), np.array([]), np.array([2.5, 3.7])]), 0.1, Reading("memory"))
    assert found.start[0] == 2.5
    assert len(found.start) == 12
    np.testing.assert_array_equal(found.counts.sum(0), [2, 0, 1])  # 3.7 ends the recording and begins no whole bin


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[::-1], "finite, ascending times in each unit, found others in unit 1"),
        (lambda t: np.r_[t, np.nan], "finite, ascending"),
    ],
)
def test_times_that_do_not_ascend_are_refused(change, message) -> None:
    with pytest.raises(InputError, match=message):
        bin_file(written([np.zeros(1), change(np.array([1.0, 2.0]))], [[(0.0, 3.0)]] * 2), 0.1, Reading("memory"))


def test_counts_larger_than_allowed_are_refused() -> None:
    with pytest.raises(InputError, match=r"at most 0\.001 GiB of counts"):
        bin_file(written([np.array([1.0])], [[(0.0, 1e6)]]), 0.001, Reading("memory", max_gib=0.001))


@pytest.mark.real
def test_a_real_recording_is_counted_as_its_session_is() -> None:
    from ndt.data.nwb import read_nwb

    path = real_file("sub-s1/*.nwb")
    session, found = read_nwb(path), read_counts(path, 0.05)
    pieces = session.observed.coalesce()
    expected = [
        bin_spikes(session, a, 0.05, num_bins(b - a, 0.05)) for a, b in zip(pieces.start, pieces.end, strict=True)
    ]
    np.testing.assert_array_equal(found.counts, np.concatenate(expected))
    assert unit_valid(session, pieces.start[0], 0.05, 5).all()
    np.testing.assert_array_equal(found.start[:5], bin_edges(pieces.start[0], 0.05, 5)[:5])

"""Counts in place of spike times: what went in comes out of bins of the same width, and of none finer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynwb import TimeSeries
from strategies import seeds

from ndt.config import IngestConfig
from ndt.data.read.nwb import _laid_out, read_nwb
from ndt.data.windows import BinnedSession, default_bin_size
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Session, Units
from tests.recordings import invalid, series, trials, units, write_nwb

QUICK = IngestConfig(probe_seconds=0.0)


def laid_out(counts, start, width=0.02, cut=()):
    found, _ = _laid_out(counts, start, width, Intervals(*np.reshape(cut, (-1, 2)).T), "x: counts")
    return Session(
        session_id="x", subject="x", observed=found.observed, count_bin=width,
        spikes=found.spikes,
        units=Units(id=np.arange(found.num_units).astype(str), observed=found.of_units),
    )  # fmt: skip


def rebinned(session, width=None):
    """Counts and validity of all bins, as training sees them."""
    binned = BinnedSession.__new__(BinnedSession)  # blocks of training and test do not matter here
    segments = session.observed.coalesce()
    width = width or session.count_bin
    from ndt.spikes import bin_spikes, num_bins, unit_valid

    found = []
    for a, b in zip(segments.start, segments.end, strict=True):
        T = num_bins(b - a, width)
        found.append((bin_spikes(session, a, width, T), unit_valid(session, a, width, T)))
    del binned
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


@given(
    seed=seeds,
    clock=st.sampled_from([0.0, -7.3, 1e6 + 0.01]),
    width=st.sampled_from([0.02, 0.01, 1 / 30]),
    jitter=st.sampled_from([0.0, 1e-7, 1e-4]),
)
def test_counts_come_back_in_pieces_with_units_lost_and_clocks_that_jitter(seed, clock, width, jitter) -> None:
    rng = np.random.default_rng(seed)
    T, N = 60, 3
    bin_of = np.delete(np.arange(T + 15), np.r_[20:30, 50:55])  # two gaps
    start = clock + bin_of * width + rng.uniform(-jitter, jitter, T)
    counts = rng.poisson(1.0, (T, N)).astype(float)
    counts[10:15, 1] = np.nan
    counts[45, :] = np.nan
    session = laid_out(counts, start, width)
    found, valid = rebinned(session)

    seen = np.isfinite(counts).any(1)
    np.testing.assert_array_equal(found, np.nan_to_num(counts[seen]))
    np.testing.assert_array_equal(valid, np.isfinite(counts[seen]))
    assert len(session.observed) == 4


def test_two_bins_together_are_their_sum() -> None:
    counts = np.random.default_rng(0).poisson(2.0, (40, 2))
    found, _ = rebinned(laid_out(counts, np.arange(40) * 0.02), 0.04)
    np.testing.assert_array_equal(found, counts[::2] + counts[1::2])


def test_bins_that_touch_invalid_times_are_left_out_whole() -> None:
    """Segments still begin on edges of bins, so that all other counts stay what they were."""
    counts = np.arange(20).reshape(10, 2)
    session = laid_out(counts, np.arange(10) * 0.1, 0.1, cut=[(0.25, 0.31)])
    np.testing.assert_allclose(session.observed.start, [0.0, 0.4])
    np.testing.assert_allclose(session.observed.end, [0.2, 1.0])
    found, _ = rebinned(session)
    np.testing.assert_array_equal(found, counts[[0, 1, 4, 5, 6, 7, 8, 9]])


@pytest.mark.parametrize("counts", [np.array([[0.5]]), np.array([[-1]]), np.array([["a"]])])
def test_what_is_no_count_is_refused(counts) -> None:
    with pytest.raises(InputError, match=r"x: counts: spikes: expected (whole )?counts"):
        laid_out(counts, np.zeros(1))


def test_finer_bins_than_those_counted_in_are_refused_and_the_default_is_a_multiple() -> None:
    session = laid_out(np.ones((2000, 2), int), np.arange(2000) * 0.03, 0.03)
    assert default_bin_size([session]) == pytest.approx(0.03)
    BinnedSession(session, 0.09, 0.5)
    for width in (0.02, 0.01, 0.045):
        with pytest.raises(InputError, match=r"bin_size: expected a multiple of 30 ms, in which spikes were counted"):
            BinnedSession(session, width, 0.5)


def falcon(nwb, at="rate"):
    data = np.random.default_rng(0).poisson(1.0, (400, 5)).astype(np.uint8)
    clock = {"rate": 50.0, "starting_time": 1.0} if at == "rate" else {"timestamps": 1.02 + np.arange(400) / 50}
    nwb.add_acquisition(TimeSeries(name="binned_spikes", data=data, unit="counts", **clock))


@pytest.mark.parametrize(("at", "clock"), [("start", "rate"), ("end", "timestamps")])
def test_a_series_of_counts_is_read_where_there_are_no_spike_times(tmp_path, at, clock) -> None:
    path = write_nwb(tmp_path / "sub-T5_ses-1.nwb", lambda nwb: falcon(nwb, clock), trials, series("pos"))
    session = read_nwb(path, IngestConfig(probe_seconds=0.0, counts_at=at))

    assert (session.num_units, session.count_bin) == (5, pytest.approx(0.02))
    np.testing.assert_allclose([session.observed.start[0], session.observed.end[0]], [1.0, 9.0], atol=1e-9)
    found, valid = rebinned(session)
    np.testing.assert_array_equal(found, np.random.default_rng(0).poisson(1.0, (400, 5)))
    assert valid.all()
    assert set(session.covariates) == {"pos"}


def test_spike_times_come_first_and_counts_on_request(tmp_path) -> None:
    path = write_nwb(tmp_path / "a.nwb", units(), falcon)
    session = read_nwb(path, QUICK)
    assert session.count_bin == 0.0
    said = [s for s in session.dropped if s.startswith("acquisition/binned_spikes")]
    assert said[0] == "acquisition/binned_spikes: spike times are read instead; counts=binned_spikes reads these"

    session = read_nwb(path, IngestConfig(probe_seconds=0.0, counts="binned_spikes"))
    assert (session.num_units, session.count_bin) == (5, pytest.approx(0.02))
    with pytest.raises(InputError, match="counts: expected a series of spike counts of that name, found 'other'"):
        read_nwb(path, IngestConfig(probe_seconds=0.0, counts="other"))


def test_ndx_binned_spikes(tmp_path) -> None:
    ndx = pytest.importorskip("ndx_binned_spikes", reason="ndx-binned-spikes is not installed")
    counts = np.random.default_rng(0).poisson(1.0, (3, 100)).astype(np.uint64)

    def plain(nwb):
        box = nwb.create_processing_module("ecephys", "counts")
        box.add(ndx.BinnedSpikes(data=counts, bin_width_in_ms=50.0, start_time_in_ms=2000.0))

    session = read_nwb(write_nwb(tmp_path / "a.nwb", plain, invalid((3.0, 3.1))), QUICK)
    np.testing.assert_allclose(session.observed.start, [2.0, 3.1])
    found, _ = rebinned(session)
    np.testing.assert_array_equal(found, np.delete(counts.T, [20, 21], 0))

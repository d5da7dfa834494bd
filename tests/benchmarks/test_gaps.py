"""A file with a fifth of its time unobserved: rates equal the true ones, and no window holds unobserved time."""

import json

import numpy as np
import pytest

from ndt.bench import bench
from ndt.benchmarks import gaps
from ndt.benchmarks.gaps import in_gap, simulate
from ndt.config import BenchConfig, IngestConfig
from ndt.data.activity import unit_activity
from ndt.data.read.nwb import read_nwb
from ndt.data.windows import BinnedSession, Sampler, TrainingData
from ndt.intervals import Intervals
from ndt.model.vocabulary import Vocabulary
from tests.recordings import units, write_nwb


@pytest.fixture(scope="module")
def truth():
    return simulate(0)


@pytest.fixture(scope="module")
def path(truth, tmp_path_factory):
    path = tmp_path_factory.mktemp("gaps") / "sub-gaps_ses-01.nwb"
    gaps.write(truth, path)
    return path


def test_simulated_spikes_have_their_rates_and_lie_in_observed_time(truth):
    observed = truth.observed
    np.testing.assert_allclose(observed.duration, 480)
    np.testing.assert_allclose(observed.end[-1], 600)
    assert len(observed) == 13
    assert min((observed.end - observed.start).min(), (observed.start[1:] - observed.end[:-1]).min()) >= 2
    for spikes in truth.spikes:
        assert observed.contains(spikes).all()
        assert np.all(np.diff(spikes) > 0)
    expected = truth.rates * 480
    z = (np.array([len(spikes) for spikes in truth.spikes]) - expected) / np.sqrt(expected)
    assert np.abs(z).max() < 4.5  # of 48 units: once in 3000 seeds
    assert 0.7 < z.std() < 1.3
    late = np.concatenate(truth.spikes) > observed.start[6]
    share = (observed & Intervals([observed.start[6]], [600])).duration / 480
    assert abs(late.mean() - share) < 5 * np.sqrt(share * (1 - share) / len(late))


def test_in_gap_by_hand():
    observed = Intervals([0.0, 5.0, 9.0], [3.0, 7.0, 10.0])
    windows = np.array([[0, 3], [2, 3.1], [3, 5], [4, 6], [5, 7], [6, 9.5], [9, 10], [9.5, 10.5], [-1, 0.5], [20, 21]])
    np.testing.assert_array_equal(in_gap(windows, observed), [0, 1, 1, 1, 0, 1, 0, 1, 1, 1])


def test_our_rates_are_true_within_sampling_error_and_no_window_is_in_a_gap(truth, path):
    found = gaps.ours(path, 0)
    z = (found.rates - truth.rates) / np.sqrt(truth.rates / truth.observed.duration)
    assert np.abs(z).max() < 4.5
    assert np.sqrt(np.mean(z**2)) < 1.35  # the expected value is 1, its error 0.1
    assert len(found.windows) == 2000
    np.testing.assert_allclose(np.diff(found.windows, axis=1), 1.0)
    assert not in_gap(found.windows, truth.observed).any()
    assert len(np.unique(np.searchsorted(truth.observed.start, found.windows[:, 0], side="right"))) > 10


def test_rates_over_the_whole_file_are_a_fifth_too_low(truth, path):
    """The rates of a reader that ignores `obs_intervals`."""
    domain = truth.observed.end[-1] - truth.observed.start[0]
    rates = np.array([len(spikes) for spikes in truth.spikes]) / domain
    np.testing.assert_allclose(np.mean(rates / truth.rates), 0.8, atol=0.02)
    windows = gaps._uniform(np.array([0.0]), np.array([600.0]), 0)
    starts = [b - a + 1.0 for a, b in zip(truth.observed.end[:-1], truth.observed.start[1:], strict=True)]
    assert abs(in_gap(windows, truth.observed).mean() - sum(starts) / 599) < 0.04  # a gap spoils 1 s before it as well


def test_each_unit_is_counted_in_its_own_observed_time(tmp_path):
    """Each unit is unobserved in another fifth of the time; a bin is valid for a unit that was observed in it."""
    rng = np.random.default_rng(1)
    rates, observed, spikes = rng.uniform(5, 40, 12), [], []
    for rate in rates:
        a = float(np.round(rng.uniform(10, 150), 3))
        observed.append([[0, a], [a + 40, 200]])
        times = np.sort(rng.uniform(0, 200, rng.poisson(rate * 200)))
        spikes.append(times[(times < a) | (times >= a + 40)])
    path = write_nwb(tmp_path / "sub-x_ses-1.nwb", units(spikes, obs=observed))
    session = read_nwb(path, IngestConfig(probe_seconds=0.0))
    binned = BinnedSession(session, 0.02, 0.0)
    chosen = np.ones(len(binned), bool)
    activity = unit_activity(binned, chosen)
    z = (activity[:, 0] / 0.02 - rates) / np.sqrt(rates / 160)
    assert np.abs(z).max() < 4
    vocabulary = Vocabulary().extend([session])
    data = TrainingData(binned, chosen, vocabulary.rows(session), activity)
    sampler = Sampler([data], window_bins=50, min_bins=50, seed=0)
    for i in range(100):
        window = sampler.draw(sampler.generator(0, i))[1]
        start = binned.start[np.arange(*window.index)]
        for column, n in zip(window.valid.T, vocabulary.rows(session).order, strict=True):
            (_, a), (b, _) = observed[n]
            np.testing.assert_array_equal(column, (start + 0.02 <= a + 1e-9) | (start >= b - 1e-9))


@pytest.mark.parametrize("peer", ["pynapple", "temporaldata"])
def test_peers_ignore_the_observed_time(truth, path, peer):
    """If this fails, a peer has begun to use `obs_intervals`, and the documents must be corrected."""
    pytest.importorskip(peer)
    found = gaps.PEERS[peer](path, 0)
    np.testing.assert_allclose(np.mean(found.rates / truth.rates), 0.8, atol=0.02)
    assert found.windows.shape == (2000, 2)
    assert in_gap(found.windows, truth.observed).mean() > 0.15


@pytest.fixture
def small(monkeypatch):
    """A short recording of few units."""
    for name, value in {"SECONDS": 120.0, "NUM_GAPS": 4, "NUM_WINDOWS": 200, "NUM_UNITS": 10}.items():
        monkeypatch.setattr(gaps, name, value)


def test_rows_compare_to_installed_peers(small, monkeypatch):
    pytest.importorskip("temporaldata")
    monkeypatch.setattr(gaps, "PEERS", {"temporaldata": gaps.PEERS["temporaldata"], "absent": None})
    rows = bench("gaps", BenchConfig(seeds=2))["rows"]
    json.dumps(rows, allow_nan=False)
    assert [(r["name"], r["unit"], r["peer"]) for r in rows] == [
        ("gaps.rate_error", "%", "temporaldata"),
        ("gaps.rate_rms_z", "standard errors", "temporaldata"),
        ("gaps.windows_in_gap", "%", "temporaldata"),
    ]
    assert all(len(r["values"]) == len(r["peer_values"]) == 2 for r in rows)
    assert rows[2]["values"] == [0, 0]


def test_rows_without_an_installed_peer(small, monkeypatch):
    monkeypatch.setattr(gaps, "PEERS", {})
    rows = gaps.gaps(BenchConfig(seeds=1))
    assert [(r["name"], r["peer"], r["ratio"]) for r in rows] == [(f"gaps.{key}", None, None) for key in gaps.UNITS]

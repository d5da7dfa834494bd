"""Measures of units' activity equal direct definitions, and read chosen and observed bins only."""

from dataclasses import replace

import numpy as np
import pytest
from problems import permuted, recording

from ndt.data.activity import response_parts, unit_activity
from ndt.data.windows import BinnedSession
from ndt.intervals import Intervals
from ndt.model.tokens import ACTIVITY
from ndt.session import Session, Spikes, Units

BIN = 0.1
NAMES = {name: i for i, name in enumerate(ACTIVITY)}


def tiny(num_trials: int = 12, **changes: object) -> Session:
    """Four units in two segments, the second of which was observed for part of the time; trials of 1.03 s and gaps."""
    rows = Intervals(
        [0.0, 0.0, 12.0, 0.0, 0.0], [30.0, 8.0, 26.0, 30.0, 30.0], {"unit_index": np.array([0, 1, 1, 2, 3])}
    )
    session = recording([(0.0, 14.0), (15.05, 30.0)], num_units=4, rate_hz=12.0, unit_observed=rows)
    start = 0.37 + 2.3 * np.arange(num_trials)
    trials = Intervals(start, start + 1.03)

    return replace(session, intervals={"trials": trials}, **changes)


def chosen_bins(binned: BinnedSession) -> np.ndarray:
    chosen = np.random.default_rng(1).random(len(binned)) < 0.8
    chosen[200:] = False
    return chosen


def slow_counts(session: Session, binned: BinnedSession) -> np.ndarray:
    """Counts by comparison of times; NaN where a unit was not observed throughout the bin."""
    found = np.full((len(binned), session.num_units), np.nan)
    rows = session.units.observed
    for t, start in enumerate(binned.start):
        for n in range(session.num_units):
            own = rows.columns["unit_index"] == n
            if np.any((rows.start[own] <= start + 1e-9) & (rows.end[own] >= start + BIN - 1e-9)):
                times = session.spikes.timestamps[session.spikes.unit_index == n]
                found[t, n] = np.sum((times >= start) & (times < start + BIN))

    return found


def slow_activity(session: Session, binned: BinnedSession, chosen: np.ndarray) -> np.ndarray:
    """The definitions, unit by unit and bin by bin."""
    counts = slow_counts(session, binned)
    counts[~chosen] = np.nan
    N = counts.shape[1]
    mean = np.nan_to_num(np.array([np.mean(c[~np.isnan(c)]) if np.any(~np.isnan(c)) else 0.0 for c in counts.T]))
    z = (counts - mean) / np.sqrt(mean + 0.1)
    shared = np.nan_to_num(z).mean(1)
    shared /= shared[chosen].std()
    part, found = response_parts(binned), np.zeros((N, len(ACTIVITY)))
    for n in range(N):
        seen = np.flatnonzero(~np.isnan(z[:, n]))
        row = {"mean_count": mean[n], "log_rate": np.log(mean[n] / BIN + 0.1)}
        power = np.mean(z[seen, n] ** 2) if len(seen) else 0.0
        row["fano"] = power * (mean[n] + 0.1) / (mean[n] + 0.05)
        for lag in (1, 2, 4):
            pairs = [(t, t + lag) for t in seen if t + lag in seen and binned.segment[t] == binned.segment[t + lag]]
            products = [z[a, n] * z[b, n] for a, b in pairs]
            row[f"autocorrelation_{lag}"] = (np.mean(products) if products else 0.0) / (power + 0.05)
        row["population"] = np.mean(z[seen, n] * shared[seen]) if len(seen) else 0.0
        response = np.zeros(10)
        for k in range(10):
            inside = [t for t in seen if part[t] == k]
            response[k] = counts[inside, n].mean() - mean[n] if inside else 0.0
        for k in range(10):
            row[f"response_{k}"] = response[k] / np.sqrt(mean[n] + 0.1)
            row[f"response_shape_{k}"] = response[k] / np.sqrt(response.var() + 0.02 * (mean[n] + 0.05))
        found[n] = [row[name] for name in ACTIVITY]

    return found


def test_each_measure_is_its_definition() -> None:
    session = tiny()
    binned = BinnedSession(session, BIN, 0.5)
    chosen = chosen_bins(binned)
    found = unit_activity(binned, chosen)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow_activity(session, binned, chosen), rtol=0, atol=2e-5)
    assert np.abs(found[:, NAMES["response_0"] :]).max(1).min() > 0.1


def silenced(session: Session, keep: np.ndarray) -> Session:
    """The recording with these of its spikes."""
    spikes = Spikes(timestamps=session.spikes.timestamps[keep], unit_index=session.spikes.unit_index[keep])
    return replace(session, spikes=spikes)


def test_spikes_outside_chosen_bins_and_observed_time_change_nothing() -> None:
    session = tiny()
    binned = BinnedSession(session, BIN, 0.5)
    chosen = chosen_bins(binned)
    found = unit_activity(binned, chosen)
    times, unit, rows = session.spikes.timestamps, session.spikes.unit_index, session.units.observed
    bin_of = np.searchsorted(binned.start, times, side="right") - 1
    inside = chosen[bin_of] & (times < binned.start[bin_of] + BIN)
    observed = np.zeros(len(times), bool)
    for a, b, n in zip(rows.start, rows.end, rows.columns["unit_index"], strict=True):
        observed |= (unit == n) & (times >= a) & (times < b)
    assert 0.2 < np.mean(inside & observed) < 0.8
    other = BinnedSession(silenced(session, inside & observed), BIN, 0.5)
    np.testing.assert_array_equal(unit_activity(other, chosen), found)
    half = np.arange(len(times)) % 2 == 0
    assert np.abs(unit_activity(BinnedSession(silenced(session, half), BIN, 0.5), chosen) - found).max() > 0.1


def test_labels_of_trials_and_of_behaviour_are_not_read() -> None:
    session = tiny()
    binned = BinnedSession(session, BIN, 0.5)
    chosen = chosen_bins(binned)
    trials = session.intervals["trials"]
    columns = {"side": np.arange(len(trials)) % 2}
    bare = replace(session, covariates={}, intervals={"trials": Intervals(trials.start, trials.end, columns)})
    np.testing.assert_array_equal(unit_activity(BinnedSession(bare, BIN, 0.5), chosen), unit_activity(binned, chosen))


def test_a_permutation_of_units_permutes_their_measures() -> None:
    session, order = tiny(), np.array([2, 0, 3, 1])
    binned, other = (BinnedSession(s, BIN, 0.5) for s in (session, permuted(session, order)))
    chosen = chosen_bins(binned)
    np.testing.assert_allclose(unit_activity(other, chosen), unit_activity(binned, chosen)[order], rtol=0, atol=1e-6)


def test_units_without_a_bin_and_without_a_spike_are_finite() -> None:
    rows = Intervals([0.0, 0.0], [30.0, 30.0], {"unit_index": np.array([0, 2])})  # the second was never observed
    session = tiny(units=Units(id=np.array(["a/0", "a/1", "a/2", "a/3"]), observed=rows))
    session = silenced(session, session.spikes.unit_index == 0)
    found = unit_activity(binned := BinnedSession(session, BIN, 0.5), np.ones(len(binned), bool))
    assert np.isfinite(found).all()
    expected = np.zeros(len(ACTIVITY), np.float32)
    expected[NAMES["log_rate"]] = np.log(0.1)
    for n in (1, 2, 3):
        np.testing.assert_allclose(found[n], expected, atol=1e-6)
    nothing = unit_activity(binned, np.zeros(len(binned), bool))
    np.testing.assert_allclose(nothing, np.tile(expected, (4, 1)), atol=1e-6)


def test_a_poisson_unit_and_a_bursting_one_have_the_measures_of_their_processes() -> None:
    """Counts of 0 or 4 with probability 3/4 and 1/4, held for five bins: variance 3, autocorrelation 0.8, 0.6, 0.2."""
    rng, R = np.random.default_rng(0), 20_000
    poisson, held = rng.poisson(1.0, R), np.repeat(4 * (rng.random(R // 5) < 0.25), 5)
    counts = np.stack([poisson, held], 1)
    bins, units = np.nonzero(counts)
    number = counts[bins, units]
    spikes = Spikes(timestamps=np.repeat(bins * BIN + BIN / 2, number), unit_index=np.repeat(units, number))
    session = replace(
        recording([(0.0, R * BIN)], num_units=2, rate_hz=0.1), spikes=spikes, units=Units(id=np.array(["a/0", "a/1"]))
    )
    binned = BinnedSession(session, BIN, 0.5)
    found = unit_activity(binned, np.ones(R, bool))
    of = lambda name: found[:, NAMES[name]]
    np.testing.assert_allclose(of("mean_count"), [1, 1], atol=0.05)
    np.testing.assert_allclose(of("fano"), [1 / 1.05, 3 / 1.05], atol=0.15)
    for lag, expected in ((1, 0.8), (2, 0.6), (4, 0.2)):
        np.testing.assert_allclose(of(f"autocorrelation_{lag}"), [0, expected], atol=0.05)


def test_parts_of_trials_by_hand() -> None:
    """Ten equal parts from start to end, of the bin's centre; none outside trials."""
    session = replace(
        recording([(0.0, 40.0)]), intervals={"trials": Intervals(np.arange(12) * 3.0, np.arange(12) * 3.0 + 2)}
    )
    part = response_parts(BinnedSession(session, BIN, 0.5))
    expected = np.full(400, -1)
    for trial in range(12):
        expected[30 * trial : 30 * trial + 20] = np.repeat(np.arange(10), 2)
    np.testing.assert_array_equal(part, expected)


def test_trials_in_any_order_and_of_any_length_have_parts() -> None:
    rng = np.random.default_rng(0)
    start = np.arange(15) * 2.5
    end = start + rng.uniform(0.05, 2.5, 15)
    order = rng.permutation(15)
    session = replace(recording([(0.0, 40.0)]), intervals={"trials": Intervals(start[order], end[order])})
    binned = BinnedSession(session, BIN, 0.5)
    part, centre = response_parts(binned), binned.start + BIN / 2
    for t, x in enumerate(centre):
        inside = np.flatnonzero((start <= x) & (x < end))
        expected = int(min((x - start[inside[0]]) / (end[inside[0]] - start[inside[0]]) * 10, 9)) if len(inside) else -1
        assert part[t] == expected


@pytest.mark.parametrize("trials", [None, 9])
def test_without_ten_trials_observed_segments_are_trials_and_without_ten_segments_there_is_no_response(trials) -> None:
    few = {} if trials is None else {"trials": Intervals(np.arange(9.0), np.arange(9.0) + 0.5)}
    long = replace(recording([(0.0, 40.0)]), intervals=few)
    binned = BinnedSession(long, BIN, 0.5)
    assert set(response_parts(binned)) == {-1}
    found = unit_activity(binned, np.ones(len(binned), bool))
    assert not found[:, NAMES["response_0"] :].any()
    segments = [(4.0 * i, 4.0 * i + 2) for i in range(11)]
    binned = BinnedSession(replace(recording(segments), intervals=few), BIN, 0.5)
    np.testing.assert_array_equal(response_parts(binned), np.tile(np.repeat(np.arange(10), 2), 11))

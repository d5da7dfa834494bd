"""Numbers about units by hand, rates that divide by what was observed, and silences that chance does not make."""

import re
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import permuted, recording
from strategies import recordings

from ndt.data.inspection.presence import block_edges, seconds_before
from ndt.data.inspection.quality import assess, unit_measures
from ndt.intervals import Intervals
from ndt.session import Covariate, Session, Spikes, Units
from tests.trains import session_of


def session(trains, observed=((0.0, 100.0),), unit_observed=None, **fields):
    return session_of(trains, observed, unit_observed, **fields)


def series(times, values, name="vel"):
    values = np.asarray(values, float).reshape(len(times), -1)
    dims = tuple("xyz"[: values.shape[1]])
    return Covariate(name=name, path=f"processing/{name}", timestamps=times, values=values, dims=dims, unit="m")


def shifted(made, seconds):
    """The same recording with a clock that is ahead by some seconds."""
    own, tables = made.units.observed, {}
    for name, table in made.intervals.items():
        tables[name] = Intervals(table.start + seconds, table.end + seconds, table.columns)
    series = {k: Covariate(**{**vars(c), "timestamps": c.timestamps + seconds}) for k, c in made.covariates.items()}
    spikes = Spikes(timestamps=made.spikes.timestamps + seconds, unit_index=made.spikes.unit_index)
    rows = own and Intervals(own.start + seconds, own.end + seconds, own.columns)
    observed = Intervals(made.observed.start + seconds, made.observed.end + seconds)
    units = Units(id=made.units.id, observed=rows)
    fields = {"spikes": spikes, "units": units, "observed": observed, "covariates": series, "intervals": tables}

    return Session(**{**vars(made), **fields})


def poisson(rate_hz, seconds, seed=0):
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0, seconds, rng.poisson(rate_hz * seconds)))


# Numbers by hand


def test_an_interval_across_a_gap_is_no_interval_between_spikes():
    made = session(
        [[0.9995, 1.001, 1.5, 1.501, 2.0]], observed=[(0, 1), (1.001, 3)]
    )  # the gap is 1 ms, the interval 1.5

    assert unit_measures(made)["isi_under_2ms"][0] == pytest.approx(1 / 3)  # of 0.499, 0.001 and 0.499 s


def test_pieces_that_touch_are_one():
    made = session([[0.9995, 1.0005, 2.0]], observed=[(0, 1), (1, 3)])

    assert unit_measures(made)["isi_under_2ms"][0] == pytest.approx(1 / 2)


def test_a_units_own_gap_cuts_its_intervals_and_no_others():
    train = [1.0, 1.001, 1.5]
    rows = [(0, 1.0005, 0), (1.0006, 3, 0), (0, 3, 1)]

    np.testing.assert_allclose(unit_measures(session([train, train], [(0, 3)], rows))["isi_under_2ms"], [0, 1 / 2])


@pytest.mark.parametrize("start", [0.0, 1.0, -1e5, 1e9])
def test_exactly_2_ms_is_not_under_2_ms(start):
    ticks = start + np.array([0.0, 0.002, 0.0039, 1.0])

    assert unit_measures(session([ticks], [(start, start + 2)]))["isi_under_2ms"][0] == pytest.approx(1 / 3)


def test_rates_divide_by_what_the_unit_was_observed():
    train = np.arange(20.0, 70.0, 0.5) + 0.1
    found = unit_measures(session([train, train, []], unit_observed=[(0, 100, 0), (20, 40, 1), (40, 70, 1)]))

    np.testing.assert_array_equal(found["num_spikes"], [100, 100, 0])
    np.testing.assert_allclose(found["observed_seconds"], [100, 50, 0])
    np.testing.assert_allclose(found["rate_hz"], [1.0, 2.0, np.nan])


def test_overlapping_rows_of_observation_count_once():
    found = unit_measures(session([[1.0]], unit_observed=[(0, 60, 0), (30, 80, 0), (50, 70, 0)]))

    assert found["observed_seconds"][0] == pytest.approx(80.0)


def test_presence_is_unknown_where_a_unit_was_not_observed():
    trains = [[1.0, 2.0, 11.0, 95.0], [51.0, 52.0, 55.0], []]
    found = assess(session(trains, unit_observed=[(0, 100, 0), (45, 80, 1), (0, 10, 2)]))
    nan = np.nan

    np.testing.assert_allclose(found.presence_edges, 10.0 * np.arange(11))
    np.testing.assert_allclose(found.presence_hz[:, 0], [0.2, 0.1, 0, 0, 0, 0, 0, 0, 0, 0.1])
    np.testing.assert_allclose(found.presence_hz[:, 1], [nan, nan, nan, nan, 0, 0.3, 0, 0, nan, nan])
    np.testing.assert_allclose(found.presence_hz[:, 2], [0] + [nan] * 9)
    np.testing.assert_allclose(found.units["presence"], [3 / 10, 1 / 4, 0])


def test_a_block_observed_in_part_has_the_rate_of_that_part():
    found = assess(session([[2.0, 3.0, 3.5]], observed=[(0, 4), (20, 100)]))

    np.testing.assert_allclose(found.presence_hz[:3, 0], [3 / 4, np.nan, 0])
    assert found.units["presence"][0] == pytest.approx(1 / 9)
    np.testing.assert_array_equal([found.gaps.start, found.gaps.end], [[4], [20]])


@pytest.mark.parametrize(
    ("seconds", "blocks"), [(5.0, 10), (600.0, 10), (1800.0, 30), (7200.0, 120), (1e5, 120), (1e-9, 1)]
)
def test_there_are_10_to_120_blocks(seconds, blocks):
    edges = block_edges(Intervals([7.0], [7.0 + seconds]))

    assert len(edges) == blocks + 1
    np.testing.assert_array_equal(edges[[0, -1]], [7.0, 7.0 + seconds])


@given(made=recordings())
def test_measures_agree_with_a_loop_over_spikes(made):
    found, times, unit = unit_measures(made), made.spikes.timestamps, made.spikes.unit_index
    segments = made.observed.coalesce()
    for n in range(made.num_units):
        train, short, intervals = times[unit == n], 0, 0
        for a, b in pairwise(train):
            together = any(s <= a < e and s <= b < e for s, e in zip(segments.start, segments.end, strict=True))
            intervals += together
            short += together and b - a < 0.002 - 1e-6  # a microsecond is forgiven to rounding
        np.testing.assert_allclose(found["isi_under_2ms"][n], short / intervals if intervals else np.nan)
        np.testing.assert_allclose(found["rate_hz"][n], len(train) / sum(segments.end - segments.start))


@given(made=recordings(), times=st.lists(st.floats(-5.0, 60.0), max_size=5))
def test_seconds_before_are_the_length_of_what_lies_before(made, times):
    segments = made.observed.coalesce()
    slow = [(segments & Intervals([min(t, segments.start[0])], [t])).duration for t in times]

    np.testing.assert_allclose(seconds_before(segments, np.array(times)), slow, atol=1e-9)


@given(made=recordings(), seed=st.integers(0, 1000))
def test_measures_follow_the_units_wherever_they_are_listed(made, seed):
    order = np.random.default_rng(seed).permutation(made.num_units)
    before, after = unit_measures(made), unit_measures(permuted(made, order))

    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values[order])


@pytest.mark.parametrize("seconds", [1e6, -1e6, 1e9])
def test_the_clocks_zero_changes_neither_measures_nor_findings(seconds):
    trials = Intervals([0.0, 5.0, 20.0], [6.0, 10.0, 45.0])
    made = recording([(0.0, 30.0), (40.0, 80.0)], rate_hz=20.0)
    made = Session(**{**vars(made), "intervals": {"trials": trials}})
    here, there = assess(made), assess(shifted(made, seconds))

    for name in ("num_spikes", "observed_seconds", "rate_hz", "presence", "duplicate_group"):
        np.testing.assert_allclose(there.units[name], here.units[name], rtol=1e-6)
    np.testing.assert_allclose(there.presence_hz, here.presence_hz, atol=0.6)  # a spike on a border: 1 in 2 s
    assert there.findings == here.findings


# Silences


def test_a_planted_silence_is_found_to_the_spike():
    trains = [poisson(5.0, 300.0, seed) for seed in range(10)]
    trains = [t[(t < 100.0) | (t >= 112.3)] for t in trains]
    made = session(trains, observed=[(0, 300)])
    found, times = assess(made), made.spikes.timestamps

    np.testing.assert_array_equal(found.silences.start, [times[times < 100.0].max()])
    np.testing.assert_array_equal(found.silences.end, [times[times >= 112.3].min()])
    (finding,) = [f for f in found.findings if "without a spike" in f.message]
    assert finding.grade == "warning"
    assert re.search(
        r"12\.\d s without a spike of 10 units at (99\.\d|100\.0) s: probably not recorded", finding.message
    )


def test_silence_at_either_end_of_a_piece_counts_and_a_gap_does_not():
    trains = [poisson(5.0, 300.0, seed) for seed in range(10)]
    trains = [t[((t >= 20) & (t < 90)) | ((t >= 150) & (t < 280))] for t in trains]
    found = assess(session(trains, observed=[(0, 100), (150, 300)])).silences

    assert len(found) == 3
    np.testing.assert_allclose(found.start, [0, 90, 280], atol=0.5)
    np.testing.assert_allclose(found.end, [20, 100, 300], atol=0.5)


@pytest.mark.parametrize("rate_hz", [0.05, 0.5, 5.0, 50.0])
@pytest.mark.parametrize("seed", range(5))
def test_chance_makes_no_silence(rate_hz, seed):
    assert len(assess(session([poisson(rate_hz, 2000.0, seed)], observed=[(0, 2000)])).silences) == 0


def test_a_population_that_falls_quiet_is_not_taken_for_missing():
    rng = np.random.default_rng(0)
    asleep = np.repeat(rng.random(60) < 0.3, 60)  # a third of the minutes, at a fiftieth of the rate
    trains = []
    for _ in range(20):
        counts = rng.poisson(np.where(asleep, 0.04, 2.0))
        trains.append(np.sort(np.repeat(np.arange(3600), counts) + rng.random(counts.sum())))
    made = session(trains, observed=[(0, 3600)])
    assert np.diff(made.spikes.timestamps).max() > 5.0  # ten thousand times as long as chance by the mean rate

    assert len(assess(made).silences) == 0


def test_silence_of_the_only_unit_observed_says_little():
    often = [poisson(20.0, 1000.0, seed) for seed in range(5)]
    rare = np.array([100.0, 300.0])
    half = [(0, 500, n) for n in range(5)]
    found = assess(session([*(t[t < 500] for t in often), rare], [(0, 1000)], [*half, (0, 1000, 5)]))
    lost = assess(session([*(t[t < 500] for t in often), rare], [(0, 1000)]))

    assert len(found.silences) == 0
    assert lost.silences.duration == pytest.approx(500.0, abs=1.0)  # by all units


# Anything goes


AWKWARD = {
    "no units": {"trains": []},
    "no spikes": {"trains": [[], [], []]},
    "one spike": {"trains": [[1.0]]},
    "one unit": {"trains": [poisson(5.0, 100.0)]},
    "negative": {"trains": [poisson(5.0, 100.0) - 100, []], "observed": [(-100, 0)]},
    "far away": {"trains": [poisson(5.0, 100.0) + 1e9, []], "observed": [(1e9, 1e9 + 100)]},
    "an instant": {"trains": [[5.0]], "observed": [(5.0, np.nextafter(5.0, 6.0))]},
    "no time": {"trains": [[]], "observed": np.zeros((0, 2))},
    "never observed": {"trains": [poisson(5.0, 100.0), []], "unit_observed": [(0, 100, 0)]},
    "no rows": {"trains": [[], []], "unit_observed": np.zeros((0, 3))},
    "counted": {"trains": [np.repeat([0.5, 1.5, 7.5], 3), [0.5]], "count_bin": 1.0},
    "one sample": {"trains": [[1.0]], "covariates": {"x": series(np.ones(1), np.ones(1))}},
    "not finite": {"trains": [[1.0]], "covariates": {"x": series(np.arange(50.0), np.full((50, 2), np.inf))}},
    "no trial": {"trains": [[1.0]], "intervals": {"trials": Intervals.empty()}},
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_recordings_are_assessed(name):
    made = session(**AWKWARD[name])
    found, N = assess(made), made.num_units

    assert all(values.shape == (N,) for values in found.units.values())
    assert found.presence_hz.shape == (len(found.presence_edges) - 1, N)
    np.testing.assert_array_equal(found.units["num_spikes"], np.bincount(made.spikes.unit_index, minlength=N))
    assert np.nansum(found.presence_hz) >= 0
    assert (found.units["isi_under_2ms"][found.units["num_spikes"] < 2] != 0).all()  # NaN


@pytest.mark.parametrize(("count_bin", "step"), [(0.02, 0.0), (0.0, 0.004)])
def test_without_exact_times_intervals_are_not_assessed(count_bin, step):
    train = poisson(30.0, 100.0)
    train = np.round(train / step) * step if step else train

    assert np.isnan(unit_measures(session([train], count_bin=count_bin))["isi_under_2ms"][0])


def test_memory_maps_are_read_and_memory_is_a_few_copies(tmp_path):
    rng = np.random.default_rng(0)
    times, unit = np.sort(rng.uniform(0, 1000, 1_000_000)), rng.integers(0, 96, 1_000_000).astype(np.int32)
    times.tofile(tmp_path / "t")
    unit.tofile(tmp_path / "u")
    made = Session(
        session_id="s",
        subject="a",
        spikes=Spikes(
            timestamps=np.memmap(tmp_path / "t", np.float64, "r"), unit_index=np.memmap(tmp_path / "u", np.int32, "r")
        ),
        units=Units(id=np.arange(96).astype(str)),
        observed=Intervals([0], [1000]),
    )
    tracemalloc.start()
    found = unit_measures(made)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    np.testing.assert_array_equal(found["num_spikes"], np.bincount(unit))
    assert peak < 4 * times.nbytes


@pytest.mark.real
@pytest.mark.slow
def test_real_recordings_are_assessed(real_data):
    from ndt.data.read.nwb import read_nwb

    for path in sorted(real_data.glob("sub-*/*.nwb")):
        found = assess(read_nwb(path))
        assert [f for f in found.findings if f.grade == "error"] == []
        assert found.pairs == ()  # sorted units, or counts whose times were drawn at random
        assert len(found.silences) == 0

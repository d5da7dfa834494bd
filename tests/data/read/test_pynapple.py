"""Sessions in pynapple's objects and back: equal to the last bit where pynapple can hold them."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndt.config import IngestConfig
from ndt.data.read.nwb import read_nwb
from ndt.data.read.pynapple import from_pynapple, to_pynapple
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Covariate, Session, Spikes, Units
from tests.data.test_store import assert_same
from tests.recordings import series, tracking, trials, units, write_nwb

nap = pytest.importorskip("pynapple")
pandas = pytest.importorskip("pandas")

NAMES = {"session_id": "s", "subject": "x"}


def session(times, owner, N=3, observed=((0, 10),), **rest) -> Session:
    start, end = np.reshape(observed, (-1, 2)).T
    columns = rest.pop("columns", {})
    spikes = Spikes(timestamps=np.asarray(times, float), unit_index=np.asarray(owner, np.int32))
    who = Units(id=np.array([f"x/{n}" for n in range(N)]), columns=columns, observed=rest.pop("per_unit", None))

    return Session(**NAMES, spikes=spikes, units=who, observed=Intervals(start, end), **rest)


def back(parts, **rest) -> Session:
    return from_pynapple(parts.units, parts.covariates, parts.intervals, **(NAMES | rest))


@pytest.fixture
def rich() -> Session:
    """A session with all that pynapple can hold."""
    times = np.array([0.0, 0.1, 0.1, 0.1, 2.5, 7.0, np.nextafter(8.0, 0)])
    covariates = {
        "vel": Covariate(
            name="vel",
            path="processing/behavior/vel",
            timestamps=np.array([0.05, 0.1, 0.1, 0.3]),
            values=np.array([[1, 2], [3, np.nan], [5, 6], [7, 8]], np.float32),
            dims=("x", "y"),
            unit="m/s",
        ),
        "ry": Covariate(
            name="ry",
            path="acquisition/CompassDirection/ry",
            timestamps=np.array([-1.0, 1 / 3]),
            values=np.array([[0.1], [3.0]]),
            dims=("ry",),
            unit="radian",
            angular=True,
        ),
    }
    columns = {
        "count": np.array([1, 2, 3], np.int32),
        "good": np.array([True, False, True]),
        "position": np.arange(6, dtype=np.float32).reshape(3, 2),
        "quality": np.array(["good", "gööd", ""]),
        "rate": np.array([1.0, np.nan, 2.0]),
        "shank id": np.array([1.5, 2.5, 3.5], np.float32),
        "unit_id": np.array([17, 23, 42]),
    }
    table = {"cue": np.array(["left", "", "rïght"]), "target": np.array([3, 1, 2], np.int8)}
    touching = Intervals([0.0, 1.0, 3.0], [1.0, 2.0, 4.5], table)

    return session(
        times,
        [0, 0, 1, 1, 0, 2, 2],
        observed=((0, 3), (7, 8)),
        columns=columns,
        covariates=covariates,
        intervals={"trials": touching},
        task="attention_window",
    )


def test_a_session_comes_back_equal(rich):
    assert_same(back(to_pynapple(rich), task="attention_window"), rich)


@pytest.mark.filterwarnings("ignore:Metadata name")  # pynapple warns of "count" and "shank id" whenever it copies
def test_pynapple_sees_what_we_see(rich):
    parts = to_pynapple(rich)
    assert list(parts.units.index) == [0, 1, 2]
    np.testing.assert_allclose(parts.units.time_support.tot_length(), 4.0, rtol=1e-15)
    np.testing.assert_allclose(parts.units.rate, np.array([3, 2, 2]) / 4.0, rtol=1e-15)
    assert list(parts.units["unit_id"]) == ["x/0", "x/1", "x/2"]
    assert list(parts.covariates["vel"].columns) == ["x", "y"]
    np.testing.assert_array_equal(parts.covariates["vel"]["y"].values, np.array([2, np.nan, 6, 8], np.float32))
    assert list(parts.intervals["trials"]["target"]) == [3, 1, 2]
    counts = parts.units.count(1.0, ep=parts.intervals["trials"])  # the last bin ends past the last trial
    np.testing.assert_array_equal(counts.values[:3], [[2, 2, 0], [0, 0, 0], [0, 0, 0]])


def test_an_end_belongs_to_what_follows():
    """Trials [0, 1) and [1, 2) share no spike, though pynapple's intervals contain their ends."""
    spikes = session([0.5, 1.0, 1.5], [0, 0, 0], N=1, intervals={"trials": Intervals([0.0, 1.0], [1.0, 2.0])})
    parts = to_pynapple(spikes)
    for row, expected in ((0, [0.5]), (1, [1.0, 1.5])):
        np.testing.assert_array_equal(parts.units.restrict(parts.intervals["trials"][row])[0].t, expected)


@pytest.mark.parametrize("bounds", [((0, 2), (1, 3)), ((1, 2), (0, 1)), ((0, 1), (1, 1)), ((0, 2), (0, 3))])
def test_a_table_that_pynapple_would_change_is_a_data_frame(bounds):
    start, end = np.array(bounds, float).T
    table = Intervals(start, end, {"target": np.array([3, 1]), "where": np.array([[0.0, 1], [2, 3]])})
    original = session([1.0], [0], intervals={"trials": table, "epochs": Intervals([0.0], [1.0])})
    parts = to_pynapple(original)
    assert isinstance(parts.intervals["trials"], pandas.DataFrame)
    assert isinstance(parts.intervals["epochs"], nap.IntervalSet)
    np.testing.assert_array_equal(parts.intervals["trials"][["start", "end"]], bounds)
    assert_same(back(parts), original)


@pytest.mark.parametrize("offset", [0.0, 1e9, -1e9, 1.7e9, 1e-12])
def test_times_are_the_same_to_the_last_bit_at_any_clock(offset):
    """At 1e9 s floats are 1.2e-7 s apart, coarser than the nanoseconds that older versions rounded to."""
    rng = np.random.default_rng(0)
    times = np.sort(offset + rng.uniform(0, 100, 999))
    original = session(
        times, rng.integers(3, size=999), observed=((offset, offset + 50), (offset + 50.5, offset + 101))
    )
    inside = original.observed.contains(times)
    kept = Spikes(timestamps=times[inside], unit_index=original.spikes.unit_index[inside])
    original = replace(original, spikes=kept)
    assert_same(back(to_pynapple(original)), original)


@settings(max_examples=30)  # of some 50 ms each
@given(st.data())
def test_any_session_comes_back_equal(data):
    """With units that are observed at their own times, some never, some without a spike."""
    N = data.draw(st.integers(1, 4))
    edges = st.lists(st.integers(-(10**9), 10**9), min_size=2, max_size=6, unique=True).map(sorted)
    bounds = [np.array(data.draw(edges)) / 1000 for _ in range(N)]  # one float alone pynapple cannot hold
    start = np.concatenate([b[0 : 2 * (len(b) // 2) : 2] for b in bounds])
    end = np.concatenate([b[1::2] for b in bounds])
    owner = np.repeat(np.arange(N, dtype=np.int32), [len(b) // 2 for b in bounds])
    per_unit = Intervals(start, end, {"unit_index": owner})
    rows = data.draw(st.lists(st.integers(0, len(start) - 1), max_size=20))
    shares = np.array([data.draw(st.floats(0, 1)) for _ in rows])
    chosen = np.array(rows, int)
    times = start[chosen] + shares * (end[chosen] - start[chosen])
    times = np.clip(times, start[chosen], np.nextafter(end[chosen], -np.inf))
    order = np.lexsort((owner[chosen], times))
    original = session(times[order], owner[chosen][order], N=N, per_unit=per_unit, observed=())
    original = replace(original, observed=per_unit.coalesce())
    found = back(to_pynapple(original))
    np.testing.assert_array_equal(found.spikes.timestamps, original.spikes.timestamps)
    np.testing.assert_array_equal(found.spikes.unit_index, original.spikes.unit_index)
    for a, b in ((found.observed, original.observed), (of_units(found, N), of_units(original, N))):
        np.testing.assert_array_equal(a.start, b.start)
        np.testing.assert_array_equal(a.end, b.end)


def of_units(session: Session, N: int) -> Intervals:
    """Returns each unit's observed time, coalesced, unit after unit."""
    if session.units.observed is None:
        segments = [session.observed] * N
    else:
        segments = [session.units.observed.select(session.units.observed.columns["unit_index"] == n) for n in range(N)]
    segments = [p.coalesce() for p in segments]

    return Intervals(np.concatenate([p.start for p in segments]), np.concatenate([p.end for p in segments]))


def test_each_unit_keeps_its_own_observed_time_and_the_rate_over_it():
    per_unit = Intervals([0.0, 6.0, 0.0], [2.0, 8.0, 10.0], {"unit_index": np.array([0, 0, 1], np.int32)})
    original = session([1, 2.5, 7, 9], [0, 1, 0, 1], N=3, per_unit=per_unit)
    parts = to_pynapple(original)
    np.testing.assert_allclose(parts.units.rate[:2], [2 / 4, 2 / 10], rtol=1e-15)
    np.testing.assert_array_equal(parts.units["observed_seconds"], [4, 10, 0])
    np.testing.assert_array_equal(parts.units[0].time_support.start, [0, 6])
    assert_same(back(parts), original)


def test_a_file_goes_through(tmp_path):
    fill = [units(quality=["good", "mua", "gööd"]), series(), tracking, trials]
    original = read_nwb(write_nwb(tmp_path / "sub-x_ses-1.nwb", *fill), IngestConfig(probe_seconds=0.0))
    found = back(to_pynapple(original), session_id=original.session_id, task=original.task)
    about = {
        "recording_date": original.recording_date,
        "source": original.source,
        "dropped": original.dropped,
        "warnings": original.warnings,
    }
    assert_same(replace(found, **about), original)


def test_what_a_pynapple_user_has_becomes_a_session():
    ts = {7: nap.Ts(np.array([1.0, 3.0])), 2: nap.Ts(np.array([0.5, 4.0]))}
    group = nap.TsGroup(ts, metadata={"location": ["M1", "PMd"], "odd": [{1}, None]})
    tsd = nap.Tsd(t=np.arange(5.0), d=np.arange(5))
    found = from_pynapple(
        group, {"speed": tsd}, nap.IntervalSet([0, 2], [1, 4], metadata={"hit": [True, False]}), **NAMES
    )
    assert list(found.units.id) == ["s/unit/00002", "s/unit/00007"]  # in order of key
    assert list(found.units.columns["location"]) == ["PMd", "M1"]
    assert found.dropped == ("units/odd: a column of this kind is not read",)
    np.testing.assert_array_equal(found.spikes.timestamps, [0.5, 1, 3, 4])
    np.testing.assert_array_equal(found.spikes.unit_index, [0, 1, 1, 0])
    assert found.observed.contains([0.5, 4.0]).all()  # the first and the last spike are in it
    assert found.covariates["speed"].dims == ("speed",)
    np.testing.assert_array_equal(found.covariates["speed"].values, np.arange(5.0)[:, None])
    np.testing.assert_array_equal(found.intervals["trials"].columns["hit"], [True, False])
    np.testing.assert_array_equal(found.intervals["trials"].start, [0, 2])


def test_covariates_of_one_sample_or_none_are_kept():
    for M in (0, 1):
        covariate = Covariate(
            name="v", path="v", timestamps=np.arange(float(M)), values=np.ones((M, 2)), dims=("x", "y"), unit=""
        )
        original = session([1.0], [0], covariates={"v": covariate})
        assert_same(back(to_pynapple(original)), original)


def test_spikes_that_pynapple_would_drop_are_an_error():
    with pytest.raises(InputError, match="spikes: expected all in observed time of their unit, found 1 outside"):
        to_pynapple(session([1.0, 10.0], [0, 0]))


def test_wrong_objects_are_one_line():
    group = nap.TsGroup({0: nap.Ts(np.array([1.0, 2.0]))})
    for arguments, said in (
        (([1.0],), "s: units: expected a TsGroup of at least one unit, found list"),
        ((group, {"v": group}), "s: covariates/v: expected a Tsd or TsdFrame, found TsGroup"),
        (
            (group, {}, [0, 1]),
            "s: trials: expected an IntervalSet, or a DataFrame with start and end, found list of none",
        ),
    ):
        with pytest.raises(InputError) as error:
            from_pynapple(*arguments, **NAMES)
        assert str(error.value) == said
    with pytest.raises(InputError, match="s: trials: expected rows that end at or after their start"):
        from_pynapple(group, None, pandas.DataFrame({"start": [1.0], "end": [0.0]}), **NAMES)


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynapple", None)
    with pytest.raises(
        InputError, match=r"pynapple: import: expected the extra pynapple \(pip install 'ndt\[pynapple\]'\)"
    ):
        to_pynapple(session([1.0], [0]))

"""Which units of a recording are kept, how they are merged and named, and what becomes of observed time."""

from dataclasses import replace

import numpy as np
import pytest

from ndt.config import IngestConfig
from ndt.data.selection import cut_silence, merge_electrodes, prepare, take_units
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Covariate, Session, Spikes, Units


def recording(**changes) -> Session:
    """Five units on three electrodes of two probes, and one without electrode; spikes at hand-picked times."""
    trains = [[0.5, 1.0, 3.0], [1.0, 2.0], [], [0.25, 2.5, 3.5], [1.5], [2.25]]
    times = np.concatenate(trains)
    unit = np.repeat(np.arange(6), list(map(len, trains)))
    order = np.argsort(times, kind="stable")
    columns = {
        "electrode": np.array([2, 2, 0, 5, 5, -1]),
        "group": np.array(["a", "a", "a", "b", "b", ""]),
        "location": np.array(["M1", "M1", "M1", "S1", "S1", ""]),
        "quality": np.array(["good", "mua", "good", "good", "good", "good"]),
        "heldout": np.array([False, True, False, False, False, False]),
        "label": np.array(["p", "q", "r", "s", "t", "u"]),
    }
    t = np.arange(80) / 20
    pos, vel = (
        Covariate(name=n, path=f"processing/behavior/{n}", timestamps=t, values=t[:, None], dims=("x",), unit="m")
        for n in ("pos", "vel")
    )
    fields = {
        "session_id": "s1",
        "subject": "x",
        "spikes": Spikes(timestamps=times[order], unit_index=unit[order].astype(np.int32)),
        "units": Units(id=np.array([f"s1/unit/{n:05d}" for n in range(6)]), columns=columns),
        "observed": Intervals([0.0], [4.0]),
        "covariates": {"pos": pos, "vel": vel},
        "source": {"path": "a.nwb"},
    }
    return Session(**(fields | changes))


def trains_of(session: Session) -> list[list[float]]:
    return [session.spikes.timestamps[session.spikes.unit_index == n].tolist() for n in range(session.num_units)]


def test_units_are_chosen_by_columns_and_by_what_is_measured() -> None:
    session = prepare(recording(), IngestConfig(select="quality == 'good' and num_spikes > 0 and location == 'S1'"))
    assert trains_of(session) == [[0.25, 2.5, 3.5], [1.5]]
    np.testing.assert_array_equal(session.units.columns["label"], ["s", "t"])
    assert session.dropped[-1].startswith("units: 4 of 6 fail select='quality")
    assert trains_of(prepare(recording(), IngestConfig(select="rate_hz >= 0.75"))) == [
        [0.5, 1.0, 3.0],
        [0.25, 2.5, 3.5],
    ]
    with pytest.raises(InputError, match=r"a\.nwb: select: expected an expression that keeps at least one unit"):
        prepare(recording(), IngestConfig(select="rate_hz > 1e6"))


def test_when_units_go_so_does_the_time_that_only_they_were_observed() -> None:
    each = Intervals([0.0, 0.0, 2.0], [4.0, 1.0, 3.0], {"unit_index": np.array([0, 3, 3], np.int32)})
    session = take_units(recording(units=replace(recording().units, observed=each)), np.array([3, 4]))
    np.testing.assert_array_equal(session.observed.start, [0.0, 2.0])
    np.testing.assert_array_equal(session.observed.end, [1.0, 3.0])
    np.testing.assert_array_equal(session.units.observed.columns["unit_index"], [0, 0])


def test_threshold_crossings_are_the_sum_of_an_electrodes_units() -> None:
    session = merge_electrodes(recording())
    assert trains_of(session) == [[0.5, 1.0, 1.0, 2.0, 3.0], [], [0.25, 1.5, 2.5, 3.5], [2.25]]
    columns = session.units.columns
    np.testing.assert_array_equal(columns["electrode"], [2, 0, 5, -1])
    np.testing.assert_array_equal(columns["heldout"], [True, False, False, False])  # if any of them is
    assert "quality" not in columns  # they differ in it
    assert "units/quality: units of an electrode differ in it" in session.dropped


def test_merged_units_are_observed_when_all_of_them_were() -> None:
    start, end, owner = [0.0, 0.5, 0.0, 0.0, 0.0, 0.0], [4.0, 1.5, 4.0, 4.0, 4.0, 4.0], np.arange(6, dtype=np.int32)
    units = replace(recording().units, observed=Intervals(start, end, {"unit_index": owner}))
    session = merge_electrodes(recording(units=units))
    rows = session.units.observed.columns["unit_index"] == 0
    np.testing.assert_array_equal(session.units.observed.start[rows], [0.5])
    np.testing.assert_array_equal(session.units.observed.end[rows], [1.5])
    assert trains_of(session)[0] == [0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("identity", "ids"),
    [
        ("electrode", ["x/a/00002/0", "x/a/00002/1", "x/a/00000/0", "x/b/00005/0", "x/b/00005/1", "s1/unit/00005"]),
        ("session", [f"s1/unit/{n:05d}" for n in range(6)]),
        ("label", ["x/p", "x/q", "x/r", "x/s", "x/t", "x/u"]),
    ],
)
def test_identities(identity, ids) -> None:
    np.testing.assert_array_equal(prepare(recording(), IngestConfig(unit_identity=identity)).units.id, ids)


def test_units_without_electrodes_in_the_source_keep_the_identity_that_it_gave_them() -> None:
    units = Units(id=np.array(["a", "b", "c", "d", "e", "f"]))
    np.testing.assert_array_equal(prepare(recording(units=units), IngestConfig()).units.id, units.id)


def test_covariates_are_chosen_by_name_or_end_of_path() -> None:
    assert set(prepare(recording(), IngestConfig(covariates=("vel",))).covariates) == {"vel"}
    assert set(prepare(recording(), IngestConfig(covariates=("behavior/*",))).covariates) == {"pos", "vel"}
    with pytest.raises(InputError, match="covariates: expected some of pos, vel, found"):
        prepare(recording(), IngestConfig(covariates=("el",)))


def test_a_rate_of_change_is_a_covariate_of_its_own() -> None:
    session = prepare(recording(), IngestConfig(covariates=("speed=diff(behavior/pos)",)))
    (speed,) = session.covariates.values()
    assert (speed.name, speed.path, speed.unit) == ("speed", "processing/behavior/pos/speed", "m/s")
    np.testing.assert_allclose(speed.values, 1.0)  # pos is the time itself
    with pytest.raises(InputError, match="covariate: expected one of: pos, vel"):
        prepare(recording(), IngestConfig(covariates=("speed=diff(nothing)",)))


def test_samples_that_stand_at_ends_of_intervals_move_to_their_centres() -> None:
    for at, shift in (("centre", 0.0), ("end", -0.025), ("start", 0.025)):
        pos = prepare(recording(), IngestConfig(covariates_at=at)).covariates["pos"]
        np.testing.assert_allclose(pos.timestamps, np.arange(80) / 20 + shift, atol=1e-12)


def test_blocks_are_of_the_sessions_kept_for_evaluation_where_any_are_named() -> None:
    for pattern, blocks in (("s1", True), ("s2", False), ("s*", True)):
        session = prepare(recording(), IngestConfig(split="first:2", evaluate=(pattern,)))
        assert ("split" in session.intervals) == blocks


def twins() -> Session:
    """Unit 1 is unit 0 with a tenth of a millisecond of jitter and a few spikes more; unit 2 is another.

    Unit 3 has a quarter of unit 2's spikes among its own: cross-talk.
    """
    rng = np.random.default_rng(0)
    one, other = np.sort(rng.uniform(0, 100, 1000)), np.sort(rng.uniform(0, 100, 900))
    two = np.sort(np.r_[one + rng.uniform(-1e-4, 1e-4, 1000), rng.uniform(0, 100, 20)])
    cross = np.sort(np.r_[other[::4], rng.uniform(0, 100, 700)])
    trains = [one, two, other, cross]
    times, unit = np.concatenate(trains), np.repeat(np.arange(4), list(map(len, trains)))
    order = np.argsort(times)
    return Session(
        session_id="s", subject="x", spikes=Spikes(timestamps=times[order], unit_index=unit[order].astype(np.int32)),
        units=Units(id=np.array(["a", "b", "c", "d"])), observed=Intervals([-1.0], [101.0]),
    )  # fmt: skip


def test_duplicates_are_grouped_or_all_but_the_fullest_dropped() -> None:
    np.testing.assert_array_equal(
        prepare(twins(), IngestConfig(duplicates="group")).units.columns["duplicate_group"], [0, 0, 1, 1]
    )
    kept = prepare(twins(), IngestConfig(duplicates="drop"))
    np.testing.assert_array_equal(kept.units.id, ["b", "c", "d"])
    assert kept.dropped == ("units: duplicates of others: a",)
    np.testing.assert_array_equal(prepare(twins(), IngestConfig()).units.id, ["a", "b", "c", "d"])


def test_long_silences_are_cut_between_the_spikes_around_them() -> None:
    session = cut_silence(recording(observed=Intervals([0.0, 10.0], [4.0, 12.0])), 0.6)
    # spikes of all: 0.25 0.5 1 1 1.5 2 2.25 2.5 3 3.5; nothing at all from 10 to 12
    np.testing.assert_array_equal(session.observed.start, [0.0])
    np.testing.assert_array_equal(session.observed.end, [4.0])
    assert session.dropped[-1].startswith("observed time: 2.0 s in 1 segments without a spike")
    session = cut_silence(recording(), 0.45)
    assert len(session.spikes.timestamps) == 10
    assert session.observed.contains(session.spikes.timestamps).all()  # a spike beside a silence was seen
    np.testing.assert_allclose(session.observed.duration, 4.0 - 6 * 0.5, atol=1e-9)


def test_silences_of_counted_sessions_end_on_edges_of_bins() -> None:
    times = np.array([0.05, 0.15, 0.95])  # centres of bins of 0.1 s
    session = replace(
        recording(), spikes=Spikes(timestamps=times, unit_index=np.zeros(3, np.int32)),
        observed=Intervals([0.0], [1.0]), count_bin=0.1,
    )  # fmt: skip
    cut = cut_silence(session, 0.5)
    np.testing.assert_allclose(cut.observed.start, [0.0, 0.9])
    np.testing.assert_allclose(cut.observed.end, [0.2, 1.0])

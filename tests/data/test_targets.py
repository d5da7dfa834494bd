"""What is decoded, at bins: tables and series written by hand, lags at the edges of blocks, and names."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import recording
from strategies import seeds

from ndt.data.covariates import Column
from ndt.data.splits import assign_splits
from ndt.data.targets import build_targets, find_sources, offers
from ndt.data.trials import rows_at
from ndt.data.windows import TRAIN, BinnedSession, default_bin_size
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Covariate
from ndt.target import Part

NAN = np.nan
BINS = np.arange(12) / 2  # of 0.5 s: centres at 0.25, 0.75, …


def with_table(start, end, name="trials", session=None, **columns):
    """A recording of 30 s with a table of intervals."""
    session = session or recording()
    table = Intervals(start, end, {k: np.array(v) for k, v in columns.items()})

    return replace(session, intervals={**session.intervals, name: table})


def with_series(times, values, name="stage", **options):
    """A recording of 30 s with one more covariate."""
    session, values = recording(), np.array(values, float)
    series = Covariate(
        name=name,
        path=f"processing/{name}",
        timestamps=np.array(times, float),
        values=values if values.ndim == 2 else values[:, None],
        **{"dims": (name,), "unit": ""} | options,
    )

    return replace(session, covariates={**session.covariates, name: series})


def codes(values) -> list:
    """Class of each row, None without a label; each labelled row must be one-hot."""
    known = ~np.isnan(values).any(1)
    np.testing.assert_array_equal(values[known].sum(1), 1)
    np.testing.assert_array_equal(np.isnan(values[~known]), True)

    return [int(v.argmax()) if k else None for v, k in zip(values, known, strict=True)]


def test_a_label_holds_through_its_row_and_nowhere_else() -> None:
    session = with_table([0.0, 1.0, 2.5, 4.0], [1.0, 2.0, 4.0, 5.0], cue=["right", "left", " ", "right"])
    found = build_targets(session, "trials/cue", BINS, 0.5)
    assert found.parts == (Part(name="trials/cue", kind="class", dims=("left", "right"), per="trials"),)
    assert codes(found.values) == [1, 1, 0, 0, None, None, None, None, 1, 1, None, None]
    np.testing.assert_array_equal(found.trial[0], [0, 0, 1, 1, -1, -1, -1, -1, 3, 3, -1, -1])


def test_a_number_is_held_in_its_own_unit_and_a_missing_one_labels_nothing() -> None:
    session = with_table([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], reward=[0.5, NAN, 2.5], at=[[1.0, 2], [3, 4], [np.inf, 6]])
    found = build_targets(session, ["reward", "trials/at"], BINS, 0.5)
    assert [p.kind for p in found.parts] == ["continuous", "continuous"]
    assert found.parts[1].dims == ("at_0", "at_1")
    np.testing.assert_array_equal(found.values[:6, 0], [0.5, 0.5, NAN, NAN, 2.5, 2.5])
    np.testing.assert_array_equal(found.values[:6, 1:], [[1, 2], [1, 2], [3, 4], [3, 4], [NAN, NAN], [NAN, NAN]])
    np.testing.assert_array_equal(found.trial[1], [0, 0, 1, 1, *[-1] * 8])


@pytest.mark.parametrize(
    ("values", "kind", "dims"),
    [
        ([10, 2, 2], "class", ("2", "10")),
        ([True, False, True], "class", ("False", "True")),
        (["t10", "t2", "None"], "class", ("t2", "t10")),
        (np.array(["b", None, "nan"], object), "class", ("b",)),
        (np.array([b"b", b"a", b""]), "class", ("a", "b")),
        ([1.0, 2.0, 1.0], "continuous", ("x",)),
        (np.array([[1, 2], [3, 4], [5, 6]]), "continuous", ("x_0", "x_1")),
    ],
)
def test_what_values_look_like_decides_what_they_are(values, kind, dims) -> None:
    (part,) = build_targets(with_table([0, 1, 2], [1, 2, 3], x=values), "x", BINS, 0.5).parts
    assert (part.kind, part.dims) == (kind, dims)


@pytest.mark.parametrize(
    ("name", "values", "kind", "dims"),
    [
        ("class:x", [0.5, 2.0, NAN], "class", ("0.5", "2")),
        ("continuous:trials/x", [3, 3, 1], "continuous", ("x",)),
        ("continuous:x", [True, False, True], "continuous", ("x",)),
        ("angle:x", [0.0, 1.0, 2.0], "angle", ("x",)),
    ],
)
def test_a_name_may_say_what_it_is(name, values, kind, dims) -> None:
    (part,) = build_targets(with_table([0, 1, 2], [1, 2, 3], x=values), name, BINS, 0.5).parts
    assert (part.kind, part.dims, part.name) == (kind, dims, "trials/x")


def test_more_than_64_integers_are_numbers_and_as_many_texts_are_refused() -> None:
    edges = np.arange(66) / 4
    many = with_table(edges[:-1], edges[1:], n=np.arange(65), name_of=[f"n{n}" for n in range(65)])
    found = build_targets(many, "n", BINS, 0.5)
    assert found.parts[0].kind == "continuous"
    np.testing.assert_array_equal(found.values[:3, 0], [1, 3, 5])  # a bin's centre is the start of a row
    with pytest.raises(InputError, match=r"trials/name_of: expected at most 64 .*class:trials/name_of"):
        build_targets(many, "name_of", BINS, 0.5)
    assert len(build_targets(many, "class:name_of", BINS, 0.5).parts[0].dims) == 65
    few = with_table(edges[:64], edges[1:65], n=np.arange(64))
    assert build_targets(few, "n", BINS, 0.5).parts[0].dims == tuple(map(str, range(64)))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("continuous:text", "trials/text: expected numbers for continuous, found text"),
        ("angle:text", "trials/text: expected numbers for angle, found text"),
        ("class:pair", "trials/pair: expected one value per row for classes"),
        ("angle:turn", "angle trials/turn: expected angles in radians, or the unit .*, found values up to 315"),
    ],
)
def test_what_cannot_be_taken_for_it_is_refused(name, told) -> None:
    session = with_table([0, 1], [1, 2], text=["a", "b"], pair=[[1, 2], [3, 4]], turn=[-315.0, 45.0])
    with pytest.raises(InputError, match=told):
        build_targets(session, name, BINS, 0.5)


def test_of_rows_that_overlap_the_later_start_counts_and_the_longer_goes_on_after_it() -> None:
    rows = Intervals([0.0, 1.0, 1.5, 1.5, 4.0], [5.0, 3.0, 1.5, 2.0, 4.0])
    times = np.array([-0.1, 0.0, 0.9, 1.0, 1.5, 1.9, 2.0, 2.9, 3.0, 4.0, 4.9, 5.0])
    np.testing.assert_array_equal(rows_at(rows, times), [-1, 0, 0, 1, 3, 3, 1, 1, 0, 0, 0, -1])
    np.testing.assert_array_equal(rows_at(rows.select(np.array([1, 0])), times[3:5]), [0, 0])  # whatever their order
    session = with_table([0.0, 1.0], [4.0, 2.0], cue=["a", ""])  # nor does an unknown label let the other through
    assert codes(build_targets(session, "cue", BINS, 0.5).values)[:6] == [0, 0, None, None, 0, 0]


def test_a_state_lasts_from_its_event_to_the_next() -> None:
    session = with_table([3.0, 1.0, 2.0], [3.0, 1.0, 2.0], name="states", state=["rem", "wake", "nrem"], x=[1.0, 2, 3])
    found = build_targets(session, "states/state", BINS, 0.5)
    assert found.parts[0].dims == ("nrem", "rem", "wake")
    assert codes(found.values) == [None, None, 2, 2, 0, 0, 1, 1, 1, 1, 1, 1]
    np.testing.assert_array_equal(found.trial[0][[0, 2, 4, 6]], [-1, 1, 2, 0])
    assert codes(build_targets(session, "state", np.array([29.0, 31.0]), 0.5).values) == [1, None]  # 30 s were observed
    with pytest.raises(InputError, match=r"states/x: expected rows longer than 0 s, .* found events of zero length"):
        build_targets(session, "x", BINS, 0.5)


def test_angles_are_cosine_and_sine_and_degrees_say_so() -> None:
    session = with_table([0.0, 1.0], [1.0, 2.0], way_deg=[90.0, 180.0], way=[np.pi / 2, np.pi])
    for name in ("angle:way_deg", "angle:way"):
        found = build_targets(session, name, BINS[:4], 0.5)
        np.testing.assert_allclose(found.values, [[0, 1], [0, 1], [-1, 0], [-1, 0]], atol=1e-6)
    times = np.arange(40) / 2 + 0.25
    values = np.tile([0.0, 60.0, 180.0, 270.0], 10)
    for unit, scale in (("degrees", 1.0), ("radians", np.pi / 180), ("", np.pi / 180)):
        joint = with_series(times, values * scale, "joint", unit=unit)
        found = build_targets(joint, "angle:joint", BINS[:4], 0.5)
        assert found.parts == (Part(name="joint", kind="angle", dims=("joint",)),)
        np.testing.assert_allclose(found.values, [[1, 0], [0.5, 0.75**0.5], [-1, 0], [0, -1]], atol=1e-6)
    with pytest.raises(InputError, match=r"angle joint: .* found values up to 270"):
        build_targets(with_series(times, values, "joint", unit="a.u."), "angle:joint", BINS, 0.5)


def test_a_direction_is_an_angle_unless_told_otherwise() -> None:
    session = with_series(np.arange(40) / 2 + 0.25, np.arange(40) / 10, "head", unit="radian", angular=True)
    found = build_targets(session, "head", BINS, 0.5)
    assert found.parts == (Part(name="head", kind="angle", dims=("head",)),)
    np.testing.assert_allclose(found.values, np.stack([np.cos(BINS / 5), np.sin(BINS / 5)], 1), atol=1e-6)
    plain = build_targets(session, "continuous:head", BINS, 0.5)
    assert plain.parts[0].unit == "radian"
    np.testing.assert_allclose(plain.values[:, 0], BINS / 5, atol=1e-6)


def test_a_series_of_classes_has_the_nearest_sample_and_never_what_lies_between() -> None:
    times = [0.0, 1.0, 2.0, 3.0, 4.0, 8.0, 9.0, 10.0]
    session = with_series(times, [5, 5, 1, NAN, 10, 10, 1, 1])
    start = np.array([-0.75, -0.5, 0.0, 0.25, 0.75, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 7.0, 7.5, 8.25, 8.5, 10.5])
    found = build_targets(session, "class:stage", start, 0.5)
    assert found.parts == (Part(name="stage", kind="class", dims=("1", "5", "10")),)
    # Centres: -0.5 is within half an interval, 0.5 as near to either, 3 lacks a value, and 4.75 to 7.25 a sample.
    assert codes(found.values) == [1, 1, 1, 1, 1, 1, 0, 0, None, None, 2, 2, None, None, 2, 2, 0, None]
    np.testing.assert_array_equal(found.trial[0], -1)


@pytest.mark.parametrize(("dims", "number"), [(("a", "b"), 3), (("a",), 65)])
def test_what_is_no_series_of_classes_is_refused(dims, number) -> None:
    values = np.arange(200) % number
    session = with_series(np.arange(200) / 10, np.stack([values] * len(dims), 1), dims=dims)
    with pytest.raises(InputError, match=r"class:stage: expected (a series of one dimension|at most 64 distinct)"):
        build_targets(session, "class:stage", BINS, 0.5)


def test_several_targets_stand_side_by_side_each_with_its_own_gaps() -> None:
    session = with_table([1.0], [2.0], cue=["go"], session=with_series(np.arange(12) / 2 + 0.25, np.arange(12)))
    names = "class:stage, vel, trials/cue"
    found = build_targets(session, names, BINS, 0.5)
    assert [p.name for p in found.parts] == ["stage", "vel", "trials/cue"]
    for i, name in enumerate(names.split(", ")):
        np.testing.assert_array_equal(found.values[:, found.columns(i)], build_targets(session, name, BINS, 0.5).values)
    assert np.isnan(found.values[:, 14]).sum() == 10
    assert not np.isnan(found.values[:, :14]).any()
    again = build_targets(session, [part.request for part in found.parts], BINS, 0.5)
    np.testing.assert_array_equal(again.values, found.values)


def test_names_that_fit_nothing_or_two_things_or_occur_twice_are_refused() -> None:
    session = with_table([0, 1], [1, 2], name="a", x=[1, 2], split=["train", "test"])
    session = with_table([0, 1], [1, 2], name="b", x=[1, 2], session=session)
    for name in ("x", "speed", "class:x", "vel,,vel", "el"):
        with pytest.raises(InputError, match="target: expected one of: vel, a/x, a/split, b/x, found"):
            find_sources(session, name)
    for names in (["vel", "vel"], "vel,behavior/vel", ["a/x", "class:a/x"]):
        with pytest.raises(InputError, match=r"expected each once, found (vel|a/x) twice"):
            find_sources(session, names)
    assert [s.name for s in find_sources(session, "class:b/x,vel")] == ["b/x", "vel"]
    assert isinstance(find_sources(session, "b/x")[0].of, Column)
    assert [offers(session, n) for n in ("vel", "class:x", "speed")] == [True, True, False]
    assert find_sources(session, None)[0].name == "vel"


def test_the_blocks_of_a_split_are_nothing_to_decode() -> None:
    session = assign_splits(recording(), "first:20")
    assert not offers(session, "split/split")
    with pytest.raises(InputError, match="one of: vel, found 'split'"):
        find_sources(session, "split")


def test_bins_are_those_of_the_coarsest_series_and_a_table_sets_none() -> None:
    session = with_table([0], [1], cue=["a"], session=with_series(np.arange(300) / 12.5, np.arange(300)))
    for names, width in (("vel", 0.05), ("vel,stage", 0.08), ("trials/cue", 0.02), (["cue", "vel"], 0.05)):
        np.testing.assert_allclose(default_bin_size([session], names), width)
    np.testing.assert_allclose(default_bin_size([replace(session, covariates={})], "cue"), 0.02)


def test_a_lag_is_how_much_later_the_label_was_measured() -> None:
    times = np.arange(60) / 2 + 0.25
    session = with_table([1.0, 3.0], [2.0, 4.0], cue=["a", "b"], session=with_series(times, times, "clock"))
    for lag in (-1.0, 0.0, 0.3, 0.5):
        found = build_targets(session, "clock,cue", BINS, 0.5, lag=lag)
        there = ~np.isnan(found.values[:, 0])
        np.testing.assert_allclose(found.values[there, 0], (BINS + 0.25 + lag)[there], atol=1e-5)
        np.testing.assert_array_equal(there, BINS + 0.25 + lag >= 0.0)
        assert found.lag == lag
    late = build_targets(session, "cue", BINS, 0.5, lag=-1.0)  # one second later than it was shown
    assert codes(late.values)[2:10] == [None, None, 0, 0, None, None, 1, 1]
    np.testing.assert_array_equal(late.trial[0][2:10], [-1, -1, 0, 0, -1, -1, 1, 1])


@pytest.mark.parametrize(
    ("lag", "kept"),
    [
        (0.0, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        (0.5, [1, 1, 0, 0, 1, 1, 0, 1, 0, 0]),
        (0.25, [1, 1, 0, 0, 1, 1, 0, 1, 0, 0]),  # half of each label was measured in the next bin
        (-0.5, [0, 1, 1, 0, 0, 1, 1, 0, 1, 0]),
        (1.0, [1, 0, 0, 0, 1, 0, 0, 0, 0, 0]),
    ],
)
def test_no_label_is_carried_into_another_block_or_out_of_observed_time(lag, kept) -> None:
    start = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 8.0])  # bins of half a second, then a gap
    split = np.array([1, 1, 1, 0, 2, 2, 2, 1, 1, 1], np.uint8)
    times = np.arange(40) / 4 + 0.25
    session = with_table([0.0], [9.0], cue=["a"], session=with_series(times, times, "clock"))
    found = build_targets(session, "clock,cue", start, 0.5, lag=lag, split=split)
    np.testing.assert_array_equal(~np.isnan(found.values), np.array(kept, bool)[:, None].repeat(2, 1))
    np.testing.assert_array_equal(found.trial[1] >= 0, np.array(kept, bool))


@given(st.floats(-0.6, 0.6), seeds, st.sampled_from([((0.0, 30.0),), ((0.0, 9.0), (9.2, 21.0), (21.5, 30.0))]))
def test_no_training_label_depends_on_what_was_measured_outside_training(lag, seed, observed) -> None:
    session = recording(observed)
    binned = BinnedSession(session, 0.05, 0.5)
    series, rng = session.covariates["vel"], np.random.default_rng(seed)
    train = binned.splits.train.contains(series.timestamps)
    values = np.where(train[:, None], series.values, rng.standard_normal(series.values.shape))
    other = replace(session, covariates={"vel": replace(series, values=values)})
    rows = binned.split == TRAIN
    before, after = (
        build_targets(s, "vel", binned.start, 0.05, lag=lag, split=binned.split).values[rows] for s in (session, other)
    )
    np.testing.assert_allclose(before, after, atol=1e-6)  # the filter sums by Fourier transforms, in another order
    assert np.isfinite(before).mean() > 0.8


def test_rows_that_last_label_each_bin_and_short_ones_are_trials() -> None:
    """By the time that a row labels: a trial of seconds, a stage of sleep of minutes, an event until the next one."""
    starts = np.arange(0.0, 60.0, 20.0)
    stage = np.array(["a", "b", "a"])
    for length, events, per in ((5.0, False, "trials"), (15.0, False, ""), (0.0, True, ""), (0.0, False, "trials")):
        at = starts if events else starts / 4
        rows = Intervals(at, at + length, {"stage": stage})
        session = replace(recording(((0.0, 60.0 if events else 20.0),)), intervals={"trials": rows})
        times = np.arange(0, 20, 0.5)
        assert build_targets(session, "trials/stage", times, 0.5).parts[0].per == per

"""Bins and windows: none crosses a gap, each is decoded once, and covariates are what was measured in them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import permuted, recording
from strategies import recordings, seeds

from ndt.data.activity import unit_activity
from ndt.data.covariates import default_covariate, find_covariate
from ndt.data.windows import TEST, TRAIN, VALID, BinnedSession, default_bin_size
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.model.vocabulary import Vocabulary
from ndt.session import Covariate, Session

BIN = 0.1


def tried(session: Session, guard: float = 0.5) -> BinnedSession | None:
    try:
        return BinnedSession(session, BIN, guard)
    except InputError:  # too short to be split
        return None


def series(times: list[float], values: object, name: str = "vel", angular: bool = False, path: str = "") -> Covariate:
    values = np.array(values, float).reshape(len(times), -1)
    return Covariate(
        name=name,
        path=path or f"processing/behavior/{name}",
        timestamps=np.array(times, float),
        values=values,
        dims=tuple("xyz"[: values.shape[1]]),
        unit="m",
        angular=angular,
    )


def with_covariates(*found: Covariate) -> Session:
    return replace(recording(), covariates={c.name: c for c in found})


@given(session=recordings())
def test_bins_lie_in_their_piece_and_block(session) -> None:
    binned = tried(session)
    if binned is None:
        return
    segments = session.observed
    end = binned.start + BIN
    assert (binned.start >= segments.start[binned.segment] - 1e-9).all()
    assert (end <= segments.end[binned.segment] + 1e-6).all()
    left = segments.end - segments.start - np.bincount(binned.segment, minlength=len(segments)) * BIN
    assert (left < BIN).all()  # no bin that fits is missing
    for code, split in zip((TRAIN, VALID, TEST), binned.splits.blocks, strict=True):
        rows = np.flatnonzero(binned.split == code)
        inside = [(split & Intervals([binned.start[i]], [end[i]])).duration for i in rows]
        np.testing.assert_allclose(inside, BIN, atol=1e-6)


@given(session=recordings(), window_bins=st.integers(1, 30), seed=seeds)
def test_windows_cover_each_chosen_bin_once_and_cross_no_gap(session, window_bins, seed) -> None:
    binned = tried(session)
    if binned is None:
        return
    rng = np.random.default_rng(seed)
    chosen = np.repeat(rng.random(len(binned) // 7 + 1) < 0.6, 7)[: len(binned)]
    times, rows = np.zeros(len(binned), int), Vocabulary().extend([session]).rows(session)
    for window, keep in binned.cover(chosen, window_bins, rows):
        first, last = window.index
        assert first <= keep < last <= first + window_bins
        assert binned.segment[first] == binned.segment[last - 1]
        assert keep - first >= min(
            window_bins // 2, binned.place[keep]
        )  # half a window of history, where there is so much
        assert len(window.counts) == last - first
        times[keep:last] += 1
    np.testing.assert_array_equal(times, chosen)


@given(session=recordings(), seed=seeds)
def test_runs_are_unbroken_and_complete(session, seed) -> None:
    binned = tried(session)
    if binned is None:
        return
    chosen = np.random.default_rng(seed).random(len(binned)) < 0.8
    runs = binned.runs(chosen)
    kept = np.concatenate([np.arange(a, b) for a, b in runs] or [np.zeros(0, int)])
    np.testing.assert_array_equal(kept, np.flatnonzero(chosen))
    for a, b in runs:
        assert binned.segment[a] == binned.segment[b - 1]
        assert b == len(binned) or not chosen[b] or binned.segment[b] != binned.segment[b - 1]


def test_a_window_across_a_gap_is_refused() -> None:
    binned = BinnedSession(recording([(0.0, 10.0), (11.0, 40.0)]), BIN, 0.5)
    with pytest.raises(AssertionError, match="gap"):
        binned.counts(95, 105)


def test_windows_hold_the_counts_of_their_bins() -> None:
    session = recording([(0.0, 10.0), (11.03, 40.0)], num_units=3)
    binned, rows = BinnedSession(session, BIN, 0.5), Vocabulary().extend([session]).rows(session)
    window = binned.window(120, 150, rows)
    for place, unit in enumerate(rows.order):
        times = session.spikes.timestamps[session.spikes.unit_index == unit]
        for t in range(30):
            a, b = 11.03 + (20 + t) * BIN, 11.03 + (21 + t) * BIN
            assert window.counts[t, place] == ((times >= a) & (times < b)).sum()


def test_units_are_valid_where_they_were_observed_and_have_no_counts_elsewhere() -> None:
    rows = Intervals([0.0, 5.0, 0.0], [5.0, 40.0, 8.03], {"unit_index": np.array([0, 0, 1])})
    session = recording([(0.0, 40.0)], num_units=2, unit_observed=rows, rate_hz=20.0)
    binned = BinnedSession(session, BIN, 0.5)
    counts, valid = binned.counts(0, 400)
    np.testing.assert_array_equal(valid.sum(0), [400, 80])  # the bin that 8.03 s cuts is not valid
    every = binned.all_counts()
    np.testing.assert_array_equal(np.isnan(every), ~valid)
    np.testing.assert_array_equal(every[valid], counts[valid])
    rates = unit_activity(binned, np.arange(400) < 100)[:, 0]
    np.testing.assert_allclose(rates, [counts[:100, 0].mean(), counts[:80, 1].mean()], rtol=1e-6)


def test_bins_belong_to_the_trial_that_holds_their_centre() -> None:
    trials = Intervals([1.0, 2.04, 5.0, 12.0], [2.0, 2.5, 5.0, 13.0])
    session = replace(recording([(0.0, 10.0), (11.0, 40.0)]), intervals={"trials": trials})
    binned = BinnedSession(session, BIN, 0.5)
    centre, expected = binned.start + BIN / 2, np.full(len(binned), -1)
    for row in (0, 1, 3):  # the third has no duration
        expected[(centre >= trials.start[row]) & (centre < trials.end[row])] = row
    np.testing.assert_array_equal(binned.trial("trials"), expected)
    np.testing.assert_array_equal(binned.trial("absent"), -1)
    np.testing.assert_array_equal(binned.trial(""), -1)
    rows = Vocabulary().extend([session]).rows(session, ("", "trials"))
    window = binned.window(5, 30, rows)
    np.testing.assert_array_equal(window.trial, np.stack([np.full(25, -1), expected[5:30]], 1))
    assert binned.window(5, 30, Vocabulary().extend([session]).rows(session, ("",))).trial is None


def test_a_window_has_the_activity_of_its_units_in_the_order_of_their_identities() -> None:
    session = recording(num_units=4)
    binned, rows = BinnedSession(session, BIN, 0.5), Vocabulary().extend([session]).rows(session)
    activity = unit_activity(binned, np.ones(len(binned), bool))
    np.testing.assert_array_equal(binned.window(0, 9, rows, activity).activity, activity[rows.order])
    assert binned.window(0, 9, rows).activity is None
    assert len(set(activity[:, 0])) == 4


def test_the_order_of_units_in_the_file_is_of_no_account() -> None:
    session = recording(num_units=6)
    other = permuted(session, np.random.default_rng(1).permutation(6))
    vocabulary = Vocabulary().extend([session])
    assert not (other.units.id == session.units.id).all()
    a, b = (BinnedSession(s, BIN, 0.5).window(3, 40, vocabulary.rows(s)) for s in (session, other))
    for name in ("counts", "valid", "unit", "context"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.counts.std(0).min() > 0


def test_a_velocity_is_decoded_first_then_the_angle_that_turns() -> None:
    t = [0.0, 0.05, 0.1]
    still = series(t, [0, 0.1, 0], "CompassDirection/rx", angular=True)
    turning = series(t, [0, 2, 4], "CompassDirection/ry", angular=True)
    velocity, other = series(t, t, "cursor_vel"), series(t, t, "temperature")
    assert default_covariate(with_covariates(other, still, turning, velocity)) == "cursor_vel"
    assert default_covariate(with_covariates(other, still, turning)) == "CompassDirection/ry"
    assert default_covariate(with_covariates(other)) == "temperature"
    with pytest.raises(InputError, match="at least one series"):
        default_covariate(with_covariates())


def test_covariates_go_by_name_or_end_of_path_and_unknown_ones_list_what_there_is() -> None:
    t = [0.0, 0.05]
    session = with_covariates(
        series(t, t, "a/vel", path="processing/a/vel"),
        series(t, t, "b/vel", path="processing/b/vel"),
        series(t, t, "pos"),
    )
    assert find_covariate(session, "b/vel").path == "processing/b/vel"
    assert find_covariate(session, "processing/a/vel").name == "a/vel"
    for name in ("vel", "el", "speed"):  # ambiguous, no whole name, absent
        with pytest.raises(InputError, match=rf"one of: a/vel, b/vel, pos, found '{name}'"):
            find_covariate(session, name)


@pytest.mark.parametrize(
    ("intervals", "expected"), [((0.05,), 0.05), ((0.01,), 0.02), ((0.5,), 0.02), ((0.02, 0.1, 0.04), 0.1)]
)
def test_bins_are_as_wide_as_the_coarsest_covariate_of_20_to_100_ms(intervals, expected) -> None:
    sessions = [with_covariates(series(list(np.arange(9) * i), np.arange(9))) for i in intervals]
    np.testing.assert_allclose(default_bin_size(sessions), expected)

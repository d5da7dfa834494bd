"""Blocks of time: disjoint, guarded, the same for everyone, and refused where there is too little."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import recording
from strategies import recordings

from ndt.data.splits import CUT, FRACTIONS, SHORTEST, Split, assign_splits, split, within
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Session

TOLERANCE = 1e-6  # seconds: sums of a few dozen float64


def labelled(session: Session) -> Intervals:
    """Observed time from half a sample before the first label to half a sample after the last."""
    times = session.covariates["vel"].timestamps
    return session.observed & Intervals([times[0] - 0.025], [times[-1] + 0.025])


def tried(session: Session, guard: float) -> Split | None:
    """The split, or None where the session is too short."""
    try:
        return split(session, guard)
    except InputError:
        return None


@given(session=recordings(), guard=st.floats(0.0, 3.0))
def test_blocks_are_disjoint_observed_and_long_enough(session, guard) -> None:
    found = tried(session, guard)
    if found is None:
        return
    train, valid, test = found.blocks
    for a, b in ((train, valid), (train, test), (valid, test)):
        assert (a & b).duration < TOLERANCE
    assert ((valid | test) - labelled(session)).duration < TOLERANCE
    assert (train - session.observed).duration < TOLERANCE
    assert min(b.duration for b in found.blocks) >= SHORTEST


@given(session=recordings(), guard=st.floats(0.0, 3.0))
def test_guards_are_as_long_as_asked_in_observed_time(session, guard) -> None:
    found = tried(session, guard)
    if found is None:
        return
    segments = labelled(session)
    cut = len(segments) >= CUT
    if cut:  # whole segments; one is enough where the window is longer than any
        guard = min(guard, float(np.max(segments.end - segments.start)))
    before = found.train & Intervals([0.0], [found.valid.start[0]])
    for a, b in ((before, found.valid), (found.valid, found.test)):
        between = segments & Intervals([min(a.end[-1], b.start[0])], [b.start[0]])  # they may touch to rounding
        assert between.duration >= guard - TOLERANCE
        if not cut:
            assert between.duration <= guard + TOLERANCE  # and no longer: it costs data
    after = found.train & Intervals([found.test.end[-1]], [math.inf])
    assert len(after) == 0 or after.start[0] >= found.test.end[-1] + guard - TOLERANCE


@given(session=recordings(), guards=st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 3.0)))
def test_no_window_length_moves_the_test_block(session, guards) -> None:
    one, other = (tried(session, guard) for guard in guards)
    if one is None or other is None:
        return
    for name in ("start", "end"):
        np.testing.assert_array_equal(getattr(one.test, name), getattr(other.test, name))
    assert one.valid.start[0] == other.valid.start[0]


@given(session=recordings(), guard=st.floats(0.0, 3.0))
def test_recordings_that_were_cut_are_split_between_segments(session, guard) -> None:
    segments, found = labelled(session), tried(session, guard)
    if found is None or len(segments) < CUT or np.max(segments.end - segments.start) > 0.05 * segments.duration:
        return  # a segment longer than half the smallest block may be cut itself
    for start, end in zip(segments.start, segments.end, strict=True):
        segment = Intervals([start], [end])
        shares = [(block & segment).duration for block in found.blocks]
        assert sum(share > TOLERANCE for share in shares) <= 1
        assert min(abs(sum(shares)), abs(sum(shares) - segment.duration)) < TOLERANCE


def test_short_dropouts_do_not_take_the_blocks_of_a_long_recording() -> None:
    found = split(recording([(0.0, 499.0), *((500.0 + 2 * k, 501.5 + 2 * k) for k in range(12))]), 2.0)

    np.testing.assert_allclose([b.duration for b in found.blocks], [517 * 0.7 - 2, 517 * 0.1 - 2, 517 * 0.2])


def test_by_hand() -> None:
    found = split(recording([(0.0, 60.0), (70.0, 110.0)]), 2.0)  # 100 s: train 70, valid 10, test 20
    np.testing.assert_allclose([found.train.start, found.train.end], [[0, 70], [60, 78]])
    np.testing.assert_allclose([found.valid.start, found.valid.end], [[80], [88]])
    np.testing.assert_allclose([found.test.start, found.test.end], [[90], [110]])


def test_a_guard_counts_observed_time_only() -> None:
    found = split(recording([(0.0, 69.0), (500.0, 531.0)]), 2.0)  # validation begins one second into the second segment
    np.testing.assert_allclose(found.train.end[-1], 68.0)
    np.testing.assert_allclose(found.valid.start[0], 501.0)


def test_unlabelled_time_is_for_training() -> None:
    found = split(recording([(0.0, 200.0)], labels=(50.0, 150.0)), 2.0)
    np.testing.assert_allclose([found.train.start, found.train.end], [[0, 152], [118, 200]])
    np.testing.assert_allclose([found.valid.start[0], found.test.start[0], found.test.end[0]], [120, 130, 150])


def test_without_covariates_all_observed_time_is_split() -> None:
    found = split(recording([(0.0, 100.0)], labels=(0.0, 0.01)), 1.0)
    np.testing.assert_allclose([found.valid.start[0], found.test.start[0]], np.cumsum(FRACTIONS)[:2] * 100)


@pytest.mark.parametrize("seconds", [0.5, 4.0, 9.0])
def test_too_short_is_said_with_how_short(seconds) -> None:
    with pytest.raises(
        InputError, match=rf"at least 1 s with guards of 2 s, found splits of .* s out of {seconds:.1f} s"
    ):
        split(recording([(0.0, seconds)]), 2.0)


def test_labels_outside_observed_time_are_no_split() -> None:
    """All three blocks were all observed time where no label fell into it: the test split was trained on."""
    with pytest.raises(InputError):
        split(recording([(0.0, 100.0)], labels=(200.0, 300.0)), 1.0)


def test_bins_are_within_a_block_whole_or_not_at_all() -> None:
    starts = np.arange(0.0, 1.0, 0.1)
    found = within(starts, starts + 0.1, Intervals([0.1, 0.5], [0.3, 0.85]), 1e-7)
    np.testing.assert_array_equal(np.flatnonzero(found), [1, 2, 5, 6, 7])
    assert not within(starts, starts + 0.1, Intervals.empty(), 0.0).any()


def trials_of(names) -> dict[str, Intervals]:
    start = np.arange(len(names)) * 10.0
    return {"trials": Intervals(start, start + 8.0, {"split": np.array(names)})}


def spans(block) -> list[tuple[float, float]]:
    return list(zip(block.start.tolist(), block.end.tolist(), strict=True))


def test_blocks_of_a_column_are_its_rows() -> None:
    """Rows of other names belong to none, and alternate rows keep all of their time: windows end with them."""
    session = replace(recording([(0.0, 60.0)]), intervals=trials_of(["train", "test", "train", "val", "none", "train"]))
    found = split(assign_splits(session, "trials/split"), 2.0)
    assert spans(found.train) == [(0.0, 8.0), (20.0, 28.0), (50.0, 58.0)]
    assert spans(found.valid) == [(30.0, 38.0)]
    assert spans(found.test) == [(10.0, 18.0)]


def test_without_test_rows_those_of_validation_are_tested_and_the_last_of_training_validate() -> None:
    session = replace(recording([(0.0, 200.0)]), intervals=trials_of(["val", "train"] * 8 + ["val", "none"]))
    found = split(assign_splits(session, "split"), 2.0)
    assert spans(found.valid) == [(150.0, 158.0)]
    assert [a for a, _ in spans(found.test)] == [20.0 * k for k in range(9)]
    assert len(found.train) == 7


def test_overlapping_rows_are_never_seen_before_the_test() -> None:
    table = Intervals([0.0, 5.0, 18.0], [10.0, 20.0, 30.0], {"split": np.array(["train", "test", "val"])})
    session = replace(recording([(0.0, 60.0)]), intervals={"trials": table})
    found = split(assign_splits(session, "trials/split"), 1.0)
    assert spans(found.test) == [(5.0, 20.0)]
    assert spans(found.train) == [(0.0, 4.0)]  # a second of guard
    assert spans(found.valid) == [(21.0, 30.0)]


def test_so_many_seconds_come_first_with_guards_cut_from_what_is_before() -> None:
    session = recording([(0.0, 50.0), (100.0, 200.0)])  # 60 s of observed time end at 110
    found = split(assign_splits(session, "first:60"), 2.0)
    assert spans(found.train) == [(0.0, 50.0), (100.0, 100.5)]  # 52.5 s less a guard
    assert spans(found.valid) == [(102.5, 108.0)]
    assert spans(found.test) == [(110.0, 200.0)]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("trials/other", r"split: expected all, first:SECONDS, fold:K/N, or one of trials/split, found 'trials/other'"),
        ("first:90", r"split: expected training and test time by 'first:90', found splits: train$"),
        ("first:x", "expected all, first:SECONDS, fold:K/N, or one of"),
    ],
)
def test_rules_that_leave_no_blocks_are_refused(rule, message) -> None:
    session = replace(recording([(0.0, 60.0)]), intervals=trials_of(["train", "val"]))
    with pytest.raises(InputError, match=message):
        assign_splits(session, rule)


def test_a_table_of_one_kind_of_row_is_no_split() -> None:
    session = replace(recording([(0.0, 60.0)]), intervals=trials_of(["none", "none"]))
    with pytest.raises(InputError, match="training and test time by 'trials/split', found splits: none"):
        assign_splits(session, "trials/split")


def test_assigned_blocks_that_are_too_short_are_said() -> None:
    session = replace(recording([(0.0, 60.0)]), intervals=trials_of(["train", "val", "test"]))
    with pytest.raises(InputError, match="at least 1 s with guards of 20 s"):
        split(assign_splits(session, "trials/split"), 20.0)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_folds_test_each_moment_once_and_validate_on_what_comes_before(number) -> None:
    session = recording([(0.0, 100.0)])
    found = split(assign_splits(session, f"fold:{number}/5"), 1.0)
    begin, end = 20.0 * (number - 1), 20.0 * number
    valid = (begin - 10.0, begin - 1.0) if number > 1 else (90.0, 100.0)
    train = {
        1: [(21.0, 89.0)],
        2: [(0.0, 9.0), (41.0, 100.0)],
        3: [(0.0, 29.0), (61.0, 100.0)],
        4: [(0.0, 49.0), (81.0, 100.0)],
        5: [(0.0, 69.0)],
    }[number]
    for block, expected in zip(found.blocks, (train, [valid], [(begin, end)]), strict=True):
        np.testing.assert_allclose(spans(block), expected, atol=TOLERANCE)


@pytest.mark.parametrize("rule", ["fold:0/5", "fold:6/5", "fold:1/1", "fold:a/b"])
def test_folds_that_do_not_exist_are_refused(rule) -> None:
    with pytest.raises(InputError, match="first:SECONDS, fold:K/N"):
        assign_splits(recording([(0.0, 100.0)]), rule)


def trials_session(lengths, gaps) -> Session:
    """A recording that is observed in trials only, without covariates."""
    start = np.cumsum(np.r_[0.0, np.array(lengths)[:-1] + np.array(gaps)[:-1]])
    observed = Intervals(start, start + np.array(lengths))

    return replace(recording([(0.0, 1.0)]), observed=observed, covariates={})


def split_of(segments: Intervals, found: Split) -> np.ndarray:
    """The number of the split that holds each segment whole, -1 for none; every segment must be in or out whole."""
    number = np.full(len(segments), -1)
    for k, block in enumerate(found.blocks):
        rows = within(segments.start, segments.end, block, TOLERANCE)
        np.testing.assert_allclose(block.duration, segments.select(rows).duration)  # and nothing of the others
        assert (number[rows] == -1).all()
        number[rows] = k

    return number


@settings(max_examples=20)
@given(data=st.data(), num_folds=st.integers(2, 6), guard=st.floats(0.01, 5.0))
def test_folds_hold_whole_trials_test_each_once_and_guard_one_beside_each_split(data, num_folds, guard) -> None:
    size = data.draw(st.integers(100, 160))
    lengths = data.draw(st.sampled_from([np.full(size, 0.4), np.random.default_rng(size).uniform(0.2, 0.6, size)]))
    session = trials_session(lengths, data.draw(st.sampled_from([np.full(size, 0.1), np.full(size, 7.0)])))
    tested = np.zeros(size, int)
    for fold in range(num_folds):
        assigned = assign_splits(session, f"fold:{fold + 1}/{num_folds}")
        number = split_of(session.observed, split(assigned, guard))
        without = split_of(session.observed, split(assigned, 0.0))
        test = np.flatnonzero(number == 2)
        tested[test] += 1
        assert np.ptp(test) == len(test) - 1  # contiguous
        assert abs(lengths[test].sum() - lengths.sum() / num_folds) < 2 * lengths.max()
        assert (without >= 0).all()
        beside = np.flatnonzero(np.diff(without))  # edges of splits
        lost = np.flatnonzero(number == -1)
        assert len(lost) == len(beside)
        assert all(np.isin([i, i + 1], lost).sum() == 1 for i in beside)
    np.testing.assert_array_equal(tested, 1)


def test_a_guard_of_trials_begins_where_a_split_does_and_reaches_into_no_second_one() -> None:
    session = trials_session(np.full(40, 0.5), np.full(40, 0.1))  # 20 s in 40 trials
    found = split(assign_splits(session, "first:10.2"), 3.0)  # 8.925 s for training end in the 18th trial
    number = (found.train & session.observed).duration
    np.testing.assert_allclose(number, 8.5)  # its beginning is the guard
    np.testing.assert_allclose(found.valid.duration, 10.0 - 8.925)  # as is the beginning of the 21st
    np.testing.assert_allclose(found.test.duration, 9.8)


def test_all_time_may_be_for_training() -> None:
    session = trials_session(np.full(40, 0.5), np.full(40, 0.1))
    found = split(assign_splits(session, "all"), 3.0)
    np.testing.assert_array_equal(found.train.start, session.observed.start)
    np.testing.assert_array_equal(found.train.end, session.observed.end)
    assert (len(found.valid), len(found.test)) == (0, 0)

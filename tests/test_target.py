"""Targets of every kind as columns: the columns of each part, and the part shared by several sessions."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndt.errors import InputError
from ndt.target import Part, Target, labelled, natural, part_columns, scored_bins, side_by_side, stacked, united

VEL = Part(name="vel", kind="continuous", dims=("x", "y"), unit="m/s")
HEAD = Part(name="head", kind="angle", dims=("yaw", "pitch"))
GO = Part(name="trials/go", kind="class", dims=("left", "right"), per="trials")
NAN = np.nan


def target(parts, values, *trial, lag=0.0) -> Target:
    values = np.array(values, np.float32)
    trial = trial or (np.full(len(values), -1),) * len(parts)

    return Target(parts=tuple(parts), values=values, trial=tuple(np.array(t) for t in trial), lag=lag)


def test_each_kind_has_its_columns() -> None:
    assert VEL.columns == ("x", "y")
    assert HEAD.columns == ("cos(yaw)", "sin(yaw)", "cos(pitch)", "sin(pitch)")
    assert GO.columns == ("left", "right")
    assert [p.num_columns for p in (VEL, HEAD, GO)] == [2, 4, 2]
    assert part_columns([VEL, HEAD, GO]) == [slice(0, 2), slice(2, 6), slice(6, 8)]
    assert GO.request == "class:trials/go"


def test_parts_side_by_side_are_found_where_they_are() -> None:
    found = side_by_side([target([GO], [[1, 0], [0, 1]], [4, 5]), target([VEL], [[2, 3], [NAN, NAN]])])
    assert found.parts == (GO, VEL)
    assert found.name == "trials/go,vel"
    np.testing.assert_array_equal(found.values[:, found.columns(1)], [[2, 3], [NAN, NAN]])
    np.testing.assert_array_equal(found.trial, [[4, 5], [-1, -1]])
    np.testing.assert_array_equal(labelled(found, 0), [True, True])
    np.testing.assert_array_equal(labelled(found, 1), [True, False])
    np.testing.assert_array_equal(labelled(found), [True, True])
    np.testing.assert_array_equal(labelled(Target.unlabelled([GO, VEL], 2)), [False, False])


def test_sessions_one_after_another_keep_their_trials_apart() -> None:
    first, second = target([GO], [[1, 0], [0, 1], [NAN, NAN]], [0, 2, -1]), target([GO], [[0, 1], [1, 0]], [-1, 0])
    found = stacked([first, second, second])
    np.testing.assert_array_equal(found.trial[0], [0, 2, -1, -1, 3, -1, 4])
    np.testing.assert_array_equal(found.values[3:5], second.values)


def test_classes_are_laid_out_anew() -> None:
    wide = Part(name="trials/go", kind="class", dims=("down", "right", "left"), per="trials")
    found = target([VEL, GO], [[5, 6, 1, 0], [7, 8, NAN, NAN], [NAN, NAN, 0, 1]]).expanded([VEL, wide])
    expected = [[5, 6, 0, 0, 1], [7, 8, NAN, NAN, NAN], [NAN, NAN, 0, 1, 0]]
    np.testing.assert_array_equal(found.values, expected)
    assert found.parts == (VEL, wide)


@given(st.data())
def test_each_trial_counts_once_at_its_last_chosen_bin(data) -> None:
    trial = np.array(data.draw(st.lists(st.integers(-1, 4), min_size=1, max_size=30)))
    flags = st.lists(st.booleans(), min_size=len(trial), max_size=len(trial)).map(np.array)
    chosen, known = data.draw(flags), data.draw(flags)
    values = np.where((known & (trial >= 0))[:, None], [[1.0, 0.0]], NAN)
    go = target([GO, VEL], np.c_[values, values], trial, np.full(len(trial), -1))
    expected = np.zeros(len(trial), bool)
    for row in range(5):
        bins = [b for b in range(len(trial)) if trial[b] == row and chosen[b] and known[b]]
        expected[bins[-1:]] = True
    np.testing.assert_array_equal(scored_bins(go, 0, chosen), expected)
    np.testing.assert_array_equal(scored_bins(go, 1, chosen), chosen & known & (trial >= 0))


@given(st.lists(st.text("ab01-. ", min_size=1, max_size=6), unique=True))
def test_natural_order_is_one_order_whatever_it_begins_with(names) -> None:
    assert sorted(names, key=natural) == sorted(reversed(names), key=natural)


def test_numbers_within_names_sort_as_numbers() -> None:
    names = ["t10", "2", "t2", "-1", "b", "10", "1.5", "t2-11", "t2-3"]
    assert sorted(names, key=natural) == ["-1", "1.5", "2", "10", "b", "t2", "t2-3", "t2-11", "t10"]


def test_sessions_share_the_classes_of_any() -> None:
    other = Part(name="go", kind="class", dims=("10", "9", "left"), per="trials")
    found = united([("a", GO), ("b", other)])
    assert found == Part(name="trials/go", kind="class", dims=("9", "10", "left", "right"), per="trials")
    assert united([("a", VEL), ("b", Part(name="cursor/vel", kind="continuous", dims=("x", "y"), unit="m/s"))]) == VEL


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (VEL, Part(name="v", kind="continuous", dims=("x", "y"), unit="mm/s"), "x, y in m/s, as .* found x, y in mm/s"),
        (VEL, Part(name="v", kind="continuous", dims=("x",), unit="m/s"), "x, y in m/s, as .* found x in m/s"),
        (
            HEAD,
            Part(name="v", kind="continuous", dims=("yaw", "pitch")),
            "angles yaw, pitch, .* found yaw, pitch in no",
        ),
        (GO, VEL, "classes left, right, as in other sessions, found x, y in m/s"),
    ],
)
def test_parts_that_differ_between_sessions_raise(one, other, told) -> None:
    with pytest.raises(InputError, match=f"b: target {re.escape(one.name)}: expected {told}"):
        united([("a", one), ("b", other)])

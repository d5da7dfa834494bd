import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndt.intervals import Intervals

GRID = np.arange(0, 24) / 4  # quarter seconds, exact in binary
PAIRS = st.lists(st.tuples(st.integers(0, 23), st.integers(0, 23)).map(sorted), max_size=6)


def build(pairs):
    return Intervals([a / 4 for a, _ in pairs], [b / 4 for _, b in pairs])


def cells(intervals):
    """The slow oracle: which quarter seconds [k/4, (k+1)/4) lie inside, asked of each row on its own."""
    rows = list(zip(intervals.start, intervals.end, strict=True))
    return np.array([any(a <= t < b for a, b in rows) for t in GRID])


@given(PAIRS, PAIRS)
def test_set_algebra_agrees_with_a_grid(first, second):
    a, b = build(first), build(second)

    np.testing.assert_array_equal(cells(a & b), cells(a) & cells(b))
    np.testing.assert_array_equal(cells(a | b), cells(a) | cells(b))
    np.testing.assert_array_equal(cells(a - b), cells(a) & ~cells(b))
    np.testing.assert_array_equal(a.contains(GRID), cells(a))


@given(PAIRS, PAIRS)
def test_results_are_sorted_disjoint_and_do_not_touch(first, second):
    for result in (build(first) & build(second), build(first) | build(second), build(first) - build(second)):
        assert np.all(result.end > result.start)
        assert np.all(result.start[1:] > result.end[:-1])


@given(PAIRS)
def test_coalescing_keeps_the_set_and_measures_it(pairs):
    merged = build(pairs).coalesce()

    np.testing.assert_array_equal(cells(merged), cells(build(pairs)))
    assert merged.duration == cells(merged).sum() / 4
    np.testing.assert_array_equal(merged.coalesce().start, merged.start)


def test_start_is_inside_and_end_is_not():
    np.testing.assert_array_equal(
        Intervals([1.0], [2.0]).contains([1.0, np.nextafter(2.0, 0), 2.0]), [True, True, False]
    )


def test_overlapping_rows_keep_their_columns_until_a_set_operation():
    table = Intervals([2.0, 0.0], [3.0, 2.5], {"cue": np.array(["b", "a"])})

    assert table.select(np.array([1])).columns["cue"].tolist() == ["a"]
    assert table.coalesce().columns == {}
    np.testing.assert_array_equal(table.coalesce().end, [3.0])


@pytest.mark.parametrize(("start", "end"), [([1.0], [0.0]), ([np.nan], [1.0]), ([0.0], [np.nan])])
def test_intervals_that_end_before_they_start_are_refused(start, end):
    with pytest.raises(ValueError, match="end at or after its start"):
        Intervals(start, end)


def test_columns_of_another_length_are_refused():
    with pytest.raises(ValueError, match="column cue must have M=1"):
        Intervals([0.0], [1.0], {"cue": np.zeros(2)})

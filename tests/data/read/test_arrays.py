import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndt.data.covariates import derivative
from ndt.data.read.arrays import from_arrays
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Covariate
from ndt.spikes import bin_spikes, unit_valid

# Spike times


def test_spikes_come_out_ascending_with_units_in_order_at_equal_times():
    session = from_arrays([[0.5, 2.0], [], [0.25, 2.0, 2.0]], session_id="s", observed=[[0, 3]])
    np.testing.assert_array_equal(session.spikes.timestamps, [0.25, 0.5, 2.0, 2.0, 2.0])
    np.testing.assert_array_equal(session.spikes.unit_index, [2, 0, 0, 2, 2])
    assert (session.num_units, session.subject, session.count_bin) == (3, "s", 0.0)
    assert session.warnings == session.dropped == ()
    np.testing.assert_array_equal(session.units.id, ["s/unit/00000", "s/unit/00001", "s/unit/00002"])


def test_observed_time_is_half_open_and_spikes_outside_are_listed():
    session = from_arrays([[0.0, 1.0, 2.5], [2.0]], session_id="s", observed=[[2, 3], [0, 1]])
    np.testing.assert_array_equal(session.spikes.timestamps, [0.0, 2.0, 2.5])  # 1.0 is the end of a segment
    assert session.dropped == ("spikes: 1 of 4 spikes lie outside observed time",)


def test_without_observed_time_the_recording_lasts_from_its_first_spike_to_its_last_and_that_is_said():
    session = from_arrays([[5.0, 7.0], [6.0]], session_id="s")
    np.testing.assert_array_equal(session.observed.start, [5.0])
    assert session.observed.end[0] == np.nextafter(7.0, 8.0)
    assert len(session.spikes.timestamps) == 3
    assert len(session.warnings) == 1
    assert "5 to 7 s" in session.warnings[0]


def test_times_that_do_not_ascend_are_sorted_and_that_is_said():
    session = from_arrays([[3.0, 1.0], [2.0]], session_id="s", observed=[[0, 4]])
    np.testing.assert_array_equal(session.spikes.timestamps, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(session.spikes.unit_index, [0, 1, 0])
    assert session.warnings == ("spikes: times of 1 of 2 units do not ascend, and were sorted",)


def test_each_unit_loses_what_it_fired_outside_its_own_observed_time():
    own = [[[0, 10]], [[0, 2], [5, 10]]]
    session = from_arrays([[1.0, 3.0], [1.0, 3.0, 6.0]], session_id="s", observed=[[0, 8]], unit_observed=own)
    np.testing.assert_array_equal(session.spikes.timestamps, [1.0, 1.0, 3.0, 6.0])
    np.testing.assert_array_equal(session.spikes.unit_index, [0, 1, 0, 1])
    seen = session.units.observed
    np.testing.assert_array_equal(seen.columns["unit_index"], [0, 1, 1])
    np.testing.assert_array_equal(np.stack([seen.start, seen.end], 1), [[0, 8], [0, 2], [5, 8]])  # cut to the whole
    assert repr(session.observed) == "Intervals([0, 8))"
    valid = unit_valid(session, 0.0, 1.0, 8)
    np.testing.assert_array_equal(valid[:, 0], np.ones(8, bool))
    np.testing.assert_array_equal(valid[:, 1], [1, 1, 0, 0, 0, 1, 1, 1])


def test_units_observed_alike_need_no_time_of_their_own():
    table = Intervals([0, 5, 0, 5], [2, 8, 2, 8], {"unit_index": np.array([0, 0, 1, 1])})
    session = from_arrays([[1.0], [6.0]], session_id="s", unit_observed=table)
    assert session.units.observed is None
    assert repr(session.observed) == "Intervals([0, 2) [5, 8))"


def test_flat_times_with_the_unit_of_each():
    columns = {"location": ["M1", "M1", "S1"], "id": ["a", "b", "c"]}
    session = from_arrays(
        np.array([2.0, 0.5, 1.0]), unit_index=[1, 1, 0], session_id="s", observed=[[0, 3]], unit_columns=columns
    )
    assert session.num_units == 3  # as the columns say: the last never fires
    np.testing.assert_array_equal(session.spikes.timestamps, [0.5, 1.0, 2.0])
    np.testing.assert_array_equal(session.spikes.unit_index, [1, 0, 1])
    np.testing.assert_array_equal(session.units.id, ["a", "b", "c"])
    assert list(session.units.columns) == ["location"]


# Counts

rows = st.lists(st.integers(0, 5), min_size=3, max_size=3)


@settings(max_examples=200)
@given(
    st.lists(rows, min_size=1, max_size=12),
    st.floats(-1e6, 1e9),
    st.sampled_from([0.001, 0.005, 0.02, 1 / 30, 0.1]),
)
def test_bins_of_counts_give_the_counts_back(counts, start, bin_size):
    start = float(np.round(start, 3))
    session = from_arrays(np.array(counts), session_id="s", bin_size=bin_size, start=start)
    np.testing.assert_array_equal(bin_spikes(session, start, bin_size, len(counts)), counts)
    assert (session.count_bin, len(session.observed)) == (bin_size, 1)


def test_spikes_of_a_count_lie_at_the_centre_of_its_bin():
    session = from_arrays([[1, 0], [0, 2]], session_id="s", bin_size=0.5, start=10.0)
    np.testing.assert_array_equal(session.spikes.timestamps, [10.25, 10.75, 10.75])
    np.testing.assert_array_equal(session.spikes.unit_index, [0, 1, 1])


def test_a_count_that_is_not_a_number_was_not_observed():
    nan = np.nan
    counts = np.array([[1, 2], [nan, 1], [nan, nan], [3, nan], [1, 1]])
    session = from_arrays(counts, session_id="s", bin_size=1.0)
    assert repr(session.observed) == "Intervals([0, 2) [3, 5))"  # in bin 2 nobody was observed
    np.testing.assert_array_equal(unit_valid(session, 0.0, 1.0, 5), ~np.isnan(counts))
    np.testing.assert_array_equal(bin_spikes(session, 0.0, 1.0, 5), np.nan_to_num(counts))


def test_a_step_between_bins_is_a_gap_and_a_trembling_clock_is_none():
    start = np.array([0.0, 1.001, 1.999, 7.5, 8.5])
    session = from_arrays(np.ones((5, 1), int), session_id="s", bin_size=1.0, start=start)
    assert repr(session.observed) == "Intervals([0, 3) [7.5, 9.5))"
    np.testing.assert_array_equal(session.spikes.timestamps, [0.5, 1.5, 2.5, 8.0, 9.0])


def test_bins_that_are_not_wholly_observed_are_left_out():
    session = from_arrays(
        [[1], [1], [1], [1]], session_id="s", bin_size=1.0, observed=[[0, 1.5], [2, 4]], unit_observed=[[[0, 3]]]
    )
    assert repr(session.observed) == "Intervals([0, 1) [2, 3))"
    np.testing.assert_array_equal(session.spikes.timestamps, [0.5, 2.5])
    assert session.dropped == ("spikes: 2 of 4 spikes lie in bins outside observed time",)


def test_a_covariate_of_counts_may_have_one_value_a_bin():
    session = from_arrays([[1], [0]], session_id="s", bin_size=0.5, start=3.0, covariates={"vel": [[1, 2], [3, 4]]})
    np.testing.assert_array_equal(session.covariates["vel"].timestamps, [3.25, 3.75])
    np.testing.assert_array_equal(session.covariates["vel"].values, [[1, 2], [3, 4]])


# Covariates and tables


def test_covariates_keep_missing_values_and_say_what_they_are():
    values = np.array([0.1, np.nan, 0.3], np.float32)
    force = Covariate(
        name="x", path="a/b", timestamps=np.arange(3.0), values=np.ones((3, 2)), dims=("u", "v"), unit="N"
    )
    session = from_arrays(
        [[1.0]],
        session_id="s",
        observed=[[0, 3]],
        covariates={"heading": ([0, 1, 2], values), "force": force},
        angular=["heading"],
        units={"heading": "radian"},
    )
    heading = session.covariates["heading"]
    np.testing.assert_array_equal(heading.values, values[:, None])
    assert (heading.values.dtype, heading.dims, heading.unit, heading.angular) == (
        np.float32,
        ("heading",),
        "radian",
        True,
    )
    force = session.covariates["force"]
    assert (force.name, force.dims, force.unit, force.angular) == ("force", ("u", "v"), "N", False)


def test_tables_keep_their_rows_and_columns():
    trials = {"start": [2.0, 1.0], "end": [3.0, 2.5], "target": [7, 8], "cue": ["left", "rïght"]}
    session = from_arrays(
        [[1.0]], session_id="s", observed=[[0, 3]], trials=trials, intervals={"rest": [[0.0, 0.5]], "none": []}
    )
    np.testing.assert_array_equal(session.intervals["trials"].start, [2.0, 1.0])
    np.testing.assert_array_equal(session.intervals["trials"].columns["cue"], ["left", "rïght"])
    assert len(session.intervals["rest"]) == 1
    assert len(session.intervals["none"]) == 0


ONE = {"spikes": [[1.0]], "observed": [[0, 3]]}
WRONG = {
    "no units": ({"spikes": []}, "s: spikes: expected at least one unit, found none"),
    "an array alone": ({"spikes": np.zeros((3, 2))}, r"s: spikes: expected one array of times for each unit, flat .*"),
    "two dimensions": ({"spikes": [[[1.0]]]}, r"s: spikes\[0\]: expected times in seconds, \(S,\), found shape .*"),
    "ragged": ({"spikes": [[[1.0], [1.0, 2.0]]]}, r"s: spikes\[0\]: expected an array, found rows of .*"),
    "text": ({"spikes": [["a"]]}, r"s: spikes\[0\]: expected times in seconds, .* of type <U1"),
    "not finite": ({"spikes": [[0.1, np.inf]]}, r"s: spikes\[0\]: expected finite seconds, found inf at 1"),
    "silence": ({"spikes": [[], []], "observed": None}, "s: observed: expected when the recording ran, .*"),
    "nothing observed": ({"observed": [[1, 1]]}, "s: observed: expected some observed time, found none"),
    "end before start": ({"observed": [[2, 1]]}, "s: observed: expected as many starts as ends, finite, .*"),
    "endless": ({"observed": [[0, np.inf]]}, "s: observed: expected as many starts as ends, finite, .*"),
    "no rows": ({"observed": [0, 1, 2]}, r"s: observed: expected rows of start and end, \(M, 2\), found .*"),
    "unit index": ({"spikes": [1.0], "unit_index": [-1]}, "s: unit_index: .*"),
    "unit index long": ({"spikes": [1.0], "unit_index": [0, 1]}, "s: unit_index: expected a whole number for .*"),
    "observed of others": ({"unit_observed": [[[0, 1]], [[0, 1]]]}, "s: unit_observed: expected one table for .* 1 .*"),
    "column": (
        {"unit_columns": {"snr": [1, 2]}},
        "s: unit_columns/snr: expected one value for each of 1 units, found 2",
    ),
    "objects": ({"unit_columns": {"snr": [{}]}}, "s: unit_columns/snr: expected a number or a text a row, .*"),
    "same id": ({"spikes": [[], [1]], "unit_columns": {"id": [4, 4]}}, "s: unit_columns/id: .* found 4 twice"),
    "negative": ({"spikes": [[-1]], "bin_size": 1}, "s: spikes: expected whole counts .*, found -1 in bin 0 of unit 0"),
    "fraction": ({"spikes": [[0], [0.5]], "bin_size": 1}, "s: spikes: expected whole counts .*0.5 in bin 1 of unit 0"),
    "a rate": ({"spikes": [[1e6]], "bin_size": 1}, "s: spikes: expected whole counts from 0 to 10000, .*"),
    "infinite": ({"spikes": [[np.inf]], "bin_size": 1}, "s: spikes: expected whole counts .*"),
    "flat counts": ({"spikes": [1, 2], "bin_size": 1}, "s: spikes: expected counts, bins by units, .*"),
    "bin size": ({"spikes": [[1]], "bin_size": 0}, "s: bin_size: expected a width in seconds above 0, found 0.0"),
    "starts": ({"spikes": [[1], [1]], "bin_size": 1, "start": [0.0]}, "s: start: expected seconds: one, or one for .*"),
    "other width": (
        {"spikes": np.ones((9, 1)), "bin_size": 1.0, "start": 1.1 * np.arange(9)},
        "s: bin_size: expected starts of bins 1 s apart wherever there is no gap, found 1.1 to 1.1 s",
    ),
    "backwards": ({"spikes": [[1], [1]], "bin_size": 1, "start": [1.0, 0.0]}, "s: bin_size: expected starts .*"),
    "units of counts": ({"spikes": [[1]], "bin_size": 1, "unit_index": [0]}, "s: unit_index: expected none beside .*"),
    "lengths": ({"covariates": {"v": ([0, 1], [1, 2, 3])}}, r"s: covariates/v: expected numbers, \(2,\) or .*"),
    "descending": ({"covariates": {"v": ([1, 0], [1, 2])}}, "s: covariates/v/timestamps: .* found a step of -1 s"),
    "one sample": ({"covariates": {"v": ([1], [1])}}, "s: covariates/v/timestamps: expected at least 2 .* found 1"),
    "no time": ({"covariates": {"v": ([0, np.nan], [1, 2])}}, "s: covariates/v/timestamps: expected finite .*"),
    "infinite value": ({"covariates": {"v": ([0, 1], [1, np.inf])}}, "s: covariates/v: expected finite values, .*"),
    "values alone": ({"covariates": {"v": [1, 2]}}, "s: covariates/v: expected a pair of timestamps and values; .*"),
    "unknown angle": ({"angular": ["v"]}, "s: angular or units: expected names of covariates: none, found 'v'"),
    "trials": ({"trials": {"start": [0]}}, "s: trials: expected columns start and end, found start"),
    "long column": ({"trials": {"start": [0], "end": [1], "x": [1, 2]}}, "s: trials/x: expected one value for .*"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_an_array_is_said_in_one_line(change, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        from_arrays(**{**ONE, "session_id": "s", **change})


# Derivatives


def test_the_derivative_of_a_parabola_is_exact_inside():
    t = np.array([0.0, 1.0, 2.0, 3.0])  # central differences are exact for t²; the ends see one side
    np.testing.assert_array_equal(derivative(t, t[:, None] ** 2)[:, 0], [1.0, 2.0, 4.0, 5.0])


def test_the_derivative_of_a_line_is_its_slope_at_uneven_times():
    t = np.cumsum(np.random.default_rng(0).uniform(0.5, 1.0, 50))
    np.testing.assert_allclose(derivative(t, np.stack([3 * t, -t], 1)), np.full((50, 2), [3.0, -1.0]), rtol=1e-12)


def test_no_slope_is_made_up_over_a_gap_or_a_missing_value():
    t = np.array([0.0, 1.0, 2.0, 12.0, 13.0, 14.0, 15.0, 16.0])
    x = np.array([0.0, 1.0, 2.0, 50.0, 51.0, np.nan, 53.0, 54.0])[:, None]
    nan = np.nan
    np.testing.assert_array_equal(derivative(t, x)[:, 0], [1.0, 1.0, 1.0, 1.0, nan, nan, nan, 1.0])


def test_two_samples_at_one_time_have_no_slope_between_them():
    t = np.array([0.0, 1.0, 1.0, 1.0, 2.0, 3.0, 4.0])
    assert np.isnan(derivative(t, np.arange(7.0)[:, None])[2, 0])
    assert np.isfinite(derivative(t, np.arange(7.0)[:, None])[5:]).all()


def test_arrays_need_neither_pynwb_nor_torch():
    import subprocess
    import sys

    code = (
        "import sys; from ndt.data.read.arrays import from_arrays; from_arrays([[1.0]], session_id='s');"
        "print({'pynwb', 'torch', 'h5py', 'scipy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"

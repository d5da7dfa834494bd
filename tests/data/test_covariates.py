"""Covariates at bins: no aliases, no values made up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from ndt.data.covariates import resample
from ndt.session import Covariate


def series(times, values, angular=False) -> Covariate:
    values = np.asarray(values, np.float64)
    values = values[:, None] if values.ndim == 1 else values
    dims = tuple(map(str, range(values.shape[1])))
    return Covariate(
        name="x", path="x", timestamps=np.asarray(times, np.float64), values=values, dims=dims, unit="", angular=angular
    )


def test_a_sample_at_the_centre_of_each_bin_is_its_value() -> None:
    times, values = 0.025 + 0.05 * np.arange(40), np.random.default_rng(0).normal(size=(40, 2))
    np.testing.assert_allclose(resample(series(times, values), 0.05 * np.arange(40), 0.05), values, rtol=1e-6)


@given(seed=seeds, bin_size=st.floats(0.004, 0.2), clock=st.sampled_from([0.0, -40.0, 1e6]))
def test_straight_lines_stay_straight(seed, bin_size, clock) -> None:
    """Of any spacing of samples; at the ends, too."""
    rng = np.random.default_rng(seed)
    times = clock + np.cumsum(rng.uniform(0.5, 1.5, 200)) * 0.01
    slope = rng.normal(size=2)
    start = np.arange(times[0], times[-1] - bin_size, bin_size)
    found = resample(series(times, (times - clock)[:, None] * slope + 1), start, bin_size)
    known = ~np.isnan(found).any(1)
    assert known.mean() > 0.9
    expected = (start + bin_size / 2 - clock)[:, None] * slope + 1
    np.testing.assert_allclose(found[known], expected[known], rtol=0, atol=1e-4 * np.abs(slope).max() + 1e-6)


def gain(frequency: float, rate: float, bin_size: float) -> float:
    """How much of a sine at `frequency` is left, by the root mean square away from the ends."""
    times = np.arange(0, 60, 1 / rate)
    start = np.arange(5, 55, bin_size)
    found = resample(series(times, np.sin(2 * np.pi * frequency * times + 0.3)), start, bin_size)
    return float(np.sqrt(2 * np.mean(found**2)))


def test_what_is_faster_than_bins_can_show_is_gone_and_slow_movement_stays() -> None:
    """Bins of 50 ms show up to 10 Hz. A mean over each bin would let through 0.62 of 11 Hz, and 0.22 of 25 Hz."""
    assert gain(11.0, 1000.0, 0.05) < 0.01
    assert gain(25.0, 1000.0, 0.05) < 0.01
    assert gain(310.0, 1000.0, 0.05) < 0.01
    assert gain(5.0, 1000.0, 0.05) == pytest.approx(1.0, abs=0.02)
    assert gain(2.0, 120.0, 0.05) == pytest.approx(1.0, abs=0.02)


def test_irregular_samples_are_filtered_by_their_times() -> None:
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 60, 60_000))
    start = np.arange(5, 55, 0.05)
    fast, slow = (resample(series(times, np.sin(2 * np.pi * f * times)), start, 0.05)[:, 0] for f in (15.0, 2.0))
    assert np.nanmax(np.abs(fast)) < 0.05
    np.testing.assert_allclose(slow, np.sin(2 * np.pi * 2.0 * (start + 0.025)), rtol=0, atol=0.03)


def test_nothing_is_made_up_in_a_gap_or_beyond_the_ends() -> None:
    found = resample(
        series([0.0, 1.0, 2.0, 3.0, 13.0], [0, 10, 20, 40, 50]), np.array([0.4, 1.4, 2.65, 3.5, 12.9, 13.5]), 0.2
    )
    # 3 to 13 is a gap; 3.6 and 13.6 lie more than half an interval behind their run
    np.testing.assert_allclose(found[:, 0], [5, 15, 35, np.nan, 50, np.nan], rtol=1e-6)


def test_a_missing_value_is_masked_and_not_filled() -> None:
    """Samples at 10 Hz, one of them NaN: the bin around it has no value, its neighbours have theirs."""
    values = np.arange(20.0)
    values[7] = np.nan
    found = resample(series(np.arange(20) / 10, values), np.arange(20) / 10 - 0.05, 0.1)[:, 0]
    np.testing.assert_allclose(found, values, rtol=1e-5)
    assert np.isnan(resample(series([0.0, 0.1], [np.nan, np.nan]), np.array([0.0]), 0.1)).all()


def test_a_missing_stretch_does_not_leak_into_its_surroundings() -> None:
    """100 Hz, ten seconds, NaN from 4 to 6 s: on either side the filter continues what it knows, and no NaN spreads."""
    times = np.arange(1000) / 100
    values = np.where((times >= 4) & (times < 6), np.nan, times)
    start = np.arange(0, 10, 0.05)
    found = resample(series(times, values), start, 0.05)[:, 0]
    inside = (start + 0.025 > 4.0) & (start + 0.025 < 5.98)
    np.testing.assert_array_equal(np.isnan(found[inside]), True)
    away = (start + 0.025 < 3.99) | ((start + 0.025 > 6.0) & (start + 0.025 < 9.99))
    np.testing.assert_allclose(found[away], (start + 0.025)[away], atol=1e-5)


def test_dropped_timestamps_are_no_gap_unless_many() -> None:
    """One lost sample of a regular series is bridged, three are not."""
    times = np.delete(np.arange(40) / 20, [10, 20, 21, 22])
    found = resample(series(times, times), np.arange(40) / 20 - 0.025, 0.05)[:, 0]
    assert np.isfinite(found[10])
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(found)), [20, 21, 22])


def test_angles_turn_on_the_circle() -> None:
    found = resample(series([0.0, 0.1], [np.pi - 0.1, -np.pi + 0.1], angular=True), np.array([0.0]), 0.1)
    np.testing.assert_allclose(found, [[-np.cos(0.1), 0.0]], atol=1e-6)


def test_samples_at_one_time_are_averaged() -> None:
    found = resample(series([0.0, 1.0, 1.0, 2.0], [0.0, 1.0, 3.0, 2.0]), np.array([0.5, 1.5]), 1.0)
    np.testing.assert_allclose(found[:, 0], [2.0, 2.0])

"""Coverage over time and by level, and probabilities of classes: hand-computed cases and normal errors."""

import numpy as np
import pytest
from scipy.stats import norm

from ndt.evaluation.calibration import LEVELS, at_levels, confidence, noise, over_time


def test_coverage_by_tenths_is_counted_by_hand():
    """Ten tenths of ten rows: in tenth k the first k rows are held; a row without a label counts nowhere."""
    held = np.array([[float(row < k)] for k in range(10) for row in range(10)])
    held, time = np.insert(held, 3, np.nan, axis=0), np.insert(np.arange(100.0), 3, 2.5)
    middle, share = over_time(time, held)
    np.testing.assert_allclose(share, np.arange(10) / 10)
    np.testing.assert_allclose(middle, 4.5 + 10 * np.arange(10))


def test_coverage_over_time_is_the_mean_of_dimensions_and_has_fewer_parts_of_few_rows():
    held = np.ones((25, 2))
    held[:, 1] = 0
    middle, share = over_time(np.arange(25), held)  # two parts of 13 and 12 rows
    np.testing.assert_allclose(share, [0.5, 0.5])
    np.testing.assert_allclose(middle, [6.0, 18.5])
    assert [len(x) for x in over_time(np.arange(3), np.full((3, 1), np.nan))] == [0, 0]


def test_noise_of_a_part_grows_with_the_root_of_their_number():
    np.testing.assert_allclose(noise(0.02, 0.03, 4), 0.05)  # 0.04 and 0.03 at a right angle
    np.testing.assert_allclose(noise(0.02, None, 4), 0.04)
    assert np.isnan(noise(None, 0.03, 4))
    assert np.isnan(noise(float("nan"), 0.03, 4))


def test_normal_errors_are_calibrated_at_all_levels_and_others_are_not():
    """Half widths of 1.645 standard deviations hold 90 %; scaled, normal errors keep to all levels. If all errors are
    equal, all levels whose interval is shorter hold nothing and all others everything."""
    sd = np.array([1.0, 3.0])
    errors = np.abs(np.random.default_rng(0).normal(size=(20_000, 2)) * sd)
    half = np.tile(norm.ppf(0.95) * sd, (len(errors), 1))
    segment = np.zeros(len(errors))
    share, error = at_levels(errors, half, segment, level=0.9)
    np.testing.assert_allclose(share, LEVELS, atol=0.01)
    assert (error < 0.01).all()

    share, _ = at_levels(np.ones((50, 1)), np.full((50, 1), 1.001), segment[:50], level=0.9)
    np.testing.assert_array_equal(share, np.array(LEVELS) >= 0.9)


def test_own_level_uses_the_stored_half_widths_and_unlabelled_rows_are_left_out():
    off, half = np.array([[0.5], [1.0], [np.nan], [1.5]]), np.ones((4, 1))
    share, _ = at_levels(off, half, np.zeros(4), level=0.9)
    np.testing.assert_allclose(share[LEVELS.index(0.9)], 2 / 3)  # on the edge is within


def test_infinite_half_widths_hold_everything():
    share, _ = at_levels(np.ones((20, 1)), np.full((20, 1), np.inf), np.zeros(20), level=0.9)
    np.testing.assert_array_equal(share, np.ones(len(LEVELS)))


def test_confidence_is_counted_by_hand():
    """Twelve bins at 0.65, of which nine are right, ten at 0.95, all right, and three at 0.3, which are too few."""
    said = np.repeat([0.65, 0.95, 0.4], [12, 10, 3])
    predicted = np.stack([said, 1 - said - 0.05, np.full(25, 0.05)], 1)
    predicted[22:] = [0.4, 0.3, 0.3]
    label = np.zeros(25, int)
    label[[1, 4, 7]] = 1
    true = np.eye(3)[label]
    true, predicted = np.insert(true, 0, np.nan, 0), np.insert(predicted, 0, 1.0, 0)  # one bin has no label
    x, y, _ = confidence(true, predicted, np.zeros(26))
    np.testing.assert_allclose(x, [0.65, 0.95])
    np.testing.assert_allclose(y, [0.75, 1.0])


@pytest.mark.parametrize("p", [0.3, 0.7])
def test_a_tenth_belongs_to_the_group_that_it_begins(p):
    predicted = np.tile([p, 0.99 * (1 - p) / 4], (10, 1))
    x, _, _ = confidence(np.tile([1.0, 0.0], (10, 1)), predicted, np.zeros(10))
    np.testing.assert_allclose(x, [p])

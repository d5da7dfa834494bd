"""Scores of every kind of target, against scikit-learn and by hand."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, r2_score

from ndt.evaluation.metrics import angular_error_deg, confusion, score


def one_hot(label, num_classes: int) -> np.ndarray:
    return np.eye(num_classes)[np.asarray(label)]


def vectors(degrees) -> np.ndarray:
    """Cosine and sine side by side."""
    a = np.radians(np.asarray(degrees, float))
    return np.stack([np.cos(a), np.sin(a)], -1).reshape(len(a), -1)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), R=st.integers(10, 60), C=st.integers(1, 4))
def test_r2_over_masked_rows_is_sklearns_in_each_convention(seed: int, R: int, C: int) -> None:
    # FALCON's metric of a session is the first, over the points of its mask
    rng = np.random.default_rng(seed)
    y, x = rng.standard_normal((2, R, C)) * rng.uniform(0.1, 10, C)
    mask = np.r_[True, True, True, rng.random(R - 3) < 0.6]
    found = score(np.where(mask[:, None], y, np.nan), x, "continuous")
    for name, convention in (("r2", "variance_weighted"), ("r2_uniform", "uniform_average"), ("r2_per_dim", None)):
        expected = r2_score(y[mask], x[mask], multioutput=convention or "raw_values")
        np.testing.assert_allclose(found[name], expected, rtol=1e-9)
    assert found["num_bins"] == mask.sum()


def test_continuous_by_hand() -> None:
    true = [[0.0, 1.0], [2.0, 3.0], [np.nan, 5.0], [4.0, 5.0]]
    predicted = [[1.0, 1.0], [2.0, 6.0], [9.0, 9.0], [3.0, 1.0]]  # errors 1 0 −1 and 0 3 −4
    found = score(true, predicted, "continuous")
    np.testing.assert_allclose(found["rmse"], np.sqrt(27 / 6), rtol=1e-12)
    # 0 2 4 with 1 2 3 rises in step; 1 3 5 with 1 6 1 does not rise at all
    np.testing.assert_allclose(found["correlation"], 0.5, atol=1e-12)


def test_correlation_is_numpys_and_forgets_scale_and_offset() -> None:
    rng = np.random.default_rng(0)
    y, x = rng.normal([3.0, -8.0], 1.0, (2, 50, 2))
    expected = [np.corrcoef(y[:, c], x[:, c])[0, 1] for c in range(2)]
    np.testing.assert_allclose(score(y, 7 * x + 2, "continuous")["correlation"], np.mean(expected), rtol=1e-9)


def test_angles_by_hand() -> None:
    true, predicted = vectors([[359.0], [10.0], [90.0], [0.0]]), vectors([[1.0], [5.0], [60.0], [180.0]])
    found = score(true, predicted * [[1.0], [0.1], [9.0], [2.0]], "angle")  # lengths say nothing
    np.testing.assert_allclose(found["median_error_deg"], (5 + 30) / 2, rtol=1e-9)  # errors 2 5 30 180
    np.testing.assert_allclose(found["mean_error_deg"], 217 / 4, rtol=1e-9)


def test_several_angles_are_averaged() -> None:
    true, predicted = vectors([[0.0, 0.0], [0.0, 0.0]]), vectors([[10.0, -40.0], [20.0, 60.0]])
    found = score(true, predicted, "angle")
    np.testing.assert_allclose(found["mean_error_deg"], 32.5, rtol=1e-9)
    np.testing.assert_allclose(found["median_error_deg"], 32.5, rtol=1e-9)


@given(a=st.floats(-720, 720), b=st.floats(-720, 720))
def test_angular_error_is_the_shorter_way_round(a: float, b: float) -> None:
    expected = abs((a - b + 180) % 360 - 180)
    np.testing.assert_allclose(angular_error_deg(vectors([[a]]), vectors([[b]])), [[expected]], atol=1e-6)


def test_a_prediction_without_direction_is_no_better_than_chance() -> None:
    # atan2(0, 0) is 0: a heading of 0 would count as decoded
    np.testing.assert_array_equal(angular_error_deg(vectors([[0.0], [30.0]]), np.zeros((2, 2))), [[90.0], [90.0]])
    assert np.isnan(angular_error_deg([[np.nan, 0.0]], [[0.0, 0.0]])).all()
    with pytest.raises(ValueError, match="C even"):
        angular_error_deg(np.zeros((2, 3)), np.zeros((2, 3)))


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_classes_are_sklearns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label, p = rng.integers(4, size=40), rng.dirichlet(np.ones(5), 40)  # the fifth class never occurs
    found = score(one_hot(label, 5), p, "class")
    np.testing.assert_allclose(found["accuracy"], accuracy_score(label, p.argmax(1)), rtol=1e-12)
    recall = [np.mean(p.argmax(1)[label == c] == c) for c in np.unique(label)]
    np.testing.assert_allclose(found["balanced_accuracy"], np.mean(recall), rtol=1e-12)
    if set(p.argmax(1)) <= set(label):  # scikit-learn warns of classes that were only predicted
        np.testing.assert_allclose(found["balanced_accuracy"], balanced_accuracy_score(label, p.argmax(1)), rtol=1e-12)
    np.testing.assert_allclose(found["log_loss"], log_loss(label, p, labels=range(5)), rtol=1e-6)  # clipped at 1e-6
    np.testing.assert_allclose(found["chance"], np.bincount(label).max() / 40, rtol=1e-12)


def test_classes_by_hand() -> None:
    true = one_hot([0, 0, 0, 1], 2)
    predicted = [[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1]]
    found = score(true, predicted, "class")
    assert found["accuracy"] == 0.5
    np.testing.assert_allclose(found["balanced_accuracy"], (2 / 3 + 0) / 2, rtol=1e-12)
    np.testing.assert_allclose(found["recall"], [2 / 3, 0.0], rtol=1e-12)
    np.testing.assert_array_equal(confusion(true, predicted), [[2, 1], [1, 0]])
    assert found["chance"] == 0.75
    np.testing.assert_allclose(found["log_loss"], -np.log(0.8 * 0.6 * 0.3 * 0.1) / 4, rtol=1e-12)


def test_probabilities_that_are_none_are_made_so() -> None:
    # ridge on one-hot columns: a negative number counts as 1e-6, and rows are made to sum to 1
    found = score(one_hot([0], 2), [[-0.5, 2.0]], "class")
    np.testing.assert_allclose(found["log_loss"], -np.log(1e-6 / (1 + 1e-6)), rtol=1e-9)
    found = score(one_hot([1], 2), [[0.4, 0.4]], "class")
    np.testing.assert_allclose(found["log_loss"], np.log(2), rtol=1e-12)


def test_r2_of_one_hot_columns_is_a_brier_skill_score() -> None:
    rng = np.random.default_rng(0)
    y, p = one_hot(rng.integers(3, size=200), 3), rng.dirichlet(np.ones(3), 200)
    brier, reference = np.sum((y - p) ** 2), np.sum((y - y.mean(0)) ** 2)
    np.testing.assert_allclose(score(y, p, "class")["r2"], 1 - brier / reference, rtol=1e-12)


@pytest.mark.parametrize("kind", ["continuous", "angle", "class"])
def test_without_a_labelled_row_nothing_is_defined(kind: str) -> None:
    found = score(np.full((4, 2), np.nan), np.ones((4, 2)), kind)
    assert found.pop("num_bins") == sum(found.pop("class_counts", [])) == 0
    assert np.isnan(np.concatenate([np.atleast_1d(v) for v in found.values()])).all()


@pytest.mark.parametrize("kind", ["continuous", "angle", "class"])
def test_scores_are_plain_numbers(kind: str) -> None:
    found = score(np.eye(2), np.eye(2) * 0.9 + 0.05, kind)
    assert json.loads(json.dumps(found)) == found


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="continuous, angle, class, got 'heading'"):
        score(np.zeros((3, 2)), np.zeros((3, 2)), "heading")
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3, 1\)"):
        score(np.zeros((3, 2)), np.zeros((3, 1)), "continuous")

"""Distances between samples, where they are known."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from ndt.dynamics.distances import gaussian_w2, mmd, roll_out, score, sliced_w2, wasserstein
from ndt.dynamics.snapshots import Snapshots

RNG = np.random.default_rng(0)


def test_the_distance_of_a_shifted_population_is_the_shift() -> None:
    x = RNG.normal(size=(300, 3))
    shift = np.array([3.0, 0.0, -4.0])
    for order in (1, 2):
        np.testing.assert_allclose(wasserstein(x, RNG.permutation(x) + shift, order), 5.0, rtol=1e-12)
    np.testing.assert_allclose(gaussian_w2(x, x + shift), 5.0, rtol=1e-6)
    np.testing.assert_allclose(wasserstein(x, x), 0.0, atol=1e-12)
    assert sliced_w2(x, RNG.permutation(x)) < 1e-12


def test_distances_in_one_dimension_equal_scipys() -> None:
    x, y = RNG.normal(size=(200, 1)), RNG.exponential(size=(200, 1))
    np.testing.assert_allclose(wasserstein(x, y, 1), wasserstein_distance(x[:, 0], y[:, 0]), rtol=1e-10)
    np.testing.assert_allclose(
        sliced_w2(x, y), wasserstein(x, y, 2), rtol=1e-10
    )  # a direction is the line, or its mirror


def test_sliced_w2_of_a_shift_is_its_root_mean_square_projection() -> None:
    x = RNG.normal(size=(500, 4))
    np.testing.assert_allclose(sliced_w2(x, x + np.array([2.0, 0, 0, 0]), 4096), 1.0, rtol=0.05)  # 2 / sqrt(4)


def test_gaussian_w2_equals_its_closed_form() -> None:
    a, b = np.array([[2.0, 0.3], [0.3, 0.5]]), np.array([[0.7, -0.2], [-0.2, 1.1]])
    x, y = (RNG.multivariate_normal(np.zeros(2), c, 200_000) for c in (a, b))
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(values) @ vectors.T
    exact = np.trace(a + b) - 2 * np.sqrt(np.linalg.eigvalsh(root @ b @ root)).sum()
    np.testing.assert_allclose(gaussian_w2(x, y) ** 2, exact, rtol=0.03)


def test_distances_are_periodic() -> None:
    x, period = RNG.uniform(0, 10, (200, 1)), np.array([10.0])
    moved = np.mod(x + 9.5, 10.0)
    assert wasserstein(x, moved, 1, period=period) <= 0.5 + 1e-9
    clump = RNG.uniform(0, 0.2, (200, 1))
    across = np.mod(clump - 0.2, 10.0)
    assert sliced_w2(clump, across, period=period) < 0.25 < sliced_w2(clump, across)


def test_mmd_is_unbiased_and_detects_a_shift() -> None:
    same = [mmd(RNG.normal(size=(100, 2)), RNG.normal(size=(100, 2))) for _ in range(200)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(200)
    assert mmd(RNG.normal(size=(100, 2)), RNG.normal(1.0, 1, (100, 2))) > 5 * np.std(same)


def test_a_score_is_zero_for_the_truth_and_grows_with_the_error() -> None:
    x = RNG.normal(size=(80, 2)) + np.arange(3.0)[:, None, None]
    seen = Snapshots.from_arrays(np.stack([x, x + 1]), [0.0, 1.0, 2.0], [0.0, 1.0], paired=True, held_out_times=[2.0])
    truth = score(roll_out(lambda first, t, mu, seed: x + mu, seen), seen)
    assert [(r["trajectory"], r["t"], r["held_out"]) for r in truth] == [
        (0, 1.0, False), (0, 2.0, True), (1, 1.0, False), (1, 2.0, True),
    ]  # fmt: skip
    assert all(r[k] == pytest.approx(0, abs=1e-9) for r in truth for k in ("w1", "w2", "sliced_w2", "mean_error"))
    still = score(roll_out(lambda first, t, mu, seed: np.stack([first.x] * len(t)), seen), seen)
    np.testing.assert_allclose([r["w2"] for r in still], np.sqrt(2) * np.array([1, 2, 1, 2]), rtol=1e-9)

"""Interpolations without a model: exact where motion is as simple as each assumes."""

import numpy as np
import pytest

from ndt.dynamics.references import INTERPOLATIONS
from ndt.dynamics.snapshots import Snapshots
from ndt.errors import InputError


def moved(order: int) -> tuple[Snapshots, object]:
    """Particles far from each other on paths that are polynomials of time, their velocities known."""
    rng = np.random.default_rng(order)
    start, bends = 100 * np.arange(40.0).reshape(20, 2), rng.normal(size=(order, 20, 2))

    def at(t: float) -> np.ndarray:
        return start + sum(bend * t ** (i + 1) for i, bend in enumerate(bends))

    def speed(t: float) -> np.ndarray:
        return sum((i + 1) * bend * t**i for i, bend in enumerate(bends))

    times = [0.5, 1.5]

    return Snapshots.from_arrays([at(t) for t in times], times, velocity=[speed(t) for t in times]), at


def placed(name: str, seen: Snapshots, time: float) -> np.ndarray:
    found = INTERPOLATIONS[name](seen[0], seen[1], time, seen.period)
    return found[np.argsort(found[:, 0])]


def test_hermite_is_exact_for_cubics_and_all_interpolations_for_lines() -> None:
    cubic, at = moved(3)
    for t in (0.5, 0.8, 1.5):
        np.testing.assert_allclose(placed("hermite", cubic, t), at(t), atol=1e-9)
    assert np.abs(placed("displacement_interpolation", cubic, 0.8) - at(0.8)).max() > 0.1
    straight, at = moved(1)
    for name in ("constant_velocity", "displacement_interpolation", "hermite"):
        np.testing.assert_allclose(placed(name, straight, 1.1), at(1.1), atol=1e-9)
    np.testing.assert_array_equal(placed("persistence", straight, 1.1), straight[0].x)


def test_interpolations_take_the_short_way_round() -> None:
    x = np.array([[[0.9], [0.4]], [[0.1], [0.6]]])
    seen = Snapshots.from_arrays(x, [0.0, 1.0], velocity=np.full_like(x, 0.2), period=[1.0])
    for name in ("constant_velocity", "displacement_interpolation", "hermite"):
        np.testing.assert_allclose(placed(name, seen, 0.75).ravel(), [0.05, 0.55], atol=1e-12)


def test_missing_velocities_are_refused() -> None:
    seen = Snapshots.from_arrays(np.zeros((2, 3, 2)), [0.0, 1.0])
    for name in ("constant_velocity", "hermite"):
        with pytest.raises(InputError, match="velocity: expected velocities"):
            INTERPOLATIONS[name](seen[0], seen[1], 0.5, seen.period)

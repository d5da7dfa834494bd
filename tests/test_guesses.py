"""What is said between snapshots without a model: exact where motion is as simple as it assumes."""

import numpy as np
import pytest

from ndt.dynamics.guesses import GUESSES
from ndt.dynamics.snapshots import Snapshots
from ndt.errors import InputError

FLAT = np.full(2, np.inf)


def moved(order: int) -> tuple[Snapshots, object]:
    """Particles far from each other on ways that are polynomials of time, their velocities known."""
    rng = np.random.default_rng(order)
    start, bends = 100 * np.arange(40.0).reshape(20, 2), rng.normal(size=(order, 20, 2))

    def at(t: float) -> np.ndarray:
        return start + sum(bend * t ** (i + 1) for i, bend in enumerate(bends))

    def speed(t: float) -> np.ndarray:
        return sum((i + 1) * bend * t**i for i, bend in enumerate(bends))

    times = [0.5, 1.5]

    return Snapshots.from_arrays([at(t) for t in times], times, velocity=[speed(t) for t in times]), at


def placed(guess: str, seen: Snapshots, time: float) -> np.ndarray:
    found = GUESSES[guess](seen[0], seen[1], time, seen.period)
    return found[np.argsort(found[:, 0])]


def test_a_cubic_is_found_by_velocities_at_both_ends_and_a_straight_line_by_less() -> None:
    cubic, at = moved(3)
    for t in (0.5, 0.8, 1.5):
        np.testing.assert_allclose(placed("hermite", cubic, t), at(t), atol=1e-9)
    assert np.abs(placed("transport", cubic, 0.8) - at(0.8)).max() > 0.1
    straight, at = moved(1)
    for guess in ("constant_velocity", "transport", "hermite"):
        np.testing.assert_allclose(placed(guess, straight, 1.1), at(1.1), atol=1e-9)
    np.testing.assert_array_equal(placed("persistence", straight, 1.1), straight[0].x)


def test_what_is_round_is_gone_round_the_short_way() -> None:
    x = np.array([[[0.9], [0.4]], [[0.1], [0.6]]])
    seen = Snapshots.from_arrays(x, [0.0, 1.0], velocity=np.full_like(x, 0.2), period=[1.0])
    for guess in ("constant_velocity", "transport", "hermite"):
        np.testing.assert_allclose(placed(guess, seen, 0.75).ravel(), [0.05, 0.55], atol=1e-12)


@pytest.mark.parametrize(
    ("guess", "told"),
    [("transport", "after: expected a later"), ("constant_velocity", "velocity: expected velocities")],
)
def test_what_is_missing_is_named(guess, told) -> None:
    seen = Snapshots.from_arrays(np.zeros((1, 3, 2)), [0.0])
    with pytest.raises(InputError, match=told):
        GUESSES[guess](seen[0], None, 1.0, FLAT)

"""What can be said between and beyond two snapshots without a model: the least that a model has to beat.

All return samples (N, d) at a time, from a snapshot before it and, where they need one, a snapshot after it.
"""

import numpy as np
from numpy.typing import NDArray

from ndt.dynamics.between import pair
from ndt.dynamics.periodic import nearest, wrap
from ndt.dynamics.snapshots import Snapshot
from ndt.errors import InputError

__all__ = ["GUESSES", "constant_velocity", "hermite", "persistence", "transported"]

Array = NDArray[np.float64]


def persistence(before: Snapshot, after: Snapshot | None, time: float, period: Array) -> Array:
    """Returns the samples where they were."""
    del after, time, period  # nothing moves
    return before.x


def constant_velocity(before: Snapshot, after: Snapshot | None, time: float, period: Array) -> Array:
    """Returns the samples moved on, each at its own velocity."""
    del after
    return wrap(before.x + (time - before.time) * _velocity(before), period)


def transported(before: Snapshot, after: Snapshot | None, time: float, period: Array) -> Array:
    """Returns pairs of least cost on their straight way from one snapshot to the other.

    Reference: McCann (1997), A convexity principle for interacting gases, https://doi.org/10.1006/aima.1997.1634
    """
    x, y = _ends(before, after, period)
    step = nearest(after.x[y] - before.x[x], period)  # type: ignore[union-attr]

    return wrap(before.x[x] + _along(before, after, time) * step, period)


def hermite(before: Snapshot, after: Snapshot | None, time: float, period: Array) -> Array:
    """Returns the same pairs on cubic ways that begin and end at their velocities."""
    x, y = _ends(before, after, period)
    a, span = _along(before, after, time), after.time - before.time  # type: ignore[union-attr]
    step = nearest(after.x[y] - before.x[x], period)  # type: ignore[union-attr]
    first, last = span * _velocity(before)[x], span * _velocity(after)[y]
    bend = (a**3 - 2 * a**2 + a) * first + (3 * a**2 - 2 * a**3) * step + (a**3 - a**2) * last

    return wrap(before.x[x] + bend, period)


GUESSES = {
    "persistence": persistence,
    "constant_velocity": constant_velocity,
    "transport": transported,
    "hermite": hermite,
}


def _ends(before: Snapshot, after: Snapshot | None, period: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if after is None:
        raise InputError("snapshots", "after", "a later snapshot to go towards", "none")

    return pair(before, after, period, np.random.default_rng(0))


def _along(before: Snapshot, after: Snapshot | None, time: float) -> float:
    assert after is not None, "it was paired"
    return (time - before.time) / (after.time - before.time)


def _velocity(snapshot: Snapshot | None) -> Array:
    if snapshot is None or snapshot.velocity is None:
        raise InputError("snapshots", "velocity", "velocities of the samples", "none")

    return snapshot.velocity

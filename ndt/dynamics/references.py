"""Reference forecasts, which need no fit, and interpolations between two snapshots: what a model has to beat."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ndt.dynamics.fitting import Progress
from ndt.dynamics.head import Head
from ndt.dynamics.interpolants import transport_pairs
from ndt.dynamics.periodic import nearest, wrap
from ndt.dynamics.snapshots import Snapshot, Snapshots
from ndt.errors import InputError

__all__ = ["INTERPOLATIONS", "ConstantVelocity", "LinearExtrapolation", "Persistence"]

Array = NDArray[np.float64]


class Persistence(Head):
    """Persistence: samples stay where they are."""

    def fit(self, snapshots: Snapshots, progress: Progress | None = None) -> Self:
        """Keeps the snapshots that are not held out, and returns itself."""
        del progress
        self.seen = snapshots.fitted
        return self

    def advance(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> Array:
        """Returns the same samples at all times, (T, N, d)."""
        del mu, seed, options
        return np.stack([snapshot.x] * len(np.asarray(times)))


class ConstantVelocity(Persistence):
    """Constant velocity: each sample keeps its observed velocity."""

    def advance(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> Array:
        """Returns the samples at all times, each at its own velocity, (T, N, d)."""
        del mu, seed, options
        return np.stack([constant_velocity(snapshot, t, self.seen.period) for t in np.asarray(times).tolist()])


class LinearExtrapolation(Persistence):
    """Linear extrapolation of optimal-transport pairs: of a snapshot and the fitted one before it.

    The first snapshot is paired with the one after it, which gives displacement interpolation.
    """

    def advance(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> Array:
        """Returns the paired samples at all times, (T, n, d)."""
        del options
        parameters = np.ravel(np.zeros(0) if mu is None else np.asarray(mu))
        nearest_mu = int(np.argmin(np.linalg.norm(self.seen.mu - parameters, axis=1)))
        known, period = self.seen.of(nearest_mu), self.seen.period
        before = [s for s in known if s.time < snapshot.time - 1e-12]
        after = [s for s in known if s.time > snapshot.time + 1e-12]
        if not before and not after:
            expected = "no linear_extrapolation of a trajectory with one fitted snapshot"
            raise InputError("settings", "baselines", expected, "it")
        other = before[-1] if before else after[0]
        rows, others = transport_pairs(snapshot, other, period, np.random.default_rng(seed))
        x = snapshot.x[rows]
        velocity = nearest(other.x[others] - x, period) / (other.time - snapshot.time)

        return np.stack([wrap(x + (t - snapshot.time) * velocity, period) for t in np.asarray(times).tolist()])


def constant_velocity(before: Snapshot, time: float, period: Array) -> Array:
    """Returns the samples of a snapshot moved at their own velocities, (N, d)."""
    return wrap(before.x + (time - before.time) * _velocity(before), period)


def displacement_interpolation(before: Snapshot, after: Snapshot, time: float, period: Array) -> Array:
    """Returns optimal-transport pairs on straight lines from one snapshot to the other, (n, d).

    Reference: McCann (1997), A convexity principle for interacting gases, https://doi.org/10.1006/aima.1997.1634
    """
    rows, others = transport_pairs(before, after, period, np.random.default_rng(0))
    a, x = (time - before.time) / (after.time - before.time), before.x[rows]

    return wrap(x + a * nearest(after.x[others] - x, period), period)


def hermite(before: Snapshot, after: Snapshot, time: float, period: Array) -> Array:
    """Returns the same pairs on cubic Hermite curves, which match the velocities at both ends, (n, d)."""
    rows, others = transport_pairs(before, after, period, np.random.default_rng(0))
    span = after.time - before.time
    a, x = (time - before.time) / span, before.x[rows]
    first, last = span * _velocity(before)[rows], span * _velocity(after)[others]
    step = nearest(after.x[others] - x, period)

    return wrap(x + (a**3 - 2 * a**2 + a) * first + (3 * a**2 - 2 * a**3) * step + (a**3 - a**2) * last, period)


INTERPOLATIONS: dict[str, Callable[[Snapshot, Snapshot, float, Array], Array]] = {  # before, after, time, period
    "persistence": lambda before, *_: before.x,
    "constant_velocity": lambda before, _, time, period: constant_velocity(before, time, period),
    "displacement_interpolation": displacement_interpolation,
    "hermite": hermite,
}


def _velocity(snapshot: Snapshot) -> Array:
    if snapshot.velocity is None:
        raise InputError("snapshots", "velocity", "velocities of the samples", "none")

    return snapshot.velocity

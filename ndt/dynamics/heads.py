"""What every dynamics head does with snapshots once it carries one on: interpolate, forecast, score."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ndt.dynamics.between import pair
from ndt.dynamics.distances import carry, score
from ndt.dynamics.periodic import nearest, wrap
from ndt.dynamics.snapshots import Snapshot, Snapshots
from ndt.errors import InputError

__all__ = ["Head"]


class Head(ABC):
    """A model that carries populations on. Where it begins, it sees no snapshot that is held out."""

    @abstractmethod
    def advance(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> NDArray[np.float64]:
        """Carries a snapshot's samples on to times, of which its own is the first; shape (T, N, d)."""

    def motion(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Returns what `advance` does, and velocities where the model's particles have some of their own."""
        return self.advance(snapshot, times, mu, seed=seed, **options), None

    def interpolate(
        self, snapshots: Snapshots, times: ArrayLike, trajectory: int = 0, *, pinned: bool = False, **options: Any
    ) -> NDArray[np.float64]:
        """Returns samples at times, each carried on from the latest snapshot before it; shape (T, N, d).

        Arguments:
            snapshots: Where to begin.
            times: Times T, in any order.
            trajectory: Of which trajectory.
            pinned: Whether paths are bent so that they end in the next snapshot, where there is one: by what they miss
                it by, paired by transport; in a cubic that ends with its velocities, too, where model and snapshot have
                some, else in proportion to time.
            options: Of the simulation.
        """
        known, mu = _known(snapshots, trajectory), snapshots.mu[trajectory]
        wanted, moments = np.asarray(times, np.float64), np.array([s.time for s in known])
        if np.any(wanted < moments[0]):
            raise InputError("interpolate", "times", f"at least {moments[0]:g}, the first snapshot's", wanted.min())
        parts: dict[int, NDArray[np.float64]] = {}  # by place in `times`: (N, d)
        for k in np.unique(at := np.searchsorted(moments, wanted, side="right") - 1):
            mine = np.flatnonzero(at == k)
            last = moments[k + 1 : k + 2] if pinned else moments[:0]
            later, place = np.unique(np.concatenate([[moments[k]], wanted[mine], last]), return_inverse=True)
            path, speed = self.motion(known[k], later, mu, **options)
            if len(last):
                path = _bent(path, speed, later, known[k + 1], snapshots.period)
            parts |= zip(mine.tolist(), path[place[1 : 1 + len(mine)]], strict=True)
        n = min(len(part) for part in parts.values())

        return np.stack([parts[i][:n] for i in range(len(wanted))])

    def forecast(
        self, snapshots: Snapshots, times: ArrayLike, trajectory: int = 0, *, free: bool = False, **options: Any
    ) -> NDArray[np.float64]:
        """Returns samples at times after a trajectory's last snapshot, carried on from it; shape (T, N, d).

        Arguments:
            snapshots: Where to begin.
            times: Times T, ascending.
            trajectory: Of which trajectory.
            free: Whether to begin at the first snapshot, not at the last.
            options: Of the simulation.
        """
        known, wanted = _known(snapshots, trajectory), np.asarray(times, np.float64)
        if np.any(wanted <= known[-1].time):
            raise InputError("forecast", "times", f"after {known[-1].time:g}, the last snapshot's", wanted.min())
        begin = known[0 if free else -1]

        return self.advance(begin, [begin.time, *wanted], snapshots.mu[trajectory], **options)[1:]

    def score(self, snapshots: Snapshots, *, seed: int = 0, **options: Any) -> list[dict[str, float]]:
        """Carries each trajectory on from its first snapshot and compares; see `ndt.dynamics.distances.score`."""
        return score(carry(self.advance, snapshots, seed=seed, **options), snapshots, seed=seed)


def _bent(
    path: NDArray[np.float64], speed: NDArray[np.float64] | None, times: NDArray[np.float64], end: Snapshot,
    period: NDArray[np.float64],
) -> NDArray[np.float64]:  # fmt: skip
    """Returns paths (T, N, d) that end in the samples of a snapshot at the last time, and begin as they did."""
    made = Snapshot(end.time, path[-1], None, np.full(len(path[-1]), 1 / len(path[-1])))
    rows, others = pair(made, end, period, np.random.default_rng(0))
    path, missed = path[:, rows], nearest(end.x[others] - path[-1, rows], period)
    span = times[-1] - times[0]
    a = ((times - times[0]) / span)[:, None, None]
    if speed is None or end.velocity is None:
        return wrap(path + a * missed, period)
    faster = span * (end.velocity[others] - speed[-1, rows])

    return wrap(path + (3 * a**2 - 2 * a**3) * missed + (a**3 - a**2) * faster, period)


def _known(snapshots: Snapshots, trajectory: int) -> list[Snapshot]:
    held = snapshots.held_out[snapshots.trajectory == trajectory]
    found = [s for s, apart in zip(snapshots.of(trajectory), held, strict=True) if not apart]

    return found or snapshots.of(trajectory)[:1]  # of a trajectory that is held out whole, where it begins

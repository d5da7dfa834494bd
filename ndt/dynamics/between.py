"""Samples of a population at any time, from its snapshots: along paths, along transport, or from a mixture.

Between two snapshots a population has to be guessed. Where particles are known one by one, each goes straight; the same
where they are paired by transport of least cost. A mixture takes each sample from either snapshot, the nearer one more
often: densities then change in a straight line. Each is a curve of densities without a jump, so that a potential which
is fitted to it has a loss that is bounded below.
"""

import copy
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ndt.dynamics.distances import distances
from ndt.dynamics.periodic import nearest, wrap
from ndt.dynamics.snapshots import Snapshot, Snapshots
from ndt.dynamics.strata import Strata
from ndt.errors import InputError

__all__ = ["Bridge", "bridges", "pair"]

LARGEST = 1000  # samples that are paired exactly: an assignment takes their number cubed

# K = snapshots of one trajectory, N = particles, d = dimensions, Q = times


class Bridge:
    """One trajectory's population at any time within its snapshots.

    Arguments:
        snapshots: The trajectory's snapshots in the order of time, K of them, at least two.
        period: Period of each dimension, shape (d,).
        how: ``paths``, ``transport``, ``mixture`` or ``snapshots``; the last knows the snapshots' own times only.
        rng: What pairs of transport are drawn with, where there are more than can be paired exactly.
    """

    def __init__(
        self, snapshots: list[Snapshot], period: NDArray[np.float64], how: str, rng: np.random.Generator
    ) -> None:
        self.time = np.array([s.time for s in snapshots])
        self.how, self.period = how, period
        self.samples = [s.x for s in snapshots]
        self.share = [s.weight for s in snapshots]
        velocities = [s.velocity for s in snapshots if s.velocity is not None]
        self.velocities = velocities if len(velocities) == len(snapshots) else None
        self.mean = np.stack([s.mean for s in snapshots])  # (K, d)
        self.legs: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
        for before, after in pairwise(snapshots) if how in ("paths", "transport") else ():
            rows = (slice(None), slice(None)) if how == "paths" else pair(before, after, period, rng)
            x = before.x[rows[0]]
            self.legs.append((x, nearest(after.x[rows[1]] - x, period)))
        self.strata: dict[int, Strata] = {}  # made where they are first drawn from

    @property
    def moves(self) -> bool:
        """Whether samples have velocities: along legs, or as they were recorded with."""
        return bool(self.legs) or (self.how == "snapshots" and self.velocities is not None)

    @cached_property
    def rough(self) -> bool:
        """Whether particles jitter, so that their velocities over one leg are mostly noise.

        Over two legs the mean squared velocity of a diffusion is half of that over one, and that of a smooth path the
        same; this is true below three quarters.
        """
        if self.how != "paths" or len(self.legs) < 2:
            return False
        found = np.zeros(2)
        for k in np.unique(np.linspace(0, len(self.legs) - 2, 20).astype(int)):
            (_, one), (_, other) = self.legs[k : k + 2]
            first, both = self.time[k + 1] - self.time[k], self.time[k + 2] - self.time[k]
            found += [np.mean((one[:1000] / first) ** 2), np.mean(((one + other)[:1000] / both) ** 2)]

        return bool(found[1] < 0.75 * found[0])

    def sample(
        self, time: NDArray[np.float64], num: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns samples at each of the times, drawn anew for each, and their velocities, each of shape (Q, num, d).

        Velocities are NaN where `moves` is not true.
        """
        at = np.clip(np.searchsorted(self.time, time, side="right") - 1, 0, len(self.time) - 2)
        along = (time - self.time[at]) / (self.time[at + 1] - self.time[at])
        found = np.empty((len(time), num, self.mean.shape[1]))
        speed = np.full_like(found, np.nan)
        for q, (k, a) in enumerate(zip(at.tolist(), along.tolist(), strict=True)):
            if self.legs:
                x, step = self.legs[k]
                chosen = self._draw(k, x, num, rng)
                found[q] = x[chosen] + a * step[chosen]
                speed[q] = step[chosen] / (self.time[k + 1] - self.time[k])
            else:
                later = rng.random(num) < a
                for i, mask in ((k, ~later), (k + 1, later)):
                    chosen = self._draw(i, self.samples[i], int(mask.sum()), rng)
                    found[q, mask] = self.samples[i][chosen]
                    if self.velocities is not None and self.moves:
                        speed[q, mask] = self.velocities[i][chosen]

        return wrap(found, self.period), speed

    def part(self, which: int, of: int) -> "Bridge":
        """Returns one of several bridges that share no sample: every so many-th particle or pair, from `which` on."""
        found = copy.copy(self)
        found.legs = [(x[which::of], step[which::of]) for x, step in self.legs]
        found.samples = [x[which::of] for x in self.samples]
        found.share = [w[which::of] / max(w[which::of].sum(), np.finfo(float).tiny) for w in self.share]
        if self.velocities is not None:
            found.velocities = [v[which::of] for v in self.velocities]
        found.strata = {}

        return found

    def _draw(self, k: int, x: NDArray[np.float64], num: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Returns rows of the samples that begin leg k, or of snapshot k."""
        if k not in self.strata:
            even = np.full(len(x), 1 / len(x))  # pairs of transport were drawn by weight
            self.strata[k] = Strata(x, even if self.how == "transport" else self.share[k])

        return self.strata[k].draw(num, rng)

    def level(self, time: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns where the potential's level is held, and how fast that moves, each of shape (Q, d).

        It is the population's mean, in a straight line between snapshots; of periodic dimensions, 0.
        """
        at = np.clip(np.searchsorted(self.time, time, side="right") - 1, 0, len(self.time) - 2)
        around = np.isfinite(self.period)
        mean = np.where(around, 0.0, self.mean)
        slope = np.diff(mean, axis=0) / np.diff(self.time)[:, None]

        return mean[at] + (time - self.time[at])[:, None] * slope[at], slope[at]


def pair(
    before: Snapshot, after: Snapshot, period: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns rows of two snapshots in pairs whose summed squared distance is least, each of shape (n,)."""
    even = all(np.ptp(s.weight) == 0 for s in (before, after))
    n = min(max(len(before.x), len(after.x)), LARGEST) if even else LARGEST
    x, y = (_spread(s, n, rng) for s in (before, after))
    rows, columns = linear_sum_assignment(distances(before.x[x], after.x[y], period) ** 2)

    return x[rows], y[columns]


def _spread(snapshot: Snapshot, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns n rows in any order, each sample as often as its weight says, give or take one."""
    order = rng.permutation(len(snapshot.x))
    edges = np.cumsum(snapshot.weight[order])
    chosen = np.searchsorted(edges, (rng.permutation(n) + rng.random()) / n * edges[-1], side="right")

    return order[np.minimum(chosen, len(order) - 1)]


def bridges(snapshots: Snapshots, how: str, rng: np.random.Generator) -> list[Bridge]:
    """Returns a bridge for each trajectory.

    Raises:
        InputError: if a trajectory has fewer than two snapshots, or paths are asked for of particles that are not
            paired.
    """
    if how == "paths" and not snapshots.paired:
        raise InputError("settings", "between", "transport, mixture or snapshots, of samples that are not paired", how)
    found = []
    for m in range(snapshots.num_trajectories):
        each = snapshots.of(m)
        if len(each) < 2:
            raise InputError("snapshots", f"trajectory {m}", "at least two snapshots to fit", len(each))
        chosen = how if how != "auto" else "paths" if snapshots.paired else _guess(each, snapshots.period)
        found.append(Bridge(each, snapshots.period, chosen, rng))
    if len({bridge.how for bridge in found}) > 1:  # all by the more careful one
        return bridges(snapshots, "mixture", rng)

    return found


def _guess(snapshots: list[Snapshot], period: NDArray[np.float64]) -> str:
    """Chooses transport where neighbouring snapshots hardly overlap, and a mixture where they do.

    Pairs of samples that were drawn independently differ by chance, however little the population moved; divided by a
    short time that is noise as large as what is sought. A mixture has none of it, but lets a population that moved by
    more than its width vanish here and appear there.
    """
    flat = ~np.isfinite(period)
    mean, spread = (np.stack([getattr(s, name)[flat] for s in snapshots]) for name in ("mean", "std"))
    moved = np.linalg.norm(np.diff(mean, axis=0), axis=1)
    width = np.linalg.norm(spread[1:], axis=1)

    return "transport" if np.mean(moved) > 0.5 * np.mean(width) > 0 else "mixture"

"""Interpolants: samples of a population at any time between its snapshots.

``paths`` moves each particle on a straight line between its own positions, ``transport`` does the same for
optimal-transport pairs, and ``mixture`` draws each sample from either snapshot with a probability that is linear in
time. All three are continuous curves of densities, so that the loss of a potential fitted to them is bounded below.
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
from ndt.errors import InputError

__all__ = ["Interpolant", "Strata", "interpolants", "transport_pairs"]

Array = NDArray[np.float64]

LARGEST = 1000  # most samples that are paired exactly: the assignment costs their number cubed
LEVELS = 10  # of the tree that orders samples; its 1024 leaves exceed the number of draws

# K = snapshots of one trajectory, N = particles, d = dimensions, Q = times


class Interpolant:
    """The population of one trajectory at any time within its snapshots.

    Arguments:
        snapshots: The trajectory's snapshots by ascending time, K of them, at least two.
        period: Period of each dimension, shape (d,).
        kind: ``paths``, ``transport``, ``mixture`` or ``snapshots``; the last has the snapshot times only.
        rng: Source of the samples that are paired, if there are more than can be paired exactly.
    """

    def __init__(self, snapshots: list[Snapshot], period: Array, kind: str, rng: np.random.Generator) -> None:
        self.time = np.array([s.time for s in snapshots])
        self.kind, self.period = kind, period
        self.samples = [s.x for s in snapshots]
        self.weights = [s.weight for s in snapshots]
        velocities = [s.velocity for s in snapshots if s.velocity is not None]
        self.velocities = velocities if len(velocities) == len(snapshots) else None
        self.mean = np.stack([s.mean for s in snapshots])  # (K, d)
        self.segments: list[tuple[Array, Array]] = []  # starts and displacements
        for before, after in pairwise(snapshots) if kind in ("paths", "transport") else ():
            rows = (slice(None), slice(None)) if kind == "paths" else transport_pairs(before, after, period, rng)
            x = before.x[rows[0]]
            self.segments.append((x, nearest(after.x[rows[1]] - x, period)))
        self.strata: dict[int, Strata] = {}  # built at the first draw

    @property
    def has_velocities(self) -> bool:
        """Whether samples have velocities: along segments, or as recorded."""
        return bool(self.segments) or (self.kind == "snapshots" and self.velocities is not None)

    @cached_property
    def rough(self) -> bool:
        """Whether paths are those of a diffusion, so that velocities over one segment are mostly noise.

        The mean squared velocity of a diffusion over two segments is half of that over one; that of a smooth path is
        the same. The threshold is three quarters.
        """
        if self.kind != "paths" or len(self.segments) < 2:
            return False
        total = np.zeros(2)
        for k in np.unique(np.linspace(0, len(self.segments) - 2, 20).astype(int)):
            (_, one), (_, other) = self.segments[k : k + 2]
            first, both = self.time[k + 1] - self.time[k], self.time[k + 2] - self.time[k]
            total += [np.mean((one[:1000] / first) ** 2), np.mean(((one + other)[:1000] / both) ** 2)]

        return bool(total[1] < 0.75 * total[0])

    def sample(self, time: Array, num: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Returns independent samples at each of the times and their velocities, each of shape (Q, num, d).

        Velocities are NaN unless `has_velocities`.
        """
        at = np.clip(np.searchsorted(self.time, time, side="right") - 1, 0, len(self.time) - 2)
        along = (time - self.time[at]) / (self.time[at + 1] - self.time[at])
        x = np.empty((len(time), num, self.mean.shape[1]))
        velocity = np.full_like(x, np.nan)
        for q, (k, a) in enumerate(zip(at.tolist(), along.tolist(), strict=True)):
            if self.segments:
                start, step = self.segments[k]
                rows = self._draw(k, start, num, rng)
                x[q] = start[rows] + a * step[rows]
                velocity[q] = step[rows] / (self.time[k + 1] - self.time[k])
            else:
                later = rng.random(num) < a
                for i, mask in ((k, ~later), (k + 1, later)):
                    rows = self._draw(i, self.samples[i], int(mask.sum()), rng)
                    x[q, mask] = self.samples[i][rows]
                    if self.velocities is not None and self.has_velocities:
                        velocity[q, mask] = self.velocities[i][rows]

        return wrap(x, self.period), velocity

    def part(self, which: int, of: int) -> "Interpolant":
        """Returns one of `of` interpolants that share no sample: every `of`-th particle or pair, from `which` on."""
        found = copy.copy(self)
        found.segments = [(x[which::of], step[which::of]) for x, step in self.segments]
        found.samples = [x[which::of] for x in self.samples]
        found.weights = [w[which::of] / max(w[which::of].sum(), np.finfo(float).tiny) for w in self.weights]
        if self.velocities is not None:
            found.velocities = [v[which::of] for v in self.velocities]
        found.strata = {}

        return found

    def _draw(self, k: int, x: Array, num: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Returns rows of the samples that start segment k, or of snapshot k."""
        if k not in self.strata:
            even = np.full(len(x), 1 / len(x))  # weights have entered the choice of transport pairs
            self.strata[k] = Strata(x, even if self.kind == "transport" else self.weights[k])

        return self.strata[k].draw(num, rng)

    def gauge_point(self, time: Array) -> tuple[Array, Array]:
        """Returns the point at which the potential is set to 0 and its velocity, each of shape (Q, d).

        It is the population's mean, linear in time between snapshots; 0 in periodic dimensions.
        """
        at = np.clip(np.searchsorted(self.time, time, side="right") - 1, 0, len(self.time) - 2)
        mean = np.where(np.isfinite(self.period), 0.0, self.mean)
        slope = np.diff(mean, axis=0) / np.diff(self.time)[:, None]

        return mean[at] + (time - self.time[at])[:, None] * slope[at], slope[at]


class Strata:
    """Stratified draws of samples.

    Samples are ordered by a k-d tree, so that neighbours in the order are close. One draw from each of n equal parts of
    that order is unbiased, as n independent draws are, and has less variance, above all in low dimension.

    Arguments:
        x: Samples, shape (N, d).
        weight: Their weights, which sum to 1, shape (N,).

    Example:
        >>> x = np.random.default_rng(0).permutation(8)[:, None]
        >>> np.sort(x[Strata(x, np.full(8, 1 / 8)).draw(8, np.random.default_rng(1)), 0])
        array([0, 1, 2, 3, 4, 5, 6, 7])
    """

    def __init__(self, x: Array, weight: Array) -> None:
        N = len(x)
        order, part = np.arange(N), np.zeros(N, np.int64)
        for level in range(1, min(LEVELS, int(np.log2(N))) + 1):
            first = np.searchsorted(part, np.arange(part[-1] + 1))
            low, high = np.minimum.reduceat(x[order], first), np.maximum.reduceat(x[order], first)
            widest = (high - low).argmax(1)
            order = order[np.lexsort((x[order, widest[part]], part))]
            part = (np.arange(N) << level) // N
        self.order = order
        self.edges = np.cumsum(weight[order])

    def draw(self, num: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Returns rows of samples, one of each of `num` parts of equal weight, shape (num,)."""
        at = (np.arange(num) + rng.random(num)) / max(num, 1) * self.edges[-1]

        return self.order[np.minimum(np.searchsorted(self.edges, at, side="right"), len(self.order) - 1)]


def transport_pairs(
    before: Snapshot, after: Snapshot, period: Array, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the optimal-transport coupling of two snapshots as paired rows, each of shape (n,).

    The sum of squared distances is minimal, the short way round periodic dimensions.
    """
    even = all(np.ptp(s.weight) == 0 for s in (before, after))
    n = min(max(len(before.x), len(after.x)), LARGEST) if even else LARGEST
    x, y = (_resampled(s, n, rng) for s in (before, after))
    rows, columns = linear_sum_assignment(distances(before.x[x], after.x[y], period) ** 2)

    return x[rows], y[columns]


def _resampled(snapshot: Snapshot, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns n rows in random order, each sample in proportion to its weight to within one row."""
    order = rng.permutation(len(snapshot.x))
    edges = np.cumsum(snapshot.weight[order])
    chosen = np.searchsorted(edges, (rng.permutation(n) + rng.random()) / n * edges[-1], side="right")

    return order[np.minimum(chosen, len(order) - 1)]


def interpolants(snapshots: Snapshots, kind: str, rng: np.random.Generator) -> list[Interpolant]:
    """Returns the interpolant of each trajectory.

    Raises:
        InputError: if a trajectory has fewer than two snapshots, or ``paths`` is chosen for unpaired particles.
    """
    if kind == "paths" and not snapshots.paired:
        expected = "transport, mixture or snapshots, of samples that are not paired"
        raise InputError("settings", "interpolant", expected, kind)
    found = []
    for m in range(snapshots.num_trajectories):
        each = snapshots.of(m)
        if len(each) < 2:
            raise InputError("snapshots", f"trajectory {m}", "at least two snapshots to fit", len(each))
        auto = "paths" if snapshots.paired else _automatic(each, snapshots.period)
        found.append(Interpolant(each, snapshots.period, auto if kind == "auto" else kind, rng))
    if len({each.kind for each in found}) > 1:
        return interpolants(snapshots, "mixture", rng)

    return found


def _automatic(snapshots: list[Snapshot], period: Array) -> str:
    """Chooses ``transport`` if neighbouring snapshots hardly overlap, else ``mixture``.

    Pairs of independent samples differ by chance however little the population moved; over a short time that noise is
    as large as the velocity. A mixture has no such noise, but moves a population that has shifted by more than its
    width by making it vanish in one place and appear in another.
    """
    flat = ~np.isfinite(period)
    mean, spread = (np.stack([getattr(s, name)[flat] for s in snapshots]) for name in ("mean", "std"))
    moved = np.linalg.norm(np.diff(mean, axis=0), axis=1)
    width = np.linalg.norm(spread[1:], axis=1)

    return "transport" if np.mean(moved) > 0.5 * np.mean(width) > 0 else "mixture"

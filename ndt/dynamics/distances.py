"""Distances between samples of two populations, and scores of simulated trajectories.

Exact optimal transport is an assignment of equal numbers of samples; the larger population is subsampled.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from ndt.dynamics.periodic import nearest, on_circles
from ndt.dynamics.snapshots import Snapshot, Snapshots
from ndt.errors import InputError

__all__ = ["roll_out", "distances", "gaussian_w2", "mmd", "score", "sliced_w2", "wasserstein"]

Array = NDArray[np.float64]

LARGEST = 1000  # most samples of an exact transport

# N, K = samples of both populations, d = dimensions


def wasserstein(
    x: NDArray[np.floating], y: NDArray[np.floating], order: int = 2, *, period: Array | None = None,
    rng: np.random.Generator | None = None,
) -> float:  # fmt: skip
    """Returns the Wasserstein distance of order 1 or 2 between samples (N, d) and (K, d), exact for up to 1000 each."""
    rng = rng or np.random.default_rng(0)
    n = min(len(x), len(y), LARGEST)
    x, y = (v if len(v) == n else v[rng.choice(len(v), n, replace=False)] for v in (x, y))
    cost = distances(x, y, period) ** order
    rows, columns = linear_sum_assignment(cost)

    return float(cost[rows, columns].mean() ** (1 / order))


def distances(x: NDArray[Any], y: NDArray[Any], period: Array | None) -> Array:
    """Returns the distance of each of (N, d) to each of (K, d), the short way round periodic dimensions; (N, K)."""
    if period is None or not np.isfinite(period).any():
        return np.asarray(cdist(x, y), np.float64)

    return np.asarray(np.sqrt((nearest(x[:, None] - y[None], period) ** 2).sum(-1)))


def sliced_w2(
    x: NDArray[np.floating], y: NDArray[np.floating], num_slices: int = 64, *, period: Array | None = None
) -> float:
    """Returns the root of the mean squared W2 along random directions; periodic dimensions are mapped to circles.

    Reference: Bonneel et al. (2015), Sliced and Radon Wasserstein barycenters of measures,
    https://doi.org/10.1007/s10851-014-0506-3
    """
    x, y = (on_circles(v, period) for v in (x, y))
    directions = np.random.default_rng(0).normal(size=(x.shape[1], num_slices))  # the same for all: scores compare
    directions /= np.linalg.norm(directions, axis=0)
    levels = (np.arange(n := max(len(x), len(y))) + 0.5) / n
    a, b = (np.sort(v @ directions, axis=0)[np.minimum((levels * len(v)).astype(int), len(v) - 1)] for v in (x, y))

    return float(np.sqrt(np.mean((a - b) ** 2)))


def gaussian_w2(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Returns W2 between Gaussians of the same means and covariances, in closed form.

    Reference: Dowson, Landau (1982), The Fréchet distance between multivariate normal distributions,
    https://doi.org/10.1016/0047-259X(82)90077-X
    """
    a, b = (np.atleast_2d(np.cov(v.T)) for v in (x, y))
    root = sqrtm(a)
    middle = np.real(sqrtm(root @ b @ root))
    shift = np.sum((x.mean(0) - y.mean(0)) ** 2)

    return float(np.sqrt(max(shift + np.trace(a + b - 2 * middle), 0.0)))


def mmd(x: NDArray[np.floating], y: NDArray[np.floating], *, period: Array | None = None, most: int = LARGEST) -> float:
    """Returns the unbiased squared maximum mean discrepancy, by a Gaussian kernel of the median distance.

    Reference: Gretton et al. (2012), A kernel two-sample test, https://jmlr.org/papers/v13/gretton12a.html
    """
    x, y = x[:most], y[:most]
    between = distances(x, y, period)
    width = np.median(between)
    inner = [np.exp(-(distances(v, v, period) ** 2) / (2 * width**2)) for v in (x, y)]
    own = sum((k.sum() - len(k)) / (len(k) * (len(k) - 1)) for k in inner)

    return float(own - 2 * np.exp(-(between**2) / (2 * width**2)).mean())


def roll_out(advance: Callable[..., Array], snapshots: Snapshots, *, seed: int = 0, **options: Any) -> list[Array]:
    """Simulates each trajectory from its first snapshot; returns samples at its snapshots' times, (T, N, d) each.

    Arguments:
        advance: Method of a model: takes a snapshot, times that start with its own, and parameters; returns samples
            at all times, (T, N, d).
        snapshots: Initial samples and times.
        seed: Seed of the simulation and of resampling by weight.
        options: Options of the simulation.

    Raises:
        InputError: if a position is not finite.
    """
    rng, found = np.random.default_rng(seed), []
    for m in range(snapshots.num_trajectories):
        seen = snapshots.of(m)
        path = advance(_even(seen[0], rng), [s.time for s in seen], snapshots.mu[m], seed=seed, **options)
        if not np.isfinite(path).all():
            raise InputError("simulate", f"trajectory {m}", "finite positions", "others: the model diverges")
        found.append(path)

    return found


def score(paths: list[Array], snapshots: Snapshots, *, seed: int = 0) -> list[dict[str, float]]:
    """Compares simulated samples with snapshots.

    Arguments:
        paths: Simulated samples, from `roll_out`.
        snapshots: Snapshots to compare with; held out or not.
        seed: Seed of resampling by weight.

    Returns:
        For each snapshot but the first: ``trajectory``, ``t``, ``held_out``, the distances ``w1``, ``w2``,
        ``sliced_w2``, ``gaussian_w2`` and ``mmd``, and ``mean_error`` and ``cov_error``, relative to the snapshot's own
        spread and covariance.

    Raises:
        InputError: if a snapshot has a single sample.
    """
    rng, rows, period = np.random.default_rng(seed), [], snapshots.period
    for m, path in enumerate(paths):
        seen = snapshots.of(m)
        held = snapshots.held_out[snapshots.trajectory == m]
        for k in range(1, len(seen)):
            x, y = path[k], _even(seen[k], rng).x
            if len(y) < 2:
                raise InputError("snapshots", f"samples at time {seen[k].time:g}", "at least 2 to score", len(y))
            row = {"trajectory": m, "t": seen[k].time, "held_out": bool(held[k])}
            row |= {f"w{order}": wasserstein(x, y, order, period=period) for order in (1, 2)}
            row |= {"sliced_w2": sliced_w2(x, y, period=period), "mmd": mmd(x, y, period=period)}
            row |= {"gaussian_w2": gaussian_w2(x, y)}
            rows.append(row | _moments(x, y, period))

    return rows


def _even(snapshot: Snapshot, rng: np.random.Generator) -> Snapshot:
    """Returns as many samples of equal weight, resampled by weight."""
    if np.ptp(snapshot.weight) == 0:
        return snapshot
    n = len(snapshot.x)
    rows = rng.choice(n, n, p=snapshot.weight)
    velocity = None if snapshot.velocity is None else snapshot.velocity[rows]

    return Snapshot(snapshot.time, snapshot.x[rows], velocity, np.full(n, 1 / n))


def _moments(x: NDArray[Any], y: NDArray[Any], period: Array) -> dict[str, float]:
    x, y = on_circles(x, period), on_circles(y, period)
    a, b = (np.atleast_2d(np.cov(v.T)) for v in (x, y))
    scale = np.sqrt(np.trace(b))

    return {
        "mean_error": float(np.linalg.norm(x.mean(0) - y.mean(0)) / scale),
        "cov_error": float(np.linalg.norm(a - b) / np.linalg.norm(b)),
    }

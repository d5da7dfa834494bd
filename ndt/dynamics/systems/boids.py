r"""Boids: a flock with cohesion, separation and alignment at constant speed.

.. math:: \Delta v_i = w_c\,\overline{(x_j - x_i)} - w_s\sum_{|r| < r_s}(x_j - x_i) + w_a\,\overline{(v_j - v_i)}
   - w_b\,\mathrm{sign}(x_i)\,1[|x_i| > b]

with means over neighbours within R. A step adds this to the velocity, normalises speeds to 1, and moves the birds. The
forces depend on velocities and conserve no energy: second-order dynamics that no potential generates.

References: Reynolds (1987), Flocks, herds and schools, https://doi.org/10.1145/37402.37406; Guan, Atanackovic,
Neklyudov (2026), https://arxiv.org/abs/2605.08550, whose constants are the defaults.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from ndt.dynamics.snapshots import Snapshots
from ndt.errors import InputError

__all__ = ["Boids"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Boids:
    """The system.

    Arguments:
        sight: Radius R of the neighbourhood.
        reach: Radius r_s of separation.
        cohesion: Weight w_c of the neighbours' centre.
        separation: Weight w_s.
        alignment: Weight w_a of the neighbours' velocities.
        wall: Strength w_b of the walls.
        size: Position b of the walls, in each coordinate.
        step: Time step.
    """

    sight: float = 1.0
    reach: float = 0.3
    cohesion: float = 0.005
    separation: float = 0.1
    alignment: float = 0.3
    wall: float = 0.5
    size: float = 5.0
    step: float = 0.5

    def simulate(self, num_particles: int, times: Array, seed: int = 0) -> Snapshots:
        """Returns positions and velocities at times, which are whole steps, (T, N, 2)."""
        rng, moments = np.random.default_rng(seed), np.asarray(times, np.float64)
        steps = (moments - moments[0]) / self.step
        if np.abs(steps - steps.round()).max() > 1e-6:
            raise InputError("boids", "times", f"whole steps of {self.step:g}", moments.tolist())
        x = rng.normal(size=(num_particles, 2))
        v = rng.normal(size=(num_particles, 2))
        v = _unit(v - v.mean(0))
        observed, frames = set(steps.round().astype(int).tolist()), []
        for k in range(max(observed) + 1):
            if k in observed:
                frames.append((x, v))
            v = _unit(v + self.step * self._turn(x, v))
            x = x + self.step * v
        positions, velocities = zip(*frames, strict=True)

        return Snapshots.from_arrays(np.stack(positions), moments, velocity=np.stack(velocities))

    def _turn(self, x: Array, v: Array) -> Array:
        """Returns the rate of change of velocities, before normalisation."""
        i, j = KDTree(x).query_pairs(self.sight, output_type="ndarray").T
        i, j = np.concatenate([i, j]), np.concatenate([j, i])
        gap = x[j] - x[i]
        near = np.linalg.norm(gap, axis=1) < self.reach
        seen = np.maximum(np.bincount(i, minlength=len(x)), 1)[:, None]
        turn = self.cohesion * _sum(gap, i, len(x)) / seen + self.alignment * _sum(v[j] - v[i], i, len(x)) / seen

        turn = turn - self.separation * _sum(gap[near], i[near], len(x))

        return turn - self.wall * np.sign(x) * (np.abs(x) > self.size)


def _unit(v: Array) -> Array:
    return v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)


def _sum(values: Array, rows: NDArray[np.int64], num: int) -> Array:
    return np.stack([np.bincount(rows, column, minlength=num) for column in values.T], 1).astype(np.float64)

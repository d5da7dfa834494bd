r"""A noisy harmonic oscillator of which only positions are observed; its variance is sharply periodic.

.. math:: dx = v\,dt, \qquad dv = -\omega^2 x\,dt + \sigma\,dW

Two independent coordinates. All densities are Gaussian; they and the optimal potential are known in closed
form. Positions alone are not Markovian: the velocity of a particle is not a function of its position.

Reference: Berman, Blickhan, Peherstorfer (2024), https://arxiv.org/abs/2410.12000, whose constants are the defaults.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt.dynamics.snapshots import Snapshots

__all__ = ["Oscillator"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Oscillator:
    """The system.

    Arguments:
        omega: Angular frequency, rad per unit of time.
        sigma: Noise on velocities.
        mean: Mean position at time 0, the same in both coordinates; the mean velocity is 0.
        spread: Standard deviation of positions and velocities at time 0.
    """

    omega: float = 10.0
    sigma: float = 0.05
    mean: float = -1.0
    spread: float = 0.1

    def simulate(self, num_particles: int, times: Array, seed: int = 0) -> Snapshots:
        """Returns positions of particles at times, with exact transitions, (T, N, 2), paired."""
        rng = np.random.default_rng(seed)
        x = rng.normal(self.mean, self.spread, (num_particles, 2))
        v = rng.normal(0.0, self.spread, (num_particles, 2))
        frames, now = [], 0.0
        for t in np.asarray(times, np.float64).tolist():
            x, v = self._advance(x, v, t - now, rng)
            frames.append(x)
            now = t

        return Snapshots.from_arrays(np.stack(frames), times, paired=True)

    def _advance(self, x: Array, v: Array, h: float, rng: np.random.Generator) -> tuple[Array, Array]:
        w, a = self.omega, self.omega * h
        x, v = np.cos(a) * x + np.sin(a) / w * v, -w * np.sin(a) * x + np.cos(a) * v
        if self.sigma and h > 0:
            root = np.linalg.cholesky(self._noise(h) + 1e-18 * np.eye(2))  # it may be singular for short h
            push = rng.standard_normal((*x.shape, 2)) @ root.T
            x, v = x + push[..., 0], v + push[..., 1]

        return x, v

    def _noise(self, h: float) -> Array:
        """Covariance of (x, v) that noise adds over h."""
        w, double = self.omega, 2 * self.omega * h
        xx, vv = (h - np.sin(double) / (2 * w)) / w**2, h + np.sin(double) / (2 * w)
        xv = (np.sin(self.omega * h) / w) ** 2

        return self.sigma**2 / 2 * np.array([[xx, xv], [xv, vv]])

    def moments(self, times: Array) -> tuple[Array, Array]:
        """Returns mean and variance of a coordinate's position at times, each of shape (T,)."""
        w, t = self.omega, np.asarray(times, np.float64)
        free = self.spread**2 * (np.cos(w * t) ** 2 + (np.sin(w * t) / w) ** 2)
        noise = self.sigma**2 / 2 * (t - np.sin(2 * w * t) / (2 * w)) / w**2

        return self.mean * np.cos(w * t), free + noise

    def least_loss(self, noise: float = 0.0, end: float = 1.0, num: int = 20001) -> float:
        """Returns the loss of the optimal potential, minus half the integral of E|grad s|² over [0, end]."""
        t = np.linspace(1e-6, end - 1e-6, num)
        mean, variance = self.moments(t)
        rate = (np.gradient(variance, t) - noise**2) / 2
        kinetic = 2 * (np.gradient(mean, t) ** 2 + rate**2 / variance)

        return -float(np.trapezoid(kinetic, t)) / 2

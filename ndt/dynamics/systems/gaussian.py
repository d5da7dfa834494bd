r"""Gaussian populations whose best potential is known: what a fitted field is held against.

A density :math:`N(m(t, \mu), \sigma(t)^2 I)` is moved by, and by no gradient of less kinetic energy than,

.. math:: \nabla s = m' + \Big(\frac{\sigma'}{\sigma} - \frac{\varepsilon^2}{2\sigma^2}\Big)(x - m)

for samples with diffusion eps. Reference: Berman, Blickhan, Peherstorfer (2024), https://arxiv.org/abs/2410.12000.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt.dynamics.snapshots import Snapshots

__all__ = ["GaussianPath", "moving", "reverting", "translating"]

Moments = Callable[[NDArray[np.float64], float], tuple[NDArray[np.float64], NDArray[np.float64]]]


@dataclass(frozen=True, kw_only=True)
class GaussianPath:
    """A Gaussian in two dimensions that moves.

    Arguments:
        moments: Takes times (T,) and a parameter; returns means (T, 2) and standard deviations (T,).
        noise: Diffusion eps of the samples.
        revert: Rate at which a particle forgets where it was, of noisy paths; 0: a particle keeps its place in the
            population.
    """

    moments: Moments
    noise: float = 0.0
    revert: float = 0.0

    def simulate(
        self, num_particles: int, times: NDArray[np.float64], mu: Sequence[float] = (), seed: int = 0, **kept: object
    ) -> Snapshots:
        """Returns paths of particles, (M, T, N, 2), a trajectory for each parameter; `kept` as `from_arrays` has it."""
        rng, times = np.random.default_rng(seed), np.asarray(times, np.float64)
        populations = []
        for m in mu or (0.0,):
            mean, std = self.moments(times, m)
            z = rng.normal(size=(num_particles, 2))
            frames = [mean[0] + std[0] * z]
            for k in range(1, len(times)):
                if self.revert:  # to the mean, by exact transitions: their covariance is that of the process
                    share = np.exp(-self.revert * (times[k] - times[k - 1])) * std[k - 1] / std[k]
                    z = share * z + np.sqrt(1 - share**2) * rng.normal(size=z.shape)
                frames.append(mean[k] + std[k] * z)
            populations.append(np.stack(frames))

        return Snapshots.from_arrays(np.stack(populations), times, mu or None, paired=True, **kept)  # type: ignore[arg-type]

    def field(self, x: NDArray[np.float64], time: float, mu: float = 0.0) -> NDArray[np.float64]:
        """Returns the gradient of the best potential at positions (N, 2)."""
        h = 1e-5  # of central differences; the moments are smooth
        mean, std = self.moments(np.array([time - h, time, time + h]), mu)
        change = (std[2] - std[0]) / (2 * h) / std[1] - self.noise**2 / (2 * std[1] ** 2)

        return np.asarray((mean[2] - mean[0]) / (2 * h) + change * (x - mean[1]))

    def least_loss(self, start: float, end: float, mu: float = 0.0, num: int = 4001) -> float:
        """Returns the loss of the best potential: minus half the integral of E|grad s|² over the times."""
        t = np.linspace(start, end, num)
        mean, std = self.moments(t, mu)
        change = np.gradient(std, t) - self.noise**2 / (2 * std)
        kinetic = (np.gradient(mean, t, axis=0) ** 2).sum(1) + 2 * change**2

        return -float(np.trapezoid(kinetic, t)) / 2

    def field_error(
        self, velocity: Callable[..., NDArray[np.float64]], times: NDArray[np.float64], mu: float | None = None
    ) -> float:
        """Returns the relative L2 error of a field over the population and times.

        Arguments:
            velocity: Takes positions (N, 2), a time and parameters (1,) or None, as `HOAM.velocity`.
            times: Times to compare at.
            mu: Parameter; None where the field has none.
        """
        rng, wrong, size = np.random.default_rng(9), 0.0, 0.0
        mean, std = self.moments(np.asarray(times), mu or 0.0)
        for k, t in enumerate(times):
            x = mean[k] + std[k] * rng.normal(size=(1000, 2))
            exact = self.field(x, t, mu or 0.0)
            wrong += float(((velocity(x, float(t), None if mu is None else [mu]) - exact) ** 2).sum())
            size += float((exact**2).sum())

        return float(np.sqrt(wrong / size))


def moving(noise: float = 0.0) -> GaussianPath:
    """Returns one that moves along a curve and shrinks to two fifths."""
    return GaussianPath(
        moments=lambda t, mu: (np.stack([2 * t, np.sin(3 * t)], -1), 1 - 0.6 * t), noise=noise,
    )  # fmt: skip


def translating() -> GaussianPath:
    """Returns one that moves along the first dimension at the speed 2 mu."""
    return GaussianPath(
        moments=lambda t, mu: (np.stack([2 * mu * t, 0 * t], -1), 0.5 + 0 * t),
    )  # fmt: skip


def reverting(rate: float = 1.5, noise: float = 1.0, start: float = 2.0, width: float = 0.2) -> GaussianPath:
    """Returns Ornstein and Uhlenbeck's process, whose best potential is that of its own drift, -rate x."""

    def moments(t: NDArray[np.float64], mu: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        del mu  # one process
        left = np.exp(-2 * rate * t)
        mean = start * np.exp(-rate * t)

        return np.stack([mean, -mean], -1), np.sqrt(width**2 * left + noise**2 * (1 - left) / (2 * rate))

    return GaussianPath(moments=moments, noise=noise, revert=rate)

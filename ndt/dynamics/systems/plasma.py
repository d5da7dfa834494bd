r"""Plasmas by particle-in-cell simulation: electrons in their own field, with ions at rest.

.. math::
    \dot x = v, \qquad \dot v = \nabla\varphi(x), \qquad \mu^2\,\Delta\varphi = n(x) - 1

in a periodic box of one to three dimensions: cloud-in-cell deposition of the density n, a Fourier solver for the
potential, and leapfrog steps (kick, drift, kick). The plasma frequency is 1 / mu.

References: Birdsall, Langdon (1985), Plasma physics via computer simulation. The instabilities' constants are those of
Berman, Blickhan, Peherstorfer (2024), https://arxiv.org/abs/2410.12000, where mu is also the number of waves of
the velocity perturbation; if it is not an integer, the perturbation jumps at the seam of the box, as in their work.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, qmc

from ndt.dynamics.snapshots import Snapshots
from ndt.errors import InputError

__all__ = ["Beams", "Landau", "Mesh"]

Array = NDArray[np.float64]

# N = particles, D = dimensions of space, T = times


class Mesh:
    """A periodic box and its cells.

    Arguments:
        length: Length of the box, the same in all dimensions.
        cells: Cells in each dimension.
        dims: Dimensions of space D.
        mu: Scale of the field: the plasma frequency is 1 / mu.
    """

    def __init__(self, length: float, cells: int, dims: int, mu: float = 1.0) -> None:
        self.length, self.cells, self.dims, self.mu = length, cells, dims, mu
        waves = 2 * np.pi * np.fft.fftfreq(cells, length / cells)
        self.waves = np.stack(np.meshgrid(*[waves] * dims, indexing="ij"))  # (D, cells, …)
        square = (self.waves**2).sum(0)
        square.flat[0] = np.inf  # the mean of the density is that of the ions
        self.response = 1 / (mu**2 * square)

    def density(self, x: Array) -> Array:
        """Returns the density of particles (N, D) in each cell, of mean 1, by cloud-in-cell deposition."""
        total = np.zeros(self.cells**self.dims)
        for index, weight in self._corners(x):
            total += np.bincount(index, weight, minlength=len(total))

        return total.reshape([self.cells] * self.dims) * (len(total) / len(x))

    def field(self, x: Array) -> Array:
        """Returns the gradient of the potential at the mesh's points, shape (D, cells, …): the acceleration there."""
        potential = -np.fft.fftn(self.density(x)) * self.response

        return np.stack([np.fft.ifftn(1j * k * potential).real for k in self.waves])

    def acceleration(self, x: Array) -> Array:
        """Returns the acceleration of each particle, shape (N, D)."""
        on_mesh = self.field(x).reshape(self.dims, -1)
        found = np.zeros_like(x)
        for index, weight in self._corners(x):
            found += weight[:, None] * on_mesh[:, index].T

        return found

    def electric_energy(self, x: Array) -> float:
        """Returns half the integral of mu² |field|² over the box."""
        cell = (self.length / self.cells) ** self.dims

        return float(self.mu**2 * (self.field(x) ** 2).sum() * cell / 2)

    def advance(self, x: Array, v: Array, duration: float, step: float) -> tuple[Array, Array]:
        """Returns positions and velocities after a duration, in equal steps no longer than `step`."""
        if duration <= 0:
            return x, v
        num = max(1, int(np.ceil(duration / step - 1e-9)))
        h = duration / num
        push = self.acceleration(x)
        for _ in range(num):
            v = v + h / 2 * push
            x = np.mod(x + h * v, self.length)
            push = self.acceleration(x)
            v = v + h / 2 * push

        return x, v

    def recorded(self, start: tuple[Array, Array], times: Array, step: float) -> Array:
        """Returns positions and velocities at times, from a start at time 0, (T, N, 2 D)."""
        (x, v), now, frames = start, 0.0, []
        for t in np.asarray(times, np.float64).tolist():
            x, v = self.advance(x, v, t - now, step)
            frames.append(np.concatenate([x, v], 1))
            now = t

        return np.stack(frames)

    def _corners(self, x: Array) -> list[tuple[NDArray[np.int64], Array]]:
        """Returns indices of the 2^D mesh points around each particle, and its weights there."""
        at = x / (self.length / self.cells)
        low = np.floor(at).astype(np.int64)
        over = at - low
        found = []
        for corner in product((0, 1), repeat=self.dims):
            index, weight = np.zeros(len(x), np.int64), np.ones(len(x))
            for j, c in enumerate(corner):
                index = index * self.cells + (low[:, j] + c) % self.cells
                weight = weight * (over[:, j] if c else 1 - over[:, j])
            found.append((index, weight))

        return found


@dataclass(frozen=True, kw_only=True)
class _Plasma(ABC):
    """A plasma in a periodic box, from quasi-random initial conditions, which have little sampling noise.

    Arguments:
        dims: Dimensions of space D; phase space has twice as many.
        box: Length of the box.
        cells: Cells of the mesh in each dimension.
        step: Time step.
    """

    dims: int
    box: float
    cells: int
    step: float = 0.05

    @abstractmethod
    def start(self, mu: float, num_particles: int, seed: int) -> tuple[Array, Array]:
        """Returns positions and velocities at time 0, each (N, D)."""

    def mesh(self, mu: float) -> Mesh:
        """Returns the mesh for a parameter."""
        return Mesh(self.box, self.cells, self.dims, mu)

    def simulate(self, mu: Sequence[float], num_particles: int, times: Array, seed: int = 0) -> Snapshots:
        """Returns positions and velocities, (M, T, N, 2 D), paired, a trajectory for each mu."""
        frames = [
            self.mesh(m).recorded(self.start(m, num_particles, seed + i), times, self.step) for i, m in enumerate(mu)
        ]
        period = [self.box] * self.dims + [np.inf] * self.dims

        return Snapshots.from_arrays(np.stack(frames), times, np.array(mu), paired=True, period=period)

    def electric_energy(self, samples: Array, mu: float) -> Array:
        """Returns the electric energy of each of the populations (T, N, 2 D), by the same mesh for all."""
        mesh = self.mesh(mu)

        return np.array([mesh.electric_energy(frame[:, : self.dims]) for frame in samples])


@dataclass(frozen=True, kw_only=True)
class Beams(_Plasma):
    """Electron beams in one dimension: two streams by default, or a bump on the tail.

    Arguments:
        speeds: Mean velocity of each beam.
        widths: Thermal velocity of each beam.
        shares: Fraction of the particles in each beam; they sum to 1.
        perturbation: Relative perturbation of velocities: v (1 + perturbation cos(2 pi mu x / box)).
    """

    dims: int = 1
    box: float = 50.0
    cells: int = 128
    speeds: tuple[float, ...] = (-3.0, 3.0)
    widths: tuple[float, ...] = (1.0, 1.0)
    shares: tuple[float, ...] = (0.5, 0.5)
    perturbation: float = 0.05

    def __post_init__(self) -> None:
        if not len(self.speeds) == len(self.widths) == len(self.shares) or abs(sum(self.shares) - 1) > 1e-9:
            raise InputError("system", "shares", "one for each beam, with sum 1", self.shares)

    def start(self, mu: float, num_particles: int, seed: int) -> tuple[Array, Array]:
        """Returns positions and velocities at time 0, each (N, 1)."""
        uniform = qmc.Halton(3, rng=np.random.default_rng(seed)).random(num_particles)
        x = uniform[:, 0] * self.box
        beam = np.minimum(np.searchsorted(np.cumsum(self.shares), uniform[:, 1], side="right"), len(self.shares) - 1)
        deviation = norm.ppf(np.clip(uniform[:, 2], 1e-9, 1 - 1e-9))
        v = np.array(self.speeds)[beam] + np.array(self.widths)[beam] * deviation
        v = v * (1 + self.perturbation * np.cos(2 * np.pi * mu * x / self.box))

        return x[:, None], v[:, None]


@dataclass(frozen=True, kw_only=True)
class Landau(_Plasma):
    """Landau damping of waves in a warm plasma.

    The initial density is the product of 1 + mu cos(k x) over dimensions, of one wave in the box: mu is the amplitude,
    0.5 for strong damping.
    """

    dims: int = 3
    box: float = 4 * np.pi
    cells: int = 16

    def mesh(self, mu: float) -> Mesh:
        """Returns the mesh; its field does not depend on the amplitude mu."""
        del mu
        return Mesh(self.box, self.cells, self.dims)

    def start(self, mu: float, num_particles: int, seed: int) -> tuple[Array, Array]:
        """Returns positions and velocities at time 0, each (N, D)."""
        if not 0 <= mu < 1:
            raise InputError("system", "mu", "an amplitude of 0 to below 1", mu)
        uniform = qmc.Halton(2 * self.dims, rng=np.random.default_rng(seed)).random(num_particles)
        grid, wave = np.linspace(0, self.box, 4097), 2 * np.pi / self.box
        cumulative = (grid + mu / wave * np.sin(wave * grid)) / self.box
        x = np.interp(uniform[:, : self.dims], cumulative, grid)

        return np.mod(x, self.box), norm.ppf(np.clip(uniform[:, self.dims :], 1e-9, 1 - 1e-9))

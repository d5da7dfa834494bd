r"""Second-order populations whose motion is known exactly.

Each obeys :math:`\ddot x = -\nabla(\delta U/\delta\rho) - \gamma\dot x` for a functional U:

- `harmonic_oscillator`: :math:`U = \tfrac k2 E|x|^2`, with friction, started off its centre.
- `isothermal_gas`: :math:`U = T\int\rho\log\rho + \tfrac k2 E|x|^2`, damped isothermal Euler:
  :math:`\sigma'' = T/\sigma - k\sigma - \gamma\sigma'`.
- `solid_rotation`: rigid rotation, :math:`U = \tfrac{\Omega^2}2E|x|^2` with initial velocities perpendicular to x.
- `vortex_tracers`: circular orbits about a vortex, with centripetal force :math:`-v_\theta^2/r`; for a point vortex,
  :math:`v_\theta = \Gamma/2\pi r`, :math:`U = -E\,\Gamma^2/8\pi^2r^2`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from ndt.dynamics.snapshots import Snapshots

__all__ = ["damped_oscillation", "harmonic_oscillator", "isothermal_gas", "solid_rotation", "vortex_tracers"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """A population in two dimensions.

    Arguments:
        initial: Takes standard normal numbers (N, 4); returns positions and velocities at time 0, (N, 2) each.
        motion: Takes both and a time; returns both then.
    """

    initial: Callable[[Array], tuple[Array, Array]]
    motion: Callable[[Array, Array, float], tuple[Array, Array]]

    def simulate(self, num_particles: int, times: Array, seed: int = 0) -> Snapshots:
        """Returns positions and velocities at times, exact, (T, N, 2)."""
        rng, frames = np.random.default_rng(seed), []
        first = self.initial(rng.normal(size=(num_particles, 4)))
        for t in np.asarray(times, np.float64).tolist():
            frames.append(self.motion(*first, t))
        positions, velocities = zip(*frames, strict=True)

        return Snapshots.from_arrays(np.stack(positions), times, velocity=np.stack(velocities), paired=True)


def damped_oscillation(k: float, gamma: float, t: float) -> tuple[float, float, float, float]:
    """Returns A, B and their derivatives at t: x = A x0 + B v0 solves x'' = -k x - gamma x'."""
    root = np.sqrt(complex(gamma**2 / 4 - k))
    root = root if abs(root) > 1e-9 else complex(1e-6)  # critical damping, as a limit
    a, b = -gamma / 2 + root, -gamma / 2 - root
    up, down = np.exp(a * t), np.exp(b * t)
    found = (a * down - b * up, up - down, a * b * (down - up), a * up - b * down)

    return tuple(float((value / (a - b)).real) for value in found)  # type: ignore[return-value]


def harmonic_oscillator(k: float = 4.0, gamma: float = 0.0, middle: float = 1.0, width: float = 0.3) -> Ensemble:
    """Returns particles in a harmonic potential, off its centre."""

    def motion(x: Array, v: Array, t: float) -> tuple[Array, Array]:
        A, B, rate_a, rate_b = damped_oscillation(k, gamma, t)
        return A * x + B * v, rate_a * x + rate_b * v

    def initial(z: Array) -> tuple[Array, Array]:
        return width * z[:, :2] + [middle, 0.0], width * z[:, 2:] + [0.0, middle]

    return Ensemble(initial=initial, motion=motion)


def isothermal_gas(temperature: float = 0.5, k: float = 1.0, gamma: float = 0.3, width: float = 0.4) -> Ensemble:
    """Returns a Gaussian isothermal gas in a harmonic potential, from rest."""

    def motion(x: Array, v: Array, t: float) -> tuple[Array, Array]:
        del v  # it starts at rest
        if t <= 0:
            return x, np.zeros_like(x)
        found = solve_ivp(
            lambda _, y: [y[1], temperature / y[0] - k * y[0] - gamma * y[1]], (0, t), [width, 0.0], rtol=1e-10,
            atol=1e-12,
        )  # fmt: skip
        sigma, rate = found.y[:, -1]
        return x * sigma / width, x * rate / width

    return Ensemble(initial=lambda z: (width * z[:, :2], np.zeros((len(z), 2))), motion=motion)


def solid_rotation(rate: float = 2 * np.pi, middle: float = 1.0, width: float = 0.2) -> Ensemble:
    """Returns particles in rigid rotation about the origin."""

    def initial(z: Array) -> tuple[Array, Array]:
        x = width * z[:, :2] + [middle, 0.0]
        return x, rate * np.stack([-x[:, 1], x[:, 0]], 1)

    return Ensemble(initial=initial, motion=lambda x, v, t: _rotated(x, v, np.full(len(x), rate * t)))


def vortex_tracers(core: float = 1.0, middle: float = 1.0, width: float = 0.2, radius: float = 1.0) -> Ensemble:
    """Returns tracers of a vortex with a core, v = Γ / 2πr · (1 - exp(-r²/c²)) (Lamb and Oseen's).

    Arguments:
        core: Radius c of the core, which rotates rigidly; 0 for a point vortex, whose orbits are not stable: an error
            of the force grows in proportion to time.
        middle: Distance of the tracers' mean from the axis.
        width: Their standard deviation.
        radius: Radius at which the orbital period is 1.
    """

    def rate(x: Array) -> Array:
        square = (x**2).sum(1)
        grown, at = ((1 - np.exp(-s / core**2)) if core else np.ones_like(s) for s in (square, np.array(radius**2)))

        return 2 * np.pi * radius**2 / square * grown / at

    def initial(z: Array) -> tuple[Array, Array]:
        x = np.clip(width * z[:, :2], -2.8 * width, 2.8 * width) + np.array([middle, 0.0])
        return x, rate(x)[:, None] * np.stack([-x[:, 1], x[:, 0]], 1)

    return Ensemble(initial=initial, motion=lambda x, v, t: _rotated(x, v, rate(x) * t))


def _rotated(x: Array, v: Array, angle: Array) -> tuple[Array, Array]:
    c, s = np.cos(angle), np.sin(angle)
    found = [np.stack([c * u[:, 0] - s * u[:, 1], s * u[:, 0] + c * u[:, 1]], 1) for u in (x, v)]

    return found[0], found[1]

"""The nine-dimensional Lorenz system of convection, chaotic and, above r of about 43, hyperchaotic.

Reference: Reiterer, Lainscsek, Schürrer, Letellier, Maquet (1998), A nine-dimensional Lorenz system to study
high-dimensional chaos, https://doi.org/10.1088/0305-4470/31/34/015
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt.dynamics.snapshots import Snapshots

__all__ = ["Lorenz"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Lorenz:
    """The system; mu is the reduced Rayleigh number r.

    Arguments:
        sigma: Prandtl number.
        aspect: Wave number a of the cells.
        spread: Standard deviation of each coordinate at time 0, about 0.
        step: Step of the fourth-order Runge-Kutta scheme.
    """

    sigma: float = 0.5
    aspect: float = 0.5
    spread: float = 0.5
    step: float = 0.005

    @property
    def constants(self) -> tuple[float, ...]:
        """The six constants b, functions of the wave number."""
        a = self.aspect**2
        return (
            4 * (1 + a) / (1 + 2 * a), (1 + 2 * a) / (2 * (1 + a)), 2 * (1 - a) / (1 + a), a / (1 + a),
            8 * a / (1 + 2 * a), 4 / (1 + 2 * a),
        )  # fmt: skip

    def field(self, c: Array, r: float) -> Array:
        """Returns the velocity at states (…, 9)."""
        b1, b2, b3, b4, b5, b6 = self.constants
        s = self.sigma
        c1, c2, c3, c4, c5, c6, c7, c8, c9 = np.moveaxis(c, -1, 0)
        parts = [
            -s * b1 * c1 - c2 * c4 + b4 * c4**2 + b3 * c3 * c5 - s * b2 * c7,
            -s * c2 + c1 * c4 - c2 * c5 + c4 * c5 - s * c9 / 2,
            -s * b1 * c3 + c2 * c4 - b4 * c2**2 - b3 * c1 * c5 + s * b2 * c8,
            -s * c4 - c2 * c3 - c2 * c5 + c4 * c5 + s * c9 / 2,
            -s * b5 * c5 + c2**2 / 2 - c4**2 / 2,
            -b6 * c6 + c2 * c9 - c4 * c9,
            -b1 * c7 - r * c1 + 2 * c5 * c8 - c4 * c9,
            -b1 * c8 + r * c3 - 2 * c5 * c7 + c2 * c9,
            -c9 - r * c2 + r * c4 - 2 * c2 * c6 + 2 * c4 * c6 + c4 * c7 - c2 * c8,
        ]

        return np.stack(parts, -1)

    def simulate(self, mu: Sequence[float], num_particles: int, times: Array, seed: int = 0) -> Snapshots:
        """Returns states of independent copies, (M, T, N, 9), paired, a trajectory for each r."""
        start = np.random.default_rng(seed).normal(0, self.spread, (len(mu), num_particles, 9))
        r = np.asarray(mu, np.float64)[:, None]
        frames, now, c = [], 0.0, start
        for t in np.asarray(times, np.float64).tolist():
            if t > now:
                num = int(np.ceil((t - now) / self.step - 1e-9))
                for _ in range(num):
                    c = self._step(c, r, (t - now) / num)
            frames.append(c)
            now = t

        return Snapshots.from_arrays(np.stack(frames, 1), times, np.array(mu), paired=True)

    def _step(self, c: Array, r: Array, h: float) -> Array:
        k1 = self.field(c, r)  # type: ignore[arg-type]
        k2 = self.field(c + h / 2 * k1, r)  # type: ignore[arg-type]
        k3 = self.field(c + h / 2 * k2, r)  # type: ignore[arg-type]
        k4 = self.field(c + h * k3, r)  # type: ignore[arg-type]

        return c + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

r"""Noisy particles on a line that attract each other in a moving trap.

.. math:: dX_i = (a(t) - X_i)^q\,dt + \frac{\mu}{d}\sum_j (X_j - X_i)\,dt + \sqrt{2/\beta}\,dW_i,
   \qquad a(t) = 1.25\,(\sin \pi t + 1.5)

The state of all d particles is one sample. With q = 1 the trap is harmonic and its moments are known. mu is the
attraction.

Reference: Bruna, Peherstorfer, Vanden-Eijnden (2024), Neural Galerkin schemes with active learning for high-dimensional
evolution equations, https://doi.org/10.1016/j.jcp.2023.112588
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt.dynamics.snapshots import Snapshots
from ndt.errors import InputError

__all__ = ["Trap"]


@dataclass(frozen=True, kw_only=True)
class Trap:
    """The system.

    Arguments:
        dims: Particles d.
        power: 1 for a harmonic trap, 3 for an aharmonic one.
        beta: Inverse temperature.
        spread: Standard deviation of each particle at time 0, about `mean`.
        mean: Mean position of particles at time 0.
        step: Step of the Euler-Maruyama scheme.
    """

    dims: int = 8
    power: int = 3
    beta: float = 20.0
    spread: float = 0.3
    mean: float = 1.0
    step: float = 0.002

    def __post_init__(self) -> None:
        if self.power not in (1, 3):
            raise InputError("system", "power", "1 or 3", self.power)

    @property
    def noise(self) -> float:
        """Diffusion, the square root of 2 / beta."""
        return float(np.sqrt(2 / self.beta))

    def centre(self, time: float) -> float:
        """Returns the centre of the trap."""
        return float(1.25 * (np.sin(np.pi * time) + 1.5))

    def simulate(self, mu: Sequence[float], num_particles: int, times: NDArray[np.float64], seed: int = 0) -> Snapshots:
        """Returns states of independent copies, (M, T, N, d), paired, a trajectory for each attraction."""
        rng = np.random.default_rng(seed)
        x = rng.normal(self.mean, self.spread, (len(mu), num_particles, self.dims))
        pull = np.asarray(mu, np.float64)[:, None, None]
        frames, now = [], 0.0
        for t in np.asarray(times, np.float64).tolist():
            num = int(np.ceil((t - now) / self.step - 1e-9))
            for i in range(num):
                h = (t - now) / num
                drift = (self.centre(now + i * h) - x) ** self.power + pull * (x.mean(-1, keepdims=True) - x)
                x = x + h * drift + self.noise * np.sqrt(h) * rng.standard_normal(x.shape)
            frames.append(x)
            now = t

        return Snapshots.from_arrays(np.stack(frames, 1), times, np.array(mu), paired=True)

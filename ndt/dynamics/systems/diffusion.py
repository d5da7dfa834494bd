r"""Overdamped diffusions in a potential, which are gradient flows of their density.

.. math:: dX = -\nabla\Psi(X)\,dt + \sigma\,dW

The density is the gradient flow of :math:`\int\Psi\rho + \tfrac{\sigma^2}{2}\int\rho\log\rho`. The five
potentials in two dimensions are those of the literature. Each snapshot has independent particles.

References: Terpin, Lanzetti, Gadea, Dörfler (2024), Learning diffusion at lightspeed, https://arxiv.org/abs/2406.12616
(the potentials); Guan, Atanackovic, Neklyudov (2026), https://arxiv.org/abs/2605.08550 (noise, times, samples).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt.dynamics.snapshots import Snapshots

__all__ = ["POTENTIALS", "Diffusion"]

Array = NDArray[np.float64]


def _bohachevsky(x: Array) -> Array:
    """Gradient of x² + 2 y² - 0.3 cos 3πx - 0.4 cos 4πy: a quadratic with ripples."""
    turn = np.pi * np.array([3.0, 4.0])

    return np.array([2.0, 4.0]) * x + np.array([0.3, 0.4]) * turn * np.sin(turn * x)


POTENTIALS: dict[str, Callable[[Array], Array]] = {  # gradients (N, 2) -> (N, 2)
    "poly": lambda x: x,  # of ½|x|²
    "styblinski": lambda x: 2 * x**3 - 16 * x + 2.5,  # of ½ Σ (x⁴ - 16 x² + 5 x): four wells
    "bohachevsky": _bohachevsky,
    "oakley_ohagan": lambda x: 1 + 2 * x + x[..., ::-1],  # of Σ x + Σ x² + x y: a tilted quadratic
    "wavy_plateau": np.cos,  # of Σ sin x
}


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """The system.

    Arguments:
        potential: One of `POTENTIALS`.
        sigma: Noise amplitude.
        variance: Variance of each coordinate at time 0, about 0.
        step: Longest step of the solver (Euler and Maruyama).
        fresh: Whether each snapshot has independent particles, rather than the same ones.
    """

    potential: str
    sigma: float = 1.0
    variance: float = 0.2
    step: float = 1e-3
    fresh: bool = True

    def simulate(self, num_particles: int, times: Array, seed: int = 0) -> Snapshots:
        """Returns positions at times, (T, N, 2)."""
        rng, slope = np.random.default_rng(seed), POTENTIALS[self.potential]
        moments = np.asarray(times, np.float64)
        copies = len(moments) if self.fresh else 1
        x = rng.normal(0.0, np.sqrt(self.variance), (copies, num_particles, 2))
        frames, now = [], float(moments[0])
        for k, t in enumerate(moments.tolist()):
            num = int(np.ceil((t - now) / self.step - 1e-9))
            h = (t - now) / max(num, 1)
            for _ in range(num):
                x = x - h * slope(x) + self.sigma * np.sqrt(h) * rng.standard_normal(x.shape)
            frames.append(x[k if self.fresh else 0].copy())
            now = t

        return Snapshots.from_arrays(np.stack(frames), moments, paired=not self.fresh)

r"""Damped Lagrangian dynamics of particles, :math:`\ddot x = a(x, t) - \gamma\,\dot x`, and the model that learns it.

The solver is of second order for every friction. A step of h is a half kick, a drift and a half kick, with one force:

.. math:: v \leftarrow m v + c\,a(x), \quad x \leftarrow x + h v, \quad v \leftarrow m v + c\,a(x),
   \qquad m = e^{-\gamma h / 2},\; c = \frac{1 - m}{\gamma}

A kick solves :math:`\dot v = a - \gamma v` exactly. Without friction the scheme is leapfrog: it is time-reversible and
conserves energy. In the ``mobility`` scale forces are (1 + γ) a. At γ = 0 both scales agree; as γ grows, velocities
tend to a, a gradient flow, so that γ may be learned from one limit to the other. The physical potential is (1 + γ)
times the fitted one.

Reference: Guan, Atanackovic, Neklyudov (2026), https://arxiv.org/abs/2605.08550, whose kick is of first order; this one
follows from the equation.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from ndt.config.dynamics import WLMConfig
from ndt.dynamics.functionals import Functional
from ndt.dynamics.integrators import num_steps
from ndt.dynamics.potentials import Scales
from ndt.errors import InputError

__all__ = ["Lagrangian", "kick", "roll"]

Force = Callable[[Tensor, float], Tensor]


def kick(gamma: Tensor, h: float, scale: str = "physical") -> tuple[Tensor, Tensor]:
    """Returns the factors of a half step: m of the velocity and c of the force."""
    half = gamma * (h / 2)
    small = half < 1e-4  # where (1 - exp(-half)) / half loses digits, its series
    ratio = torch.where(small, 1 - half / 2, -torch.expm1(-half) / torch.where(small, torch.ones_like(half), half))
    c = ratio * (h / 2)

    return torch.exp(-half), c * (1 + gamma) if scale == "mobility" else c


def roll(
    force: Force, x: Float[Tensor, "*B N d"], v: Float[Tensor, "*B N d"], times: NDArray[np.float64],
    gamma: Tensor | float = 0.0, *, step: float, scale: str = "physical",
) -> tuple[Float[Tensor, "T *B N d"], Float[Tensor, "T *B N d"]]:  # fmt: skip
    """Returns positions and velocities at all times; gradients pass through the whole rollout, forces included.

    Arguments:
        force: Acceleration of particles at positions and a time, without friction.
        x: Positions at the first time.
        v: Velocities at the first time.
        times: Times T, ascending.
        gamma: Friction, not negative, per unit of time.
        step: Longest step; the steps between two times are equal.
        scale: ``physical``, or ``mobility``: forces times 1 + gamma.

    Raises:
        InputError: if times do not ascend, or the scale is unknown.
    """
    if scale not in ("physical", "mobility"):
        raise InputError("roll", "scale", "one of physical, mobility", scale)
    if not len(times) or not np.all(np.diff(times) > 0) or not step > 0:
        raise InputError("roll", "times", "one or more, each later than the one before", list(times))
    friction = torch.as_tensor(gamma, dtype=x.dtype)
    positions, velocities = [x], [v]
    a = force(x, float(times[0]))
    for start, end in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        num = num_steps(end - start, step)
        h = (end - start) / num
        m, c = kick(friction, h, scale)
        for i in range(num):
            v = m * v + c * a
            x = x + h * v
            a = force(x, start + (i + 1) * h)
            v = m * v + c * a
        positions.append(x)
        velocities.append(v)

    return torch.stack(positions), torch.stack(velocities)


class Lagrangian(nn.Module):
    """Learned parts of the dynamics: potential functional, friction and, optionally, initial velocities.

    Arguments:
        config: Settings.
        scales: Scales of the data.
        learned: Whether initial velocities are learned.
    """

    def __init__(self, config: WLMConfig, scales: Scales, learned: bool) -> None:
        super().__init__()

        self.config, self.scales = config, scales
        self.functional = Functional(config.functional, scales)
        # a tenth of its logarithm, so that it changes by a factor while weights change by a tenth
        start = torch.tensor(math.log(config.friction) / 10 if config.friction else -math.inf)
        self.log_friction = nn.Parameter(start, requires_grad=config.friction > 0)
        d, p = len(scales.centre), len(scales.mu_mean)
        self.initial = nn.Sequential(nn.Linear(d + p, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, d))
        nn.init.zeros_(self.initial[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.initial[-1].bias)  # type: ignore[arg-type]
        self.initial.requires_grad_(learned)

    @property
    def friction(self) -> Tensor:
        """Friction gamma, per unit of time."""
        return torch.exp(10 * self.log_friction)

    @property
    def mobility(self) -> Tensor | float:
        """Factor of forces: 1 + gamma in the ``mobility`` scale, else 1."""
        return 1 + self.friction if self.config.scale == "mobility" else 1.0

    def velocity(self, x: Tensor, mu: Tensor) -> Tensor:
        """Returns learned initial velocities at positions, (N, d)."""
        scale = self.scales
        condition = ((mu - scale.mu_mean) / scale.mu_scale).expand(len(x), -1)
        output: Tensor = self.initial(torch.cat([(x - scale.centre) / scale.length, condition], 1))

        return output * scale.length / (scale.span[1] - scale.span[0])

    def roll(self, x: Tensor, v: Tensor, times: NDArray[np.float64], mu: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """Returns positions and velocities at times, each (T, N, d)."""

        def force(at: Tensor, time: float) -> Tensor:
            return self.functional.acceleration(at, time, mu)

        return roll(force, x, v, times, self.friction, step=step, scale=self.config.scale)

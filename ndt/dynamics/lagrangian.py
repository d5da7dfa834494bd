"""What Lagrangian mechanics learns: a potential functional, a friction and, where they are, first velocities."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ndt.config_dynamics import WLMConfig
from ndt.dynamics.functionals import Functional
from ndt.dynamics.mechanics import roll
from ndt.dynamics.potentials import Scales

__all__ = ["Lagrangian"]


class Lagrangian(nn.Module):
    """The damped Lagrangian of a population, and what rolls particles by it.

    Arguments:
        config: Settings.
        scales: Scales of the data.
        learned: Whether first velocities are.
    """

    def __init__(self, config: WLMConfig, scales: Scales, learned: bool) -> None:
        super().__init__()

        self.config, self.scales = config, scales
        self.functional = Functional(config.functional, scales)
        # its logarithm in tens, so that it may move by a factor while weights move by a tenth
        start = torch.tensor(math.log(config.friction) / 10 if config.friction else -math.inf)
        self.log_friction = nn.Parameter(start, requires_grad=config.learn_friction and config.friction > 0)
        d, p = len(scales.centre), len(scales.mu_mean)
        self.first = nn.Sequential(nn.Linear(d + p, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, d))
        nn.init.zeros_(self.first[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.first[-1].bias)  # type: ignore[arg-type]
        self.first.requires_grad_(learned)

    @property
    def friction(self) -> Tensor:
        """Friction gamma, per unit of time."""
        return torch.exp(10 * self.log_friction)

    def velocity(self, x: Tensor, mu: Tensor) -> Tensor:
        """Returns learned first velocities at positions, (N, d)."""
        scale = self.scales
        given = ((mu - scale.mu_mean) / scale.mu_scale).expand(len(x), -1)
        made: Tensor = self.first(torch.cat([(x - scale.centre) / scale.length, given], 1))

        return made * scale.length / (scale.span[1] - scale.span[0])

    def roll(self, x: Tensor, v: Tensor, times: NDArray[np.float64], mu: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """Returns positions and velocities at times, each (T, N, d)."""

        def force(at: Tensor, time: float) -> Tensor:
            return self.functional.acceleration(at, time, mu)

        return roll(force, x, v, times, self.friction, step=step, scale=self.config.scale)

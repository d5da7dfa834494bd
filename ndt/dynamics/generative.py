r"""Generative models that draw the population of each time anew, from noise, given time and parameters.

Conditional flow matching learns the velocity of straight lines from noise z to a sample x, given time and parameters,

.. math:: y_\tau = (1 - \tau)\,z + \tau\,x, \qquad v(y_\tau, \tau; t, \mu) \approx x - z,

and diffusion the velocity :math:`\cos(\pi\tau/2)\,z - \sin(\pi\tau/2)\,x` of
:math:`y_\tau = \cos(\pi\tau/2)\,x + \sin(\pi\tau/2)\,z`, which stays well conditioned at pure noise. Both solve one
equation for each time; samples of different times are independent.

References: Lipman, Chen, Ben-Hamu, Nickel, Le (2023), Flow matching for generative modeling,
https://arxiv.org/abs/2210.02747; Song, Meng, Ermon (2021), Denoising diffusion implicit models,
https://arxiv.org/abs/2010.02502; Salimans, Ho (2022), Progressive distillation for fast sampling of diffusion models,
https://arxiv.org/abs/2202.00512
"""

import math
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from ndt.dynamics.fitting import Progress, descend
from ndt.dynamics.head import Head
from ndt.dynamics.periodic import wrap
from ndt.dynamics.potentials import Scales
from ndt.dynamics.snapshots import Snapshot, Snapshots
from ndt.errors import InputError

__all__ = ["GenerativeModel"]

WIDTH, FREQUENCIES, BATCH = 128, 8, 1024  # hidden units; sine-cosine pairs of time and noise; samples of a step
STEPS, SOLVER_STEPS = 3000, 25  # of optimisation; from noise to a population


class GenerativeModel(Head):
    """A generative model of a population at any time, from snapshots.

    Arguments:
        objective: ``flow_matching``: conditional flow matching; ``diffusion``, with a cosine schedule.
        seed: Seed of weights and batches.
        steps: Optimisation steps; None for 3000.

    Example:
        >>> seen = Snapshots.from_arrays(np.random.default_rng(0).normal(size=(2, 50, 1)), [0.0, 1.0])
        >>> GenerativeModel("flow_matching", steps=3).fit(seen).sample(20, [0.0, 0.5]).shape
        (2, 20, 1)
    """

    def __init__(self, objective: str = "flow_matching", seed: int = 0, steps: int | None = None) -> None:
        self.objective, self.seed, self.steps = objective, seed, steps or STEPS
        self.network: _Network | None = None
        self.losses: NDArray[np.float64] = np.zeros(0)

    def fit(self, snapshots: Snapshots, progress: Progress | None = None) -> Self:
        """Fits the model to the snapshots that are not held out, and returns itself."""
        seen = snapshots.fitted
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = _Network(seen)
        rng = np.random.default_rng(self.seed)
        x, time = torch.as_tensor(seen.x, dtype=torch.float32), torch.as_tensor(seen.time, dtype=torch.float32)
        mu = torch.as_tensor(seen.mu[seen.trajectory], dtype=torch.float32)
        size = np.diff(seen.start)
        draws = [seen[i].weight if np.ptp(seen[i].weight) else None for i in range(len(seen))]

        def loss() -> Tensor:
            which = rng.integers(0, len(seen), BATCH)
            row = rng.integers(0, size[which])
            for i in [i for i in np.unique(which) if draws[i] is not None]:  # weighted ones, one by one
                mine = which == i
                row[mine] = rng.choice(size[i], mine.sum(), p=draws[i])
            target = (x[seen.start[which] + row] - network.scales.centre) / network.scales.length
            z = torch.as_tensor(rng.standard_normal(target.shape), dtype=torch.float32)
            tau = torch.as_tensor(rng.random((len(z), 1)), dtype=torch.float32)
            if self.objective == "flow_matching":
                y, velocity = (1 - tau) * z + tau * target, target - z
            else:
                angle = math.pi / 2 * tau
                y, velocity = angle.cos() * target + angle.sin() * z, angle.cos() * z - angle.sin() * target

            return (network(y, tau, time[which], mu[which]) - velocity).square().mean()

        self.network, self.losses = descend(network, loss, self.steps, 3e-3, progress)

        return self

    @torch.no_grad()
    def sample(self, num: int, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0) -> NDArray[np.float64]:
        """Draws samples of each time, with parameters (p,); shape (T, num, d)."""
        network = self.network
        if network is None:
            raise InputError("per-time model", "network", "one that was fitted", "none")
        scales, parameters = network.scales, network.scales.mu_tensor(mu)
        generator, found = torch.Generator().manual_seed(seed), []
        for t in np.asarray(times, np.float64).tolist():
            y = torch.randn(num, network.num_dims, generator=generator)
            given = torch.full((num,), t), parameters.expand(num, -1)
            found.append((self._solved(network, y, *given) * scales.length + scales.centre).double().numpy())

        return wrap(np.stack(found), network.period)

    def advance(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> NDArray[np.float64]:
        """Returns the snapshot's samples at the first time and as many new ones at each later time, (T, N, d)."""
        later = self.sample(len(snapshot.x), np.asarray(times)[1:], mu, seed=seed)

        return np.concatenate([snapshot.x[None], later])

    def _solved(self, network: "_Network", y: Tensor, t: Tensor, mu: Tensor) -> Tensor:
        n = SOLVER_STEPS
        ones = torch.ones(len(y), 1)
        if self.objective == "flow_matching":  # Heun's scheme
            for i in range(n):
                v = network(y, ones * (i / n), t, mu)
                y = y + (v + network(y + v / n, ones * ((i + 1) / n), t, mu)) / (2 * n)
            return y
        levels = torch.linspace(1.0, 0.0, n + 1).tolist()
        for now, then in pairwise(levels):
            v, sine, cosine = network(y, ones * now, t, mu), math.sin(math.pi / 2 * now), math.cos(math.pi / 2 * now)
            x, noise = cosine * y - sine * v, sine * y + cosine * v
            y = math.cos(math.pi / 2 * then) * x + math.sin(math.pi / 2 * then) * noise

        return y


class _Network(nn.Module):
    """Velocity network; time, parameters and noise level scale and shift its hidden units (FiLM)."""

    def __init__(self, seen: Snapshots) -> None:
        super().__init__()

        self.num_dims, self.period, d = seen.num_dims, seen.period, seen.num_dims
        spread = seen.x.std(0)
        self.scales = Scales(seen.x.mean(0), np.where(spread > 0, spread, 1), seen.period, seen.span, seen.mu)
        num_conditions = seen.mu.shape[1] + 2 + 4 * FREQUENCIES
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([d, *[WIDTH] * 3]))
        self.last = nn.Linear(WIDTH, d)
        self.conditioner = nn.Sequential(
            nn.Linear(num_conditions, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH * len(self.layers)),
        )  # fmt: skip

    def forward(self, y: Tensor, tau: Tensor, t: Tensor, mu: Tensor) -> Tensor:
        condition = self.scales.condition(t, mu)
        plain = torch.cat([condition[:, :1], 2 * tau - 1], 1)
        angles = math.pi / 2 * plain[..., None] * torch.arange(1, FREQUENCIES + 1)
        waves = torch.cat([angles.sin(), angles.cos()], -1).flatten(1)
        made = self.conditioner(torch.cat([plain, waves, condition[:, 1:]], 1))
        h = y
        for layer, given in zip(self.layers, made.chunk(len(self.layers), 1), strict=True):
            scale, shift = given.chunk(2, 1)
            h = nn.functional.silu(layer(h) * (1 + scale) + shift)

        return self.last(h)

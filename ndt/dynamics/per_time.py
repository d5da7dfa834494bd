r"""What action matching is compared with: a generative model that draws each time's population anew, from noise.

Conditional flow matching learns the velocity of straight lines from noise z to a sample x, given time and parameters,

.. math:: y_\tau = (1 - \tau)\,z + \tau\,x, \qquad v(y_\tau, \tau; t, \mu) \approx x - z,

and diffusion the velocity :math:`\cos(\pi\tau/2)\,z - \sin(\pi\tau/2)\,x` of
:math:`y_\tau = \cos(\pi\tau/2)\,x + \sin(\pi\tau/2)\,z`, which is well behaved where all is noise. Both solve an
equation for every time that is asked for; samples of one time know nothing of those of another.

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

from ndt.config_dynamics import PerTimeConfig
from ndt.dynamics.fitting import Progress, descend, threads
from ndt.dynamics.heads import Head
from ndt.dynamics.periodic import wrap
from ndt.dynamics.snapshots import Snapshot, Snapshots
from ndt.errors import InputError

__all__ = ["PerTime"]


class PerTime(Head):
    """A generative model of a population at any time, from snapshots.

    Arguments:
        config: Settings.

    Example:
        >>> seen = Snapshots.from_arrays(np.random.default_rng(0).normal(size=(2, 50, 1)), [0.0, 1.0])
        >>> PerTime(PerTimeConfig(steps=3)).fit(seen).sample(20, [0.0, 0.5]).shape
        (2, 20, 1)
    """

    def __init__(self, config: PerTimeConfig | None = None) -> None:
        self.config = config or PerTimeConfig()
        self.network: _Network | None = None
        self.losses: NDArray[np.float64] = np.zeros(0)

    def fit(self, snapshots: Snapshots, progress: Progress | None = None) -> Self:
        """Fits the model to the snapshots that are not held out, and returns itself."""
        config, seen = self.config, snapshots.fitted
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = _Network(config, seen)
        rng = np.random.default_rng(config.seed)
        x, time = torch.as_tensor(seen.x, dtype=torch.float32), torch.as_tensor(seen.time, dtype=torch.float32)
        mu = torch.as_tensor(seen.mu[seen.trajectory], dtype=torch.float32)
        size = np.diff(seen.start)
        draws = [seen[i].weight if np.ptp(seen[i].weight) else None for i in range(len(seen))]

        def loss() -> Tensor:
            which = rng.integers(0, len(seen), config.batch_size)
            row = rng.integers(0, size[which])
            for i in [i for i in np.unique(which) if draws[i] is not None]:  # weighted ones, one by one
                mine = which == i
                row[mine] = rng.choice(size[i], mine.sum(), p=draws[i])
            target = network.scaled(x[seen.start[which] + row])
            z = torch.as_tensor(rng.standard_normal(target.shape), dtype=torch.float32)
            tau = torch.as_tensor(rng.random((len(z), 1)), dtype=torch.float32)
            if config.objective == "flow":
                y, wanted = (1 - tau) * z + tau * target, target - z
            else:
                angle = math.pi / 2 * tau
                y, wanted = angle.cos() * target + angle.sin() * z, angle.cos() * z - angle.sin() * target

            return (network(y, tau, time[which], mu[which]) - wanted).square().mean()

        with threads(config.threads):
            self.network, self.losses = descend(network, loss, config, progress)

        return self

    @torch.no_grad()
    def sample(self, num: int, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0) -> NDArray[np.float64]:
        """Draws samples of each time, with parameters (p,); shape (T, num, d)."""
        network = self.network
        if network is None:
            raise InputError("per-time model", "network", "one that was fitted", "none")
        parameters = torch.as_tensor(np.zeros((1, 0)) if mu is None else np.reshape(mu, (1, -1)), dtype=torch.float32)
        generator, found = torch.Generator().manual_seed(seed), []
        for t in np.asarray(times, np.float64).tolist():
            y = torch.randn(num, network.num_dims, generator=generator)
            given = torch.full((num,), t), parameters.expand(num, -1)
            found.append(network.unscaled(self._solved(network, y, *given)).double().numpy())

        return wrap(np.stack(found), network.period)

    def advance(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> NDArray[np.float64]:
        """The same as if a snapshot were carried on: as many samples as it has; at the first time they are its own."""
        later = self.sample(len(snapshot.x), np.asarray(times)[1:], mu, seed=seed)

        return np.concatenate([snapshot.x[None], later])

    def _solved(self, network: "_Network", y: Tensor, t: Tensor, mu: Tensor) -> Tensor:
        n = self.config.solver_steps
        ones = torch.ones(len(y), 1)
        if self.config.objective == "flow":  # Heun's scheme
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
    """Layers whose hidden units time, parameters and the level of noise scale and shift."""

    def __init__(self, config: PerTimeConfig, seen: Snapshots) -> None:
        super().__init__()

        self.config, self.period, self.num_dims = config, seen.period, seen.num_dims
        spread, mu_spread = seen.x.std(0), seen.mu.std(0)
        for name, value in (
            ("centre", seen.x.mean(0)), ("length", np.where(spread > 0, spread, 1)), ("span", np.array(seen.span)),
            ("mu_mean", seen.mu.mean(0)), ("mu_scale", np.where(mu_spread > 0, mu_spread, 1)),
        ):  # fmt: skip
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32))
        num_conditions = seen.mu.shape[1] + 2 + 4 * config.time_frequencies
        widths = [seen.num_dims, *[config.width] * (config.depth - 1)]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.last = nn.Linear(config.width, seen.num_dims)
        self.conditioner = nn.Sequential(
            nn.Linear(num_conditions, config.width), nn.SiLU(),
            nn.Linear(config.width, 2 * config.width * len(self.layers)),
        )  # fmt: skip

    centre: Tensor
    length: Tensor
    span: Tensor
    mu_mean: Tensor
    mu_scale: Tensor

    def scaled(self, x: Tensor) -> Tensor:
        return (x - self.centre) / self.length

    def unscaled(self, y: Tensor) -> Tensor:
        return y * self.length + self.centre

    def forward(self, y: Tensor, tau: Tensor, t: Tensor, mu: Tensor) -> Tensor:
        moment = 2 * (t - self.span[0]) / (self.span[1] - self.span[0]) - 1
        plain = torch.cat([moment[:, None], 2 * tau - 1], 1)
        angles = math.pi / 2 * plain[..., None] * torch.arange(1, self.config.time_frequencies + 1)
        waves = torch.cat([angles.sin(), angles.cos()], -1).flatten(1)
        made = self.conditioner(torch.cat([plain, waves, (mu - self.mu_mean) / self.mu_scale], 1))
        h = y
        for layer, given in zip(self.layers, made.chunk(len(self.layers), 1), strict=True):
            scale, shift = given.chunk(2, 1)
            h = nn.functional.silu(layer(h) * (1 + scale) + shift)

        return self.last(h)

r"""First-order baselines: the velocity of a particle is a function of its position.

`FlowMatching` learns the velocity of straight lines between optimal-transport pairs of neighbouring snapshots
(OT-CFM), as a network of position, time and parameters.

`GradientFlow` learns a potential V and a temperature β by the first condition of optimality of the scheme of Jordan,
Kinderlehrer and Otto: where optimal transport moves a particle from x to y within h,

.. math:: \nabla V(y) + \beta\,\nabla\log\rho_{k+1}(y) + \frac{y - x}{h} = 0,

which is linear in V and β, so that ridge regression fits both. Populations then follow
:math:`dX = -\nabla V\,dt + \sqrt{2\beta}\,dW`.

References: Tong et al. (2024), Improving and generalizing flow-based generative models with minibatch optimal
transport, https://arxiv.org/abs/2302.00482; Terpin, Lanzetti, Gadea, Dörfler (2024), Learning diffusion at lightspeed,
https://arxiv.org/abs/2406.12616; Jordan, Kinderlehrer, Otto (1998), https://doi.org/10.1137/S0036141096303359
"""

from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from ndt.dynamics.features import Fourier, ridge
from ndt.dynamics.fitting import Progress, descend
from ndt.dynamics.functionals import kernel_log_density
from ndt.dynamics.head import Head
from ndt.dynamics.integrators import integrate
from ndt.dynamics.interpolants import interpolants, transport_pairs
from ndt.dynamics.potentials import Scales, scales_of
from ndt.dynamics.snapshots import Snapshot, Snapshots
from ndt.errors import InputError

__all__ = ["FlowMatching", "GradientFlow"]

Array = NDArray[np.float64]

LARGEST = 2000  # most samples of a kernel density
WIDTH, BATCH, NODES = 64, 1024, 16  # hidden units; samples of a step, and the times that they are spread over
STEPS = 1500  # of optimisation
SMOOTH = 0.02  # noise about the straight lines, in standard deviations of the data

# N = particles, d = dimensions, p = parameters, F = features


class FlowMatching(Head):
    """Flow matching along optimal transport between neighbouring snapshots.

    Arguments:
        seed: Seed of weights and draws.
        steps: Optimisation steps; None for 1500.

    Example:
        >>> seen = Snapshots.from_arrays(np.random.default_rng(0).normal(size=(2, 50, 1)), [0.0, 1.0])
        >>> FlowMatching(steps=3).fit(seen).advance(seen.of(0)[0], [0.0, 0.5]).shape
        (2, 50, 1)
    """

    def __init__(self, seed: int = 0, steps: int | None = None) -> None:
        self.seed, self.steps = seed, steps or STEPS
        self.network: _Velocity | None = None
        self.losses: Array = np.zeros(0)

    def fit(self, snapshots: Snapshots, progress: Progress | None = None) -> Self:
        """Fits the velocity to the snapshots that are not held out, and returns itself."""
        seen, rng = snapshots.fitted, np.random.default_rng(self.seed)
        trajectories = interpolants(seen, "paths" if seen.paired else "transport", rng)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = _Velocity(scales_of(seen))
        width = network.scales.length * SMOOTH

        def loss() -> Tensor:
            m = int(rng.integers(len(trajectories)))
            path = trajectories[m]
            times = path.time[0] + (path.time[-1] - path.time[0]) * (np.arange(NODES) + rng.random(NODES)) / NODES
            x, v = path.sample(times, BATCH // NODES, rng)
            at, target = (torch.as_tensor(a, dtype=torch.float32) for a in (x, v))
            noise = torch.as_tensor(rng.standard_normal(x.shape), dtype=torch.float32)
            mu = torch.as_tensor(seen.mu[[m]], dtype=torch.float32).expand(NODES, -1)
            found = network(at + width * noise, torch.as_tensor(times, dtype=torch.float32), mu)

            return ((found - target) / network.unit).square().mean()

        self.network, self.losses = descend(network, loss, self.steps, 3e-3, progress)

        return self

    @torch.no_grad()
    def advance(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> Array:
        """Advances a snapshot's samples; beyond the fitted times the velocity field is that of the last one."""
        del seed, options  # nothing is drawn
        network = self.network
        if network is None:
            raise InputError("flow matching", "network", "one that was fitted", "none")
        given = network.scales.mu_tensor(mu)[None]
        first, last = network.scales.span.tolist()

        def drift(x: Tensor, time: float) -> Tensor:
            return network(x[None], torch.full((1,), min(max(time, first), last)), given)[0]

        start = torch.as_tensor(snapshot.x, dtype=torch.float32)
        found = integrate(
            drift, start, np.asarray(times, np.float64), step=(last - first) / 200, method="heun",
            period=network.scales.period,
        )  # fmt: skip

        return found.double().numpy()


class _Velocity(nn.Module):
    """Velocity at positions, times and parameters."""

    def __init__(self, scales: Scales) -> None:
        super().__init__()

        self.scales = scales
        d, p = len(scales.centre), len(scales.mu_mean)
        around = int(torch.isfinite(scales.period).sum())
        self.layers = nn.Sequential(
            nn.Linear(d + around + 1 + p, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(),
            nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, d),
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor, mu: Tensor) -> Tensor:
        scale = self.scales
        around = torch.isfinite(scale.period)
        z = (x - scale.centre) / scale.length  # of a periodic dimension an angle
        given = scale.condition(t, mu)[:, None].expand(-1, x.shape[1], -1)
        made: Tensor = self.layers(torch.cat([z[..., ~around], z[..., around].sin(), z[..., around].cos(), given], -1))

        return made * self.unit

    @property
    def unit(self) -> Tensor:
        """Widths of the data over the fitted span."""
        return self.scales.length / (self.scales.span[1] - self.scales.span[0])


class GradientFlow(Head):
    """A gradient flow whose potential and temperature are fitted by ridge regression; one for all trajectories.

    Arguments:
        seed: Seed of features and draws.
        fourier_features: Random Fourier features of the potential, besides its quadratic form.

    Example:
        >>> seen = Snapshots.from_arrays(np.random.default_rng(0).normal(size=(2, 50, 1)), [0.0, 1.0])
        >>> GradientFlow().fit(seen).advance(seen.of(0)[0], [0.0, 0.5]).shape
        (2, 50, 1)
    """

    def __init__(self, seed: int = 0, fourier_features: int = 96) -> None:
        self.seed, self.fourier_features = seed, fourier_features
        self.potential: Fourier | None = None
        self.temperature = 0.0
        self.step = 0.0
        self.losses: Array = np.zeros(0)

    def fit(self, snapshots: Snapshots, progress: Progress | None = None) -> Self:
        """Fits potential and temperature to the snapshots that are not held out, and returns itself."""
        seen, rng = snapshots.fitted, np.random.default_rng(self.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            potential = Fourier(scales_of(seen), self.fourier_features)
        rows, targets, steps = [], [], []
        for m in range(seen.num_trajectories):
            for before, after in pairwise(seen.of(m)):
                first, last = transport_pairs(before, after, seen.period, rng)
                h = after.time - before.time
                y = torch.as_tensor(after.x[last], dtype=torch.float32)
                slope = potential.unit * potential.slopes(y)  # (N, d, F)
                score = _score(torch.as_tensor(after.x[:LARGEST], dtype=torch.float32), y)
                rows.append(torch.cat([slope, score[..., None]], 2).flatten(0, 1).double().numpy())
                targets.append(((before.x[first] - after.x[last]) / h).ravel())
                steps.append(h)
        self.potential, self.step = potential, min(steps) / 10
        design, target = np.concatenate(rows), np.concatenate(targets)
        found = ridge(design, target, least=0.0)  # no temperature is below 0
        with torch.no_grad():
            potential.weight.copy_(torch.as_tensor(found[:-1], dtype=torch.float32))
        self.temperature = max(float(found[-1]), 0.0)
        self.losses = np.array([float(np.mean((design @ found - target) ** 2))])
        if progress is not None:
            progress(1, float(self.losses[0]))

        return self

    @torch.no_grad()
    def advance(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> Array:
        """Advances a snapshot's samples along the gradient flow, with noise of the temperature."""
        del mu, options  # one potential for all
        potential = self.potential
        if potential is None:
            raise InputError("gradient flow", "potential", "one that was fitted", "none")

        def drift(x: Tensor, time: float) -> Tensor:
            del time  # it is the same at all times
            return -potential.unit * (potential.slopes(x) @ potential.weight)

        start = torch.as_tensor(snapshot.x, dtype=torch.float32)
        found = integrate(
            drift, start, np.asarray(times, np.float64), step=self.step, method="euler",
            noise=float(np.sqrt(2 * self.temperature)), period=potential.scales.period,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip

        return found.double().numpy()


def _score(samples: Tensor, at: Tensor) -> Tensor:
    """Returns the slope of the logarithm of a kernel density at positions, (N, d)."""
    with torch.enable_grad():
        where = at.clone().requires_grad_()
        (slope,) = torch.autograd.grad(kernel_log_density(samples, where).sum(), where)

    return slope

r"""Weak form of the momentum balance: fits a Lagrangian without rollouts, and thus initialises rollouts.

A population whose particles move by :math:`\ddot x = -\nabla\Psi - \gamma\dot x` obeys, for every test function φ,

.. math:: \frac{d}{dt}E[\nabla\varphi\cdot v] = E[v^\top(\nabla^2\varphi)\,v] - \gamma\,E[\nabla\varphi\cdot v]
   - E[\nabla\varphi\cdot\nabla\Psi],

with means over particles at one time: particles need no identity across times, and no velocity is differentiated.
Integrated against hat functions of time, with linear interpolation between nodes, the scheme is of fourth order on even
nodes. The residual is linear in friction and force: if the potential is linear in its weights (``fourier`` alone), both
follow from ridge regression, else from steps of Adam, each a hundredth of a rollout's cost. Test functions are linear,
quadratic and Fourier features; each is divided by its noise.

Velocities are the observed ones, else those of the field of action matching at nodes of its own.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ndt.config.dynamics import WLMConfig
from ndt.dynamics.features import Fourier, ridge
from ndt.dynamics.fitting import descend
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.interpolants import interpolants
from ndt.dynamics.lagrangian import Lagrangian
from ndt.dynamics.snapshots import Snapshots
from ndt.errors import InputError

__all__ = ["WeakForm", "fit_weak_form", "nodes_of"]

NODES = 33  # in time, if velocities are those of action matching
WAVES, WINDOW = 48, 6  # Fourier test functions; nodes of a step
RIDGE, FOURIER_PENALTY = 1e-7, 100.0  # ridge penalty; its factor for Fourier features
FREQUENCY = 0.5  # factor of the test functions' frequencies

# K = nodes of a trajectory, N = particles, d = dimensions, p = parameters, J = test functions, F = features


@dataclass(frozen=True)
class Nodes:
    """Particles of one trajectory at K times and their velocities: lists of (N, d), whose N may differ."""

    times: NDArray[np.float64]
    x: list[Tensor]
    v: list[Tensor]
    mu: Tensor


def nodes_of(seen: Snapshots, action_matching: HOAM | None, most: int, seed: int) -> list[Nodes]:
    """Returns the nodes of each trajectory: snapshots with observed velocities, or samples of an interpolant.

    Arguments:
        seen: Snapshots to fit.
        action_matching: Model whose field gives the velocities; None if velocities were observed.
        most: Most particles of a node.
        seed: Seed of the draws.

    Raises:
        InputError: if a trajectory has fewer than three nodes.
    """
    rng, found = np.random.default_rng(seed), []
    paths = interpolants(seen, action_matching.config.interpolant, rng) if action_matching is not None else []
    for m in range(seen.num_trajectories):
        mu = torch.as_tensor(seen.mu[m], dtype=torch.float32)
        if action_matching is None:
            each = seen.of(m)
            rows = [s.rows(most, rng) for s in each]
            times, x = np.array([s.time for s in each]), [s.x[r] for s, r in zip(each, rows, strict=True)]
            v = [s.velocity[r] for s, r in zip(each, rows, strict=True) if s.velocity is not None]
        else:
            times = np.linspace(paths[m].time[0], paths[m].time[-1], NODES)
            x = list(paths[m].sample(times, most, rng)[0])
            v = [action_matching.velocity(at, t, seen.mu[m]) for at, t in zip(x, times.tolist(), strict=True)]
        if len(times) < 3:
            raise InputError("snapshots", f"trajectory {m}", "at least three times for weak_form_steps", len(times))
        positions, velocities = ([torch.as_tensor(a, dtype=torch.float32) for a in arrays] for arrays in (x, v))
        found.append(Nodes(times, positions, velocities, mu))

    return found


class WeakForm:
    """Residual of the momentum balance at nodes, by test functions.

    Arguments:
        lagrangian: Model that is fitted.
        nodes: Nodes of each trajectory.
        seed: Seed of the test functions.
    """

    def __init__(self, lagrangian: Lagrangian, nodes: list[Nodes], seed: int) -> None:
        self.lagrangian, self.nodes = lagrangian, nodes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.test = Fourier(lagrangian.scales, WAVES, FREQUENCY)
        noise = []
        for each in nodes:
            h = float(np.diff(each.times).mean())
            for x, v in zip(each.x, each.v, strict=True):
                rate = torch.einsum("ndj,nd->nj", self.test.slopes(x), v)
                noise.append(self.test.curvatures(x, v).var(0) + rate.var(0) / h**2)
        self.noise = torch.stack(noise).mean(0).sqrt().clamp(min=1e-12)  # (J,), of a particle

    def moments(self, each: Nodes, nodes: range) -> tuple[Tensor, Tensor]:
        """Returns E[∇φ · v] and E[vᵀ(∇²φ)v] at nodes, each (nodes, J)."""
        rates = [torch.einsum("ndj,nd->nj", self.test.slopes(each.x[k]), each.v[k]).mean(0) for k in nodes]
        curved = [self.test.curvatures(each.x[k], each.v[k]).mean(0) for k in nodes]

        return torch.stack(rates), torch.stack(curved)

    def force_moments(self, each: Nodes, k: int) -> Float[Tensor, " J"]:
        """Returns -E[∇φ · ∇Ψ] at node k, Ψ in the physical scale but for the factor of mobility."""
        force = self.lagrangian.functional.acceleration(each.x[k], float(each.times[k]), each.mu)

        return torch.einsum("ndj,nd->j", self.test.slopes(each.x[k]), force) / len(force)

    def residual(self, each: Nodes, first: int, last: int) -> Tensor:
        """Returns the residual at the inner ones of consecutive nodes, (inner, J), in units of a particle's noise."""
        model = self.lagrangian
        rate, curved = self.moments(each, range(first, last))
        force = torch.stack([self.force_moments(each, k) for k in range(first, last)]) * model.mobility
        change, mass = _hats(each.times[first:last])

        return (change @ rate - mass @ (curved + force - model.friction * rate)) / (mass.sum(1)[:, None] * self.noise)


def fit_weak_form(lagrangian: Lagrangian, nodes: list[Nodes], config: WLMConfig, seed: int) -> None:
    """Fits a Lagrangian to the weak form in place: by ridge regression if the potential is linear, else by Adam."""
    weak_form, rng = WeakForm(lagrangian, nodes, seed), np.random.default_rng(seed)

    def loss() -> Tensor:
        """Returns the mean squared residual of consecutive nodes, drawn at random."""
        each = nodes[rng.integers(len(nodes))]
        num = min(len(each.times), WINDOW)
        first = int(rng.integers(len(each.times) - num + 1))

        return weak_form.residual(each, first, first + num).square().mean()

    fourier = lagrangian.functional.fourier
    if fourier is not None and config.functional.terms == ("fourier",):
        _solve(weak_form, fourier)
        return
    average, _ = descend(lagrangian, loss, config.weak_form_steps, config.learning_rate, clip=1.0, ema=0.98)
    lagrangian.load_state_dict(average.state_dict())


@torch.no_grad()
def _solve(weak_form: WeakForm, fourier: Fourier) -> None:
    """Sets the weights of a linear potential and the friction, by ridge regression."""
    model = weak_form.lagrangian
    fourier.weight.zero_()
    mobile = model.config.scale == "mobility"
    rows, targets = [], []
    for each in weak_form.nodes:
        rate, curved = weak_form.moments(each, range(len(each.times)))
        # forces of entropy and Fisher terms: the weights are 0
        fixed = torch.stack([weak_form.force_moments(each, k) for k in range(len(each.times))])
        products = [torch.einsum("ndj,ndf->jf", weak_form.test.slopes(x), fourier.slopes(x)) for x in each.x]
        design = torch.stack([fourier.unit * p / len(x) for p, x in zip(products, each.x, strict=True)])  # (K, J, F)
        change, mass = _hats(each.times)
        size = mass.sum(1)[:, None] * weak_form.noise
        slowed = mass @ (rate - fixed if mobile else rate) / size
        pulled = torch.einsum("ik,kjf->ijf", mass, design) / size[..., None]
        rows.append(torch.cat([pulled, slowed[..., None]], 2).flatten(0, 1).double().numpy())
        targets.append(((mass @ (curved + fixed) - change @ rate) / size).ravel().double().numpy())
    design_all, target = np.concatenate(rows), np.concatenate(targets)
    penalty = np.full(design_all.shape[1], RIDGE)
    penalty[-1 - len(fourier.shift) : -1] *= FOURIER_PENALTY  # the quadratic form comes first
    if model.log_friction.requires_grad:
        found = ridge(design_all, target, least=1e-6, strength=penalty)
        friction = float(found[-1])
        model.log_friction.fill_(float(np.log(friction)) / 10)
    else:
        friction = float(model.friction)
        known = friction * design_all[:, -1]
        found = np.append(ridge(design_all[:, :-1], target - known, strength=penalty[:-1]), friction)
    weight = found[:-1] / (1 + friction if mobile else 1.0)
    fourier.weight.copy_(torch.as_tensor(weight, dtype=torch.float32))


def _hats(times: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Returns matrices that integrate a derivative and a value against hats at inner nodes, each (K - 2, K)."""
    h = np.diff(times)
    change, mass = np.zeros((len(h) - 1, len(times))), np.zeros((len(h) - 1, len(times)))
    for i in range(len(h) - 1):
        change[i, i : i + 3] = [-0.5, 0.0, 0.5]
        mass[i, i : i + 3] = [h[i] / 6, (h[i] + h[i + 1]) / 3, h[i + 1] / 6]

    return torch.as_tensor(change, dtype=torch.float32), torch.as_tensor(mass, dtype=torch.float32)

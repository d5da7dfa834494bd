r"""Where fitting mechanics begins: the balance of momentum, in its weak form, without a rollout.

A population whose particles move by :math:`\ddot x = -\nabla\Psi - \gamma\dot x` obeys, for every test function φ,

.. math:: \frac{d}{dt}E[\nabla\varphi\cdot v] = E[v^\top(\nabla^2\varphi)\,v] - \gamma\,E[\nabla\varphi\cdot v]
   - E[\nabla\varphi\cdot\nabla\Psi],

means over particles alone: none need be known from one time to another, and no velocity is differentiated. Against
hat functions of time, with what is between nodes in straight lines, the derivative on the left is of the fourth order
where nodes are even. What is left over is linear in friction and force: where the potential is linear in its weights
(``fourier`` alone) both follow from ridge regression, else from some steps of Adam, each a hundredth of a rollout's
cost. Test functions are linear, quadratic and Fourier features; each is divided by its noise.

Velocities are those that were observed, else the field of action matching at nodes of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ndt.dynamics.between import bridges
from ndt.dynamics.features import Fourier, ridge
from ndt.dynamics.fitting import descend
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.lagrangian import Lagrangian
from ndt.dynamics.snapshots import Snapshots
from ndt.errors import InputError

if TYPE_CHECKING:
    from ndt.config_dynamics import WLMConfig

__all__ = ["Balance", "balanced", "nodes_of"]

NODES = 33  # between the first and the last time, where velocities are those of a field
WAVES, WINDOW = 48, 6  # Fourier test functions; nodes of a step
RIDGE, RELUCTANT = 1e-7, 100.0  # penalty of linear and quadratic features, and by how much more of waves
COARSE = 0.5

# K = nodes of a trajectory, N = particles, d = dimensions, p = parameters, J = test functions, F = features


@dataclass(frozen=True)
class Nodes:
    """Particles of one trajectory at K times, and their velocities: lists of (N, d) each, N as it comes."""

    times: NDArray[np.float64]
    x: list[Tensor]
    v: list[Tensor]
    mu: Tensor


def nodes_of(seen: Snapshots, matched: HOAM | None, most: int, seed: int) -> list[Nodes]:
    """Returns the nodes of each trajectory: snapshots with the velocities that were seen, or samples between them.

    Arguments:
        seen: Snapshots to fit.
        matched: Whose field velocities are; None where they were observed.
        most: Particles of a node at most.
        seed: Of what is drawn.

    Raises:
        InputError: if a trajectory has fewer than three nodes.
    """
    rng, found = np.random.default_rng(seed), []
    paths = bridges(seen, matched.config.between, rng) if matched is not None else []
    for m in range(seen.num_trajectories):
        mu = torch.as_tensor(seen.mu[m], dtype=torch.float32)
        if matched is None:
            each = seen.of(m)
            rows = [s.rows(most, rng) for s in each]
            times, x = np.array([s.time for s in each]), [s.x[r] for s, r in zip(each, rows, strict=True)]
            v = [s.velocity[r] for s, r in zip(each, rows, strict=True) if s.velocity is not None]
        else:
            times = np.linspace(paths[m].time[0], paths[m].time[-1], NODES)
            x = list(paths[m].sample(times, most, rng)[0])
            v = [matched.velocity(at, t, seen.mu[m]) for at, t in zip(x, times.tolist(), strict=True)]
        if len(times) < 3:
            raise InputError("snapshots", f"trajectory {m}", "at least three times for balance_steps", len(times))
        positions, velocities = ([torch.as_tensor(a, dtype=torch.float32) for a in arrays] for arrays in (x, v))
        found.append(Nodes(times, positions, velocities, mu))

    return found


class Balance:
    """What the balance leaves over at nodes, by test functions.

    Arguments:
        lagrangian: What is fitted.
        nodes: Of each trajectory.
        seed: Of the test functions.
    """

    def __init__(self, lagrangian: Lagrangian, nodes: list[Nodes], seed: int) -> None:
        self.lagrangian, self.nodes = lagrangian, nodes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.test = Fourier(lagrangian.scales, WAVES, COARSE)
        noise = []
        for each in nodes:
            h = float(np.diff(each.times).mean())
            for x, v in zip(each.x, each.v, strict=True):
                rate = torch.einsum("ndj,nd->nj", self.test.slopes(x), v)
                noise.append(self.test.curvatures(x, v).var(0) + rate.var(0) / h**2)
        self.noise = torch.stack(noise).mean(0).sqrt().clamp(min=1e-12)  # (J,), of a particle

    def moments(self, each: Nodes, k: int) -> tuple[Tensor, Tensor]:
        """Returns E[∇φ · v] and E[vᵀ(∇²φ)v] at node k, each (J,)."""
        slope = self.test.slopes(each.x[k])

        return torch.einsum("ndj,nd->nj", slope, each.v[k]).mean(0), self.test.curvatures(each.x[k], each.v[k]).mean(0)

    def pushed(self, each: Nodes, k: int) -> Float[Tensor, " J"]:
        """Returns -E[∇φ · ∇Ψ] at node k, Ψ in the physical scale but for the factor of mobility."""
        force = self.lagrangian.functional.acceleration(each.x[k], float(each.times[k]), each.mu)

        return torch.einsum("ndj,nd->j", self.test.slopes(each.x[k]), force) / len(force)

    def residual(self, each: Nodes, first: int, last: int) -> Tensor:
        """Returns what is left over at the inner of some nodes, (inner, J), in units of a particle's noise."""
        model = self.lagrangian
        told = [self.moments(each, k) for k in range(first, last)]
        rate, curved = (torch.stack(parts) for parts in zip(*told, strict=True))
        mobility = 1 + model.friction if model.config.scale == "mobility" else 1.0
        force = torch.stack([self.pushed(each, k) for k in range(first, last)]) * mobility
        change, mass = _hats(each.times[first:last])

        return (change @ rate - mass @ (curved + force - model.friction * rate)) / (mass.sum(1)[:, None] * self.noise)


def balanced(lagrangian: Lagrangian, nodes: list[Nodes], config: "WLMConfig") -> NDArray[np.float64]:
    """Fits a Lagrangian to the balance in place; returns the loss of each step, of one where that is exact."""
    balance = Balance(lagrangian, nodes, config.seed)
    if config.functional.terms == ("fourier",) and not config.functional.learn_entropy:
        return np.array([_solved(balance)])
    rng = np.random.default_rng(config.seed)
    average, losses = descend(
        lagrangian, _drawn(balance, rng), config.balance_steps, config.learning_rate, clip=1.0, ema=0.98
    )
    lagrangian.load_state_dict(average.state_dict())

    return losses


def _drawn(balance: Balance, rng: np.random.Generator) -> Callable[[], Tensor]:
    """Returns what draws some neighbouring nodes and the mean square of what they leave over."""

    def loss() -> Tensor:
        each = balance.nodes[rng.integers(len(balance.nodes))]
        num = min(len(each.times), WINDOW)
        first = int(rng.integers(len(each.times) - num + 1))

        return balance.residual(each, first, first + num).square().mean()

    return loss


@torch.no_grad()
def _solved(balance: Balance) -> float:
    """Solves for the weights of a linear potential and for friction, and returns the mean square that is left over."""
    model = balance.lagrangian
    fourier = model.functional.fourier
    assert fourier is not None, "it is the term"
    fourier.weight.zero_()
    mobile = model.config.scale == "mobility"
    rows, wanted = [], []
    for each in balance.nodes:
        K = len(each.times)
        told = [balance.moments(each, k) for k in range(K)]
        rate, curved = (torch.stack(parts) for parts in zip(*told, strict=True))
        fixed = torch.stack([balance.pushed(each, k) for k in range(K)])  # of entropy and Fisher: weights are 0
        design = torch.stack([_products(balance.test, fourier, x) for x in each.x])  # (K, J, F)
        change, mass = _hats(each.times)
        size = mass.sum(1)[:, None] * balance.noise
        slowed = mass @ (rate - fixed if mobile else rate) / size
        pulled = torch.einsum("ik,kjf->ijf", mass, design) / size[..., None]
        rows.append(torch.cat([pulled, slowed[..., None]], 2).flatten(0, 1).double().numpy())
        wanted.append(((mass @ (curved + fixed) - change @ rate) / size).ravel().double().numpy())
    design_all, target = np.concatenate(rows), np.concatenate(wanted)
    penalty = np.full(design_all.shape[1], RIDGE)
    penalty[-1 - len(fourier.shift) : -1] *= RELUCTANT  # what a form explains, no wave need
    if model.log_friction.requires_grad:
        found = ridge(design_all, target, least=1e-6, strength=penalty)
        friction = float(found[-1])
        model.log_friction.fill_(float(np.log(friction)) / 10)
    else:
        friction = float(model.friction)
        found = np.append(
            ridge(design_all[:, :-1], target - friction * design_all[:, -1], strength=penalty[:-1]), friction
        )
    weight = found[:-1] / (1 + friction if mobile else 1.0)
    fourier.weight.copy_(torch.as_tensor(weight, dtype=torch.float32))

    return float(np.mean((design_all @ found - target) ** 2))


def _products(test: Fourier, fourier: Fourier, x: Tensor) -> Tensor:
    """Returns E[∇φ · ∇feature], (J, F)."""
    return fourier.unit * torch.einsum("ndj,ndf->jf", test.slopes(x), fourier.slopes(x)) / len(x)


def _hats(times: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Returns what integrates a derivative and a value against hats at inner nodes, each (K - 2, K)."""
    h = np.diff(times)
    change, mass = np.zeros((len(h) - 1, len(times))), np.zeros((len(h) - 1, len(times)))
    for i in range(len(h) - 1):
        change[i, i : i + 3] = [-0.5, 0.0, 0.5]
        mass[i, i : i + 3] = [h[i] / 6, (h[i] + h[i + 1]) / 3, h[i + 1] / 6]

    return torch.as_tensor(change, dtype=torch.float32), torch.as_tensor(mass, dtype=torch.float32)

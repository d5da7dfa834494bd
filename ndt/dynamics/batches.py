"""Samples of one step of action matching: nodes in time of some trajectories, and particles at each node."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt.config.dynamics import HOAMConfig
from ndt.dynamics.interpolants import Interpolant
from ndt.dynamics.quadrature import Rule, draw, simpson_on

__all__ = ["Batch", "Ends"]

END_PARTICLES = 512  # samples at each end of a trajectory

# M = trajectories, Q = nodes of each, B = M · Q slices, N = particles of a slice, E = particles of an end


class Ends(NamedTuple):
    """Samples at the first and the last time of each trajectory in turn, for the end terms of the ``action`` form."""

    x: Tensor  # samples, (2 M, E, d)
    time: Tensor  # (2 M,)
    mean: Tensor  # gauge point, at which the potential is set to 0, (2 M, d)


@dataclass(frozen=True)
class Batch:
    """Samples at nodes in time.

    Arguments:
        x: Samples, shape (B, N, d).
        time: Time of each slice, shape (B,).
        weight: Quadrature weight of each slice, shape (B,).
        mean: Gauge point, at which the potential is set to 0, shape (B, d).
        drift: Velocity of the gauge point, shape (B, d).
        mu: Parameters of the trajectories, shape (M, p).
        velocity: Velocities of the samples, shape (B, N, d), in the ``velocity`` form; else None.
        ends: Samples at the ends, in the ``action`` form; else None.
    """

    x: Tensor
    time: Tensor
    weight: Tensor
    mean: Tensor
    drift: Tensor
    mu: Tensor
    velocity: Tensor | None
    ends: Ends | None

    @property
    def slice_mu(self) -> Tensor:
        """Parameters of each slice, shape (B, p)."""
        return self.mu.repeat_interleave(len(self.x) // len(self.mu), 0)

    @classmethod
    def drawn(
        cls, trajectories: list[Interpolant], mu: NDArray[np.float64], config: HOAMConfig, rng: np.random.Generator
    ) -> "Batch":
        """Draws `config.num_trajectories` trajectories without replacement, nodes of each, and particles at each node.

        If nodes are snapshot times and their numbers differ between trajectories, one trajectory is drawn.
        """
        chosen = rng.permutation(len(trajectories))[: config.num_trajectories]
        rules = [_rule(trajectories[m], config, rng) for m in chosen]
        if len({len(rule.nodes) for rule in rules}) > 1:
            chosen, rules = chosen[:1], rules[:1]
        paths = [trajectories[m] for m in chosen]
        samples = [p.sample(r.nodes, config.num_particles, rng) for p, r in zip(paths, rules, strict=True)]
        gauges = [p.gauge_point(r.nodes) for p, r in zip(paths, rules, strict=True)]
        possible = config.form != "action" and trajectories[0].has_velocities
        by_velocity = possible and not (config.form == "auto" and trajectories[0].rough)

        return cls(
            x=_joined([x for x, _ in samples]),
            time=_joined([rule.nodes for rule in rules]),
            weight=_joined([rule.weights for rule in rules]),
            mean=_joined([mean for mean, _ in gauges]),
            drift=_joined([drift for _, drift in gauges]),
            mu=torch.as_tensor(mu[chosen], dtype=torch.float32),
            velocity=_joined([velocity for _, velocity in samples]) if by_velocity else None,
            ends=None if by_velocity else _ends(paths, END_PARTICLES, rng),
        )


def _rule(path: Interpolant, config: HOAMConfig, rng: np.random.Generator) -> Rule:
    if path.kind == "snapshots":
        return simpson_on(path.time)

    return draw(config.rule, config.num_nodes, rng).onto(path.time[0], path.time[-1])


def _ends(paths: list[Interpolant], num: int, rng: np.random.Generator) -> Ends:
    times = [path.time[[0, -1]] for path in paths]

    return Ends(
        x=_joined([path.sample(t, num, rng)[0] for path, t in zip(paths, times, strict=True)]),
        time=_joined(times),
        mean=_joined([path.gauge_point(t)[0] for path, t in zip(paths, times, strict=True)]),
    )


def _joined(parts: list[NDArray[np.float64]]) -> Tensor:
    return torch.as_tensor(np.concatenate(parts), dtype=torch.float32)

r"""Wasserstein Lagrangian mechanics: populations with inertia in a potential that is learned from snapshots.

The stationary paths of the action :math:`\int e^{\gamma t}(\tfrac12 E|\dot x|^2 - U[\rho_t])\,dt` are

.. math:: \ddot x = -\nabla\frac{\delta U}{\delta\rho}[\rho_t](x) - \gamma\,\dot x:

classical ensembles, interacting particles, gases, quantum packets and, at high friction, gradient flows. The functional
U (`ndt.dynamics.functionals`) and the friction gamma are learned from snapshots alone: particles are simulated from one
snapshot through some of the following ones and compared with each by optimal transport. Gradients pass through the
whole rollout, forces included, whose solver is of second order for every friction (`ndt.dynamics.lagrangian`).

Particles that cross have their own velocities: the state is a density in phase space, not one velocity field. Initial
velocities are observed, zero, learned, those of a gradient flow, or the gradient field of action matching on the same
snapshots; held-out snapshots are never used.

Reference: Guan, Atanackovic, Neklyudov (2026), A call to Lagrangian action: learning population mechanics from temporal
snapshots, https://arxiv.org/abs/2605.08550.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ndt.config.dynamics import WLMConfig
from ndt.dynamics.fitting import Progress, descend
from ndt.dynamics.head import Head, read_shape, read_weights, save_model
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.lagrangian import Lagrangian
from ndt.dynamics.losses import loss_of
from ndt.dynamics.periodic import wrap
from ndt.dynamics.potentials import scales_of
from ndt.dynamics.snapshots import Snapshot, Snapshots
from ndt.dynamics.weak_form import fit_weak_form, nodes_of
from ndt.errors import InputError

__all__ = ["WLM"]

Array = NDArray[np.float64]
CLIP, EMA = 1.0, 0.98  # largest gradient norm; decay of the average of weights

# N = particles, d = dimensions, p = parameters, T = times


class WLM(Head):
    """Second-order dynamics of a population, from snapshots.

    Arguments:
        config: Settings.
        seed: Seed of weights and draws.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> seen = Snapshots.from_arrays([rng.normal(t, 1, (60, 1)) for t in (0.0, 0.5, 1.0)], [0.0, 0.5, 1.0])
        >>> model = WLM(WLMConfig(steps=3, velocity="zero")).fit(seen)
        >>> model.simulate(rng.normal(0, 1, (50, 1)), [0.0, 1.0]).shape
        (2, 50, 1)
    """

    method = "wlm"

    def __init__(self, config: WLMConfig | None = None, seed: int = 0) -> None:
        self.config, self.seed = config or WLMConfig(), seed
        self.lagrangian: Lagrangian | None = None
        self.action_matching: HOAM | None = None
        self.velocity, self.step = self.config.velocity, self.config.step
        self.losses, self.frictions = np.zeros(0), np.zeros(0)  # at each step of fitting

    # ---- fitting

    def fit(self, snapshots: Snapshots, progress: Progress | None = None) -> Self:
        """Fits functional and friction to the snapshots that are not held out, and returns itself.

        Arguments:
            snapshots: Populations at times.
            progress: Called with each step and its loss.

        Raises:
            InputError: if a trajectory has fewer than two snapshots to fit, observed velocities are required and
                missing, or a loss is not finite.
        """
        config, seen = self.config, snapshots.fitted
        trajectories = [seen.of(m) for m in range(seen.num_trajectories)]
        for m, each in enumerate(trajectories):
            if len(each) < 2:
                raise InputError("snapshots", f"trajectory {m}", "at least two snapshots to fit", len(each))
        observed = all(each[0].velocity is not None for each in trajectories)
        auto = "observed" if observed else "action_matching"
        self.velocity = auto if config.velocity == "auto" else config.velocity
        if self.velocity == "observed" and not observed:
            expected = "velocities, or velocity=action_matching, zero or learned"
            raise InputError("snapshots", "velocity", expected, "none")
        matching = HOAM(config.action_matching, self.seed)
        self.action_matching = matching.fit(seen) if self.velocity == "action_matching" else None
        self.step = config.step or min(float(np.diff([s.time for s in each]).min()) for each in trajectories) / 5
        frictions = np.zeros(config.steps)

        def record(step: int, value: float) -> None:
            frictions[step - 1] = float(lagrangian.friction.detach())
            if progress is not None:
                progress(step, value)

        with torch.random.fork_rng(devices=[]):  # of weights, and of the directions of the sliced loss
            torch.manual_seed(self.seed)
            lagrangian = Lagrangian(config, scales_of(seen), self.velocity == "learned")
            if config.weak_form_steps:
                field = None if self.velocity == "observed" else self.action_matching or matching.fit(seen)
                nodes = nodes_of(seen, field, config.num_particles, self.seed)
                fit_weak_form(lagrangian, nodes, config, self.seed)
            loss = self._loss(lagrangian, trajectories, seen.mu)
            self.lagrangian, self.losses = descend(
                lagrangian, loss, config.steps, config.learning_rate, record, clip=CLIP, ema=EMA
            )
        self.frictions = frictions

        return self

    def _loss(self, lagrangian: Lagrangian, trajectories: list[list[Snapshot]], mu: Array) -> Callable[[], Tensor]:
        """Returns a function that draws a rollout and returns its mean loss over snapshots, in squared data widths."""
        config, rng = self.config, np.random.default_rng(self.seed)
        scale = lagrangian.scales
        unit = scale.length.square().sum().sqrt()
        # learned velocities, and zero ones, are those of the first snapshot only
        anywhere = config.restarts and self.velocity in ("observed", "action_matching", "gradient_flow")
        starts = [(m, a) for m, each in enumerate(trajectories) for a in range(len(each) - 1 if anywhere else 1)]

        def loss() -> Tensor:
            m, a = starts[rng.integers(len(starts))]
            path, parameters = trajectories[m], torch.as_tensor(mu[m], dtype=torch.float32)
            most = min(len(path) - 1 - a, config.horizon or len(path))
            first, *later = path[a : a + 1 + int(rng.integers(1, most + 1))]
            rows = first.rows(config.num_particles, rng)
            x = torch.as_tensor(first.x[rows], dtype=torch.float32)
            v = self._initial(lagrangian, x, first, rows, parameters)
            times = np.array([first.time, *(s.time for s in later)])
            simulated, _ = lagrangian.roll(x, v, times, parameters, self.step)
            total = x.new_zeros(())
            for made, snapshot in zip(simulated[1:], later, strict=True):
                target = torch.as_tensor(snapshot.x[snapshot.rows(len(x), rng)], dtype=torch.float32)
                distance = loss_of(config.loss, len(made), len(target))
                total = total + distance(*(_on_circles(y, scale.period) / unit for y in (made, target)))

            return total / len(later)

        return loss

    def _initial(
        self, lagrangian: Lagrangian, x: Tensor, snapshot: Snapshot, rows: NDArray[np.int64] | slice, mu: Tensor
    ) -> Tensor:
        """Returns initial velocities of samples x of a snapshot, those in `rows`, (N, d)."""
        if self.velocity == "observed":
            if snapshot.velocity is None:
                expected = "velocities of the samples: the model was fitted with them"
                raise InputError("simulate", "v0", expected, "none")
            return torch.as_tensor(snapshot.velocity[rows], dtype=torch.float32)
        if self.velocity == "action_matching" and self.action_matching is not None:
            field = self.action_matching.velocity(x.numpy(), snapshot.time, mu.numpy())
            return torch.as_tensor(field, dtype=torch.float32)
        if self.velocity == "learned":
            return lagrangian.velocity(x, mu)
        if self.velocity == "gradient_flow":
            return lagrangian.functional.acceleration(x, snapshot.time, mu)

        return torch.zeros_like(x)

    # ---- use

    @property
    def facts(self) -> dict[str, Any]:
        """Results of fitting as plain values; the loss is the mean over the last steps, in squared data widths."""
        last = float(np.mean(self.losses[-max(len(self.losses) // 20, 1) :])) if len(self.losses) else math.nan

        return {
            "steps": self.config.steps, "loss": last, "friction": self.friction, "velocity": self.velocity,
            "scale": self.config.scale,
        }  # fmt: skip

    @property
    def friction(self) -> float:
        """Friction gamma, per unit of time."""
        return float(self._fitted().friction)

    @torch.no_grad()
    def acceleration(self, x: ArrayLike, time: float = 0.0, mu: ArrayLike | None = None) -> Array:
        """Returns the acceleration of each particle (N, d), without friction, in the physical scale."""
        model = self._fitted()
        positions = torch.as_tensor(np.asarray(x), dtype=torch.float32)
        found = model.functional.acceleration(positions, time, model.scales.mu_tensor(mu)) * model.mobility

        return found.double().numpy()

    @torch.no_grad()
    def energy(self, x: ArrayLike, v: ArrayLike, mu: ArrayLike | None = None, time: float = 0.0) -> float:
        """Returns the mean kinetic and potential energy of a particle, in the physical scale.

        It is conserved without friction; with friction it falls by gamma E|v|² per unit of time.
        """
        model, positions = self._fitted(), torch.as_tensor(np.asarray(x), dtype=torch.float32)
        potential = model.functional(positions, time, model.scales.mu_tensor(mu)).mean() * model.mobility

        return float(np.mean(np.sum(np.square(v), -1)) / 2 + float(potential))

    def simulate(self, x0: ArrayLike, times: ArrayLike, mu: ArrayLike | None = None, **options: Any) -> Array:
        """Moves samples through time and returns their positions at all times, (T, N, d); see `trajectories`."""
        return self.trajectories(x0, times, mu, **options)[0]

    @torch.no_grad()
    def trajectories(
        self, x0: ArrayLike, times: ArrayLike, mu: ArrayLike | None = None, *, v0: ArrayLike | None = None,
        step: float = 0.0,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Returns positions and velocities of samples at all times, each (T, N, d).

        Arguments:
            x0: Samples at the first time, (N, d).
            times: Times T, ascending.
            mu: Parameters, (p,); a warning is issued if they lie outside the fitted range.
            v0: Velocities at the first time; by default as in fitting, which requires them if they were observed.
            step: Longest step of the solver; by default that of fitting.
        """
        model, moments = self._fitted(), np.asarray(times, np.float64)
        x, parameters = model.scales.initial(x0, mu)
        if v0 is None:
            first = Snapshot(float(moments[0]), x.numpy(), None, np.ones(len(x)))
            v = self._initial(model, x, first, slice(None), parameters)
        else:
            v = torch.as_tensor(np.asarray(v0), dtype=torch.float32)
        positions, velocities = model.roll(x, v, moments, parameters, step or self.step)

        return wrap(positions.double().numpy(), model.scales.period.double().numpy()), velocities.double().numpy()

    def motion(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> tuple[Array, Array]:
        """Advances a snapshot's samples, with its velocities if the model was fitted with observed ones."""
        del seed  # the dynamics are deterministic
        v0 = snapshot.velocity if self.velocity == "observed" else None

        return self.trajectories(snapshot.x, times, mu, v0=v0, **options)

    def advance(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> Array:
        """Returns the positions of `motion`, (T, N, d)."""
        return self.motion(snapshot, times, mu, seed=seed, **options)[0]

    def _fitted(self) -> Lagrangian:
        if self.lagrangian is None:
            raise InputError("WLM", "lagrangian", "a model that was fitted or loaded", "one that was not")

        return self.lagrangian

    # ---- on disk

    def save(self, folder: str | Path) -> Path:
        """Writes ``model.safetensors`` and ``model.json`` into a folder, the velocity model below, and returns it."""
        model = self._fitted()
        if self.action_matching is not None:
            self.action_matching.save(Path(folder) / "action_matching")

        return save_model(folder, self.method, model, model.scales, self.config, velocity=self.velocity, step=self.step)

    @classmethod
    def load(cls, folder: str | Path) -> "WLM":
        """Reads what `save` wrote.

        Raises:
            InputError: if a file is missing, or of another method or architecture.
        """
        config, scales, found = read_shape(folder, cls.method, WLMConfig, ("velocity", "step"))
        model = cls(config)
        model.velocity, model.step = found["velocity"], float(found["step"])
        if model.velocity == "action_matching":
            model.action_matching = HOAM.load(Path(folder) / "action_matching")
        model.lagrangian = Lagrangian(config, scales, model.velocity == "learned")
        read_weights(model.lagrangian, folder)

        return model


def _on_circles(x: Tensor, period: Tensor) -> Tensor:
    """Returns samples with periodic dimensions mapped to circles, without a jump at the seam."""
    around = torch.isfinite(period)
    if not around.any():
        return x
    angle = 2 * math.pi * x[:, around] / period[around]
    radius = period[around] / (2 * math.pi)

    return torch.cat([x[:, ~around], radius * angle.cos(), radius * angle.sin()], 1)

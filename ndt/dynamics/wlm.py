r"""Wasserstein Lagrangian mechanics: populations that obey Newton's law in a potential that is learned from snapshots.

Of the action :math:`\int e^{\gamma t}(\tfrac12 E|\dot x|^2 - U[\rho_t])\,dt` the stationary paths are

.. math:: \ddot x = -\nabla\frac{\delta U}{\delta\rho}[\rho_t](x) - \gamma\,\dot x:

classical ensembles, interacting particles, gases, quantum packets and, with ever more friction, gradient flows. U
(`ndt.dynamics.functionals`) and the friction gamma are learned from snapshots alone: particles are rolled from one
snapshot through some of those that follow, and compared with each by transport. Gradients pass through the whole
rollout, forces included, whose solver is of the second order for every friction (`ndt.dynamics.mechanics`).

Particles that cross have velocities of their own: this is the mechanics of many particles, of which the one of a single
velocity field is a part. Velocities to begin with are observed, zero, learned, or the gradient field of action matching
on the same snapshots, and never of those that are held out.

Reference: Guan, Atanackovic, Neklyudov (2026), A call to Lagrangian action: learning population mechanics from temporal
snapshots, https://arxiv.org/abs/2605.08550.
"""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ndt.config_dynamics import WLMConfig
from ndt.dynamics.fitting import Progress, descend
from ndt.dynamics.heads import Head
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.lagrangian import Lagrangian
from ndt.dynamics.losses import loss_of
from ndt.dynamics.momentum import balanced, nodes_of
from ndt.dynamics.periodic import wrap
from ndt.dynamics.potentials import scales_of
from ndt.dynamics.saving import read_shape, read_weights, save_model
from ndt.dynamics.snapshots import Snapshot, Snapshots
from ndt.errors import InputError

__all__ = ["WLM"]

CLIP, EMA = 1.0, 0.98  # largest norm of a gradient of a rollout; decay of the average of weights

# N = particles, d = dimensions, p = parameters, T = times


class WLM(Head):
    """Second-order dynamics of a population, from snapshots.

    Arguments:
        config: Settings.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> seen = Snapshots.from_arrays([rng.normal(t, 1, (60, 1)) for t in (0.0, 0.5, 1.0)], [0.0, 0.5, 1.0])
        >>> model = WLM(WLMConfig(steps=3, velocity="zero")).fit(seen)
        >>> model.simulate(rng.normal(0, 1, (50, 1)), [0.0, 1.0]).shape
        (2, 50, 1)
    """

    method = "wlm"

    def __init__(self, config: WLMConfig | None = None) -> None:
        self.config = config or WLMConfig()
        self.lagrangian: Lagrangian | None = None
        self.matched: HOAM | None = None
        self.velocity = self.config.velocity
        self.step = self.config.step
        self.losses: NDArray[np.float64] = np.zeros(0)
        self.frictions: NDArray[np.float64] = np.zeros(0)

    # ---- fitting

    def fit(self, snapshots: Snapshots, progress: Progress | None = None) -> Self:
        """Fits functional and friction to the snapshots that are not held out, and returns itself.

        Arguments:
            snapshots: Populations at times.
            progress: Called with each step and its loss.

        Raises:
            InputError: if a trajectory has fewer than two snapshots to fit, velocities are asked for that are not
                there, or a loss is no longer a number.
        """
        config, seen = self.config, snapshots.fitted
        trajectories = [seen.of(m) for m in range(seen.num_trajectories)]
        for m, each in enumerate(trajectories):
            if len(each) < 2:
                raise InputError("snapshots", f"trajectory {m}", "at least two snapshots to fit", len(each))
        observed = all(each[0].velocity is not None for each in trajectories)
        self.velocity = ("observed" if observed else "matched") if config.velocity == "auto" else config.velocity
        if self.velocity == "observed" and not observed:
            raise InputError("snapshots", "velocity", "velocities, or velocity=matched, zero or learned", "none")
        self.matched = HOAM(config.matching).fit(seen) if self.velocity == "matched" else None
        self.step = config.step or min(float(np.diff([s.time for s in each]).min()) for each in trajectories) / 5
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            lagrangian = Lagrangian(config, scales_of(seen), self.velocity == "learned")
        loss = self._loss(lagrangian, trajectories, seen.mu)
        frictions = np.zeros(config.steps)

        def told(step: int, value: float) -> None:
            frictions[step - 1] = float(lagrangian.friction.detach())
            if progress is not None:
                progress(step, value)

        if config.balance_steps:
            self._begin(lagrangian, seen, observed)
        self.lagrangian, self.losses = descend(
            lagrangian, loss, config.steps, config.learning_rate, told, clip=CLIP, ema=EMA
        )
        self.frictions = frictions

        return self

    def _begin(self, lagrangian: Lagrangian, seen: Snapshots, observed: bool) -> None:
        """Fits the balance of momentum, of observed velocities or of those of action matching."""
        config = self.config
        known = observed and all(s.velocity is not None for s in seen.of(0)) and config.velocity in ("auto", "observed")
        matched = None if known else self.matched or HOAM(config.matching).fit(seen)
        balanced(lagrangian, nodes_of(seen, matched, config.num_particles, config.seed), config)

    def _loss(
        self, lagrangian: Lagrangian, trajectories: list[list[Snapshot]], mu: NDArray[np.float64]
    ) -> Callable[[], Tensor]:
        """Returns what draws a rollout and its mean loss over the snapshots it passes, in widths of all samples."""
        config, rng = self.config, np.random.default_rng(self.config.seed)
        scale = lagrangian.scales
        unit = scale.length.square().sum().sqrt()
        anywhere = config.restarts and self.velocity in ("observed", "matched", "downhill")  # else known at the first
        starts = [(m, a) for m, each in enumerate(trajectories) for a in range(len(each) - 1 if anywhere else 1)]

        def loss() -> Tensor:
            m, a = starts[rng.integers(len(starts))]
            path, parameters = trajectories[m], torch.as_tensor(mu[m], dtype=torch.float32)
            most = min(len(path) - 1 - a, config.horizon or len(path))
            passed = path[a : a + 1 + int(rng.integers(1, most + 1))]
            rows = passed[0].rows(config.num_particles, rng)
            x = torch.as_tensor(passed[0].x[rows], dtype=torch.float32)
            v = self._first(lagrangian, passed[0], rows, parameters)
            found, _ = lagrangian.roll(x, v, np.array([s.time for s in passed]), parameters, self.step)
            total = x.new_zeros(())
            for made, true in zip(found[1:], passed[1:], strict=True):
                wanted = torch.as_tensor(true.x[true.rows(len(x), rng)], dtype=torch.float32)
                compared = loss_of(config.loss, len(made), len(wanted))
                total = total + compared(_laid(made, scale.period) / unit, _laid(wanted, scale.period) / unit)

            return total / (len(passed) - 1)

        return loss

    def _first(self, lagrangian: Lagrangian, snapshot: Snapshot, rows: NDArray[np.int64], mu: Tensor) -> Tensor:
        """Returns the velocities with which samples of a snapshot begin, (N, d)."""
        x = snapshot.x[rows]
        if self.velocity == "learned":
            return lagrangian.velocity(torch.as_tensor(x, dtype=torch.float32), mu)
        if self.velocity == "matched":
            assert self.matched is not None, "it was fitted"
            return torch.as_tensor(self.matched.velocity(x, snapshot.time, mu.numpy()), dtype=torch.float32)
        if self.velocity == "downhill":
            return lagrangian.functional.acceleration(torch.as_tensor(x, dtype=torch.float32), snapshot.time, mu)
        if self.velocity == "observed":
            assert snapshot.velocity is not None, "it was checked"
            return torch.as_tensor(snapshot.velocity[rows], dtype=torch.float32)

        return torch.zeros(x.shape, dtype=torch.float32)

    # ---- use

    @property
    def facts(self) -> dict[str, Any]:
        """What fitting leaves to be told, as plain values: the last losses' mean, in squared widths, and friction."""
        last = float(np.mean(self.losses[-max(len(self.losses) // 20, 1) :])) if len(self.losses) else math.nan

        return {
            "steps": self.config.steps, "loss": last, "friction": self.friction, "velocity": self.velocity,
            "scale": self.config.scale,
        }  # fmt: skip

    @property
    def friction(self) -> float:
        """Friction gamma, per unit of time."""
        return float(self._fitted().friction)

    def acceleration(self, x: ArrayLike, time: float = 0.0, mu: ArrayLike | None = None) -> NDArray[np.float64]:
        """Returns the force on each of a population's particles (N, d), without friction, in the physical scale."""
        model = self._fitted()
        with torch.no_grad():
            at = torch.as_tensor(np.asarray(x), dtype=torch.float32)
            found = model.functional.acceleration(at, time, self._parameters(mu)) * self._mobility

        return found.double().numpy()

    def energy(self, x: ArrayLike, v: ArrayLike, mu: ArrayLike | None = None, time: float = 0.0) -> float:
        """Returns the mean energy of a particle, of motion and potential, in the physical scale.

        Without friction it stays as it is; with it, it falls by gamma E|v|² per unit of time.
        """
        at = torch.as_tensor(np.asarray(x), dtype=torch.float32)
        potential = self._fitted().functional(at, time, self._parameters(mu)).mean().detach()

        return float(np.mean(np.sum(np.square(v), -1)) / 2 + float(potential) * self._mobility)

    def simulate(
        self, x0: ArrayLike, times: ArrayLike, mu: ArrayLike | None = None, *, v0: ArrayLike | None = None,
        step: float = 0.0, seed: int = 0,
    ) -> NDArray[np.float64]:  # fmt: skip
        """Moves samples through time and returns them at all times, (T, N, d).

        Arguments:
            x0: Samples at the first time, (N, d).
            times: Times T, ascending.
            mu: Parameters, (p,).
            v0: Velocities at the first time; by default as in fitting, where these can be had.
            step: Longest step of the solver; by default that of fitting.
            seed: Not used: nothing is drawn.
        """
        return self.trajectories(x0, times, mu, v0=v0, step=step)[0]

    def trajectories(
        self, x0: ArrayLike, times: ArrayLike, mu: ArrayLike | None = None, *, v0: ArrayLike | None = None,
        step: float = 0.0,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
        """Returns positions and velocities of samples at all times, each (T, N, d); see `simulate`."""
        model, moments = self._fitted(), np.asarray(times, np.float64)
        start, parameters = np.asarray(x0, np.float64), self._parameters(mu)
        if start.ndim != 2 or start.shape[1] != len(model.scales.centre):
            raise InputError("simulate", "x0", f"(N, {len(model.scales.centre)})", start.shape)
        for line in model.scales.beyond(parameters[None]):
            warnings.warn(line, stacklevel=3)
        with torch.no_grad():
            if v0 is None:
                if self.velocity == "observed":
                    raise InputError(
                        "simulate", "v0", "velocities of the samples: the model was fitted with them", "none"
                    )
                seen = Snapshot(float(moments[0]), start, None, np.ones(len(start)))
                v = self._first(model, seen, np.arange(len(start)), parameters)
            else:
                v = torch.as_tensor(np.asarray(v0), dtype=torch.float32)
            x = torch.as_tensor(start, dtype=torch.float32)
            found, speed = model.roll(x, v, moments, parameters, step or self.step)
        period = model.scales.period.double().numpy()

        return wrap(found.double().numpy(), period), speed.double().numpy()

    def advance(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> NDArray[np.float64]:
        """Carries a snapshot's samples on, with its velocities where the model was fitted with such."""
        return self.motion(snapshot, times, mu, seed=seed, **options)[0]

    def motion(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns the same, and velocities, each (T, N, d)."""
        del seed  # nothing is drawn
        v0 = snapshot.velocity if self.velocity == "observed" else None

        return self.trajectories(snapshot.x, times, mu, v0=v0, **options)

    @property
    def _mobility(self) -> float:
        return 1 + self.friction if self.config.scale == "mobility" else 1.0

    def _parameters(self, mu: ArrayLike | None) -> Tensor:
        wanted = len(self._fitted().scales.mu_mean)
        found = np.zeros(0) if mu is None else np.ravel(np.asarray(mu, np.float64))
        if len(found) != wanted:
            raise InputError("simulate", "mu", f"({wanted},)", found.shape)

        return torch.as_tensor(found, dtype=torch.float32)

    def _fitted(self) -> Lagrangian:
        if self.lagrangian is None:
            raise InputError("WLM", "lagrangian", "a model that was fitted or loaded", "one that was not")

        return self.lagrangian

    # ---- on disk

    def save(self, folder: str | Path) -> Path:
        """Writes ``model.safetensors`` and ``model.json`` into a folder, matched velocities below, and returns it."""
        model = self._fitted()
        if self.matched is not None:
            self.matched.save(Path(folder) / "matched")

        return save_model(folder, self.method, model, model.scales, self.config, velocity=self.velocity, step=self.step)

    @classmethod
    def load(cls, folder: str | Path) -> "WLM":
        """Reads what `save` wrote.

        Raises:
            InputError: if a file is missing, or of another method or architecture.
        """
        config, scales, found = read_shape(folder, cls.method, WLMConfig)
        for name in ("velocity", "step"):
            if name not in found:
                raise InputError(Path(folder) / "model.json", name, "how rollouts began and stepped", "nothing")
        model = cls(config)
        model.velocity, model.step = found["velocity"], float(found["step"])
        model.matched = HOAM.load(Path(folder) / "matched") if model.velocity == "matched" else None
        model.lagrangian = Lagrangian(config, scales, model.velocity == "learned")
        read_weights(model.lagrangian, folder)

        return model


def _laid(x: Tensor, period: Tensor) -> Tensor:
    """Returns samples with periodic dimensions laid on circles, on which the seam is no jump."""
    around = torch.isfinite(period)
    if not around.any():
        return x
    angle = 2 * math.pi * x[:, around] / period[around]
    radius = period[around] / (2 * math.pi)

    return torch.cat([x[:, ~around], radius * angle.cos(), radius * angle.sin()], 1)

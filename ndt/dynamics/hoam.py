r"""Higher-order action matching: a potential whose gradient moves a population as its snapshots say, for all
parameters.

Of all velocity fields that move a density as it moves, the gradient of a potential s is the one of least kinetic
energy. With noise eps it minimises

.. math::
    L(s) = E_\mu\Big\{E_{\rho_0}[s_0] - E_{\rho_1}[s_1]
      + \int_0^1 E_{\rho_t}\big[\tfrac12|\nabla s_t|^2 + \partial_t s_t + \tfrac{\varepsilon^2}{2}\Delta
      s_t\big]dt\Big\},

whose minimum is minus half the integral of E|grad s|². Samples then follow dX = grad s dt + eps dW: one solve is a
whole trajectory of the population, of any parameters.

Where samples have velocities (paths, or pairs of transport), the end terms and the change in time are the integral of
-E[x' · grad s] along them, exactly: the loss is then a regression of velocities on a gradient, at each node by itself.
It has no level to fix, without eps no rule can make it fall below -½ E|x'|², and it has less noise, unless paths are
themselves those of a diffusion, whose velocities are noise above all. Elsewhere it is the default (`form`).

In the action's own form the integral is what decides. Fixed nodes, as in the paper, let the potential hide what it does
between them: its loss falls below the minimum that is attainable, and where its level is free (adding c(t) changes
nothing but the error of the rule) without bound. Nodes that are drawn anew each step leave nowhere to hide. `Check`
compares the loss with a fresh, finer estimate and says so where nodes were over-fitted. With noise, the Laplacian of
a few samples can be over-fitted, too: a share of the samples is kept back, which weights are kept is chosen by its
loss, and `Check` says by how much it is above that of the samples that were fitted.

Reference: Berman, Blickhan, Peherstorfer (2024), Parametric model reduction of mean-field and stochastic systems via
higher-order action matching, https://arxiv.org/abs/2410.12000. The Laplacian enters linearly, as the derivation says.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ndt.config_dynamics import HOAMConfig
from ndt.dynamics.batches import Batch
from ndt.dynamics.between import Bridge, bridges
from ndt.dynamics.fitting import Progress, descend
from ndt.dynamics.heads import Head
from ndt.dynamics.integrators import integrate
from ndt.dynamics.potentials import Potential, scales_of
from ndt.dynamics.saving import read_shape, read_weights, save_model
from ndt.dynamics.snapshots import Snapshot, Snapshots
from ndt.errors import InputError

__all__ = ["HOAM", "Check"]

JUDGED = 8  # trajectories at most that a fresh estimate is made of at a time

# B = slices of a step, Q = nodes in time, N = particles of a node, d = dimensions, p = parameters, M = trajectories


@dataclass(frozen=True, kw_only=True)
class Check:
    """How the loss of fitting stands to a fresh estimate of it.

    Arguments:
        loss: Loss of the fitted model by the rule, nodes and particles of a step, a mean over trajectories.
        fresh: Its loss by strata twice as fine.
        error: Standard error of their difference.
        kinetic: Minus half the integral of E|grad s|², which is the loss of the best potential of all.
        kept: Its loss, by the finer strata, of samples that were kept back; None where there are none.
        kept_error: Standard error of the difference of that to `fresh`.
    """

    loss: float
    fresh: float
    error: float
    kinetic: float
    kept: float | None = None
    kept_error: float = 0.0

    @property
    def overfitted(self) -> bool:
        """Whether the loss lies below what fresh nodes show, by more than 1 % and three standard errors."""
        return self.loss < self.fresh - max(0.01 * abs(self.fresh), 3 * self.error)

    @property
    def memorised(self) -> bool:
        """Whether samples that were kept back have a loss above those that were fitted, by more than the same."""
        return self.kept is not None and self.kept > self.fresh + max(0.01 * abs(self.fresh), 3 * self.kept_error)


class HOAM(Head):
    """First-order dynamics of a population, from snapshots.

    Arguments:
        config: Settings.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> seen = Snapshots.from_arrays([rng.normal(t, 1, (200, 1)) for t in (0.0, 0.5, 1.0)], [0.0, 0.5, 1.0])
        >>> model = HOAM(HOAMConfig(steps=20)).fit(seen)
        >>> model.simulate(rng.normal(0, 1, (50, 1)), [0.0, 1.0]).shape
        (2, 50, 1)
    """

    method = "hoam"

    def __init__(self, config: HOAMConfig | None = None) -> None:
        self.config = config or HOAMConfig()
        self.potential: Potential | None = None
        self.losses: NDArray[np.float64] = np.zeros(0)  # of each step of fitting
        self.check: Check | None = None

    # ---- fitting

    def fit(self, snapshots: Snapshots, progress: Progress | None = None) -> Self:
        """Fits the potential to the snapshots that are not held out, and returns itself.

        Arguments:
            snapshots: Populations at times.
            progress: Called with each step and its loss.

        Raises:
            InputError: if a trajectory has fewer than two snapshots to fit, what lies between them cannot be had, or a
                loss is no longer a number.
        """
        config = self.config
        rng = np.random.default_rng(config.seed)
        seen, apart = snapshots.fitted.split(config.held_back, rng)
        trajectories = bridges(seen, config.between, rng)
        kept = [] if apart is None else bridges(apart, trajectories[0].how, rng)
        if config.form == "velocity" and not trajectories[0].moves:
            found = f"{trajectories[0].how} without velocities"
            raise InputError("settings", "between", "paths, transport or recorded velocities for form=velocity", found)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            potential = Potential(config.potential, scales_of(seen))
        probes = torch.Generator().manual_seed(config.seed)
        finer = replace(
            config, rule="stratified", num_nodes=2 * config.num_nodes + 1, num_trajectories=min(len(seen.mu), JUDGED)
        )
        judge = Batch.drawn(kept, seen.mu, finer, rng) if kept else None

        def loss() -> Tensor:
            return self._loss(potential, Batch.drawn(trajectories, seen.mu, config, rng), probes).mean()

        def held(model: Potential) -> float:
            assert judge is not None, "samples were kept back"
            return float(self._loss(model, judge, torch.Generator().manual_seed(config.seed)).mean().detach())

        self.potential, self.losses = descend(
            potential, loss, config.steps, config.learning_rate, progress, held=held if kept else None
        )
        self.check = self._check(self.potential, trajectories, kept, seen.mu, rng)

        return self

    def _loss(self, potential: Potential, batch: Batch, probes: torch.Generator) -> Tensor:
        """Returns the loss of each trajectory of the batch, shape (M,)."""
        q, _ = self._integrand(potential, batch, probes)
        inner = (batch.weight * q).view(len(batch.mu), -1).sum(1)
        if batch.ends is None:
            return inner
        ends = batch.ends
        s = self._gauged(potential, ends.x, ends.time, ends.mean, batch.mu.repeat_interleave(2, 0))
        first, last = s.mean(1).view(-1, 2).unbind(1)

        return first - last + inner

    def _integrand(self, potential: Potential, batch: Batch, probes: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns means over particles of the whole integrand and of half the squared gradient, each (B,)."""
        x, mu, N = batch.x.clone().requires_grad_(), batch.slice_mu, batch.x.shape[1]
        if batch.velocity is not None:
            (slope,) = torch.autograd.grad(potential(x, batch.time, mu).sum(), x, create_graph=True)
            change = -(batch.velocity * slope).sum(2).mean(1)
        else:
            t = batch.time.clone().requires_grad_()
            mean = batch.mean + (t - batch.time)[:, None] * batch.drift  # where the level is held moves along
            s = self._gauged(potential, x, t, mean, mu)
            slope, change = torch.autograd.grad(s.sum() / N, (x, t), create_graph=True)
            slope = slope * N
        kinetic = slope.square().sum(2).mean(1) / 2
        q = kinetic + change
        if self.config.noise:
            probe = torch.randint(0, 2, x.shape, generator=probes).to(x.dtype) * 2 - 1
            (curved,) = torch.autograd.grad((slope * probe).sum(), x, create_graph=True)
            q = q + self.config.noise**2 / 2 * (curved * probe).sum(2).mean(1)

        return q, kinetic

    def _gauged(self, potential: Potential, x: Tensor, t: Tensor, mean: Tensor, mu: Tensor) -> Tensor:
        if self.config.gauge == "none":
            return potential(x, t, mu)
        s = potential(torch.cat([x, mean[:, None]], 1), t, mu)

        return s[:, :-1] - s[:, -1:]

    def _check(
        self, potential: Potential, trajectories: list[Bridge], kept: list[Bridge], mu: NDArray[np.float64],
        rng: np.random.Generator,
    ) -> Check:  # fmt: skip
        """Estimates the loss by its own rule and by a finer one, where nodes are not the snapshots' times."""
        own = replace(self.config, num_trajectories=min(len(mu), JUDGED))
        finer = replace(own, rule="stratified", num_nodes=2 * own.num_nodes + 1)
        probes = torch.Generator().manual_seed(self.config.seed + 1)
        repeats = max(32 // own.num_trajectories, 8)
        parts = min([repeats, *(len(x) for path in kept for x in path.samples)])
        losses, kinetics = np.zeros((repeats, 3 if kept else 2)), np.zeros(repeats)
        for i in range(repeats):
            apart = [path.part(i % parts, parts) for path in kept]  # else the error would not show how few they are
            for j, (paths, config) in enumerate([(trajectories, own), (trajectories, finer), (apart, finer)]):
                if not paths:
                    continue
                batch = Batch.drawn(paths, mu, config, rng)
                losses[i, j] = float(self._loss(potential, batch, probes).mean().detach())
                if j == 1:
                    _, kinetic = self._integrand(potential, batch, probes)
                    kinetics[i] = float((batch.weight * kinetic.detach()).view(len(batch.mu), -1).sum(1).mean())
        gaps = (losses - losses[:, [1]]).std(0, ddof=1) / math.sqrt(len(losses))

        return Check(
            loss=float(losses[:, 0].mean()), fresh=float(losses[:, 1].mean()), error=float(gaps[0]),
            kinetic=-float(kinetics.mean()), kept=float(losses[:, 2].mean()) if kept else None,
            kept_error=float(gaps[2]) if kept else 0.0,
        )  # fmt: skip

    # ---- use

    @property
    def facts(self) -> dict[str, Any]:
        """What fitting leaves to be told, as plain values: the check, and whether nodes or samples were over-fitted."""
        check = self.check
        if check is None:
            return {}

        return {"steps": self.config.steps, **vars(check), "overfitted": check.overfitted, "memorised": check.memorised}

    def velocity(self, x: ArrayLike, time: float, mu: ArrayLike | None = None) -> NDArray[np.float64]:
        """Returns the gradient of the potential at positions (N, d) or (M, N, d), with parameters (p,) or (M, p)."""
        model = self._fitted()
        positions = torch.as_tensor(np.asarray(x), dtype=torch.float32)
        alone = positions.ndim == 2
        positions = positions[None] if alone else positions
        drift = self._drift(model, self._parameters(mu, len(positions)))
        found = drift(positions, time).double().numpy()

        return found[0] if alone else found

    def simulate(
        self,
        x0: ArrayLike,
        times: ArrayLike,
        mu: ArrayLike | None = None,
        *,
        method: str = "heun",
        step: float = 0.0,
        seed: int = 0,
    ) -> NDArray[np.float64]:
        """Moves samples through time and returns them at all times.

        Arguments:
            x0: Samples at the first time, (N, d), or (M, N, d) for several populations.
            times: Times T, ascending; beyond those that were fitted the potential is extrapolated.
            mu: Parameters, (p,), or (M, p); a warning says how far they lie outside those that were fitted.
            method: ``euler``, ``heun`` or, without noise, ``rk4``.
            step: Longest step; 0 for a five-hundredth of the fitted span.
            seed: Seed of the noise.

        Returns:
            Samples, shape (T, N, d) or (M, T, N, d).
        """
        model = self._fitted()
        start = torch.as_tensor(np.asarray(x0), dtype=torch.float32)
        if start.ndim not in (2, 3) or start.shape[-1] != len(model.scales.centre):
            raise InputError("simulate", "x0", f"(N, {len(model.scales.centre)}) or (M, N, d)", tuple(start.shape))
        alone = start.ndim == 2
        start = start[None] if alone else start
        first, last = model.scales.span.tolist()
        parameters = self._parameters(mu, len(start))
        for line in model.scales.beyond(parameters):
            warnings.warn(line, stacklevel=2)
        found = integrate(
            self._drift(model, parameters), start, np.asarray(times, np.float64),
            step=step or (last - first) / 500, method=method, noise=self.config.noise,
            period=model.scales.period, generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        samples = found.double().numpy()

        return samples[0] if alone else samples

    def advance(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> NDArray[np.float64]:
        """Carries a snapshot's samples on: `simulate` from what one snapshot knows."""
        return self.simulate(snapshot.x, times, mu, seed=seed, **options)

    def _drift(self, model: Potential, mu: Tensor) -> Callable[[Tensor, float], Tensor]:
        def drift(x: Tensor, time: float) -> Tensor:
            with torch.enable_grad():
                at = x.detach().requires_grad_()
                s = model(at, torch.full((len(at),), time), mu)
                return torch.autograd.grad(s.sum(), at)[0]

        return drift

    def _parameters(self, mu: ArrayLike | None, num: int) -> Tensor:
        wanted = len(self._fitted().scales.mu_mean)
        found: NDArray[np.float64] = np.zeros((1, 0)) if mu is None else np.asarray(mu, np.float64)
        found = found.reshape(1, -1) if found.ndim < 2 else found
        if found.shape[1] != wanted or len(found) not in (1, num):
            raise InputError("simulate", "mu", f"({wanted},) or ({num}, {wanted})", found.shape)

        return torch.as_tensor(found, dtype=torch.float32).expand(num, -1)

    def _fitted(self) -> Potential:
        if self.potential is None:
            raise InputError("HOAM", "potential", "a model that was fitted or loaded", "one that was not")

        return self.potential

    # ---- on disk

    def save(self, folder: str | Path) -> Path:
        """Writes ``model.safetensors`` and ``model.json`` into a folder and returns it."""
        model = self._fitted()

        return save_model(folder, self.method, model, model.scales, self.config)

    @classmethod
    def load(cls, folder: str | Path) -> "HOAM":
        """Reads what `save` wrote.

        Raises:
            InputError: if a file is missing, or of another method or architecture.
        """
        config, scales, _ = read_shape(folder, cls.method, HOAMConfig)
        model = cls(config)
        model.potential = Potential(config.potential, scales)
        read_weights(model.potential, folder)

        return model

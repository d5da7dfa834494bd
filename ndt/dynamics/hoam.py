r"""Higher-order action matching: the gradient field that moves a population as its snapshots do, for all parameters.

Of all velocity fields that move a density in a given way, the gradient of a potential s has the least kinetic energy.
With noise eps it minimises

.. math::
    L(s) = E_\mu\Big\{E_{\rho_0}[s_0] - E_{\rho_1}[s_1]
      + \int_0^1 E_{\rho_t}\big[\tfrac12|\nabla s_t|^2 + \partial_t s_t + \tfrac{\varepsilon^2}{2}\Delta
      s_t\big]dt\Big\},

whose minimum is minus half the integral of E|grad s|². Samples then follow dX = grad s dt + eps dW: one solve gives a
whole trajectory of the population, for any parameters.

If samples have velocities (paths, or optimal-transport pairs), the end terms and the time derivative equal the integral
of -E[x' · grad s] along the paths. This ``velocity`` form is a regression of velocities on a gradient, independent at
each node: it needs no gauge, without noise it is bounded below by -½ E|x'|² for every quadrature rule, and it has less
variance, unless the paths are those of a diffusion, whose velocities are mostly noise.

In the ``action`` form the quadrature decides. Fixed nodes, as published, let the potential vary between nodes at no
cost: the loss falls below its attainable minimum, and without bound if the level of s is free (adding c(t) then changes
the quadrature error only). Nodes drawn anew each step prevent this. `Check` compares the fitted loss with a fresh
estimate on a finer rule and reports over-fitted nodes. With noise, the Laplacian of few samples can be over-fitted too:
a validation fraction of the samples selects the weights, and `Check` compares its loss with that of fitted samples.

Reference: Berman, Blickhan, Peherstorfer (2024), Parametric model reduction of mean-field and stochastic systems via
higher-order action matching, https://arxiv.org/abs/2410.12000. The Laplacian enters linearly, as derived there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ndt.config.dynamics import HOAMConfig
from ndt.dynamics.batches import Batch
from ndt.dynamics.fitting import Progress, descend
from ndt.dynamics.head import Head, read_shape, read_weights, save_model
from ndt.dynamics.integrators import integrate
from ndt.dynamics.interpolants import Interpolant, interpolants
from ndt.dynamics.potentials import Potential, scales_of
from ndt.dynamics.snapshots import Snapshot, Snapshots
from ndt.errors import InputError

__all__ = ["HOAM", "Check"]

Array = NDArray[np.float64]

CHECKED = 8  # most trajectories of one fresh estimate of the loss
RATE, VALIDATION = 5e-3, 0.1  # peak learning rate; fraction of samples kept for validation

# B = slices of a step, Q = nodes in time, N = particles of a node, d = dimensions, p = parameters, M = trajectories


@dataclass(frozen=True, kw_only=True)
class Check:
    """Loss of the fitted model, and fresh estimates of it.

    Arguments:
        loss: Loss of the fitted model with the rule, nodes and particles of a step, mean over trajectories.
        fresh: Its loss with newly drawn strata, twice as fine.
        error: Standard error of their difference.
        kinetic: Minus half the integral of E|grad s|², the loss of the optimal potential.
        validation: Loss of the validation samples on the finer strata; None without such samples.
        validation_error: Standard error of its difference to `fresh`.
    """

    loss: float
    fresh: float
    error: float
    kinetic: float
    validation: float | None = None
    validation_error: float = 0.0

    @property
    def overfitted(self) -> bool:
        """Whether the loss is below that of fresh nodes by more than 1 % and three standard errors."""
        return self.loss < self.fresh - max(0.01 * abs(self.fresh), 3 * self.error)

    @property
    def overfitted_samples(self) -> bool:
        """Whether the validation loss is above that of fitted samples by more than 1 % and three standard errors."""
        limit = max(0.01 * abs(self.fresh), 3 * self.validation_error)
        return self.validation is not None and self.validation > self.fresh + limit


class HOAM(Head):
    """First-order dynamics of a population, from snapshots.

    Arguments:
        config: Settings.
        seed: Seed of weights, nodes and samples.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> seen = Snapshots.from_arrays([rng.normal(t, 1, (200, 1)) for t in (0.0, 0.5, 1.0)], [0.0, 0.5, 1.0])
        >>> model = HOAM(HOAMConfig(steps=20)).fit(seen)
        >>> model.simulate(rng.normal(0, 1, (50, 1)), [0.0, 1.0]).shape
        (2, 50, 1)
    """

    method = "hoam"

    def __init__(self, config: HOAMConfig | None = None, seed: int = 0) -> None:
        self.config, self.seed = config or HOAMConfig(), seed
        self.potential: Potential | None = None
        self.losses: Array = np.zeros(0)  # of each step of fitting
        self.check: Check | None = None

    # ---- fitting

    def fit(self, snapshots: Snapshots, progress: Progress | None = None) -> Self:
        """Fits the potential to the snapshots that are not held out, and returns itself.

        Arguments:
            snapshots: Populations at times.
            progress: Called with each step and its loss.

        Raises:
            InputError: if a trajectory has fewer than two snapshots to fit, the interpolant does not suit the
                snapshots, or a loss is not a number.
        """
        config, rng = self.config, np.random.default_rng(self.seed)
        seen, apart = snapshots.fitted.split(VALIDATION, rng)
        trajectories = interpolants(seen, config.interpolant, rng)
        validation = [] if apart is None else interpolants(apart, trajectories[0].kind, rng)
        if config.form == "velocity" and not (first := trajectories[0]).has_velocities:
            expected = "paths, transport or recorded velocities for form=velocity"
            raise InputError("settings", "interpolant", expected, f"{first.kind} without velocities")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            potential = Potential(config.potential, scales_of(seen))
        probes = torch.Generator().manual_seed(self.seed)
        held_batch = Batch.drawn(validation, seen.mu, self._finer(len(seen.mu)), rng) if validation else None

        def loss() -> Tensor:
            return self._loss(potential, Batch.drawn(trajectories, seen.mu, config, rng), probes).mean()

        def held(model: Potential) -> float:
            assert held_batch is not None, "there are validation samples"
            return float(self._loss(model, held_batch, torch.Generator().manual_seed(self.seed)).mean().detach())

        self.potential, self.losses = descend(
            potential, loss, config.steps, RATE, progress, held=held if validation else None
        )
        self.check = self._check(self.potential, trajectories, validation, seen.mu, rng)

        return self

    def _finer(self, num_trajectories: int) -> HOAMConfig:
        """Settings of a fresh estimate of the loss."""
        return replace(
            self.config, rule="stratified", num_nodes=2 * self.config.num_nodes + 1,
            num_trajectories=min(num_trajectories, CHECKED),
        )  # fmt: skip

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
            mean = batch.mean + (t - batch.time)[:, None] * batch.drift  # the gauge point moves
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
        self, potential: Potential, trajectories: list[Interpolant], validation: list[Interpolant], mu: Array,
        rng: np.random.Generator,
    ) -> Check:  # fmt: skip
        """Estimates the loss by its own rule and by a finer one."""
        finer = self._finer(len(mu))
        own = replace(self.config, num_trajectories=finer.num_trajectories)
        probes = torch.Generator().manual_seed(self.seed + 1)
        repeats = max(32 // own.num_trajectories, 8)
        parts = min([repeats, *(len(x) for path in validation for x in path.samples)])
        losses, kinetics = np.zeros((repeats, 3 if validation else 2)), np.zeros(repeats)
        for i in range(repeats):
            # repeats share no validation sample: the standard error then reflects how few there are
            apart = [path.part(i % parts, parts) for path in validation]
            for j, (paths, config) in enumerate([(trajectories, own), (trajectories, finer), (apart, finer)]):
                if not paths:
                    continue
                batch = Batch.drawn(paths, mu, config, rng)
                losses[i, j] = float(self._loss(potential, batch, probes).mean().detach())
                if j == 1:
                    _, kinetic = self._integrand(potential, batch, probes)
                    kinetics[i] = float((batch.weight * kinetic.detach()).view(len(batch.mu), -1).sum(1).mean())
        errors = (losses - losses[:, [1]]).std(0, ddof=1) / math.sqrt(len(losses))

        return Check(
            loss=float(losses[:, 0].mean()), fresh=float(losses[:, 1].mean()), error=float(errors[0]),
            kinetic=-float(kinetics.mean()), validation=float(losses[:, 2].mean()) if validation else None,
            validation_error=float(errors[2]) if validation else 0.0,
        )  # fmt: skip

    # ---- use

    @property
    def facts(self) -> dict[str, Any]:
        """Results of fitting as plain values: the check, and whether nodes or samples were over-fitted."""
        if (check := self.check) is None:
            return {}
        return {
            "steps": self.config.steps, **vars(check), "overfitted": check.overfitted,
            "overfitted_samples": check.overfitted_samples,
        }  # fmt: skip

    def velocity(self, x: ArrayLike, time: float, mu: ArrayLike | None = None) -> Array:
        """Returns the gradient of the potential at positions (N, d), with parameters (p,)."""
        positions = torch.as_tensor(np.asarray(x), dtype=torch.float32)
        return self._drift(self._fitted().scales.mu_tensor(mu))(positions, time).double().numpy()

    def simulate(
        self, x0: ArrayLike, times: ArrayLike, mu: ArrayLike | None = None, *, step: float = 0.0, seed: int = 0
    ) -> Array:
        """Moves samples through time and returns them at all times, (T, N, d).

        Arguments:
            x0: Samples at the first time, (N, d).
            times: Times T, ascending; beyond the fitted times the potential is extrapolated.
            mu: Parameters, (p,); a warning is issued if they lie outside the fitted range.
            step: Longest step of Heun's scheme; 0 for a five-hundredth of the fitted span.
            seed: Seed of the noise.
        """
        scales = self._fitted().scales
        start, parameters = scales.initial(x0, mu)
        first, last = scales.span.tolist()
        samples = integrate(
            self._drift(parameters), start, np.asarray(times, np.float64), step=step or (last - first) / 500,
            noise=self.config.noise, period=scales.period, generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip

        return samples.double().numpy()

    def advance(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> Array:
        """Advances a snapshot's samples; see `simulate`."""
        return self.simulate(snapshot.x, times, mu, seed=seed, **options)

    def _drift(self, mu: Tensor) -> Callable[[Tensor, float], Tensor]:
        model = self._fitted()

        def drift(x: Tensor, time: float) -> Tensor:
            with torch.enable_grad():
                at = x.detach().requires_grad_()
                s = model(at[None], torch.full((1,), time), mu[None])
                return torch.autograd.grad(s.sum(), at)[0]

        return drift

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

"""Simulated systems by name, with their fitted and held-out parameters or times."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.dynamics.snapshots import Snapshots
from ndt.dynamics.systems.boids import Boids
from ndt.dynamics.systems.diffusion import POTENTIALS, Diffusion
from ndt.dynamics.systems.ensembles import harmonic_oscillator, isothermal_gas, solid_rotation, vortex_tracers
from ndt.dynamics.systems.lorenz import Lorenz
from ndt.dynamics.systems.oscillator import Oscillator
from ndt.dynamics.systems.plasma import Beams, Landau
from ndt.dynamics.systems.trap import Trap

__all__ = ["SYSTEMS", "System"]


@dataclass(frozen=True, kw_only=True)
class System:
    """A system and the parameters and times at which it is observed.

    Arguments:
        model: Simulator with a method `simulate` and, of plasmas, `electric_energy`.
        fitted: Parameters of fitted trajectories; empty for a system without parameters.
        unseen: Held-out parameters.
        fitted_until: Last fitted time of a system without parameters; later snapshots are held out.
        end: Last time.
        num_times: Snapshots of a trajectory.
        noise: Diffusion of a fitted model.
        labels: Names of the dimensions.
        least_loss: Loss of the optimal potential, if known.
    """

    model: Any
    fitted: tuple[float, ...] = ()
    unseen: tuple[float, ...] = ()
    fitted_until: float = np.inf
    end: float = 1.0
    num_times: int = 201
    noise: float = 0.0
    labels: tuple[str, ...] = ()
    least_loss: float | None = None

    @property
    def times(self) -> NDArray[np.float64]:
        """Times of the snapshots."""
        return np.linspace(0.0, self.end, self.num_times)

    def snapshots(self, num_particles: int, seed: int = 0) -> Snapshots:
        """Simulates all trajectories; those of `unseen` are held out.

        Arguments:
            num_particles: Samples of each snapshot.
            seed: Seed of the first trajectory; each other has one of its own.
        """
        if not self.fitted:
            seen: Snapshots = self.model.simulate(num_particles, self.times, seed)
            return replace(seen, held_out=seen.time > self.fitted_until + 1e-9)
        mu = sorted((*self.fitted, *self.unseen))
        found: Snapshots = self.model.simulate(mu, num_particles, self.times, seed)
        held = np.isin(found.mu[found.trajectory, 0], self.unseen)

        return Snapshots(**{**vars(found), "held_out": held})

    @property
    def energy(self) -> Callable[[NDArray[np.float64], float], NDArray[np.float64]] | None:
        """Function of populations (T, N, d) and a parameter that returns electric energies, if the system has one."""
        return getattr(self.model, "electric_energy", None)


PLANE = ("x", "y")
WAVES = tuple(round(1.2 + 0.1 * k, 1) for k in range(8))
SYSTEMS = {
    "noisy_oscillator": System(
        model=Oscillator(), num_times=401, labels=("x1", "x2"), least_loss=Oscillator().least_loss()
    ),
    "two_stream": System(
        model=Beams(), fitted=WAVES, unseen=(1.25, 1.85), end=40.0, labels=("position", "velocity"),
    ),
    "bump_on_tail": System(  # a plasma at rest, with a tenth of its electrons in a narrower beam
        model=Beams(speeds=(0.0, 4.0), widths=(1.0, 0.5), shares=(0.9, 0.1)),
        fitted=WAVES, unseen=(1.25, 1.85), end=40.0, labels=("position", "velocity"),
    ),
    "landau": System(
        model=Landau(), fitted=(0.2, 0.3, 0.4, 0.5, 0.6), unseen=(0.35, 0.55), end=4.0, num_times=81,
        labels=("x", "y", "z", "v_x", "v_y", "v_z"),
    ),
    "lorenz": System(
        model=Lorenz(), fitted=(14.0, 16.0, 18.0, 20.0, 22.0), unseen=(15.0, 21.0), end=3.7, num_times=186,
        labels=tuple(f"C{k}" for k in range(1, 10)),
    ),
    "trap": System(
        model=Trap(), fitted=(0.5, 1.0, 1.5, 2.0, 2.5), unseen=(0.75, 2.25), end=2.0, noise=Trap().noise,
        labels=tuple(f"particle {k}" for k in range(1, 9)),
    ),
    "harmonic_oscillator": System(
        model=harmonic_oscillator(k=4 * np.pi**2), fitted_until=1.5, end=3.5, num_times=71, labels=PLANE,
    ),
    "isothermal_gas": System(model=isothermal_gas(), fitted_until=3.0, end=6.0, num_times=41, labels=PLANE),
    "solid_rotation": System(model=solid_rotation(), fitted_until=1.5, end=3.5, num_times=71, labels=PLANE),
    "vortex_tracers": System(model=vortex_tracers(), fitted_until=1.5, end=3.5, num_times=71, labels=PLANE),
    "boids": System(model=Boids(), fitted_until=25.0, end=50.0, num_times=101, labels=PLANE),
    **{
        name: System(
            model=Diffusion(potential=name), fitted_until=0.1, end=0.2, num_times=21, noise=1.0, labels=PLANE
        )
        for name in POTENTIALS
    },
}  # fmt: skip

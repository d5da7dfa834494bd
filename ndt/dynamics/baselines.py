"""What a model of dynamics is compared with, by name: other methods, and what needs no fit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ndt.config_dynamics import DynamicsConfig
from ndt.dynamics.between import pair
from ndt.dynamics.first_order import FlowMatching, GradientFlow
from ndt.dynamics.fitting import Progress
from ndt.dynamics.guesses import constant_velocity
from ndt.dynamics.heads import Head
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.per_time import PerTime
from ndt.dynamics.periodic import nearest, wrap
from ndt.dynamics.snapshots import Snapshot, Snapshots
from ndt.dynamics.wlm import WLM
from ndt.errors import InputError

__all__ = ["METHODS", "ConstantVelocity", "Model", "Still", "Straight", "made"]


class Still(Head):
    """Nothing moves."""

    def fit(self, snapshots: Snapshots, progress: Progress | None = None) -> Self:
        """Returns itself."""
        del snapshots, progress
        return self

    def advance(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> NDArray[np.float64]:
        """Returns the samples at all times as they are, (T, N, d)."""
        del mu, seed, options
        return np.stack([snapshot.x] * len(np.asarray(times)))


class ConstantVelocity(Still):
    """Samples go on as they were seen to."""

    def fit(self, snapshots: Snapshots, progress: Progress | None = None) -> Self:
        """Returns itself, knowing periods."""
        del progress
        self.period = snapshots.period
        return self

    def advance(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> NDArray[np.float64]:
        """Returns the samples at all times, each at its own velocity, (T, N, d)."""
        del mu, seed, options
        if snapshot.velocity is None:
            raise InputError("settings", "baselines", "no constant_velocity of snapshots without velocities", "it")

        return np.stack([constant_velocity(snapshot, None, t, self.period) for t in np.asarray(times).tolist()])


class Straight(Still):
    """Samples go straight, as transport between a fitted snapshot and the one before says, or the one after the first.

    Between snapshots that is the displacement of McCann (1997), https://doi.org/10.1006/aima.1997.1634; beyond the last
    it is what continues it.
    """

    def fit(self, snapshots: Snapshots, progress: Progress | None = None) -> Self:
        """Keeps the snapshots that are not held out, and returns itself."""
        del progress
        self.seen = snapshots.fitted
        return self

    def advance(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> NDArray[np.float64]:
        """Returns the samples that were paired at all times, (T, n, d)."""
        del options
        known, period = self._trajectory(mu), self.seen.period
        before = [s for s in known if s.time < snapshot.time - 1e-12]
        after = [s for s in known if s.time > snapshot.time + 1e-12]
        if not before and not after:
            raise InputError("settings", "baselines", "no straight of a trajectory with one fitted snapshot", "it")
        other = before[-1] if before else after[0]
        rows, others = pair(snapshot, other, period, np.random.default_rng(seed))
        x = snapshot.x[rows]
        velocity = nearest(other.x[others] - x, period) / (other.time - snapshot.time)

        return np.stack([wrap(x + (t - snapshot.time) * velocity, period) for t in np.asarray(times).tolist()])

    def _trajectory(self, mu: ArrayLike | None) -> list[Snapshot]:
        """Returns the fitted trajectory whose parameters are nearest."""
        far = np.linalg.norm(self.seen.mu - np.ravel(np.zeros(0) if mu is None else np.asarray(mu)), axis=1)

        return self.seen.of(int(np.argmin(far)))


Model = HOAM | WLM | PerTime | FlowMatching | GradientFlow | Still
METHODS: dict[str, type[HOAM] | type[WLM]] = {"hoam": HOAM, "wlm": WLM}


def made(name: str, config: DynamicsConfig) -> Model:
    """Returns a model of a name, not yet fitted, with the settings of a run; all have the run's seed."""
    seed = config.seed
    found: dict[str, Callable[[], Model]] = {
        "hoam": lambda: HOAM(replace(config.hoam, seed=seed)),
        "wlm": lambda: WLM(config.wlm),
        "monte_carlo": lambda: HOAM(
            replace(config.hoam, seed=seed, rule="monte_carlo", gauge="none", form="action")
        ),
        "flow": lambda: PerTime("flow", config.generative, seed),
        "diffusion": lambda: PerTime("diffusion", config.generative, seed),
        "flow_matching": lambda: FlowMatching(config.flow_steps, seed),
        "gradient_flow": lambda: GradientFlow(seed),
        "still": Still,
        "constant_velocity": ConstantVelocity,
        "straight": Straight,
    }  # fmt: skip

    return found[name]()

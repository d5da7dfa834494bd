"""``ndt bench ocean``: a vortex of drifters at times that no fit saw, beside what can be guessed without a model."""

import os
import time as clock
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ndt.benchmarks.studies import paired_row
from ndt.config import StudyConfig
from ndt.config_dynamics import DynamicsConfig, FunctionalConfig, HOAMConfig, PotentialConfig, WLMConfig
from ndt.dynamics.baselines import made
from ndt.dynamics.distances import wasserstein
from ndt.dynamics.guesses import GUESSES
from ndt.dynamics.snapshots import Snapshots
from ndt.dynamics.systems.drifters import drifters
from ndt.errors import InputError
from ndt.studies import run_all

__all__ = ["HELD", "MODELS", "ocean", "vortex"]

HELD = (1, 3, 5, 7)
FIRST = ("hoam", "flow_matching", "gradient_flow")
CONFIG = DynamicsConfig(
    hoam=HOAMConfig(
        potential=PotentialConfig(width=48, time_frequencies=4), between="transport", num_particles=64, steps=800,
    ),
    wlm=WLMConfig(
        functional=FunctionalConfig(
            potential=PotentialConfig(kind="concat", width=64, depth=3, time_frequencies=2), use_time=True
        ),
        scale="mobility", step=0.4,
    ),
)  # fmt: skip
MODELS = {  # by row: name and settings; the last knows the velocities of the first snapshot only
    **{name: (name, CONFIG) for name in (*FIRST, "wlm")},
    "wlm_first_velocity": ("wlm", replace(CONFIG, wlm=replace(CONFIG.wlm, restarts=False))),
}


def vortex() -> Snapshots:
    """Returns the snapshots of the file that the environment's NDT_DATA leads to, the odd times held out."""
    path = Path(os.environ.get("NDT_DATA", "../shared/data")) / "snapshots" / "ocean_vortex_small.npz"
    if not path.is_file():
        raise InputError(path, "NDT_DATA", "the file of a vortex's drifters", "none")

    return drifters(path, HELD)


def ocean(out: Path, seeds: int, study: StudyConfig | None = None) -> list[dict[str, Any]]:
    """Carries the snapshots before held-out times on to these; W1, mean over the times, beside what is guessed of them.

    Mechanics and constant velocities know the velocities where they begin; Hermite's curves, and mechanics that is
    pinned to the snapshot after, those at both ends.

    Arguments:
        out: Not used: fits are short.
        seeds: Seeds of fitting; what is guessed has none.
        study: Settings; `workers` is used.
    """
    del out
    seen = vortex()
    snapshots = seen.of(0)
    guessed = {
        name: float(np.mean([
            wasserstein(guess(snapshots[h - 1], snapshots[h + 1], float(h), seen.period), snapshots[h].x, 1)
            for h in HELD
        ]))
        for name, guess in GUESSES.items()
    }  # fmt: skip
    jobs = [partial(_fitted, name, seed) for name in MODELS for seed in range(seeds)]
    told = iter(run_all(jobs, (study or StudyConfig()).workers, "fitting"))
    found = {name: [next(told) for _ in range(seeds)] for name in MODELS}
    rows = []
    for name, each in found.items():
        own, pinned, seconds = zip(*each, strict=True)
        budget = f"{_steps(name)} steps"
        for way, values in ((name, own), (f"{name}.pinned", pinned)):
            row = partial(paired_row, f"ocean.{way}", values, "W1")
            rows += [row(peer, [v] * seeds, budget) for peer, v in guessed.items()]
            if name.startswith("wlm"):
                rows += [row(peer, [v for v, _, _ in found[peer]], budget) for peer in FIRST if peer in found]
        rows.append(paired_row(f"ocean.{name}.seconds", seconds, "s", None, (), budget))

    return rows


def _fitted(name: str, seed: int) -> tuple[float, float, float]:
    """Returns W1, mean over the held-out times, each from the snapshot before it, alone and pinned to the one after.

    And, last, seconds of fitting.
    """
    seen, (method, config) = vortex(), MODELS[name]
    model = made(method, replace(config, hoam=replace(config.hoam, seed=seed), wlm=replace(config.wlm, seed=seed)))
    began = clock.perf_counter()
    model.fit(seen)
    seconds = clock.perf_counter() - began
    snapshots, scores = seen.of(0), []
    for pinned in (False, True):
        found = model.interpolate(seen, HELD, pinned=pinned)
        scores.append(
            float(np.mean([wasserstein(x, snapshots[h].x, 1) for x, h in zip(found, HELD, strict=True)]))
        )  # fmt: skip

    return scores[0], scores[1], seconds


def _steps(name: str) -> int:
    method, config = MODELS[name]
    return {"hoam": config.hoam.steps, "wlm": config.wlm.steps, "flow_matching": config.flow_steps}.get(method, 0)

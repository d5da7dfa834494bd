"""``ndt bench ocean``: a vortex of drifters at times that no fit saw, beside what can be guessed without a model."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ndt.benchmarks.studies import paired_row
from ndt.config import StudyConfig
from ndt.config_dynamics import HOAMConfig, PotentialConfig
from ndt.dynamics.distances import wasserstein
from ndt.dynamics.guesses import GUESSES
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.snapshots import Snapshots
from ndt.errors import InputError
from ndt.studies import run_all

__all__ = ["HELD", "ocean", "vortex"]

HELD = (1, 3, 5, 7)
STEP = 0.9  # velocities are per day, of which so much lies between two times
CONFIG = HOAMConfig(
    potential=PotentialConfig(width=48, time_frequencies=4), between="transport", num_nodes=32, num_particles=64,
    steps=800, threads=1,
)  # fmt: skip


def vortex() -> Snapshots:
    """Returns the snapshots of the file that the environment's NDT_DATA leads to, the odd times held out."""
    path = Path(os.environ.get("NDT_DATA", "../shared/data")) / "snapshots" / "ocean_vortex_small.npz"
    if not path.is_file():
        raise InputError(path, "NDT_DATA", "the file of a vortex's drifters", "none")
    with np.load(path) as file:
        x, velocity = file["positions"], STEP * file["velocities"]

    return Snapshots.from_arrays(x, np.arange(len(x), dtype=float), velocity=velocity, held_out_times=HELD)


def ocean(out: Path, seeds: int, study: StudyConfig | None = None) -> list[dict[str, Any]]:
    """Interpolates the held-out times from the snapshots before (and after) them; W1, mean over the times.

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
    found = run_all([partial(_hoam, s) for s in range(seeds)], (study or StudyConfig()).workers, "fitting")

    return [
        paired_row(f"ocean.{name}", values, "W1", peer, [value] * seeds, f"{CONFIG.steps} steps")
        for name, values in {"hoam": found}.items()
        for peer, value in guessed.items()
    ]


def _hoam(seed: int) -> float:
    seen = vortex()
    model, snapshots = HOAM(replace(CONFIG, seed=seed)).fit(seen), seen.of(0)

    return float(
        np.mean([wasserstein(model.simulate(snapshots[h - 1].x, [h - 1, h])[1], snapshots[h].x, 1) for h in HELD])
    )

"""``ndt bench closed_forms``: gradient fields that were fitted, beside those that are known."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ndt.benchmarks.studies import paired_row
from ndt.config import StudyConfig
from ndt.config_dynamics import HOAMConfig, PotentialConfig
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.snapshots import Snapshots
from ndt.dynamics.systems.gaussian import GaussianPath, moving, reverting, translating
from ndt.studies import run_all

__all__ = ["closed_forms"]

HELD = 1.25  # the parameter of a translation that no fit sees
SPEEDS = (0.5, 0.75, 1.0, HELD, 1.5, 1.75, 2.0)
PATHS: dict[str, GaussianPath] = {
    "moving": moving(), "moving_noisy": moving(0.8), "reverting": reverting(), "translating": translating(),
}  # fmt: skip
TIMES = np.linspace(0, 1, 201)
NUM_PARTICLES = 60_000  # of all trajectories: of 20,000 the drift of a diffusion is known to one or two per cent
CONFIG = HOAMConfig(
    potential=PotentialConfig(width=16, depth=3, time_frequencies=4), num_end_particles=2048, steps=1500, threads=1,
)  # fmt: skip


def closed_forms(out: Path, seeds: int, study: StudyConfig | None = None) -> list[dict[str, Any]]:
    """Fits each of `PATHS` in every seed and returns rows of a field's relative error and of the loss.

    The error is of the gradient field in L2 over the population and its times, that of the translation at a speed which
    was held out. The loss stands beside the least one there is.

    Arguments:
        out: Not used: fits are short.
        seeds: Seeds of samples and of fitting.
        study: Settings; `workers` is used.
    """
    del out
    study = study or StudyConfig()
    places = [(name, s) for name in PATHS for s in range(seeds)]
    jobs = [partial(_errors, name, seed) for name, seed in places]
    found = dict(zip(places, run_all(jobs, study.workers, "fitting"), strict=True))
    rows, budget = [], f"{CONFIG.steps} steps"
    for name, path in PATHS.items():
        errors, losses = zip(*(found[name, s] for s in range(seeds)), strict=True)
        rows.append(paired_row(f"closed_forms.{name}.field", errors, "relative L2", None, (), budget))
        mus = [mu for mu in SPEEDS if mu != HELD] if name == "translating" else [0.0]
        least = float(np.mean([path.least_loss(0, 1, mu) for mu in mus]))
        rows.append(paired_row(f"closed_forms.{name}.loss", losses, "loss", "least", [least] * seeds, budget))

    return rows


def _errors(name: str, seed: int) -> tuple[float, float]:
    """Returns the field's error and the loss."""
    path, mu = PATHS[name], HELD if name == "translating" else None
    seen: Snapshots = (
        path.simulate(NUM_PARTICLES, TIMES, seed=seed)
        if mu is None else path.simulate(NUM_PARTICLES // len(SPEEDS), TIMES, SPEEDS, seed=seed, held_out_mu=[mu])
    )  # fmt: skip
    model = HOAM(replace(CONFIG, noise=path.noise, seed=seed)).fit(seen)
    assert model.result is not None, "it was fitted"

    return path.field_error(model.velocity, np.linspace(0.02, 0.98, 25), mu), model.result.check.fresh

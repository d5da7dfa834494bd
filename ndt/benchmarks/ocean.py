"""``ndt bench ocean``: drifters of an ocean vortex at held-out times, by models and by model-free interpolation."""

import os
import time as clock
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.benchmarks.dynamics import CONFIGS
from ndt.benchmarks.studies import paired_row
from ndt.config import StudyConfig
from ndt.config.dynamics import DynamicsConfig
from ndt.config.reader import load_config
from ndt.dynamics.distances import wasserstein
from ndt.dynamics.first_order import STEPS
from ndt.dynamics.methods import make_model
from ndt.dynamics.references import INTERPOLATIONS
from ndt.dynamics.snapshots import Snapshots
from ndt.dynamics.systems.published import drifters
from ndt.errors import InputError
from ndt.train.studies import run_all

__all__ = ["HELD", "MODELS", "ocean", "vortex"]

HELD = (1, 3, 5, 7)
FIRST = ("hoam", "flow_matching", "gradient_flow")
CONFIG = load_config(DynamicsConfig, CONFIGS / "ocean_vortex.yaml")
MODELS = {  # by row: method and settings; the last uses the velocities of the first snapshot only
    **{name: (name, CONFIG) for name in (*FIRST, "wlm")},
    "wlm_first_velocity": ("wlm", replace(CONFIG, wlm=replace(CONFIG.wlm, restarts=False))),
}


def vortex() -> Snapshots:
    """Returns the snapshots of the file in the folder NDT_DATA, with odd times held out."""
    path = Path(os.environ.get("NDT_DATA", "../shared/data")) / "snapshots" / "ocean_vortex_small.npz"
    if not path.is_file():
        raise InputError(path, "NDT_DATA", "the file of a vortex's drifters", "none")

    return drifters(path, HELD)


def ocean(out: Path, seeds: int, study: StudyConfig | None = None) -> list[dict[str, Any]]:
    """Returns W1, mean over held-out times, of each model and, as its peers, of interpolations that need no fit.

    Models and constant velocity start from the snapshot before. Hermite interpolation, displacement interpolation and
    rows with ``endpoint_conditioned`` also use the snapshot after.

    Arguments:
        out: Not used: fits are short.
        seeds: Seeds of fitting.
        study: Settings; `workers` is used.
    """
    del out
    seen = vortex()
    snapshots = seen.of(0)
    known: dict[str, float] = {}
    for name, at in INTERPOLATIONS.items():
        made = [at(snapshots[h - 1], snapshots[h + 1], float(h), seen.period) for h in HELD]
        known[name] = _w1(made, seen)
    jobs = [partial(_fitted, name, seed) for name in MODELS for seed in range(seeds)]
    results = iter(run_all(jobs, (study or StudyConfig()).workers, "fitting"))
    found = {name: [next(results) for _ in range(seeds)] for name in MODELS}
    rows = []
    for name, each in found.items():
        free, conditioned, seconds = zip(*each, strict=True)
        method, config = MODELS[name]
        steps = {"hoam": config.hoam.steps, "wlm": config.wlm.steps, "flow_matching": STEPS}
        budget = f"{steps.get(method, 0)} steps"
        for row_name, values in ((name, free), (f"{name}.endpoint_conditioned", conditioned)):
            row = partial(paired_row, f"ocean.{row_name}", values, "W1")
            rows += [row(peer, [v] * seeds, budget) for peer, v in known.items()]
            if name.startswith("wlm"):
                rows += [row(peer, [v for v, _, _ in found[peer]], budget) for peer in FIRST if peer in found]
        rows.append(paired_row(f"ocean.{name}.seconds", seconds, "s", None, (), budget))

    return rows


def _fitted(name: str, seed: int) -> tuple[float, float, float]:
    """Returns W1 from the snapshot before alone, W1 conditioned on the one after, and seconds of fitting."""
    seen, (method, config) = vortex(), MODELS[name]
    model = make_model(method, replace(config, seed=seed))
    began = clock.perf_counter()
    model.fit(seen)
    seconds = clock.perf_counter() - began
    free, conditioned = (_w1(model.interpolate(seen, HELD, endpoint_conditioned=c), seen) for c in (False, True))

    return free, conditioned, seconds


def _w1(made: Iterable[NDArray[np.float64]], seen: Snapshots) -> float:
    """Returns W1 of samples at the held-out times, mean over the times."""
    return float(np.mean([wasserstein(x, seen[h].x, 1) for x, h in zip(made, HELD, strict=True)]))

"""``ndt bench mechanics``: forecasts of second-order systems and of diffusions beyond the fitted times.

Each system is fitted up to a time and forecast after it, from its first and from its last fitted snapshot, by WLM, by
first-order methods and by reference forecasts, which need no fit.
"""

import time as clock
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ndt.benchmarks.dynamics import CONFIGS, run_seeds
from ndt.benchmarks.studies import paired_row
from ndt.config import StudyConfig
from ndt.config.dynamics import DynamicsConfig
from ndt.config.reader import load_config
from ndt.dynamics.systems.diffusion import POTENTIALS
from ndt.model.checkpoint import write_json

__all__ = ["MECHANICS", "REFERENCES", "mechanics"]

REFERENCES = ("persistence", "constant_velocity", "linear_extrapolation")
NUM_TIMES = 10  # scored times of a forecast, evenly spaced
FILES = {
    **dict.fromkeys(("harmonic_oscillator", "solid_rotation", "vortex_tracers"), "second_order"),
    "boids": "boids",
    **dict.fromkeys(POTENTIALS, "diffusion"),
}
MECHANICS = {name: load_config(DynamicsConfig, CONFIGS / f"{file}.yaml") for name, file in FILES.items()}


def mechanics(out: Path, seeds: int, study: StudyConfig | None = None) -> list[dict[str, Any]]:
    """Fits each system in every seed and returns rows of W1, mean over times after the fitted ones; lower is better.

    Row names end in ``.first`` or ``.last``, the snapshot that forecasts start from. The peer ``best`` is the best
    reference forecast from the last snapshot. ``replicate`` is the W1 of a second simulation with another seed.

    Arguments:
        out: Folder of the study; completed runs are not repeated.
        seeds: Seeds of fitting and of the particles.
        study: Settings; `workers` is used.
    """
    found = run_seeds("mechanics", MECHANICS, _run, out, seeds, study)
    rows = []
    for name, config in MECHANICS.items():
        each, budget = found[name], f"{config.wlm.steps} steps"
        for start in ("first", "last"):
            row = partial(paired_row, f"mechanics.{name}.{start}", [m["w1"][start]["wlm"] for m in each], "W1")
            rows += [row(peer, [m["w1"][start][peer] for m in each], budget) for peer in config.baselines]
        best = [min(m["w1"]["last"][peer] for peer in config.baselines if peer in REFERENCES) for m in each]
        rows.append(row("best", best, budget))
        for what, unit in (("friction", "1/time"), ("seconds", "s"), ("replicate", "W1")):
            rows.append(paired_row(f"mechanics.{name}.{what}", [m[what] for m in each], unit, None, (), budget))

    return rows


def _run(name: str, config: DynamicsConfig, *, out: Path, resume: bool) -> None:
    """Fits and scores all models and writes metrics.json: W1 by start and model, at each time and their mean."""
    del resume  # fits are short and start over
    from ndt.dynamics.distances import wasserstein
    from ndt.dynamics.methods import make_model
    from ndt.dynamics.systems.named import SYSTEMS

    system, seed = SYSTEMS[name], config.seed
    seen = system.snapshots(config.num_particles, seed)
    config = replace(config, hoam=replace(config.hoam, noise=system.noise))
    ahead = np.flatnonzero(seen.held_out)
    ahead = ahead[np.unique(np.linspace(0, len(ahead) - 1, NUM_TIMES).round().astype(int))]
    times, true = seen.time[ahead], [seen[int(i)].x for i in ahead]
    by_time: dict[str, dict[str, list[float]]] = {"first": {}, "last": {}}
    facts = {}
    for each in ("wlm", *config.baselines):
        model = make_model(each, config)
        began = clock.perf_counter()
        model.fit(seen)
        if each == "wlm":
            facts = {"seconds": clock.perf_counter() - began, **model.facts}  # type: ignore[union-attr]
        for start, scores in by_time.items():
            paths = model.forecast(seen, times, forecast_from=start, seed=seed)  # type: ignore[arg-type]
            scores[each] = [wasserstein(x, y, 1) for x, y in zip(paths, true, strict=True)]
    replicate = system.model.simulate(config.num_particles, system.times, seed + 1000)
    distances = [wasserstein(replicate[int(i)].x, y, 1) for i, y in zip(ahead, true, strict=True)]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "metrics.json", {
        "times": times.tolist(), "by_time": by_time, "replicate": float(np.mean(distances)), **facts,
        "w1": {start: {k: float(np.mean(v)) for k, v in each.items()} for start, each in by_time.items()},
    })  # fmt: skip

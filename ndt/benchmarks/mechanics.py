"""``ndt bench mechanics``: populations of the second order and diffusions, forecast beyond what was fitted.

Every system is fitted up to a time and forecast after it, from its first snapshot and from the last that was fitted, by
mechanics, by methods of the first order, and by what needs no fit.
"""

import json
import time as clock
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ndt.benchmarks.studies import paired_row
from ndt.checkpoint import write_json
from ndt.config import StudyConfig
from ndt.config_dynamics import (
    DynamicsConfig,
    FunctionalConfig,
    HOAMConfig,
    PotentialConfig,
    WLMConfig,
)
from ndt.dynamics.systems.diffusion import POTENTIALS
from ndt.studies import finish, run_all

__all__ = ["FITTED", "LEARNED", "MECHANICS", "STANDING", "mechanics"]

LEARNED = ("hoam", "flow_matching", "gradient_flow")
STANDING = ("still", "constant_velocity", "straight")
LOOKS = 10  # times of a forecast that are scored, evenly
FIRST = {
    "hoam": HOAMConfig(num_nodes=64, num_particles=64, steps=800),
}
LINEAR = DynamicsConfig(
    method="wlm", begin="last", num_particles=300, num_scored=0, baselines=(*LEARNED, *STANDING), **FIRST,  # type: ignore[arg-type]
    wlm=WLMConfig(
        functional=FunctionalConfig(terms=("fourier",), waves=192), friction=0.01, balance_steps=1, num_particles=300,
        horizon=30, steps=400, learning_rate=2e-3,
    ),
)  # fmt: skip
FLOCK = replace(
    LINEAR, num_particles=1000,
    wlm=WLMConfig(
        functional=FunctionalConfig(potential=PotentialConfig(kind="concat", width=64, depth=3, time_frequencies=0)),
        friction=0.01, balance_steps=300, num_particles=400, horizon=10, loss="sliced", step=0.5, steps=300,
    ),
)  # fmt: skip
DOWNHILL = replace(
    LINEAR, begin="first", num_particles=1000, baselines=(*LEARNED, "still", "straight"),
    wlm=WLMConfig(
        functional=FunctionalConfig(
            potential=PotentialConfig(kind="concat", width=64, depth=3, time_frequencies=0), entropy=0.5,
        ),
        friction=1000.0, scale="mobility", velocity="downhill", step=0.01, steps=300, learning_rate=3e-3,
    ),
)  # fmt: skip
MECHANICS = {
    "bowl": LINEAR,
    "turning": LINEAR,
    "tracers": LINEAR,
    "boids": FLOCK,
    **dict.fromkeys(POTENTIALS, DOWNHILL),
}
FITTED = ("wlm", *LEARNED)


def mechanics(out: Path, seeds: int, study: StudyConfig | None = None) -> list[dict[str, Any]]:
    """Fits each system in every seed and returns rows of W1, mean over times after the fitted ones; less is better.

    Rows end in ``.first`` or ``.last``, where forecasts begin. The peer ``best`` is the least of what needs no fit from
    the last snapshot; of rows of friction, per unit of time, there is none.

    Arguments:
        out: Folder of the study; what has ended there is not done again.
        seeds: Seeds of fitting and of the particles.
        study: Settings; `workers` is used.
    """
    study = study or StudyConfig()
    places = [(name, s) for name in MECHANICS for s in range(seeds)]
    jobs = [partial(_fit, name, seed, out / "mechanics" / name / f"seed{seed}") for name, seed in places]
    found = dict(zip(places, run_all(jobs, study.workers, "fitting"), strict=True))
    rows = []
    for name, config in MECHANICS.items():
        each = [found[name, s] for s in range(seeds)]
        budget = f"{config.wlm.steps} steps"
        for begin in ("first", "last"):
            row = partial(paired_row, f"mechanics.{name}.{begin}", [m["w1"][begin]["wlm"] for m in each], "W1")
            rows += [row(peer, [m["w1"][begin][peer] for m in each], budget) for peer in config.baselines]
        standing = [min(m["w1"]["last"][peer] for peer in config.baselines if peer in STANDING) for m in each]
        rows.append(row("best", standing, budget))
        for what, unit in (("friction", "1/time"), ("seconds", "s"), ("again", "W1")):
            rows.append(paired_row(f"mechanics.{name}.{what}", [m[what] for m in each], unit, None, (), budget))

    return rows


def _fit(name: str, seed: int, folder: Path) -> dict[str, Any]:
    config = _seeded(name, seed)
    asked = json.loads(json.dumps({"system": name, "settings": asdict(config)}))

    return finish(folder, asked, partial(_run, name, config))


def _seeded(name: str, seed: int) -> DynamicsConfig:
    config = MECHANICS[name]
    return replace(config, wlm=replace(config.wlm, seed=seed), hoam=replace(config.hoam, seed=seed))


def _run(name: str, config: DynamicsConfig, *, out: Path, resume: bool) -> None:
    """Fits and scores all, and writes metrics.json: W1 by beginning and model, of each time and their mean."""
    del resume  # a fit is short, and begins anew
    from ndt.dynamics.baselines import made
    from ndt.dynamics.distances import wasserstein
    from ndt.dynamics.systems.named import SYSTEMS

    system, seed = SYSTEMS[name], config.wlm.seed
    seen = system.snapshots(config.num_particles, seed)
    config = replace(config, hoam=replace(config.hoam, noise=system.noise))
    ahead = np.flatnonzero(seen.held_out)
    ahead = ahead[np.unique(np.linspace(0, len(ahead) - 1, LOOKS).round().astype(int))]
    times, true = seen.time[ahead], [seen[int(i)].x for i in ahead]
    by_time: dict[str, dict[str, list[float]]] = {"first": {}, "last": {}}
    told = {}
    for each in ("wlm", *config.baselines):
        model = made(each, config)
        began = clock.perf_counter()
        model.fit(seen)
        if each == "wlm":
            told = {"seconds": clock.perf_counter() - began, **model.facts}  # type: ignore[union-attr]
        for begin, of in by_time.items():
            paths = model.forecast(seen, times, free=begin == "first", seed=seed)
            of[each] = [wasserstein(x, y, 1) for x, y in zip(paths, true, strict=True)]
    again = system.model.simulate(config.num_particles, system.times, seed + 1000)
    least = [wasserstein(again[int(i)].x, y, 1) for i, y in zip(ahead, true, strict=True)]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "metrics.json", {
        "times": times.tolist(), "by_time": by_time, "again": float(np.mean(least)), **told,
        "w1": {begin: {k: float(np.mean(v)) for k, v in of.items()} for begin, of in by_time.items()},
    })  # fmt: skip

"""``ndt bench dynamics``: populations carried on under parameters that no fit saw, beside what else carries them on."""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ndt.benchmarks.studies import paired_row
from ndt.config import StudyConfig
from ndt.config_dynamics import DynamicsConfig, HOAMConfig, PotentialConfig
from ndt.dynamics.systems.named import SYSTEMS
from ndt.studies import finish, run_all

__all__ = ["SETTINGS", "dynamics"]

PEERS = ("still", "monte_carlo", "flow", "diffusion")
BEAMS = DynamicsConfig(
    hoam=HOAMConfig(
        potential=PotentialConfig(width=48, time_frequencies=16, harmonics=4), num_nodes=16, num_particles=256,

    ),
    baselines=PEERS, num_particles=20_000, num_scored=2500,
)  # fmt: skip
MANY = DynamicsConfig(
    hoam=HOAMConfig(potential=PotentialConfig(width=48), num_trajectories=1, steps=600),
    baselines=PEERS, num_particles=8000, num_scored=1000,
)  # fmt: skip
SETTINGS = {
    "oscillator": DynamicsConfig(
        hoam=HOAMConfig(num_nodes=64, num_particles=64, steps=1500), baselines=PEERS,
    ),
    "two_stream": BEAMS,
    "bump_on_tail": BEAMS,
    "landau": MANY,
    "lorenz": MANY,
    "trap": replace(MANY, num_particles=4000),
}  # fmt: skip
SCORES = {
    "sliced_w2": "sliced W2",
    "gaussian_w2": "W2 of Gaussians of the same moments",
    "w2": "W2",
    "energy_error": "relative error of electric energy",
}


def dynamics(out: Path, seeds: int, study: StudyConfig | None = None) -> list[dict[str, Any]]:
    """Fits each system of `SETTINGS` in every seed and returns a row for each score and each peer; less is better.

    Peers are action matching with independent nodes and a free level, flow matching and diffusion per time, and the
    population that does not move. Scores are means over snapshots of unseen parameters, or over all of the oscillator,
    which has none.
    Rows of ``loss`` have the fitted loss, of fresh nodes, beside minus half the squared gradient, which it is at best,
    or beside the least loss there is, where that is known. Rows of ``seconds`` have what the scored trajectories take,
    beside generative models and the simulator itself, with as many particles.

    Arguments:
        out: Folder of the study; what has ended there is not done again.
        seeds: Seeds of fitting and of the particles.
        study: Settings; `workers` is used.
    """
    study = study or StudyConfig()
    places = [(name, s) for name in SETTINGS for s in range(seeds)]
    jobs = [partial(_fit, name, seed, out / "dynamics" / name / f"seed{seed}") for name, seed in places]
    found = dict(zip(places, run_all(jobs, study.workers, "fitting"), strict=True))
    rows = []
    for name, config in SETTINGS.items():
        each = [found[name, s] for s in range(seeds)]
        budget = f"{config.hoam.steps} steps"
        for key, unit in SCORES.items():
            own = [m["summary"]["hoam"].get(key) for m in each]
            if None not in own:
                rows += [
                    paired_row(
                        f"dynamics.{name}.{key}", own, unit, peer, [m["summary"][peer][key] for m in each], budget
                    )
                    for peer in config.baselines
                ]
        rows += _told(name, [m["fit"] for m in each], budget)

    return rows


def _told(name: str, fits: list[dict[str, Any]], budget: str) -> list[dict[str, Any]]:
    """Returns rows of the loss, of seconds to fit and of seconds to simulate."""
    least = SYSTEMS[name].least_loss
    best = [fit["kinetic"] if least is None else least for fit in fits]
    rows = [
        paired_row(f"dynamics.{name}.loss", [f["fresh"] for f in fits], "loss", "least", best, budget),
        paired_row(f"dynamics.{name}.overfitted", [float(f["overfitted"]) for f in fits], "share", None, (), budget),
    ]
    for what, peers in (
        ("seconds", ("monte_carlo", "flow", "diffusion")),
        ("simulate_seconds", ("flow", "diffusion", "simulator")),
    ):
        own = [fit[what]["hoam"] for fit in fits]
        for peer in peers:
            if all(peer in fit[what] for fit in fits):
                others = [fit[what][peer] for fit in fits]
                rows.append(paired_row(f"dynamics.{name}.{what}", own, "s", peer, others, budget))

    return rows


def _fit(name: str, seed: int, folder: Path) -> dict[str, Any]:
    config = SETTINGS[name]
    config = replace(config, hoam=replace(config.hoam, seed=seed))
    asked = json.loads(json.dumps({"system": name, "settings": asdict(config)}))

    return finish(folder, asked, partial(_run, name, config))


def _run(name: str, config: DynamicsConfig, *, out: Path, resume: bool) -> None:
    from ndt.dynamics.run import fit_run

    del resume  # a fit is short, and begins anew
    fit_run(name, out, config, progress=False)

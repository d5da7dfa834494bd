"""``ndt bench dynamics``: populations simulated at held-out parameters, by HOAM and by its baselines."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ndt.benchmarks.studies import paired_row
from ndt.config import StudyConfig
from ndt.config.dynamics import DynamicsConfig
from ndt.config.reader import load_config
from ndt.dynamics.systems.named import SYSTEMS
from ndt.train.studies import finish, run_all

__all__ = ["CONFIGS", "SETTINGS", "dynamics", "run_seeds"]

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "dynamics"
FILES = {
    "noisy_oscillator": "noisy_oscillator", "two_stream": "beams", "bump_on_tail": "beams",
    "landau": "high_dimensional", "lorenz": "high_dimensional", "trap": "trap",
}  # fmt: skip
SETTINGS = {name: load_config(DynamicsConfig, CONFIGS / f"{file}.yaml") for name, file in FILES.items()}
FITTED = ("action_matching", "conditional_flow_matching", "conditional_diffusion")
SCORES = {
    "sliced_w2": "sliced W2", "gaussian_w2": "W2 of Gaussians of the same moments", "w2": "W2",
    "energy_error": "relative error of electric energy",
}  # fmt: skip


def dynamics(out: Path, seeds: int, study: StudyConfig | None = None) -> list[dict[str, Any]]:
    """Fits each system of `SETTINGS` in every seed and returns a row per score and baseline; lower is better.

    Scores are means over snapshots of held-out parameters, or over all of the oscillator, which has none. Rows of
    ``loss`` compare the loss with fresh nodes to the optimal loss if it is known, else to minus half the mean squared
    gradient. Rows of ``simulate_seconds`` compare the time to simulate the scored trajectories to that of generative
    models and of the simulator itself.

    Arguments:
        out: Folder of the study; completed runs are not repeated.
        seeds: Seeds of fitting and of the particles.
        study: Settings; `workers` is used.
    """
    found = run_seeds("dynamics", SETTINGS, _run, out, seeds, study)
    rows = []
    for name, config in SETTINGS.items():
        each, budget = found[name], f"{config.hoam.steps} steps"
        for key, unit in SCORES.items():
            own = [m["summary"]["hoam"].get(key) for m in each]
            if None not in own:
                row = partial(paired_row, f"dynamics.{name}.{key}", own, unit)
                rows += [row(peer, [m["summary"][peer][key] for m in each], budget) for peer in config.baselines]
        rows += _fit_rows(name, [m["fit"] for m in each], budget)

    return rows


def _fit_rows(name: str, fits: list[dict[str, Any]], budget: str) -> list[dict[str, Any]]:
    """Returns rows of the loss, of seconds to fit and of seconds to simulate."""
    least = SYSTEMS[name].least_loss
    best = [fit["kinetic"] if least is None else least for fit in fits]
    rows = [
        paired_row(f"dynamics.{name}.loss", [f["fresh"] for f in fits], "loss", "least", best, budget),
        paired_row(f"dynamics.{name}.overfitted", [float(f["overfitted"]) for f in fits], "share", None, (), budget),
    ]
    for what, peers in (("seconds", FITTED), ("simulate_seconds", (*FITTED[1:], "simulator"))):
        own = [fit[what]["hoam"] for fit in fits]
        for peer in peers:
            if all(peer in fit[what] for fit in fits):
                others = [fit[what][peer] for fit in fits]
                rows.append(paired_row(f"dynamics.{name}.{what}", own, "s", peer, others, budget))

    return rows


def run_seeds(
    bench: str, settings: Mapping[str, DynamicsConfig], run: Callable[..., None], out: Path, seeds: int,
    study: StudyConfig | None,
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """Runs each system in every seed, and returns the contents of metrics.json by system; completed runs are read.

    `run` takes the system, its settings and ``out``, a folder below ``out/bench``, and writes metrics.json there.
    """
    jobs = []
    for name, config in settings.items():
        for seed in range(seeds):
            seeded, folder = replace(config, seed=seed), out / bench / name / f"seed{seed}"
            request = {"system": name, "settings": asdict(seeded)}
            jobs.append(partial(finish, folder, request, partial(run, name, seeded)))
    found = iter(run_all(jobs, (study or StudyConfig()).workers, "fitting"))

    return {name: [next(found) for _ in range(seeds)] for name in settings}


def _run(name: str, config: DynamicsConfig, *, out: Path, resume: bool) -> None:
    from ndt.fit_dynamics import fit_run

    del resume  # fits are short and start over
    fit_run(name, out, config, progress=False)

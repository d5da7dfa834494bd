"""``ndt bench dynamics``: populations carried on under parameters that no fit saw, beside what else carries them on."""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ndt.benchmarks.studies import paired_row
from ndt.config import StudyConfig
from ndt.config_dynamics import DynamicsConfig, HOAMConfig, PerTimeConfig, PotentialConfig
from ndt.studies import finish, run_all

__all__ = ["SETTINGS", "dynamics"]

BEAMS = DynamicsConfig(
    hoam=HOAMConfig(potential=PotentialConfig(width=48, time_frequencies=16, harmonics=4), steps=2000, threads=1),
    baselines=("still", "monte_carlo", "flow"),
    per_time=PerTimeConfig(steps=3000, threads=1),
)
SETTINGS = {
    "oscillator": DynamicsConfig(
        hoam=HOAMConfig(steps=1500, threads=1),
        baselines=("still", "monte_carlo", "flow"),
        per_time=PerTimeConfig(steps=3000, threads=1),
    ),
    "two_stream": BEAMS,
    "bump_on_tail": BEAMS,
}
SCORES = {"w2": "W2", "sliced_w2": "sliced W2", "energy_error": "relative error of electric energy"}


def dynamics(out: Path, seeds: int, study: StudyConfig | None = None) -> list[dict[str, Any]]:
    """Fits each system of `SETTINGS` in every seed and returns a row for each score and each peer; less is better.

    Peers are action matching with independent nodes and a free level, flow matching per time, and the population that
    does not move. Scores are means over snapshots of unseen parameters, or over all of the oscillator, which has none.
    Rows of ``seconds`` compare what a trajectory of 21 times takes: by one solve, by a solve for each time, and by the
    simulator itself with as many particles.

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
        own = [m["fit"]["simulate_seconds"]["hoam"] for m in each]
        for peer in ("flow", "simulator"):
            others = [m["fit"]["simulate_seconds"][peer] for m in each]
            rows.append(paired_row(f"dynamics.{name}.seconds", own, "s", peer, others, "21 times"))

    return rows


def _fit(name: str, seed: int, folder: Path) -> dict[str, Any]:
    config = SETTINGS[name]
    config = replace(config, hoam=replace(config.hoam, seed=seed))

    return finish(folder, {"system": name, "settings": asdict(config)}, partial(_run, name, config))


def _run(name: str, config: DynamicsConfig, *, out: Path, resume: bool) -> None:
    from ndt.dynamics.run import fit_run

    del resume  # a fit is short, and begins anew
    fit_run(name, out, config, progress=False)

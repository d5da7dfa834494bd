"""``ndt dynamics``: snapshots to a fitted model, its scores beside others', and a page."""

import json
import time as clock
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.config_dynamics import DynamicsConfig, HOAMConfig
from ndt.dynamics.distances import carry, score
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.per_time import PerTime
from ndt.dynamics.snapshots import Snapshots
from ndt.dynamics.systems.named import SYSTEMS, System
from ndt.errors import InputError
from ndt.studies import ASKED

__all__ = ["fit_run", "score_run", "simulate_run"]

Simulate = Callable[..., NDArray[np.float64]]
SHOWN = ("w1", "w2", "sliced_w2", "mmd", "mean_error", "cov_error")


def _source(source: str, config: DynamicsConfig) -> tuple[Snapshots, System | None]:
    """Returns the snapshots of a file, or of a system by its name."""
    if source in SYSTEMS and not Path(source).exists():
        system = SYSTEMS[source]
        return system.snapshots(config.num_particles, config.hoam.seed), system
    if not Path(source).is_file():
        expected = f"an .npz file of snapshots, or a system: {', '.join(SYSTEMS)}"
        raise InputError("dynamics", "source", expected, source)

    return Snapshots.from_npz(source), None


def fit_run(source: str, out: Path, config: DynamicsConfig | None = None, *, progress: bool = True) -> dict[str, Any]:
    """Fits a model and what it is compared with, scores all, and writes a run directory.

    Writes ``config.yaml``, ``model.safetensors``, ``model.json``, ``metrics.json``, ``log.jsonl`` and ``report.html``.

    Arguments:
        source: An .npz file of snapshots, or the name of a system.
        out: Run directory.
        config: Settings.
        progress: Whether a bar is shown.

    Returns:
        What metrics.json says: ``test`` (a row a snapshot), ``summary`` of model and baselines over snapshots that are
        held out, or over all where none is, and ``fit``.
    """
    import yaml

    from ndt.checkpoint import write_json
    from ndt.dynamics.page import write_page

    config = config or DynamicsConfig()
    snapshots, system = _source(source, config)
    if system is not None and not config.hoam.noise and system.noise:
        config = replace(config, hoam=replace(config.hoam, noise=system.noise))
    if out.exists() and {p.name for p in out.iterdir()} - {ASKED} and not (out / "model.json").exists():
        raise InputError(out, "folder", "a new one, or a run of ndt dynamics", "something else")
    models, seconds, losses = _fitted(snapshots, config, progress)
    out.mkdir(parents=True, exist_ok=True)
    model = models["hoam"]
    plain = asdict(config, dict_factory=lambda items: {k: list(v) if isinstance(v, tuple) else v for k, v in items})
    (out / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    assert isinstance(model, HOAM), "the method comes first"
    model.save(out)
    assert model.result is not None, "it was fitted"
    thin = max(config.hoam.steps // 400, 1)
    lines = [{"step": i + 1, "split": "train", "loss": float(v)} for i, v in enumerate(losses) if i % thin == 0]
    (out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scored = _scored(snapshots, config)
    found: dict[str, Any] = {"source": source, "method": config.method, "num_dims": snapshots.num_dims}
    rows, paths, simulated = {}, {}, {}
    for name, each in {**models, **({"still": None} if "still" in config.baselines else {})}.items():
        simulate = _simulate(each, config)
        began = clock.perf_counter()
        paths[name] = carry(simulate, scored, seed=config.hoam.seed)
        simulated[name] = clock.perf_counter() - began
        rows[name] = score(paths[name], scored)
    found["test"] = rows["hoam"]
    found["baselines"] = {name: {"rows": each} for name, each in rows.items() if name != "hoam"}
    if system is not None:
        simulated["simulator"] = _simulator_seconds(system, scored, config.hoam.seed)
    energies = _energies(system, scored, paths)
    found["summary"] = {name: summarise(each) for name, each in rows.items()}
    for name, value in energies.get("errors", {}).items():
        found["summary"][name]["energy_error"] = value
    check = model.result.check
    found["fit"] = {
        "seconds": seconds,
        "simulate_seconds": simulated,
        "steps": config.hoam.steps,
        **vars(check),
        "overfitted": check.overfitted,
    }
    write_page(out, found, scored, paths, energies, system, np.asarray(losses))
    write_json(out / "metrics.json", found)  # last: a run that has it has ended

    return found


def _fitted(
    snapshots: Snapshots, config: DynamicsConfig, progress: bool
) -> tuple[dict[str, HOAM | PerTime], dict[str, float], NDArray[np.float64]]:
    from rich.console import Console
    from rich.progress import Progress

    free: HOAMConfig = replace(config.hoam, rule="monte_carlo", gauge="none", form="action")
    jobs: dict[str, HOAM | PerTime] = {"hoam": HOAM(config.hoam)}
    if "monte_carlo" in config.baselines:
        jobs["monte_carlo"] = HOAM(free)
    for name in ("flow", "diffusion"):
        if name in config.baselines:
            jobs[name] = PerTime(replace(config.per_time, objective=name, seed=config.hoam.seed))
    seconds = {}
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        for name, job in jobs.items():
            task = bar.add_task(name, total=job.config.steps)
            began = clock.perf_counter()
            job.fit(snapshots, lambda step, _, task=task: bar.update(task, completed=step))  # type: ignore[misc]
            seconds[name] = clock.perf_counter() - began
    first = jobs["hoam"]
    assert isinstance(first, HOAM), "the method comes first"
    assert first.result is not None, "it was fitted"

    return jobs, seconds, first.result.losses


def _simulate(model: HOAM | PerTime | None, config: DynamicsConfig) -> Simulate:
    if model is None:
        return lambda x0, times, mu=None, seed=0: np.stack([np.asarray(x0)] * len(times))
    if isinstance(model, PerTime):
        return model.simulate

    def simulate(x0: Any, times: Any, mu: Any = None, seed: int = 0) -> NDArray[np.float64]:
        return model.simulate(x0, times, mu, method=config.solver, step=config.solver_step, seed=seed)

    return simulate


def _scored(snapshots: Snapshots, config: DynamicsConfig, most: int = 21) -> Snapshots:
    """Returns what is scored: at most so many snapshots of a trajectory, evenly, each with at most `num_scored`
    samples.

    Trajectories that are held out whole are scored alone; where snapshots of a time are held out all trajectories are;
    where nothing is held out all is scored.
    """
    chosen = np.zeros(len(snapshots), bool)
    whole = [m for m in range(snapshots.num_trajectories) if snapshots.held_out[snapshots.trajectory == m].all()]
    for m in whole or range(snapshots.num_trajectories):
        mine = np.flatnonzero(snapshots.trajectory == m)
        even = mine[np.unique(np.linspace(0, len(mine) - 1, most).round().astype(int))]
        chosen[even] = True
        chosen[mine[snapshots.held_out[mine]][:most]] |= not whole
    few = snapshots.select(chosen)
    n = config.num_scored
    if not n or np.diff(few.start).max() <= n:
        return few
    rows = np.concatenate([np.arange(a, min(a + n, b)) for a, b in zip(few.start[:-1], few.start[1:], strict=True)])

    return replace(
        few, x=few.x[rows], start=np.concatenate([[0], np.cumsum(np.minimum(np.diff(few.start), n))]),
        velocity=None if few.velocity is None else few.velocity[rows],
        weight=None if few.weight is None else few.weight[rows],
    )  # fmt: skip


def _simulator_seconds(system: System, snapshots: Snapshots, seed: int) -> float:
    """Times the system itself on as many samples, trajectories and times as are scored."""
    num, times = int(np.diff(snapshots.start).max()), np.array([s.time for s in snapshots.of(0)])
    began = clock.perf_counter()
    if system.fitted:
        system.model.simulate(snapshots.mu[:, 0].tolist(), num, times, seed)
    else:
        system.model.simulate(num, times, seed)

    return clock.perf_counter() - began


def _energies(
    system: System | None, snapshots: Snapshots, paths: dict[str, list[NDArray[np.float64]]]
) -> dict[str, Any]:
    """Returns electric energies of each trajectory, true and simulated, and their relative errors over time."""
    if system is None or system.energy is None:
        return {}
    energy = system.energy
    true = [
        energy(np.stack([s.x for s in snapshots.of(m)]), snapshots.mu[m, 0]) for m in range(snapshots.num_trajectories)
    ]
    made = {name: [energy(x, snapshots.mu[m, 0]) for m, x in enumerate(each)] for name, each in paths.items()}
    errors = {
        name: float(np.mean([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(each, true, strict=True)]))
        for name, each in made.items()
    }

    return {"true": true, "made": made, "errors": errors}


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns means of scores over snapshots that are held out, or over all where none is."""
    held = [row for row in rows if row["held_out"]] or list(rows)
    return {name: float(np.mean([row[name] for row in held])) for name in SHOWN}


def simulate_run(
    run: Path, data: Path, out: Path, times: Sequence[float], mu: Sequence[float] | None, *, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Moves the samples of a file's first snapshot through time and writes them as snapshots.

    Arguments:
        run: Run directory of ``fit``.
        data: An .npz file of snapshots; the first of each trajectory is where samples begin.
        out: The .npz file to write.
        times: Times, ascending; empty for those of the data.
        mu: Parameters for all trajectories; None for those of the data.
        seed: Seed of the noise.
    """
    if out.suffix != ".npz":
        raise InputError("dynamics simulate", "--out", "a file that ends in .npz", out)
    model, seen = HOAM.load(run), Snapshots.from_npz(data)
    populations, moments, parameters = [], [], []
    for m in range(seen.num_trajectories):
        first, *rest = seen.of(m)
        wanted = np.unique([first.time, *(times or [s.time for s in rest])])
        parameters.append(seen.mu[m] if mu is None else np.asarray(mu, np.float64))
        populations.append(model.simulate(first.x, wanted, parameters[-1], seed=seed))
        moments.append(wanted)
    Snapshots.from_arrays(populations, moments, np.stack(parameters), paired=True, period=seen.period).to_npz(out)

    return {"path": str(out), "trajectories": len(populations), "times": len(moments[0]), "num_dims": seen.num_dims}


def score_run(run: Path, data: Path, *, seed: int = 0) -> dict[str, Any]:
    """Scores a fitted model on a file's snapshots, each trajectory simulated from its first; nothing is fitted anew."""
    rows = HOAM.load(run).score(Snapshots.from_npz(data), seed=seed)

    return {"run": str(run), "test": rows, "summary": {"hoam": summarise(rows)}}

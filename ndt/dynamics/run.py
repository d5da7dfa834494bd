"""``ndt dynamics``: snapshots to a fitted model, its scores beside others', and a page."""

import json
import sys
import time as clock
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from ndt.checkpoint import read_json, write_json
from ndt.config_dynamics import DynamicsConfig
from ndt.dynamics.baselines import METHODS, Model, made
from ndt.dynamics.distances import carry, score
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.latents import read_trials
from ndt.dynamics.page import write_page
from ndt.dynamics.snapshots import Snapshots
from ndt.dynamics.systems.cells import embryoid
from ndt.dynamics.systems.drifters import drifters
from ndt.dynamics.systems.named import SYSTEMS, System
from ndt.dynamics.wlm import WLM
from ndt.errors import InputError
from ndt.studies import ASKED

__all__ = ["ACTIONS", "fit_run", "load", "run_action", "score_run", "simulate_run"]

Advance = Callable[..., NDArray[np.float64]]
FILES = ("config.yaml", "model.safetensors", "model.json", "matched", "metrics.json", "log.jsonl", "report.html")
SHOWN = ("w1", "w2", "sliced_w2", "gaussian_w2", "mmd", "mean_error", "cov_error")


def _source(source: str, config: DynamicsConfig) -> tuple[Snapshots, System | None]:
    """Returns the snapshots of a file, or of a system by its name."""
    if source in SYSTEMS and not Path(source).exists():
        system = SYSTEMS[source]
        return system.snapshots(config.num_particles, config.seed), system
    if not Path(source).is_file():
        expected = f"an .npz file of snapshots, or a system: {', '.join(SYSTEMS)}"
        raise InputError("dynamics", "source", expected, source)
    readers = [reader for mark, reader in READERS.items() if mark in _arrays(source)]
    found = readers[0](source, config) if readers else Snapshots.from_npz(source)
    if config.held_out_times:
        held = np.isin(found.time, config.held_out_times)
        if not held.any() or held.all():
            raise InputError("settings", "held_out_times", f"some of {np.unique(found.time).tolist()}", "none or all")
        found = replace(found, held_out=found.held_out | held)

    return found, None


def _arrays(path: str) -> Sequence[str]:
    """Returns the names of a file's arrays; none of a file that is no .npz, which its reader will say."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return list(file.files)
    except (OSError, ValueError, AttributeError, TypeError):
        return []


def fit_run(source: str, out: Path, config: DynamicsConfig | None = None, *, progress: bool = True) -> dict[str, Any]:
    """Fits a model and what it is compared with, scores all, and writes a run directory.

    Writes ``config.yaml``, ``model.safetensors``, ``model.json``, ``metrics.json``, ``log.jsonl`` and ``report.html``.
    A system that is shaken brings its own noise where `config.hoam.noise` is 0. A run that was broken off begins anew.

    Arguments:
        source: An .npz file of snapshots, or the name of a system.
        out: Run directory.
        config: Settings.
        progress: Whether a bar is shown.

    Returns:
        What metrics.json says: ``test`` (a row a snapshot), ``summary`` of model and baselines over snapshots that are
        held out, or over all where none is, and ``fit``.
    """
    config = config or DynamicsConfig()
    snapshots, system = _source(source, config)
    if system is not None and not config.hoam.noise:
        config = replace(config, hoam=replace(config.hoam, noise=system.noise))
    if out.exists() and (other := {p.name for p in out.iterdir()} - {*FILES, ASKED}):
        raise InputError(out, "folder", "a new one, or a run of ndt dynamics", ", ".join(sorted(other)[:3]))
    scored = _scored(snapshots, config)
    models, seconds = _fitted(snapshots, config, progress)
    model = models[config.method]
    assert isinstance(model, HOAM | WLM), "it is a method"
    paths: dict[str, list[NDArray[np.float64]]] = {}
    simulated = {}
    for name, simulate in _simulations(models, config).items():
        began = clock.perf_counter()
        paths[name] = carry(simulate, scored, seed=config.seed)
        simulated[name] = clock.perf_counter() - began
    if system is not None:
        simulated["simulator"] = _simulator_seconds(system, scored, config.seed)
    rows = {name: score(path, scored) for name, path in paths.items()}
    energies = _energies(system, scored, paths)
    fit = {"seconds": seconds, "simulate_seconds": simulated, **model.facts}
    found: dict[str, Any] = {
        "source": source,
        "method": config.method,
        "begin": config.begin,
        "num_dims": snapshots.num_dims,
        "test": rows[config.method],
        "baselines": {name: {"rows": each} for name, each in rows.items() if name != config.method},
        "summary": {name: summarise(each) | energies.get("errors", {}).get(name, {}) for name, each in rows.items()},
        "fit": fit,
    }
    _write(out, config, model)
    write_page(out, found, scored, paths, energies, system, model)
    write_json(out / "metrics.json", found)  # last: a run that has it has ended

    return found


def _write(out: Path, config: DynamicsConfig, model: HOAM | WLM) -> None:
    (out / "metrics.json").unlink(missing_ok=True)  # first: what it says is of the model before
    model.save(out)
    plain = asdict(config, dict_factory=lambda items: {k: list(v) if isinstance(v, tuple) else v for k, v in items})
    (out / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    thin = max(len(model.losses) // 400, 1)
    lines = [
        {"step": i + 1, "split": "train", "loss": float(model.losses[i])} for i in range(0, len(model.losses), thin)
    ]
    (out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _fitted(snapshots: Snapshots, config: DynamicsConfig, progress: bool) -> tuple[dict[str, Model], dict[str, float]]:
    """Returns the fitted model and, after it, what it is compared with, by name, and what each took that learns."""
    names = dict.fromkeys((config.method, *config.baselines))
    models, seconds = {name: made(name, config) for name in names}, {}
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        for name, model in models.items():
            total = _steps(model)
            task = bar.add_task(name, total=total, visible=total > 0)
            began = clock.perf_counter()
            model.fit(snapshots, lambda step, _, task=task: bar.update(task, completed=step))  # type: ignore[misc]
            if total:
                seconds[name] = clock.perf_counter() - began

    return models, seconds


def _steps(model: Model) -> int:
    """Returns the optimisation steps of a model; 0 of one that needs no fit."""
    return getattr(model, "steps", 0) or getattr(getattr(model, "config", None), "steps", 0)


def _simulations(models: dict[str, Model], config: DynamicsConfig) -> dict[str, Advance]:
    """Returns how each carries a snapshot on, by name."""
    solver: dict[str, Any] = {"step": config.solver_step}

    return {
        name: partial(each.advance, **solver) if isinstance(each, HOAM) else each.advance
        for name, each in models.items()
    }


def _scored(snapshots: Snapshots, config: DynamicsConfig, most: int = 21) -> Snapshots:
    """Returns what is scored: so many snapshots of a trajectory at most, evenly, of `num_scored` samples at most.

    Trajectories that are held out whole are scored alone; where snapshots of a time are held out all trajectories are;
    where nothing is held out all is scored.
    """
    if config.begin == "last":
        snapshots = _forecast(snapshots)
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


def _forecast(snapshots: Snapshots) -> Snapshots:
    """Returns, of each trajectory that ends in held-out snapshots, these and the last one that was fitted."""
    chosen = np.zeros(len(snapshots), bool)
    for m in range(snapshots.num_trajectories):
        mine = np.flatnonzero(snapshots.trajectory == m)
        fitted = np.flatnonzero(~snapshots.held_out[mine])
        if len(fitted) and fitted[-1] + 1 < len(mine):
            chosen[mine[fitted[-1] :]] = True
    if not chosen.any():
        raise InputError("settings", "begin", "first, where no snapshot is held out after the last", "last")

    return snapshots.select(chosen)


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
        name: {
            "energy_error": float(
                np.mean([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(each, true, strict=True)])
            )
        }
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
    model, seen = load(run), Snapshots.from_npz(data)
    populations, moments, parameters = [], [], []
    for m in range(seen.num_trajectories):
        first, *rest = seen.of(m)
        wanted = np.unique([first.time, *(times or [s.time for s in rest])])
        parameters.append(seen.mu[m] if mu is None else np.asarray(mu, np.float64))
        populations.append(model.advance(first, wanted, parameters[-1], seed=seed))
        moments.append(wanted)
    Snapshots.from_arrays(populations, moments, np.stack(parameters), paired=True, period=seen.period).to_npz(out)

    return {"path": str(out), "trajectories": len(populations), "times": len(moments[0]), "num_dims": seen.num_dims}


def score_run(run: Path, data: Path, *, seed: int = 0) -> dict[str, Any]:
    """Scores a fitted model on a file's snapshots, each trajectory simulated from its first; nothing is fitted anew."""
    model = load(run)
    rows = model.score(Snapshots.from_npz(data), seed=seed)

    return {"run": str(run), "test": rows, "summary": {model.method: summarise(rows)}}


def load(run: Path) -> HOAM | WLM:
    """Returns the model of a run, of whatever method.

    Raises:
        InputError: if the folder holds none.
    """
    method = read_json(run / "model.json").get("method")
    if method not in METHODS:
        raise InputError(run / "model.json", "method", f"one of {', '.join(METHODS)}", method)

    return METHODS[method].load(run)


READERS: dict[str, Callable[..., Snapshots]] = {  # of files that have an array of this name
    "positions": lambda path, config: drifters(path),
    "pcs": lambda path, config: embryoid(path, held_out=config.held_out_times),
    "latents": lambda path, config: read_trials(path, config.trials),
}
ACTIONS = ("fit", "simulate", "score")


def run_action(
    action: str, source: str, config: DynamicsConfig, *, out: str | None, data: str | None, times: Sequence[float],
    mu: Sequence[float] | None, seed: int, progress: bool,
) -> dict[str, Any]:  # fmt: skip
    """Does what ``ndt dynamics ACTION SOURCE`` was asked for; each action needs some of the paths.

    Raises:
        InputError: if there is no such action, or a path that it needs was not given.
    """
    if action not in ACTIONS:
        raise InputError("ndt dynamics", "action", f"one of {', '.join(ACTIONS)}", action)
    for name, path in (("out", out), ("data", data)):
        if path is None and (action, name) not in (("fit", "data"), ("score", "out")):
            raise InputError(f"ndt dynamics {action}", f"--{name}", "a path", "nothing")
    with _warned_once():
        if action == "fit":
            return {"run": out, **fit_run(source, Path(str(out)), config, progress=progress)}
        if action == "score":
            return score_run(Path(source), Path(str(data)), seed=seed)

        return simulate_run(Path(source), Path(str(data)), Path(str(out)), times, mu, seed=seed)


@contextmanager
def _warned_once() -> Iterator[None]:
    """Prints each warning of a block in one line, once."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", UserWarning)
        yield
    for line in dict.fromkeys(str(w.message) for w in found):
        print(f"warning: {line}", file=sys.stderr)

"""``ndt dynamics``: fits a model and its baselines to snapshots, scores them, and writes a run directory."""

import json
import sys
import time as clock
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from ndt.config.dynamics import DynamicsConfig, TrialsConfig
from ndt.dynamics.distances import roll_out, score
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.latents import trials
from ndt.dynamics.methods import METHODS, Model, make_model
from ndt.dynamics.snapshots import Snapshots
from ndt.dynamics.systems.named import SYSTEMS, System
from ndt.dynamics.systems.published import drifters, embryoid
from ndt.dynamics.wlm import WLM
from ndt.errors import InputError
from ndt.model.checkpoint import write_json
from ndt.parsing import parse_json, read_embeddings, read_json
from ndt.reports.dynamics_page import write_report
from ndt.text import escaped
from ndt.train.studies import REQUEST

__all__ = ["ACTIONS", "fit_run", "load", "read_trials", "run_action", "score_run", "simulate_run"]

Paths = dict[str, list[NDArray[np.float64]]]  # of each model, by trajectory: (T, N, d)
FILES = {
    "model.safetensors", "model.json", "action_matching", "config.yaml", "metrics.json", "log.jsonl", "report.html",
    REQUEST,
}  # fmt: skip
SCORES = ("w1", "w2", "sliced_w2", "gaussian_w2", "mmd", "mean_error", "cov_error")
MOST_TIMES = 21  # scored per trajectory
ACTIONS = ("fit", "simulate", "score")


def fit_run(source: str, out: Path, config: DynamicsConfig | None = None, *, progress: bool = True) -> dict[str, Any]:
    """Fits a model and its baselines, scores all, and writes a run directory.

    Writes ``config.yaml``, ``model.safetensors``, ``model.json``, ``metrics.json``, ``log.jsonl`` and ``report.html``.
    If `config.hoam.noise` is 0, a stochastic system sets it. An interrupted run starts over.

    Arguments:
        source: An .npz file of snapshots, or the name of a system.
        out: Run directory.
        config: Settings.
        progress: Whether to show a progress bar.

    Returns:
        The content of metrics.json: ``test`` (a row per snapshot), ``summary`` of model and baselines over held-out
        snapshots, or over all if none is held out, and ``fit``.
    """
    config = config or DynamicsConfig()
    snapshots, system = _read(source, config)
    if system is not None and not config.hoam.noise:
        config = replace(config, hoam=replace(config.hoam, noise=system.noise))
    if out.exists() and (other := {p.name for p in out.iterdir()} - FILES):
        raise InputError(out, "folder", "a new one, or a run of ndt dynamics", ", ".join(sorted(other)[:3]))
    scored = _scored(snapshots, config)
    models, seconds = _fitted(snapshots, config, progress)
    model = models[config.method]
    assert isinstance(model, HOAM | WLM), "it is a method"
    paths: Paths = {}
    simulated: dict[str, float] = {}  # seconds
    for name, each in models.items():
        began = clock.perf_counter()
        paths[name] = roll_out(each.advance, scored, seed=config.seed)
        simulated[name] = clock.perf_counter() - began
    if system is not None:
        simulated["simulator"] = _simulator_seconds(system, scored, config.seed)
    rows = {name: score(path, scored) for name, path in paths.items()}
    energies = _energies(system, scored, paths)
    found: dict[str, Any] = {
        "source": source, "method": config.method, "forecast_from": config.forecast_from,
        "num_dims": snapshots.num_dims,
        "test": rows[config.method],
        "baselines": {name: {"rows": row} for name, row in rows.items() if name != config.method},
        "summary": {name: summarise(row) | energies.get("errors", {}).get(name, {}) for name, row in rows.items()},
        "fit": {"seconds": seconds, "simulate_seconds": simulated, **model.facts},
    }  # fmt: skip
    _write(out, config, model)
    write_report(out, found, scored, paths, energies, system, model)
    write_json(out / "metrics.json", found)  # last: it marks a complete run

    return found


def _read(source: str, config: DynamicsConfig) -> tuple[Snapshots, System | None]:
    """Returns the snapshots of a file, or of a system by its name."""
    if source in SYSTEMS and not Path(source).exists():
        system = SYSTEMS[source]
        return system.snapshots(config.num_particles, config.seed), system
    if not Path(source).is_file():
        expected = f"an .npz file of snapshots, or a system: {', '.join(SYSTEMS)}"
        raise InputError("dynamics", "source", expected, source)
    names: set[str] = set()
    with suppress(OSError, zipfile.BadZipFile, ValueError), zipfile.ZipFile(source) as file:
        names = {name.removesuffix(".npy") for name in file.namelist()}  # none: the reader refuses the file
    if "positions" in names:
        found = drifters(source)
    elif "pcs" in names:
        found = embryoid(source, held_out=config.held_out_times)
    else:
        found = read_trials(source, config.trials) if "latents" in names else Snapshots.from_npz(source)
    if config.held_out_times:
        held = np.isin(found.time, config.held_out_times)
        if not held.any() or held.all():
            raise InputError("settings", "held_out_times", f"some of {np.unique(found.time).tolist()}", "none or all")
        found = replace(found, held_out=found.held_out | held)

    return found, None


class _Options(TypedDict):
    session: NotRequired[str]


def read_trials(path: str | Path, config: TrialsConfig) -> Snapshots:
    """Reads latents written by ``ndt embed`` and aligns them to the starts of the recording's trials.

    Raises:
        InputError: if the files are of different sessions, or there are no trials.
    """
    if not config.nwb:
        raise InputError("settings", "trials.nwb", "the NWB file of the session whose latents these are", "none")
    found = read_embeddings(path)
    options: dict[str, Any] = parse_json(str(found["options"]), _Options, path, "options")
    from ndt.data.reading import read

    session = read(config.nwb)
    if session.session_id != options.get("session", session.session_id):
        raise InputError(config.nwb, "session", options["session"], session.session_id)
    if "trials" not in session.intervals:
        raise InputError(config.nwb, "trials", "a table of trials", ", ".join(session.intervals) or "none")
    onsets = session.intervals["trials"].start

    return trials(found["latents"], found["time"], onsets, config.duration, config.num_components, config.smooth)[0]


def _fitted(snapshots: Snapshots, config: DynamicsConfig, progress: bool) -> tuple[dict[str, Model], dict[str, float]]:
    """Returns the fitted model and then its baselines, by name, and seconds of fitting of those that learn."""
    models = {name: make_model(name, config) for name in dict.fromkeys((config.method, *config.baselines))}
    seconds = {}
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        for name, model in models.items():
            total = getattr(model, "steps", 0) or getattr(getattr(model, "config", None), "steps", 0)
            task = bar.add_task(name, total=total, visible=total > 0)
            began = clock.perf_counter()
            model.fit(snapshots, lambda step, _, task=task: bar.update(task, completed=step))  # type: ignore[misc]
            if total:
                seconds[name] = clock.perf_counter() - began

    return models, seconds


def _scored(snapshots: Snapshots, config: DynamicsConfig) -> Snapshots:
    """Returns the snapshots to score: `MOST_TIMES` evenly spaced ones per trajectory, of `config.num_scored` samples.

    If trajectories are held out as a whole, they alone are scored; else all trajectories are, with their held-out
    snapshots.
    """
    if config.forecast_from == "last":
        snapshots = _after_fitted(snapshots)
    chosen = np.zeros(len(snapshots), bool)
    whole = [m for m in range(snapshots.num_trajectories) if snapshots.held_out[snapshots.trajectory == m].all()]
    for m in whole or range(snapshots.num_trajectories):
        mine = np.flatnonzero(snapshots.trajectory == m)
        chosen[mine[np.unique(np.linspace(0, len(mine) - 1, MOST_TIMES).round().astype(int))]] = True
        chosen[mine[snapshots.held_out[mine]][:MOST_TIMES]] |= not whole
    few = snapshots.select(chosen)

    return few.head(config.num_scored) if config.num_scored else few


def _after_fitted(snapshots: Snapshots) -> Snapshots:
    """Returns the last fitted snapshot of each trajectory and the held-out ones after it."""
    chosen = np.zeros(len(snapshots), bool)
    for m in range(snapshots.num_trajectories):
        mine = np.flatnonzero(snapshots.trajectory == m)
        fitted = mine[~snapshots.held_out[mine]]
        if len(fitted) and fitted[-1] < mine[-1]:
            chosen[fitted[-1] : mine[-1] + 1] = True
    if not chosen.any():
        raise InputError("settings", "forecast_from", "first, if no snapshot is held out after the last", "last")

    return snapshots.select(chosen)


def _simulator_seconds(system: System, snapshots: Snapshots, seed: int) -> float:
    """Times the system's own simulator on the samples, trajectories and times that are scored."""
    num, times = int(np.diff(snapshots.start).max()), np.array([s.time for s in snapshots.of(0)])
    parameters = (snapshots.mu[:, 0].tolist(),) if system.fitted else ()
    began = clock.perf_counter()
    system.model.simulate(*parameters, num, times, seed)

    return clock.perf_counter() - began


def _energies(system: System | None, snapshots: Snapshots, paths: Paths) -> dict[str, Any]:
    """Returns electric energies of each trajectory, true and simulated, and their relative errors over time."""
    if system is None or system.energy is None:
        return {}
    energy, mu = system.energy, snapshots.mu[:, 0]
    true = [energy(np.stack([s.x for s in snapshots.of(m)]), mu[m]) for m in range(snapshots.num_trajectories)]
    simulated = {name: [energy(x, mu[m]) for m, x in enumerate(each)] for name, each in paths.items()}
    errors = {
        name: float(np.mean([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(each, true, strict=True)]))
        for name, each in simulated.items()
    }

    return {"true": true, "simulated": simulated, "errors": {k: {"energy_error": v} for k, v in errors.items()}}


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns means of scores over held-out snapshots, or over all if none is held out; an error without a score."""
    held = [row for row in rows if row["held_out"]] or list(rows)
    if not held:
        raise InputError("snapshots", "times", "at least two in a trajectory, to score a simulation", "one")
    return {name: float(np.mean([row[name] for row in held])) for name in SCORES}


def _write(out: Path, config: DynamicsConfig, model: HOAM | WLM) -> None:
    (out / "metrics.json").unlink(missing_ok=True)  # first: it describes the model before
    model.save(out)
    plain = asdict(config, dict_factory=lambda items: {k: list(v) if isinstance(v, tuple) else v for k, v in items})
    (out / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    steps = range(0, len(model.losses), max(len(model.losses) // 400, 1))
    lines = [json.dumps({"step": i + 1, "split": "train", "loss": float(model.losses[i])}) + "\n" for i in steps]
    (out / "log.jsonl").write_text("".join(lines))


def simulate_run(
    run: Path, data: Path, out: Path, times: Sequence[float], mu: Sequence[float] | None, *, seed: int = 0
) -> dict[str, Any]:
    """Simulates from the first snapshots of a file and writes the result as snapshots.

    Arguments:
        run: Run directory of ``fit``.
        data: An .npz file of snapshots; the first one of each trajectory is the initial population.
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
        moments.append(np.unique([first.time, *(times or [s.time for s in rest])]))
        parameters.append(seen.mu[m] if mu is None else np.asarray(mu, np.float64))
        populations.append(model.advance(first, moments[-1], parameters[-1], seed=seed))
    Snapshots.from_arrays(populations, moments, np.stack(parameters), paired=True, period=seen.period).to_npz(out)

    return {"path": str(out), "trajectories": len(populations), "times": len(moments[0]), "num_dims": seen.num_dims}


def score_run(run: Path, data: Path, *, seed: int = 0) -> dict[str, Any]:
    """Scores a fitted model on a file's snapshots, each trajectory simulated from its first snapshot."""
    model = load(run)
    rows = model.score(Snapshots.from_npz(data), seed=seed)

    return {"run": str(run), "test": rows, "summary": {model.method: summarise(rows)}}


class _Model(TypedDict):
    method: str


def load(run: Path) -> HOAM | WLM:
    """Returns the model of a run, of either method.

    Raises:
        InputError: if the folder holds none.
    """
    method = read_json(run / "model.json", _Model)["method"]
    if method not in METHODS:
        raise InputError(run / "model.json", "method", f"one of {', '.join(METHODS)}", method)

    return METHODS[method].load(run)


def run_action(
    action: str, source: str, config: DynamicsConfig, *, out: str | None, data: str | None, times: Sequence[float],
    mu: Sequence[float] | None, progress: bool,
) -> dict[str, Any]:  # fmt: skip
    """Runs ``ndt dynamics ACTION SOURCE``.

    Raises:
        InputError: if the action is unknown, or a path that it needs is missing.
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
            return score_run(Path(source), Path(str(data)), seed=config.seed)

        return simulate_run(Path(source), Path(str(data)), Path(str(out)), times, mu, seed=config.seed)


@contextmanager
def _warned_once() -> Iterator[None]:
    """Prints each distinct warning of a block as one line on stderr."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", UserWarning)
        yield
    for line in dict.fromkeys(str(w.message) for w in found):
        print(f"warning: {escaped(line)}", file=sys.stderr)

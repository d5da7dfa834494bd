"""The demo's worked example of dynamics: a simulated population that rotates in trials, from spikes to its frequency.

A recording is pretrained on by itself, its latents are exported and aligned to the trials' starts, and both dynamics
heads are fitted to the trials as a population, with the velocities of each: to the first a trial is a path, to the
second a particle of each snapshot. Neither is told how fast the population turns.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ndt.config import PretrainConfig, SimulateConfig, TrainConfig
from ndt.config_dynamics import FunctionalConfig, HOAMConfig, TrialsConfig, WLMConfig

__all__ = ["FIRST", "PRETRAIN", "RECORDING", "SECOND", "TRIALS", "rotations"]

RECORDING = SimulateConfig(num_subjects=1, num_sessions=1, seconds=240.0, dynamics="rotational")
PRETRAIN = PretrainConfig(train=TrainConfig(steps=300, batch_size=16))
TRIALS = TrialsConfig(duration=1.3, smooth=0.45)
FIRST = HOAMConfig(num_particles=64, steps=600)
SECOND = WLMConfig(
    functional=FunctionalConfig(terms=("fourier",), waves=0), balance_steps=1, friction=0.3, horizon=8, steps=200,
    learning_rate=3e-3,
)  # fmt: skip


def rotations(out: Path, seed: int = 0, *, progress: bool = True) -> dict[str, Any]:
    """Runs it and returns what ``rotation.json`` says; ``paths.npz`` has the trials and both heads' simulations.

    Arguments:
        out: Folder of its own.
        seed: Seed of everything.
        progress: Whether to show progress.
    """
    from ndt.api import embed
    from ndt.checkpoint import write_json
    from ndt.data.ingest import ingest
    from ndt.data.population import ROTATION_HZ
    from ndt.data.synthetic import simulate
    from ndt.dynamics.baselines import METHODS
    from ndt.dynamics.latents import read_trials, rotation
    from ndt.pretrain.train import pretrain

    recording = simulate(out / "recordings", replace(RECORDING, seed=seed))[0]
    store = ingest([str(recording.path)], out / "store", progress=progress)
    base = pretrain(store, out / "pretrain", replace(PRETRAIN, seed=seed), progress=progress)
    path = embed(base, recording.session_id, store=store).to_npz(out / "embed" / f"{recording.session_id}.npz")
    seen = read_trials(path, replace(TRIALS, nwb=str(recording.path)))
    paths = {"latents": seen.x.reshape(len(seen), -1, seen.num_dims)}
    for name, config in (("hoam", FIRST), ("wlm", SECOND)):
        model = METHODS[name](replace(config, seed=seed)).fit(seen)  # type: ignore[arg-type]
        paths[name] = model.advance(seen.of(0)[0], seen.time)
    found: dict[str, Any] = {
        "session": recording.session_id, "num_trials": paths["latents"].shape[1], "true_hz": ROTATION_HZ,
        "found": {name: rotation(x.mean(1, keepdims=True), seen.time)._asdict() for name, x in paths.items()},
    }  # fmt: skip
    np.savez_compressed(out / "paths.npz", times=seen.time, **paths)  # type: ignore[arg-type]
    write_json(out / "rotation.json", found)

    return found

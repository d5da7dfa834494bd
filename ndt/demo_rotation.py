"""The demo's example of dynamics: the rotation frequency of a simulated population, from its spikes.

A model is pretrained on one recording, its latents are exported and aligned to the starts of trials, and HOAM and WLM
are fitted to the trials as a population, with the velocity of each trial.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ndt.config import PretrainConfig, SimulateConfig, TrainConfig
from ndt.config.dynamics import FunctionalConfig, HOAMConfig, TrialsConfig, WLMConfig

__all__ = ["FIRST", "PRETRAIN", "RECORDING", "SECOND", "TRIALS", "rotations"]

RECORDING = SimulateConfig(num_subjects=1, num_sessions=1, seconds=240.0, dynamics="rotational")
PRETRAIN = PretrainConfig(train=TrainConfig(steps=300, batch_size=16))
TRIALS = TrialsConfig(duration=1.3, smooth=0.45)
FIRST = HOAMConfig(num_particles=64, steps=600)
SECOND = WLMConfig(
    functional=FunctionalConfig(terms=("fourier",), fourier_features=0), weak_form_steps=1, friction=0.3, horizon=8,
    steps=200, learning_rate=3e-3,
)  # fmt: skip


def rotations(out: Path, seed: int = 0, *, progress: bool = True) -> dict[str, Any]:
    """Runs the example and returns the content of ``rotation.json``; ``paths.npz`` holds trials and simulations.

    Arguments:
        out: Folder for the results.
        seed: Seed of everything.
        progress: Whether to show progress.
    """
    from ndt.api import embed
    from ndt.data.ingest import ingest
    from ndt.data.simulate.population import ROTATION_HZ
    from ndt.data.simulate.recordings import simulate
    from ndt.dynamics.latents import rotation
    from ndt.dynamics.methods import METHODS
    from ndt.fit_dynamics import read_trials
    from ndt.model.checkpoint import write_json
    from ndt.pretrain.train import pretrain

    recording = simulate(out / "recordings", replace(RECORDING, seed=seed))[0]
    store = ingest([str(recording.path)], out / "store", progress=progress)
    base = pretrain(store, out / "pretrain", replace(PRETRAIN, seed=seed), progress=progress)
    path = embed(base, recording.session_id, store=store).to_npz(out / "embed" / f"{recording.session_id}.npz")
    seen = read_trials(path, replace(TRIALS, nwb=str(recording.path)))
    paths = {"latents": seen.x.reshape(len(seen), -1, seen.num_dims)}
    for name, config in (("hoam", FIRST), ("wlm", SECOND)):
        model = METHODS[name](config, seed).fit(seen)  # type: ignore[arg-type]
        paths[name] = model.advance(seen.of(0)[0], seen.time)
    found: dict[str, Any] = {
        "session": recording.session_id, "num_trials": paths["latents"].shape[1], "true_hz": ROTATION_HZ,
        "found": {name: rotation(x.mean(1, keepdims=True), seen.time)._asdict() for name, x in paths.items()},
    }  # fmt: skip
    np.savez_compressed(out / "paths.npz", times=seen.time, **paths)  # type: ignore[arg-type]
    write_json(out / "rotation.json", found)

    return found

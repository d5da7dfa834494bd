"""Valid files of every kind that a verb reads, in one folder, and the verbs that read each."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import yaml
from scipy import io

from ndt.api import embed
from ndt.config import FinetuneConfig, MaskConfig, ModelConfig, PretrainConfig, TrainConfig
from ndt.config.dynamics import DynamicsConfig, HOAMConfig, PotentialConfig, WLMConfig
from ndt.dynamics.snapshots import Snapshots
from ndt.finetune.adapt import finetune
from ndt.fit_dynamics import fit_run
from ndt.pretrain.train import pretrain
from ndt.reports.label_curve import LabelCurve
from tests.malformed import write_template
from tests.problems import recording
from tests.stores import stored

__all__ = ["DYNAMICS", "RECIPE", "TARGETS", "Target", "make_world"]

SESSION, OTHER = "sub-a_ses-1", "sub-a_ses-2"
MODEL = ModelConfig(width=16, num_layers=1, num_heads=2, units_per_patch=8, unit_width=8, num_stem_layers=1)
DYNAMICS = {
    "method": "hoam", "seed": 0, "num_scored": 20, "baselines": ["persistence"], "held_out_times": [0.5],
    "hoam": {"steps": 2, "num_nodes": 3, "num_particles": 8, "potential": {"width": 4, "depth": 2}},
}  # fmt: skip
RECIPE = {
    "title": "t", "source": "zenodo:1", "files": ["*.npz"], "licence": "CC0-1.0", "cite": ["c"], "tried": True,
    "covariate": "", "ingest": {"select": "", "workers": 1, "arrays": {"spikes": "spikes", "bin_size": 0.05}},
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A file, and the command that reads it; `OUT` stands for a new file or folder."""

    file: str
    argv: tuple[str, ...]
    out: str = ""


def _target(file: str, *argv: str, out: str = "") -> Target:
    return Target(file, argv, out)


EMBED = ("embed", "base", "--session", SESSION)
EVALUATE = ("evaluate", "decoder", "--session", SESSION)
RESUME = ("pretrain", "store", "--out", "base", "--config", "base.yaml", "--resume")
SCORE = ("dynamics", "score")
TARGETS = {
    "manifest": _target("store/manifest.json", *EMBED, "--store", "store", out="x.npz"),
    "manifest-inspected": _target("store/manifest.json", "inspect", "store"),
    "session": _target(f"store/{SESSION}.h5", *EMBED, "--store", "store", out="x.npz"),
    "session-inspected": _target(f"store/{SESSION}.h5", "inspect", "store"),
    "model": _target("base/model.json", *EMBED, out="x.npz"),
    "weights": _target("base/model.safetensors", *EMBED, out="x.npz"),
    "run": _target("base/run.json", *EMBED, out="x.npz"),
    "ensemble": _target("decoder/ensemble.json", *EVALUATE),
    "ensemble-arrays": _target("decoder/ensemble.safetensors", *EVALUATE),
    "decoder-model": _target("decoder/model.json", *EVALUATE),
    "metrics-evaluated": _target("decoder/metrics.json", "evaluate", "decoder"),
    "metrics": _target("decoder/metrics.json", "report", "decoder"),
    "log": _target("decoder/log.jsonl", "report", "decoder"),
    "predictions": _target("decoder/predictions.npz", "report", "decoder"),
    "settings-shown": _target("decoder/config.yaml", "report", "decoder"),
    "pretraining": _target("base/metrics.json", "report", "base"),
    "curve": _target("curve/curve.json", "report", "curve"),
    "embedding": _target(f"curve/embed/{SESSION}.npz", "report", "curve"),
    "rotation": _target("curve/rotation/rotation.json", "report", "curve"),
    "paths": _target("curve/rotation/paths.npz", "report", "curve"),
    "state": _target(
        "base/checkpoints/step_00000002/state.json",
        "pretrain",
        "store",
        "--out",
        "base",
        "--config",
        "base.yaml",
        "--resume",
    ),
    "state-tensors": _target(
        "base/checkpoints/step_00000002/state.safetensors",
        "pretrain",
        "store",
        "--out",
        "base",
        "--config",
        "base.yaml",
        "--resume",
    ),
    "hoam": _target("hoam/model.json", *SCORE, "hoam", "--data", "snapshots.npz"),
    "hoam-weights": _target("hoam/model.safetensors", *SCORE, "hoam", "--data", "snapshots.npz"),
    "wlm": _target("wlm/model.json", *SCORE, "wlm", "--data", "snapshots.npz"),
    "wlm-inner": _target("wlm/action_matching/model.json", *SCORE, "wlm", "--data", "snapshots.npz"),
    "snapshots": _target("snapshots.npz", *SCORE, "hoam", "--data", "snapshots.npz"),
    "snapshots-simulated": _target(
        "snapshots.npz", "dynamics", "simulate", "hoam", "--data", "snapshots.npz", out="x.npz"
    ),
    "settings": _target("settings.yaml", "dynamics", "fit", "snapshots.npz", "--config", "settings.yaml", out="x"),
    "recipe": _target("recipe.yaml", "ingest", "counts.npz", "--recipe", "recipe.yaml", out="x"),
    "counts": _target("counts.npz", "ingest", "counts.npz", "--recipe", "recipe.yaml", out="x"),
    "nwb-copied": _target("sub-a_ses-1.nwb", *EMBED, "--store", "store", "--nwb", "sub-a_ses-1.nwb", out="x.nwb"),
    "counts-mat": _target("counts.mat", "ingest", "counts.mat", "--recipe", "recipe.yaml", out="x"),
}


def make_world(root: Path) -> Path:
    """Writes one valid file of each kind; small, hardly trained."""
    first = replace(recording(((0.0, 40.0),)), session_id=SESSION)
    second = replace(recording(((0.0, 40.0),), seed=1), session_id=OTHER)
    stored([first, second], root / "store")
    train = TrainConfig(steps=2, batch_size=2, valid_every=1, warmup_steps=1)
    config = PretrainConfig(model=MODEL, train=train, mask=MaskConfig(), window=1.0, bin_size=0.05)
    pretrain(root / "store", root / "base", config, progress=False)
    settings = yaml.safe_load((root / "base/config.yaml").read_text())
    settings["train"]["steps"] = 3  # of the run that is resumed
    (root / "base.yaml").write_text(yaml.safe_dump(settings))
    _decoder(root, train)
    _pages(root)
    _dynamics(root)
    spikes = np.random.default_rng(0).poisson(1.0, (400, 3))
    np.savez(root / "counts.npz", spikes=spikes)
    io.savemat(root / "counts.mat", {"spikes": spikes})
    write_template(root / f"{SESSION}.nwb")
    (root / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))

    return root


def _decoder(root: Path, train: TrainConfig) -> None:
    from ndt.decoders import gru, tcn

    fast = {"steps": 1, "valid_every": 1}
    with (
        patch.object(gru, "TRAINING", replace(gru.TRAINING, **fast)),
        patch.object(tcn, "TRAINING", replace(tcn.TRAINING, **fast)),
        patch.object(gru, "WIDTH", 4),
        patch.object(tcn, "WIDTH", 4),
    ):
        tune = FinetuneConfig(train=train, window=1.0, baselines=("tcn", "gru", "naive_bayes"), leaks="warn")
        finetune(root / "base", SESSION, "vel", out=root / "decoder", config=tune, progress=False)


def _pages(root: Path) -> None:
    scores = [[0.1, 0.2], [0.3, 0.4]]
    curve = LabelCurve(
        session=SESSION, target="vel", seconds=[10.0, 20.0], valid_seconds=5.0,
        lines={"ensemble": scores, "ridge": scores, "network": scores},
    )  # fmt: skip
    (root / "curve/rotation").mkdir(parents=True)
    curve.save(root / "curve")
    embed(root / "base", SESSION, store=root / "store").to_npz(root / f"curve/embed/{SESSION}.npz")
    found = {name: {"frequency": 2.0, "r2": 0.5} for name in ("latents", "wlm", "hoam")}
    rotation = {"session": SESSION, "num_trials": 4, "true_hz": 2.0, "found": found}
    (root / "curve/rotation/rotation.json").write_text(json.dumps(rotation))
    paths = {name: np.random.default_rng(0).normal(size=(5, 4, 3)) for name in found}
    np.savez(root / "curve/rotation/paths.npz", times=np.arange(5) / 5, **paths)


def _dynamics(root: Path) -> None:
    rng, times = np.random.default_rng(0), [0.0, 0.5, 1.0]
    samples = [rng.normal(t, 1, (30, 2)) for t in times]
    Snapshots.from_arrays(samples, times, velocity=samples, held_out_times=[0.5]).to_npz(root / "snapshots.npz")
    hoam = HOAMConfig(steps=2, num_nodes=3, num_particles=8, potential=PotentialConfig(width=4, depth=3))
    wlm = WLMConfig(steps=2, velocity="action_matching", action_matching=hoam, num_particles=8)
    for method in ("hoam", "wlm"):
        config = DynamicsConfig(method=method, hoam=hoam, wlm=wlm, num_scored=20)
        fit_run(str(root / "snapshots.npz"), root / method, config, progress=False)
    (root / "settings.yaml").write_text(yaml.safe_dump(DYNAMICS))

"""Every preset loads, states only departures from the defaults, and has the stated number of parameters."""

import json
import math
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml

from ndt.config import FinetuneConfig, PretrainConfig, load_config
from ndt.config.dynamics import DynamicsConfig
from ndt.model.architectures import new_model
from ndt.model.checkpoint import ModelSpec
from ndt.model.vocabulary import Vocabulary
from ndt.pretrain.train import pretrain

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
KINDS = {"dynamics": DynamicsConfig, "pretrain": PretrainConfig, "finetune": FinetuneConfig, "configs": PretrainConfig}
VARIANTS = (
    "ablations.yaml",
    "ablations-long.yaml",
    "presets.yaml",
)  # files of another form, which test_studies.py reads
FILES = sorted(f for f in CONFIGS.rglob("*.yaml") if f.name not in VARIANTS)
PRESETS = sorted((CONFIGS / "pretrain").glob("*.yaml"))


def leaves(settings: dict, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    found = {}
    for name, value in settings.items():
        value = tuple(value) if isinstance(value, list) else value  # YAML has no tuples
        found |= leaves(value, (*at, name)) if isinstance(value, dict) else {(*at, name): value}

    return found


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def test_the_presets_are_there():
    assert {name(f) for f in FILES} >= {
        *(f"pretrain/{size}.yaml" for size in ("tiny", "small", "base", "large")),
        "finetune/default.yaml",
        "debug.yaml",
    }


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_preset_loads_and_states_only_departures(path):
    kind = KINDS[path.parent.name]
    stated, defaults = leaves(yaml.safe_load(path.read_text())), leaves(asdict(kind()))
    loaded = leaves(asdict(load_config(kind, path)))
    assert {k: v for k, v in loaded.items() if v != defaults[k]} == stated


@pytest.mark.parametrize("path", PRESETS, ids=name)
def test_a_preset_has_the_number_of_parameters_that_it_says(path):
    said = int(re.search(r"([\d,]+) parameters", path.read_text())[1].replace(",", ""))
    config = load_config(PretrainConfig, path).model
    with torch.device("meta"):  # shapes without memory
        model = new_model(ModelSpec(config=config, vocabulary=Vocabulary(), bin_size=0.02, window_bins=100))
    assert sum(p.numel() for p in model.parameters()) == said


def test_debug_pretrains_in_seconds(sim_store, tmp_path):
    config = load_config(PretrainConfig, CONFIGS / "debug.yaml")
    pretrain(sim_store, tmp_path / "run", config, progress=False)
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["steps"] == config.train.steps
    assert math.isfinite(found["valid"]["nll"])
    assert found["train_seconds"] < 20  # 0.5 s on an idle core

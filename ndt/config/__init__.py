"""Settings of every verb, as frozen dataclasses, and how they are read from YAML.

Imports: the nouns (`ndt.errors`) and nothing else. No torch, so that every ``--help`` is quick.
"""

from ndt.config.data import ArraysConfig, IngestConfig, SimulateConfig
from ndt.config.model import ModelConfig
from ndt.config.reader import fill_config, load_config
from ndt.config.training import (
    BASELINES,
    MASK_KINDS,
    MEMBERS,
    STRATEGIES,
    BenchConfig,
    FinetuneConfig,
    MaskConfig,
    PretrainConfig,
    StudyConfig,
    TrainConfig,
)

__all__ = [
    "BASELINES",
    "MASK_KINDS",
    "MEMBERS",
    "STRATEGIES",
    "ArraysConfig",
    "BenchConfig",
    "FinetuneConfig",
    "IngestConfig",
    "MaskConfig",
    "ModelConfig",
    "PretrainConfig",
    "SimulateConfig",
    "StudyConfig",
    "TrainConfig",
    "fill_config",
    "load_config",
]

"""``ndt bench ablation`` and ``presets``: variants of pretraining, on the same data, budget, seeds and stored masks."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ndt.benchmarks.studies import data_set, paired_row, pretrained
from ndt.config import PretrainConfig, StudyConfig, load_config
from ndt.errors import InputError
from ndt.parsing import read_yaml
from ndt.train.studies import overridden, run_all

__all__ = ["MASKS", "ablation", "load_variants", "presets"]

MASKS = ("random", "unit", "forward")  # kinds in the stored mask set
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PRESET = "preset"  # key of a variant that names the file of the settings to start from
FIXED = ("train.steps", "seed", "sessions", "bin_size")  # equal in all variants, or scores could not be compared


def ablation(out: Path, seeds: int, study: StudyConfig) -> list[dict[str, Any]]:
    """Compares candidates for the preset `ndt`, each with one departure from it."""
    return _compare(out, "ablation", "ablations.yaml", seeds, study)


def presets(out: Path, seeds: int, study: StudyConfig) -> list[dict[str, Any]]:
    """Compares the preset `ndt` to `ndt2`."""
    return _compare(out, "presets", "presets.yaml", seeds, study)


def load_variants(path: Path, base: PretrainConfig) -> dict[str, PretrainConfig]:
    """Reads variants by name: mappings from dotted settings to values, which override those of `base`.

    The others are compared to the first variant. A variant with the key ``preset``, a file beside this one, overrides
    the settings of that file instead. Steps, seed, sessions and bin size are always those of `base`.

    Raises:
        InputError: if the file is not YAML of this form, or a setting does not exist or may not vary.

    Example of a file:
        default: {}
        unbiased: {model.locality_bias: 0.0}
    """
    found = read_yaml(path, "variants")
    if not isinstance(found, Mapping) or not found:
        raise InputError(path, "variants", "names and their settings", repr(found))

    return {str(name): _variant(path, str(name), overrides, base) for name, overrides in found.items()}


def _variant(path: Path, name: str, overrides: Any, base: PretrainConfig) -> PretrainConfig:
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise InputError(path, "variant", "a name that can be a folder's", repr(name))
    if not isinstance(overrides, Mapping):
        raise InputError(path, name, "dotted settings and their values", repr(overrides))
    if fixed := set(FIXED) & set(overrides):
        raise InputError(path, f"{name}.{min(fixed)}", "a setting of variants", "one of the whole study")
    start = load_config(PretrainConfig, path.parent / str(overrides[PRESET])) if PRESET in overrides else base
    config = overridden(start, {str(k): v for k, v in overrides.items() if k != PRESET}, path, name)
    kept: dict[str, Any] = {"seed": base.seed, "sessions": base.sessions, "bin_size": base.bin_size}

    return replace(config, train=replace(config.train, steps=base.train.steps), **kept)


def _compare(out: Path, name: str, file: str, seeds: int, study: StudyConfig) -> list[dict[str, Any]]:
    """Runs ``<out>/<study>/<data set>/<variant>/seed<number>`` for all; returns a row per variant and mask kind."""
    variants = load_variants(Path(study.variants or CONFIGS / file), study.pretrain)
    stores = {d: data_set(d, out, study.workers).root for d in study.data}  # all, before any training
    runs = [(d, v, s) for d in stores for v in variants for s in range(seeds)]
    jobs = [
        partial(pretrained, stores[d], out / name / d / v / f"seed{s}", replace(variants[v], seed=s))
        for d, v, s in runs
    ]
    metrics = dict(zip(runs, run_all(jobs, study.workers, name), strict=True))
    rows, peer = [], next(iter(variants))
    for d in stores:
        for v, config in variants.items():
            budget = f"{config.train.steps} steps x {config.train.batch_size} windows"
            for kind in MASKS:
                own, other = (
                    [metrics[d, x, s]["valid"]["masks"][kind]["bits_per_spike"] for s in range(seeds)]
                    for x in (v, peer)
                )
                row = paired_row(f"{d}.{v}.{kind}", own, "bits/spike", None if v == peer else peer, other, budget)
                rows.append(row | {"train_seconds": [metrics[d, v, s]["train_seconds"] for s in range(seeds)]})

    return rows

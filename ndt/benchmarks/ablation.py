"""``ndt bench ablation`` and ``presets``: variants of pretraining, on the same data, budget, seeds and stored masks."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ndt.benchmarks.studies import data_set, paired_row
from ndt.config import PretrainConfig, StudyConfig, load_config
from ndt.errors import InputError
from ndt.train.studies import overridden, pretrained, run_all

__all__ = ["MASKS", "ablation", "load_variants", "presets"]

MASKS = ("random", "unit", "forward")  # kinds in the stored mask set
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PRESET = "preset"  # of a variant: the file whose settings it starts from
FIXED = ("train.steps", "seed", "sessions", "bin_size")  # the study's: with others, figures could not be compared


def ablation(out: Path, seeds: int, study: StudyConfig | None = None) -> list[dict[str, Any]]:
    """Candidates for the preset `ndt`, each one departure from it."""
    return _compare(out, "ablation", "ablations.yaml", seeds, study or StudyConfig())


def presets(out: Path, seeds: int, study: StudyConfig | None = None) -> list[dict[str, Any]]:
    """The preset `ndt` beside `ndt2`."""
    return _compare(out, "presets", "presets.yaml", seeds, study or StudyConfig())


def load_variants(path: Path, base: PretrainConfig) -> dict[str, PretrainConfig]:
    """Reads variants by name: mappings from dotted settings to values, in place of the base's.

    The first variant is the one that the others are compared to. A variant that names a ``preset``, a file beside this
    one, departs from its settings and not from the base's. Steps, seed, sessions and bin size are always the base's.

    Raises:
        InputError: if the file is not YAML of this form, or names a setting that does not exist or is not a variant's.

    Example of a file:
        default: {}
        alike: {model.locality_bias: 0.0}
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(path, "variants", "a YAML file", error) from error
    if not isinstance(found, Mapping) or not found:
        raise InputError(path, "variants", "names and their settings", repr(found))

    return {str(name): _variant(path, str(name), stated, base) for name, stated in found.items()}


def _variant(path: Path, name: str, stated: Any, base: PretrainConfig) -> PretrainConfig:
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise InputError(path, "variant", "a name that can be a folder's", repr(name))
    if not isinstance(stated, Mapping):
        raise InputError(path, name, "dotted settings and their values", repr(stated))
    departures = {str(dotted): value for dotted, value in stated.items() if dotted != PRESET}
    preset = stated.get(PRESET)
    start = base if preset is None else load_config(PretrainConfig, path.parent / str(preset))
    for dotted in departures:
        if dotted in FIXED:
            raise InputError(path, f"{name}.{dotted}", "a setting of variants", "one of the whole study")
    config = overridden(start, departures, path, name)

    return replace(
        config,
        train=replace(config.train, steps=base.train.steps),
        seed=base.seed,
        sessions=base.sessions,
        bin_size=base.bin_size,
    )


def _compare(out: Path, name: str, file: str, seeds: int, study: StudyConfig) -> list[dict[str, Any]]:
    """Runs ``<out>/<study>/<data set>/<variant>/seed<number>`` for all, and returns a row a variant and mask kind."""
    variants = load_variants(Path(study.variants or CONFIGS / file), study.pretrain)
    stores = {d: data_set(d, out, study).root for d in study.data}  # all first: what is missing shows at once
    places = [(d, v, s) for d in stores for v in variants for s in range(seeds)]
    jobs = [
        partial(pretrained, stores[d], out / name / d / v / f"seed{s}", replace(variants[v], seed=s))
        for d, v, s in places
    ]
    metrics = dict(zip(places, run_all(jobs, study.workers, name), strict=True))
    rows, peer = [], next(iter(variants))
    for d in stores:
        for v, config in variants.items():
            budget = f"{config.train.steps} steps x {config.train.batch_size} windows"
            for kind in MASKS:
                of, against = (
                    [metrics[d, x, s]["valid"]["masks"][kind]["bits_per_spike"] for s in range(seeds)]
                    for x in (v, peer)
                )
                row = paired_row(f"{d}.{v}.{kind}", of, "bits/spike", None if v == peer else peer, against, budget)
                rows.append(row | {"train_seconds": [metrics[d, v, s]["train_seconds"] for s in range(seeds)]})

    return rows

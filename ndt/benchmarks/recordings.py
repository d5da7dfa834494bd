"""``ndt bench recordings``: real recordings decoded from all their training time, in folds, and from seconds of it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ndt.benchmarks.studies import RECORDED, labelled_seconds, paired_row, pretrained_seeds, recorded
from ndt.config import BASELINES, PretrainConfig, StudyConfig
from ndt.errors import InputError
from ndt.train.studies import finetuned, run_all

if TYPE_CHECKING:
    from ndt.data.store import Store

__all__ = ["recordings"]

FOLDS = {"A2929": 5}  # blocked folds, each its own run; the others have the session's own blocks
ANGLES = ("A2929",)  # whose median error in degrees is reported beside R²
FEWER = ("ridge", "gru", "naive_bayes")  # what may have a share in the blend, and no more


def recordings(out: Path, seeds: int, study: StudyConfig | None = None) -> list[dict[str, Any]]:
    """Decodes each recording by itself, from scratch, and returns a row for each score beside its peers'.

    From all training time: the network, what is delivered, and every baseline, on the same bins. Then from the last
    so many seconds of it (`study.label_seconds`, where it has as many): what is delivered, beside ridge. The second day
    of Chewie once more, pretrained on the first. Intervals and controls are in each run's ``metrics.json``.

    Differences over peers are paired over seeds; of folds, over folds and seeds. `errors_above` has for each run by how
    many of its own standard errors, by block bootstrap over time, the delivered decoder is above the peer.

    Arguments:
        out: Folder of the study; a run that ended there is not repeated.
        seeds: How many seeds.
        study: Settings; uses `data` (names of recordings; by default all), `finetune`, `pretrain.train`,
            `label_seconds` and `workers`.

    Raises:
        InputError: if a recording is not under the folder that NDT_DATA names.
    """
    study = study or StudyConfig()
    names = list(RECORDED) if study.data == StudyConfig().data else [n for n in RECORDED if n in study.data]
    if not names:
        raise InputError("study", "data", f"some of {', '.join(RECORDED)}", list(study.data))
    stores = {name: recorded(name, out) for name in names}
    jobs = {key: job for name in names for key, job in _jobs(name, stores[name], out, seeds, study).items()}
    if {"chewie1", "chewie2"} <= set(names):
        jobs |= _transfers(stores, out, seeds, study)
    found = dict(zip(jobs, run_all(list(jobs.values()), study.workers, "fine-tuning"), strict=True))

    return [row for name in names for row in _rows(name, found)] + _transferred(found)


def _jobs(name: str, store: "Store", out: Path, seeds: int, study: StudyConfig) -> dict[tuple[Any, ...], Any]:
    """One job for each fold, seconds of labels and seed; 0 seconds are all."""
    folds, jobs, (session,) = FOLDS.get(name, 1), {}, store.session_ids
    seconds = [t for t in study.label_seconds if t < labelled_seconds(store, study.finetune)]
    for t in (0.0, *seconds):
        for fold in range(1, folds + 1) if not t else (0,):
            for seed in range(seeds):
                split = f"fold:{fold}/{folds}" if folds > 1 and fold else ""
                baselines = FEWER if t else BASELINES
                config = replace(study.finetune, label_seconds=t, split=split, seed=seed, baselines=baselines)
                folder = out / name / f"{f'{t:g}s' if t else 'all'}{f'.fold{fold}' if split else ''}.seed{seed}"
                jobs[name, t, fold, seed] = partial(finetuned, folder, None, session, None, store, config)

    return jobs


def _transfers(stores: "dict[str, Store]", out: Path, seeds: int, study: StudyConfig) -> dict[tuple[Any, ...], Any]:
    """The second day after pretraining on the first, whose bins are as wide then."""
    config = PretrainConfig(
        model=study.finetune.model, train=study.pretrain.train, target="hand_vel", bin_size=0.1,
        window=study.finetune.window,
    )  # fmt: skip
    bases = pretrained_seeds(stores["chewie1"].root, out / "chewie1" / "pretrain", config, seeds, study.workers)
    second, tuned = stores["chewie2"], replace(study.finetune, baselines=FEWER)
    (session,), folder = second.session_ids, out / "chewie2"

    return {
        ("transfer", 0.0, 0, s): partial(
            finetuned, folder / f"transfer.seed{s}", base, session, None, second, replace(tuned, seed=s)
        )
        for s, base in enumerate(bases)
    }


def _rows(name: str, found: dict[tuple[Any, ...], dict[str, Any]]) -> list[dict[str, Any]]:
    rows, scores = [], (("r2", "R2"), *([("median_error_deg", "deg")] if name in ANGLES else []))
    for t in sorted({key[1] for key in found if key[0] == name}):
        runs = [m for key, m in found.items() if key[:2] == (name, t)]
        budget = f"{t:g} s of labels" if t else "all training time"
        for score, unit in scores if not t else scores[:1]:
            own = {part: [m[part][score] for m in runs] for part in ("test", "network")}
            named = {peer: [m["baselines"].get(peer, {}).get(score) for m in runs] for peer in runs[0]["baselines"]}
            label = f"{name}.{f'{t:g}s.' if t else ''}{score}"
            for peer in ("ridge", "ridge_time_gain", "gru") if not t else ("ridge",):
                if _all(named.get(peer)):
                    row = paired_row(f"{label}.ensemble", own["test"], unit, peer, named[peer], budget)
                    rows.append(row | ({"errors_above": _errors_above(runs, peer)} if score == "r2" else {}))
                    rows.append(paired_row(f"{label}.network", own["network"], unit, peer, named[peer], budget))
            if not t:
                rows += [
                    paired_row(f"{label}.{peer}", values, unit, None, values, budget)
                    for peer, values in named.items()
                    if _all(values)
                ]
        rows.append(_coverage(name, t, runs, budget))

    return rows


def _errors_above(runs: list[dict[str, Any]], peer: str) -> list[float | None]:
    """By how many of its standard errors, by block bootstrap, what each run delivers is above a baseline."""
    found = [m["baselines"][peer] for m in runs]

    return [b["ensemble_over"] / b["ensemble_over_error"] if b.get("ensemble_over_error") else None for b in found]


def _all(values: Sequence[float | None] | None) -> bool:
    return bool(values) and all(v is not None for v in values or ())


def _coverage(name: str, t: float, runs: list[dict[str, Any]], budget: str) -> dict[str, Any]:
    """Coverage of 90 % intervals that follow labels, and how many of its standard errors it is off, at worst."""
    tests = [m["test"] for m in runs]
    errors = [(abs(m["adaptive_coverage_90"] - 0.9), m["adaptive_coverage_90_error"]) for m in tests]
    far = [off / error for off, error in errors if error]
    covered = [m["adaptive_coverage_90"] for m in tests]
    found = paired_row(f"{name}.{f'{t:g}s.' if t else ''}coverage", covered, "share", None, covered, budget)

    return found | {
        "worst_z": float(np.max(far)) if far else None,
        "static": [m["interval_coverage_90"] for m in tests],
    }


def _transferred(found: dict[tuple[Any, ...], dict[str, Any]]) -> list[dict[str, Any]]:
    pairs = [(m, found["chewie2", 0.0, 1, key[3]]) for key, m in found.items() if key[0] == "transfer"]
    rows = []
    for label, part in (("network", "network"), ("ensemble", "test")) if pairs else ():
        own, other = ([m[part]["r2"] for m in side] for side in zip(*pairs, strict=True))
        rows.append(paired_row(f"chewie2.pretrained.{label}", own, "R2", "scratch", other, "all training time"))

    return rows

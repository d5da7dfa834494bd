"""``ndt bench recordings``: real recordings decoded from all their training time, in folds, and from seconds of it."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ndt.benchmarks.studies import RECORDED, labelled_seconds, paired_row, pretrained_seeds, recorded
from ndt.config import BASELINES, PretrainConfig, StudyConfig
from ndt.errors import InputError
from ndt.finetune.study_run import finetuned
from ndt.train.studies import run_all

if TYPE_CHECKING:
    from ndt.data.store import Store

__all__ = ["recordings"]

FOLDS = {"A2929": 5}  # blocked folds, a run each; the other recordings use the session's own splits
ANGLES = ("A2929",)  # recordings whose median error in degrees is reported beside R²
FEWER = ("tcn", "ridge", "gru", "naive_bayes")  # the ensemble's members alone


class _Run(NamedTuple):
    """One run: the recording, seconds of labels (0 for all), fold (0 for none), seed, and whether it was pretrained."""

    name: str
    seconds: float
    fold: int
    seed: int
    pretrained: bool = False


Found = dict[_Run, dict[str, Any]]  # metrics.json of each run


def recordings(out: Path, seeds: int, study: StudyConfig) -> list[dict[str, Any]]:
    """Decodes each recording with models trained from scratch, and returns rows of scores beside baselines.

    With all training time, rows compare the ensemble and the network to ridge, ridge with time-varying gain and the
    GRU, and list every baseline. With each of `study.label_seconds` that the recording has, they compare ensemble and
    network to ridge. The second day of Chewie is also decoded after pretraining on the first.

    Differences to peers are paired over seeds and folds. ``errors_above`` holds for each run the difference to the peer
    in standard errors of a block bootstrap over time.

    Arguments:
        out: Folder of the study; completed runs are not repeated.
        seeds: Number of seeds.
        study: Settings; uses `data` (names of recordings; by default all), `finetune`, `pretrain.train`,
            `label_seconds` and `workers`.

    Raises:
        InputError: if a recording is not in the folder that NDT_DATA names.
    """
    names = list(RECORDED) if study.data == StudyConfig().data else [n for n in RECORDED if n in study.data]
    if not names:
        raise InputError("study", "data", f"some of {', '.join(RECORDED)}", list(study.data))
    stores = {name: recorded(name, out) for name in names}
    jobs = {run: job for name in names for run, job in _jobs(name, stores[name], out, seeds, study).items()}
    if {"chewie1", "chewie2"} <= set(names):
        jobs |= _transfers(stores, out, seeds, study)
    found = dict(zip(jobs, run_all(list(jobs.values()), study.workers, "fine-tuning"), strict=True))
    rows = [row for name in names for row in _rows(name, {r: found[r] for r in found if not r.pretrained})]

    return rows + _transferred(found)


def _jobs(name: str, store: "Store", out: Path, seeds: int, study: StudyConfig) -> dict[_Run, Any]:
    most, jobs, (session,) = FOLDS.get(name, 1), {}, store.session_ids
    longest = labelled_seconds(store, study.finetune)
    pairs = [(0.0, fold if most > 1 else 0) for fold in range(1, most + 1)]
    pairs += [(t, 0) for t in study.label_seconds if t < longest]
    for run in (_Run(name, t, fold, seed) for t, fold in pairs for seed in range(seeds)):
        split, baselines = f"fold:{run.fold}/{most}" if run.fold else "", FEWER if run.seconds else BASELINES
        config = replace(study.finetune, label_seconds=run.seconds, split=split, seed=run.seed, baselines=baselines)
        label = f"{run.seconds:g}s" if run.seconds else f"all.fold{run.fold}" if run.fold else "all"
        jobs[run] = partial(finetuned, out / name / f"{label}.seed{run.seed}", None, session, None, store, config)

    return jobs


def _transfers(stores: "dict[str, Store]", out: Path, seeds: int, study: StudyConfig) -> dict[_Run, Any]:
    """Runs on the second day of Chewie after pretraining on the first, in bins of the second day's width."""
    config = PretrainConfig(
        model=study.finetune.model, train=study.pretrain.train, target="hand_vel", bin_size=0.1,
        window=study.finetune.window,
    )  # fmt: skip
    bases = pretrained_seeds(stores["chewie1"].root, out / "chewie1" / "pretrain", config, seeds, study.workers)
    second, tuned = stores["chewie2"], replace(study.finetune, baselines=FEWER)
    (session,), folder = second.session_ids, out / "chewie2"

    return {
        _Run("chewie2", 0.0, 0, s, pretrained=True): partial(
            finetuned, folder / f"transfer.seed{s}", base, session, None, second, replace(tuned, seed=s)
        )
        for s, base in enumerate(bases)
    }


def _rows(name: str, found: Found) -> list[dict[str, Any]]:
    rows = []
    for t in sorted({run.seconds for run in found if run.name == name}):
        runs = [m for run, m in found.items() if (run.name, run.seconds) == (name, t)]
        label, budget = (f"{name}.{t:g}s", f"{t:g} s of labels") if t else (name, "all training time")
        for score, unit in (("r2", "R2"), ("median_error_deg", "deg")) if name in ANGLES and not t else (("r2", "R2"),):
            rows += _score_rows(f"{label}.{score}", score, unit, runs, budget, few=bool(t))
        rows.append(_coverage(f"{label}.coverage", [m["test"] for m in runs], budget))

    return rows


def _score_rows(
    label: str, score: str, unit: str, runs: list[dict[str, Any]], budget: str, *, few: bool
) -> list[dict[str, Any]]:
    """Returns rows of the ensemble and of the network beside baselines and, unless `few`, of each baseline alone."""
    peers = {peer: [m["baselines"].get(peer, {}).get(score) for m in runs] for peer in runs[0]["baselines"]}
    peers = {peer: values for peer, values in peers.items() if None not in values}
    rows = []
    for peer in ("ridge",) if few else ("ridge", "ridge_time_gain", "tcn", "gru"):
        for kind, part in (("ensemble", "test"), ("network", "network")) if peer in peers else ():
            row = paired_row(f"{label}.{kind}", [m[part][score] for m in runs], unit, peer, peers[peer], budget)
            if (kind, score) == ("ensemble", "r2"):
                row["errors_above"] = [_errors_above(m["baselines"][peer]) for m in runs]
            rows.append(row)

    return rows + ([] if few else [paired_row(f"{label}.{p}", v, unit, None, (), budget) for p, v in peers.items()])


def _errors_above(baseline: dict[str, Any]) -> float | None:
    """Difference of the ensemble to a baseline in its standard errors, by block bootstrap."""
    error = baseline.get("ensemble_over_error")

    return baseline["ensemble_over"] / error if error else None


def _coverage(label: str, tests: list[dict[str, Any]], budget: str) -> dict[str, Any]:
    """Coverage of adaptive 90 % intervals; ``worst_z`` is its largest error in standard errors."""
    errors = [(abs(m["adaptive_coverage_90"] - 0.9), m["adaptive_coverage_90_error"]) for m in tests]
    far = [off / error for off, error in errors if error]
    row = paired_row(label, [m["adaptive_coverage_90"] for m in tests], "share", None, (), budget)

    return row | {"worst_z": max(far, default=None), "static": [m["interval_coverage_90"] for m in tests]}


def _transferred(found: Found) -> list[dict[str, Any]]:
    pairs = [(found[run], found[run._replace(pretrained=False)]) for run in found if run.pretrained]
    rows = []
    for label, part in (("network", "network"), ("ensemble", "test")) if pairs else ():
        own, other = ([m[part]["r2"] for m in side] for side in zip(*pairs, strict=True))
        rows.append(paired_row(f"chewie2.pretrained.{label}", own, "R2", "scratch", other, "all training time"))

    return rows

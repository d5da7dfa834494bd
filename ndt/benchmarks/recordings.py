"""``ndt bench recordings``: real recordings decoded from all their training time, in folds, and from seconds of it."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ndt.config import BASELINES, FinetuneConfig, PretrainConfig, StudyConfig
from ndt.errors import InputError
from ndt.studies import finish, run_all, sources

if TYPE_CHECKING:
    from ndt.data.store import Store

__all__ = ["RECORDINGS", "recordings"]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording, and how it is decoded.

    Arguments:
        pattern: File under the folder that NDT_DATA names.
        folds: Blocked folds, each its own run; 1 for the session's own blocks.
        score: What is reported beside R².
        settings: What departs from the study's fine-tuning, chosen on validation.
    """

    pattern: str
    folds: int = 1
    score: str = ""
    settings: dict[str, Any]


RECORDINGS = {
    "m1": Recording(pattern="sub-m1/*.nwb", settings={}),
    "s1": Recording(pattern="sub-s1/*.nwb", settings={}),
    "chewie1": Recording(pattern="sub-chewie/*20131003*.nwb", settings={}),
    "chewie2": Recording(pattern="sub-chewie/*20131219*.nwb", settings={}),
    "A2929": Recording(pattern="sub-A2929/*.nwb", folds=5, score="median_error_deg", settings={}),
}
FEWER = ("ridge", "recurrent", "naive_bayes")  # what may have a share in the blend, and no more


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
    names = list(RECORDINGS) if study.data == StudyConfig().data else [n for n in RECORDINGS if n in study.data]
    if not names:
        raise InputError("study", "data", f"some of {', '.join(RECORDINGS)}", list(study.data))
    stores = {name: _store(name, out) for name in names}
    jobs = {key: job for name in names for key, job in _jobs(name, stores[name], out, seeds, study).items()}
    if {"chewie1", "chewie2"} <= set(names):
        jobs |= _transfers(stores, out, seeds, study)
    found = dict(zip(jobs, run_all(list(jobs.values()), study.workers, "fine-tuning"), strict=True))
    (out / "recordings.json").write_text(json.dumps({"/".join(map(str, k)): v for k, v in found.items()}))

    return [row for name in names for row in _rows(name, found)] + _transferred(found)


def _store(name: str, out: Path) -> "Store":
    from ndt.data.ingest import ingest

    root = Path(os.environ.get("NDT_DATA", "../shared/data"))
    files = sorted(root.glob(RECORDINGS[name].pattern))
    if len(files) != 1:
        raise InputError(root, "NDT_DATA", f"one recording {RECORDINGS[name].pattern}", len(files))

    return ingest(files, out / "data" / name / "store", progress=False)


def _jobs(name: str, store: "Store", out: Path, seeds: int, study: StudyConfig) -> dict[tuple[Any, ...], Any]:
    """One job for each fold, seconds of labels and seed; 0 seconds are all."""
    recording, jobs = RECORDINGS[name], {}
    seconds = [t for t in study.label_seconds if t < _labelled_seconds(store, study.finetune)]
    for t in (0.0, *seconds):
        for fold in range(1, recording.folds + 1) if not t else (0,):
            for seed in range(seeds):
                split = f"fold:{fold}/{recording.folds}" if recording.folds > 1 and fold else ""
                config = replace(study.finetune, **recording.settings, calibration=t, split=split, seed=seed)
                config = replace(config, baselines=BASELINES if not t else FEWER)
                folder = out / name / f"{f'{t:g}s' if t else 'all'}{f'.fold{fold}' if split else ''}.seed{seed}"
                jobs[name, t, fold, seed] = partial(_decode, None, store.root, folder, config)

    return jobs


def _labelled_seconds(store: "Store", config: FinetuneConfig) -> float:
    """Seconds of labels in the training block."""
    from ndt.data.targets import build_targets
    from ndt.data.windows import TRAIN, Grid, default_bin_size
    from ndt.target import labelled

    (session,) = (store.session(s) for s in store.session_ids)
    bin_size = config.bin_size or default_bin_size([session])
    grid = Grid(session, bin_size, config.window)
    known = labelled(build_targets(session, None, grid.start, bin_size, block=grid.block))

    return float((known & (grid.block == TRAIN)).sum() * bin_size)


def _decode(base: Path | None, store: Path, folder: Path, config: FinetuneConfig) -> dict[str, Any]:
    from ndt.data.store import Store
    from ndt.finetune.adapt import finetune

    (session,) = Store(store).session_ids
    asked = {"settings": asdict(config), "data": sources(Store(store)), "base": base and str(base.name)}
    train = partial(finetune, base, session, config=config, store=store, progress=False)

    return finish(folder, asked, train)


def _transfers(stores: "dict[str, Store]", out: Path, seeds: int, study: StudyConfig) -> dict[tuple[Any, ...], Any]:
    """The second day after pretraining on the first, whose bins are as wide then."""
    jobs: dict[tuple[Any, ...], Any] = {}
    for seed in range(seeds):
        config = PretrainConfig(
            model=study.finetune.model, train=study.pretrain.train, covariate="hand_vel", bin_size=0.1,
            window=study.finetune.window, seed=seed,
        )  # fmt: skip
        tuned = replace(study.finetune, seed=seed, baselines=FEWER)
        jobs["transfer", 0.0, 0, seed] = partial(
            _transfer, stores["chewie1"].root, stores["chewie2"].root, out, config, tuned
        )

    return jobs


def _transfer(first: Path, second: Path, out: Path, config: PretrainConfig, tuned: FinetuneConfig) -> dict[str, Any]:
    from ndt.benchmarks.studies import pretrained

    base = out / "chewie1" / f"pretrain.seed{config.seed}"
    pretrained(first, base, config)

    return _decode(base, second, out / "chewie2" / f"transfer.seed{config.seed}", tuned)


def _rows(name: str, found: dict[tuple[Any, ...], dict[str, Any]]) -> list[dict[str, Any]]:
    from ndt.benchmarks.studies import paired_row

    rows, recording = [], RECORDINGS[name]
    for t in sorted({key[1] for key in found if key[0] == name}):
        runs = [m for key, m in found.items() if key[:2] == (name, t)]
        budget = f"{t:g} s of labels" if t else "all training time"
        for score, unit in (("r2", "R2"), *(((recording.score, "deg"),) if recording.score and not t else ())):
            own = {part: [m[part][score] for m in runs] for part in ("test", "network")}
            named = {peer: [m["baselines"].get(peer, {}).get(score) for m in runs] for peer in runs[0]["baselines"]}
            label = f"{name}.{f'{t:g}s.' if t else ''}{score}"
            for peer in ("ridge", "ridge_gated", "recurrent") if not t else ("ridge",):
                if _all(named.get(peer)):
                    row = paired_row(f"{label}.delivered", own["test"], unit, peer, named[peer], budget)
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

    return [b["delivered_over"] / b["delivered_over_error"] if b.get("delivered_over_error") else None for b in found]


def _all(values: Sequence[float | None] | None) -> bool:
    return bool(values) and all(v is not None for v in values or ())


def _coverage(name: str, t: float, runs: list[dict[str, Any]], budget: str) -> dict[str, Any]:
    """Coverage of 90 % intervals that follow labels, and how many of its standard errors it is off, at worst."""
    from ndt.benchmarks.studies import paired_row

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
    from ndt.benchmarks.studies import paired_row

    pairs = [(m, found["chewie2", 0.0, 1, key[3]]) for key, m in found.items() if key[0] == "transfer"]
    rows = []
    for part in ("network", "test"):
        own, other = ([m[part]["r2"] for m in side] for side in zip(*pairs, strict=True)) if pairs else ([], [])
        if own:
            label = "delivered" if part == "test" else part
            rows.append(paired_row(f"chewie2.pretrained.{label}", own, "R2", "scratch", other, "all training time"))

    return rows

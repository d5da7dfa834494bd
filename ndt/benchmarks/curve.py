"""``ndt bench curve``: how many seconds of a new session's labelled data pretraining on other sessions replaces."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ndt.benchmarks import studies
from ndt.benchmarks.studies import data_set, labelled_seconds, paired_row, pretrained_seeds, simulated
from ndt.config import StudyConfig
from ndt.errors import InputError
from ndt.finetune.study_run import finetuned
from ndt.model.architectures import load_model
from ndt.train.studies import run_all

__all__ = ["curve"]

NEW_SECONDS = 300.0  # length of the new session; seven tenths of it are its training split
KINDS = ("pretrained", "scratch")


def curve(out: Path, seeds: int, study: StudyConfig) -> list[dict[str, Any]]:
    """Decodes a new simulated day from N seconds of its labels, by a pretrained network and by one from scratch.

    Pretraining sees the training splits of the sessions of ``sim40``: the spikes and, if `study.pretrain` names a
    target, the labels. The decoded session is the day after the first subject's last. Both networks are trained on the
    last N seconds of its training split, spikes and labels, for the same number of steps; with the same seed, they get
    windows of the same times in the same order. Labels of the validation split, which do not count as the N seconds,
    choose weights for both networks, and penalty and lags for ridge. Rows compare the R² of the networks alone on the
    test split.

    Arguments:
        out: Folder of the study; completed runs, in ``<out>/curve/``, are not repeated.
        seeds: Number of training seeds, on the same sessions.
        study: Settings; uses `pretrain`, `finetune`, `label_seconds` and `workers`.

    Raises:
        InputError: if the training split of the new day is shorter than the longest of `study.label_seconds`.
    """
    simulation, day = studies.SIMULATION, studies.SIMULATION.num_sessions  # from 0: the first subject's next day
    store = data_set("sim40", out, study.workers)
    longer = replace(simulation, num_sessions=day + 1, seconds=NEW_SECONDS)
    new = simulated(out / "data" / "new", longer, study.workers, [(0, day)])
    (session,), seconds = new.session_ids, sorted(study.label_seconds)
    if seconds[-1] > (has := labelled_seconds(new, study.finetune)):
        raise InputError(session, "label_seconds", f"at most the {has:g} s of its training split", seconds[-1])
    home = out / "curve"
    bases = pretrained_seeds(store.root, home / "pretrain", study.pretrain, seeds, study.workers)
    config = replace(study.finetune, bin_size=load_model(bases[0]).spec.bin_size)  # from scratch too
    runs = [(t, kind, s) for t in seconds for kind in KINDS for s in range(seeds)]
    jobs = [
        partial(
            finetuned, home / f"{t:g}s" / kind / f"seed{s}", None if kind == "scratch" else bases[s], session, None,
            new.root, replace(config, label_seconds=t, seed=s),
        )
        for t, kind, s in runs
    ]  # fmt: skip
    metrics = dict(zip(runs, run_all(jobs, study.workers, "fine-tuning"), strict=True))
    budget = f"{study.pretrain.train.steps} + {study.finetune.train.steps} steps"
    rows = []
    for t in seconds:
        own, other = ([metrics[t, kind, s]["network"]["r2"] for s in range(seeds)] for kind in KINDS)
        ridge = [metrics[t, "scratch", s]["baselines"]["ridge"]["r2"] for s in range(seeds)]
        rows.append(paired_row(f"curve.{t:g}s", own, "R2", "scratch", other, budget) | {"ridge_values": ridge})

    return rows

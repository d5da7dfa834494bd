"""``ndt bench curve``: how many seconds of a new session's labels pretraining on others is worth."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndt.benchmarks.studies import data_set, labelled_seconds, paired_row, pretrained_seeds, simulated
from ndt.config import StudyConfig
from ndt.errors import InputError
from ndt.train.studies import finetuned, run_all

if TYPE_CHECKING:
    from ndt.data.store import Store

__all__ = ["curve"]

KINDS = ("pretrained", "scratch")


def curve(out: Path, seeds: int, study: StudyConfig | None = None) -> list[dict[str, Any]]:
    """A new simulated day decoded from seconds of its labels, by a network pretrained on other days and from scratch.

    Pretraining sees the spikes of the training splits of the simulated sessions, their labels where
    `study.pretrain.covariate` says so, and nothing of the day after the first subject's last, which is decoded; its
    weights are chosen on the same sessions' validation splits. Both networks then see the last so many seconds of the
    new day's training split, spikes and labels, and nothing before them: with 15 s the masked loss of both trains on
    those 15 s. Seed by seed they are given windows of the same times, in the same order, for the same number of steps.
    Both choose weights, and ridge its penalty and lags, by the labels of the new day's validation split, which the
    seconds do not count. All are scored on its test split; rows have the networks alone.

    Writes ``config.yaml``, ``curve.json`` and ``report.html`` into `out`, runs into ``<out>/curve/``. Seeds are those
    of training; the sessions are the same.

    Arguments:
        out: Folder of the study.
        seeds: How many seeds.
        study: Settings.

    Raises:
        InputError: if the new day has not so many seconds of labels.
    """
    from ndt.model.architectures import load_model
    from ndt.model.checkpoint import save_config
    from ndt.reports.run import write_report

    study = study or StudyConfig()
    simulation, day = study.simulate, study.simulate.num_sessions  # the first subject's next day, alone
    store = data_set(f"sim{simulation.num_subjects * day}", out, study)
    longer = replace(simulation, num_sessions=day + 1, seconds=study.new_seconds)
    new = simulated(out / "data" / "new", longer, study.workers, [(0, day)])
    (session,), longest = new.session_ids, max(study.label_seconds)
    if longest > (has := labelled_seconds(new, study.finetune)):
        raise InputError(session, "label_seconds", f"at most the {has:g} s of its training split", longest)
    save_config(out, study, store.root)
    home = out / "curve"
    bases = pretrained_seeds(store.root, home / "pretrain", study.pretrain, seeds, study.workers)
    config = replace(study.finetune, bin_size=load_model(bases[0]).spec.bin_size)  # from scratch too
    places = [(t, kind, s) for t in sorted(study.label_seconds) for kind in KINDS for s in range(seeds)]
    jobs = [
        partial(
            finetuned, home / f"{t:g}s" / kind / f"seed{s}", None if kind == "scratch" else bases[s], session, None,
            new.root, replace(config, label_seconds=t, seed=s),
        )
        for t, kind, s in places
    ]  # fmt: skip
    metrics = dict(zip(places, run_all(jobs, study.workers, "fine-tuning"), strict=True))
    _save(out, metrics, new, store, study, seeds)
    write_report(out, store)

    return _rows(metrics, study, seeds)


def _save(out: Path, metrics: dict[Any, Any], new: "Store", store: "Store", study: StudyConfig, seeds: int) -> None:
    """Writes the curve for the report."""
    from ndt.data.splits import split
    from ndt.reports.label_curve import LabelCurve, gather

    simulation, (session,) = study.simulate, new.session_ids
    seconds = sorted(study.label_seconds)
    runs, controls = ([[metrics[t, k, s] for s in range(seeds)] for t in seconds] for k in KINDS)
    LabelCurve(
        session=session,
        covariate=runs[0][0]["covariate"],
        seconds=seconds,
        lines=gather(runs, controls),
        pretrained_on=(
            f"the spikes{' and labels' if study.pretrain.covariate else ''} of {len(store.session_ids)} simulated "
            f"sessions ({simulation.num_subjects} subjects, {simulation.seconds:g} s a session, {simulation.num_units} "
            f"units) for {study.pretrain.train.steps} steps, this one not among them; fine-tuned for "
            f"{study.finetune.train.steps} steps"
        ),
        valid_seconds=split(new.session(session), study.pretrain.window).valid.duration,
    ).save(out)


def _rows(metrics: dict[Any, Any], study: StudyConfig, seeds: int) -> list[dict[str, Any]]:
    budget = f"{study.pretrain.train.steps} + {study.finetune.train.steps} steps"
    rows = []
    for t in sorted(study.label_seconds):
        own, other = ([metrics[t, kind, s]["network"]["r2"] for s in range(seeds)] for kind in KINDS)
        ridge = [metrics[t, "scratch", s]["baselines"]["ridge"]["r2"] for s in range(seeds)]
        rows.append(paired_row(f"curve.{t:g}s", own, "R2", "scratch", other, budget) | {"ridge_values": ridge})

    return rows

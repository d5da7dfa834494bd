"""``ndt bench curve``: how many seconds of a new session's labels pretraining on others is worth."""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndt.benchmarks.studies import data_set, paired_row, pretrained, simulated
from ndt.config import FinetuneConfig, StudyConfig
from ndt.errors import InputError
from ndt.studies import finish, run_all, sources

if TYPE_CHECKING:
    from ndt.data.store import Store

__all__ = ["curve"]

KINDS = ("pretrained", "scratch")


def curve(out: Path, seeds: int, study: StudyConfig | None = None) -> list[dict[str, Any]]:
    """A new simulated day decoded from seconds of its labels, by a network pretrained on other days and from scratch.

    Pretraining sees the spikes of the training blocks of the simulated sessions, their labels where
    `study.pretrain.covariate` says so, and nothing of the day after the first subject's last, which is decoded; its
    weights are chosen on the same sessions' validation blocks. Both networks then see the last so many seconds of the
    new day's training block, spikes and labels, and nothing before them: with 15 s the masked loss of both trains on
    those 15 s. Seed by seed they are given windows of the same times, in the same order, for the same number of steps;
    units may lie in other patches, since a pretrained network knows some from before. The pretrained one spends the
    first `finetune.warm_steps` of its steps on placing new units, without labels; from scratch there is no trunk to
    place them in, and all steps decode.
    Both choose weights, and ridge its penalty and lags, by the labels of the new day's validation block, which the
    seconds do not count. All are scored on its test block, the networks alone, without the blend with ridge, which the
    curve has beside them as the delivered decoder.

    Writes ``config.yaml``, ``curve.json`` and ``report.html`` into `out`, runs into ``<out>/curve/``. Seeds are those
    of training; the sessions are the same.

    Arguments:
        out: Folder of the study.
        seeds: How many seeds.
        study: Settings.
    """
    import yaml

    from ndt.report import write_report

    study = study or StudyConfig()
    store, new = _sessions(out, study)
    plain = json.loads(json.dumps(asdict(study)))  # tuples become lists
    (out / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    home = out / "curve"
    bases = [home / "pretrain" / f"seed{s}" for s in range(seeds)]
    run_all(
        [partial(pretrained, store.root, bases[s], replace(study.pretrain, seed=s)) for s in range(seeds)],
        study.workers, "pretraining",
    )  # fmt: skip
    places = [(t, kind, s) for t in sorted(study.label_seconds) for kind in KINDS for s in range(seeds)]
    jobs = [
        partial(
            _decode, bases[s], kind == "scratch", new.root, home / f"{t:g}s" / kind / f"seed{s}",
            replace(study.finetune, calibration=t, seed=s),
        )
        for t, kind, s in places
    ]  # fmt: skip
    metrics = dict(zip(places, run_all(jobs, study.workers, "fine-tuning"), strict=True))
    _save(out, metrics, new, store, study, seeds)
    write_report(out)

    return _rows(metrics, study, seeds)


def _sessions(out: Path, study: StudyConfig) -> "tuple[Store, Store]":
    """The store to pretrain on, and that of the first subject's next day alone."""
    simulation = study.simulate
    store = data_set(f"sim{simulation.num_subjects * simulation.num_sessions}", out, study)
    day = simulation.num_sessions
    longer = replace(simulation, num_sessions=day + 1, seconds=study.new_seconds)

    return store, simulated(out / "data" / "new", longer, study.workers, [(0, day)])


def _decode(base: Path, scratch: bool, store: Path, folder: Path, config: FinetuneConfig) -> dict[str, Any]:
    """Returns metrics of one decoder of the store's one session.

    Raises:
        InputError: if its training block has not so many seconds of labels.
    """
    from ndt.architectures import load_model
    from ndt.data.store import Store
    from ndt.finetune.adapt import finetune
    from ndt.runs import read_json

    (session,) = Store(store).session_ids
    model = load_model(base)
    if scratch:
        config = replace(config, bin_size=model.spec.bin_size)
    origin = None if scratch else read_json(base / "asked.json")
    asked = {"settings": asdict(config), "data": sources(Store(store)), "base": origin}
    found = finish(
        folder,
        asked,
        partial(finetune, None if scratch else model, session, config=config, store=store, progress=False),
    )
    if abs((has := found["calibration_seconds"]) - config.calibration) > found["bin_size"]:
        raise InputError(session, "label_seconds", f"at most the {has:g} s of its training block", config.calibration)

    return found


def _save(out: Path, metrics: dict[Any, Any], new: "Store", store: "Store", study: StudyConfig, seeds: int) -> None:
    """Writes the curve for the report."""
    from ndt.data.splits import split
    from ndt.label_curve import LabelCurve, gather

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

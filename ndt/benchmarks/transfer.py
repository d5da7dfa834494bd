"""``ndt bench transfer``: what pretraining on other recordings is worth on a new one, beside its controls.

Three questions, each about recordings that the model was not pretrained on: ``session``, a mouse session left out (in
four groups); ``animal``, all sessions of a mouse left out; ``day``, the second day of a monkey after the first. Each is
decoded without labels, from few labels and from all of them, by

- ``pretrained``: pretrained on the other recordings, then fine-tuned;
- ``scratch``: a new model with the objectives, and the sum of the steps, of both;
- ``own``: pretrained on the spikes of the same session alone, with the same steps, then fine-tuned;
- ``noise``: ``pretrained`` with noise in place of the weights of stem and encoder, which must decode at chance;
- ``permuted``: ``pretrained`` with the identities of the session's units permuted;
- ``contextless``: ``pretrained`` without what it has learned of the session, subject and task;
- ``ridge`` or ``logistic``, ``gru`` and ``tcn``: baselines on the same labels;
- ``ndt2``: NDT2 as published, pretrained and fine-tuned (``day`` alone: its slots hold at most 288 units).

Without labels, rows also hold bits per spike of hidden tokens, whole units and last bins in the session's test split,
on which the model took no step, beside a smoother of each unit's own counts and, if there are trials, mean responses.

A mouse trial is tested once without labels, in one of five folds of contiguous trials. With labels a session is decoded
in one of these folds for each seed, the next one for the next seed: all folds would take five times as long. A fold in
which the fewest labels are of one class gives way to the next. The labels of validation splits choose weights and
penalties, and do not count.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ndt.benchmarks.encoder_controls import contextless, network_scores, noised, permuted
from ndt.benchmarks.studies import pretrained, recorded
from ndt.config import FinetuneConfig, IngestConfig, MaskConfig, PretrainConfig, StudyConfig, TrainConfig
from ndt.data.store import Store
from ndt.data.stored_masks import session_likelihood
from ndt.data.windows import BinnedSession, default_bin_size
from ndt.errors import InputError
from ndt.finetune.session_labels import session_labels
from ndt.finetune.study_run import finetuned
from ndt.model.architectures import load_model
from ndt.model.transformer import NDT
from ndt.train.studies import run_all

__all__ = ["QUESTIONS", "Case", "mouse_stores", "pooled", "transfer"]

SIDE = "side=sign(contrast_left-contrast_right)"
MOUSE_TARGETS = f"{SIDE},contrast_left,contrast_right,feedback"
NUM_GROUPS, NUM_FOLDS = 4, 5
NUM_DRAWS = 5  # of noise, whose mean must be at chance: a single random network has R² up to 0.3
MEASURES = ("r2", "recall", "class_counts")  # that rows are made of
TRIAL = 0.4  # seconds of a mouse trial
QUESTIONS: dict[str, tuple[float | None, ...]] = {  # amounts of labels: trials, or seconds for `day`; None for all
    "session": (0, 10, 20, 40, None),
    "animal": (0, 20, None),
    "day": (0, 15, 30, 60, None),
}

# Chosen on validation trials of seven of the fourteen mouse sessions.
PRETRAIN = PretrainConfig(
    train=TrainConfig(steps=150, batch_size=64, learning_rate=2e-3, weight_decay=0.1, warmup_steps=30, valid_every=50),
    mask=MaskConfig(ratio=0.25, share=0.5),
)
FINETUNE = FinetuneConfig(train=TrainConfig(steps=40, valid_every=10, weight_decay=0.3))

Scores = dict[str, Any]
Before = dict[Path, Callable[[], Any]]


class Case(NamedTuple):
    """What is decoded: question, left-out session, fold (0 for none), amount of labels and seed."""

    question: str
    session: str
    fold: int
    labels: float | None
    seed: int

    def folder(self, home: Path, variant: str) -> Path:
        """Returns the run directory of a variant."""
        labels = "all" if self.labels is None else f"{self.labels:g}"

        return home / self.question / variant / self.session / f"fold{self.fold}" / labels / f"seed{self.seed}"


Jobs = dict[tuple[Case, str], Callable[[], dict[str, Scores]]]  # by case and variant


class _Study(NamedTuple):
    """What all runs of a question share."""

    out: Path
    target: str
    pretrain: PretrainConfig
    finetune: FinetuneConfig

    def settings(self, case: Case) -> FinetuneConfig:
        """Returns the settings of fine-tuning of a case."""
        seconds = (case.labels or 0.0) * (1.0 if case.question == "day" else TRIAL)
        strategy = "none" if case.labels == 0 else "full"

        return replace(self.finetune, label_seconds=seconds, strategy=strategy, seed=case.seed)


def transfer(out: Path, seeds: int, study: StudyConfig) -> list[dict[str, Any]]:
    """Returns rows of each question, amount of labels and variant; see the module.

    Values are balanced accuracies (``session``, ``animal``; mean over sessions, folds pooled) or R² (``day``), one a
    seed. ``difference`` and ``standard_error`` compare ``pretrained`` to the variant, paired over sessions and seeds.

    Arguments:
        out: Folder of the study, to which ``transfer.png`` is added; completed runs are not repeated.
        seeds: Number of seeds.
        study: Settings; uses `workers`, `data` (some of the questions; by default all), and `pretrain` and `finetune`
            in place of the benchmark's own, if they are not the defaults.

    Raises:
        InputError: if the recordings are not in the folder that NDT_DATA names.
    """
    from ndt.benchmarks.transfer_rows import draw, rows

    asked = [q for q in QUESTIONS if q in study.data or study.data == StudyConfig().data]
    if not asked:
        raise InputError("study", "data", f"some of {', '.join(QUESTIONS)}", list(study.data))
    usual = StudyConfig()
    if study.pretrain == usual.pretrain:
        study = replace(study, pretrain=PRETRAIN)
    if study.finetune == usual.finetune:
        study = replace(study, finetune=FINETUNE)
    found: dict[Case, dict[str, Scores]] = {}
    for question in asked:
        found |= _days(out, seeds, study) if question == "day" else _mice(question, out, seeds, study)
    table = [row for question in asked for row in rows(question, found)]
    draw(table, out / "transfer.png")

    return table


def _mice(question: str, out: Path, seeds: int, study: StudyConfig) -> dict[Case, dict[str, Scores]]:
    """Decodes the mouse sessions, each left out once, alone or with all of its animal."""
    whole, folds = mouse_stores(out)
    ids = list(whole.session_ids)
    group = {s: str(i % NUM_GROUPS) if question == "session" else s.partition("_")[0] for i, s in enumerate(ids)}
    # one bin of 20 ms is the shortest default; a window is a trial
    first = replace(study.pretrain, target=MOUSE_TARGETS, window=TRIAL)
    shared = _Study(out, SIDE, first, replace(study.finetune, window=TRIAL, ensemble=("network",)))
    bases = {(g, s): out / question / "base" / f"{g}" / f"seed{s}" for g in group.values() for s in range(seeds)}
    before: Before = {}
    jobs: Jobs = {}
    for (left_out, seed), base in bases.items():
        others = tuple(s for s in ids if group[s] != left_out)
        before[base] = partial(pretrained, whole.root, base, replace(first, sessions=others, seed=seed))
    for i, session in enumerate(ids):
        labelled = [_labelled_fold(folds, session, i + seed) for seed in range(seeds)]
        for fold, seed in ((f, s) for f in range(1, NUM_FOLDS + 1) for s in range(seeds)):
            store, base = folds[fold - 1].root, bases[group[session], seed]
            with_labels = fold == labelled[seed]
            for labels in QUESTIONS[question] if with_labels else (0,):
                case = Case(question, session, fold, labels, seed)
                if with_labels:
                    before |= _own(shared, case, store)
                jobs |= _jobs(shared, case, store, base)

    return _run(before, jobs, study.workers, f"{question} left out")


def _labelled_fold(folds: list[Store], session: str, first: int) -> int:
    """Returns the first fold, counted from 1, at or after index `first` in which the fewest labels hold each class."""
    fewest = FinetuneConfig(label_seconds=min(n for n in QUESTIONS["session"] if n) * TRIAL)
    for k in (first + np.arange(NUM_FOLDS)) % NUM_FOLDS:
        recording = folds[k].session(session)
        binned = BinnedSession(recording, default_bin_size([recording]), TRIAL)
        try:
            labels, chosen, _ = session_labels(None, binned, SIDE, fewest, TRIAL)
        except InputError:  # too few labels in one of the splits
            continue
        if (np.nansum(labels.values[chosen], 0) > 0).all():
            return int(k) + 1

    raise InputError(session, SIDE, "a fold in which the fewest labels hold each class", "none")


def _days(out: Path, seeds: int, study: StudyConfig) -> dict[Case, dict[str, Scores]]:
    """Decodes the second day of a monkey, in bins of its own width, after the first."""
    stores = {name: recorded(name, out) for name in ("chewie1", "chewie2")}
    (session,), second = stores["chewie2"].session_ids, stores["chewie2"].root
    first = replace(study.pretrain, target="hand_vel", bin_size=0.1, window=study.finetune.window)
    shared = _Study(out, "hand_vel", first, replace(study.finetune, bin_size=0.1, ensemble=("network",)))
    before: Before = {}
    jobs: Jobs = {}
    for seed in range(seeds):
        base, published = (out / "day" / name / f"seed{seed}" for name in ("base", "ndt2-base"))
        before[base] = partial(pretrained, stores["chewie1"].root, base, replace(first, seed=seed))
        before[published] = partial(pretrained, stores["chewie1"].root, published, replace(_published(), seed=seed))
        for labels in QUESTIONS["day"]:
            case = Case("day", session, 0, labels, seed)
            before |= _own(shared, case, second)
            jobs |= _jobs(shared, case, second, base)
            if labels != 0:
                alone = replace(shared.settings(case), baselines=())
                folder = case.folder(out, "ndt2")
                jobs[case, "ndt2"] = partial(_decoded, "ndt2", folder, published, second, case, shared.target, alone)

    return _run(before, jobs, study.workers, "second day")


def mouse_stores(out: Path) -> tuple[Store, list[Store]]:
    """Returns the store of the mouse sessions for pretraining, and one for each fold, with a fifth of trials for test.

    A session that is pretrained on is not tested: all its trials are for training.
    """
    from ndt.data.ingest import ingest

    root = Path(os.environ.get("NDT_DATA", "../shared/data"))
    files = sorted(root.glob("mouse/*/*.nwb"))
    if not files:
        raise InputError(root, "NDT_DATA", "the mouse recordings mouse/*/*.nwb", "none")
    config, home = IngestConfig(unit_identity="session"), out / "data" / "mouse"
    stores = [ingest(files, home / "store", replace(config, split="all"), progress=False)]
    for fold in range(1, NUM_FOLDS + 1):
        split = replace(config, split=f"fold:{fold}/{NUM_FOLDS}")
        stores.append(ingest(files, home / f"fold{fold}", split, progress=False))

    return stores[0], stores[1:]


def _published() -> PretrainConfig:
    """Returns NDT2 at its own learning rate, with the depth of `tiny` and 5,000 steps."""
    from ndt.benchmarks.ragged import preset

    config = preset("ndt2")
    train = replace(config.train, steps=5000, batch_size=32, warmup_steps=500, patience=0)

    return replace(
        config, model=replace(config.model, width=128, num_layers=2), train=train, target="hand_vel", bin_size=0.1,
        window=3.0,
    )  # fmt: skip


def _own(shared: _Study, case: Case, store: Path) -> Before:
    """Returns the pretraining on the spikes of the session alone; all amounts of labels share it."""
    folder = _alone(case)._replace(labels=0).folder(shared.out, "own")
    config = replace(shared.pretrain, sessions=(case.session,), target="", seed=case.seed)

    return {folder: partial(pretrained, store, folder, config)}


def _alone(case: Case) -> Case:
    """Returns the case whose folder holds what knows no other session: two questions share it."""
    return case._replace(question="session") if case.question == "animal" else case


def _jobs(shared: _Study, case: Case, store: Path, base: Path) -> Jobs:
    """Returns the runs of a case, by variant."""
    tuned, target = shared.settings(case), shared.target
    alone = replace(tuned, baselines=())
    jobs: Jobs = {}
    jobs[case, "pretrained"] = partial(
        _decoded, "pretrained", case.folder(shared.out, "pretrained"), base, store, case, target, alone
    )
    if case.labels == 0:
        return jobs
    steps = shared.pretrain.train.steps + tuned.train.steps
    mixed = replace(tuned, train=replace(tuned.train, steps=steps), baselines=("tcn", "gru"))
    mixed = replace(mixed, mask=shared.pretrain.mask, unit_dropout=shared.pretrain.unit_dropout)
    mixed = replace(mixed, masked_weight=shared.pretrain.masked_weight, model=shared.pretrain.model)
    once = _alone(case)
    folder, own = once.folder(shared.out, "scratch"), once._replace(labels=0).folder(shared.out, "own")
    jobs[case, "scratch"] = partial(_decoded, "scratch", folder, None, store, case, target, mixed)
    jobs[case, "own"] = partial(_decoded, "own", once.folder(shared.out, "own"), own, store, case, target, alone)

    return jobs


def _decoded(
    variant: str, folder: Path, base: Path | None, store: Path, case: Case, target: str, config: FinetuneConfig
) -> dict[str, Scores]:
    """Returns scores of a run's network, and of what belongs to it: controls, or baselines."""
    metrics = finetuned(folder, base, case.session, target, store, config)
    found: dict[str, Scores] = {}
    if "network" in metrics:
        found[variant] = metrics["network"]
    else:  # without labels, a validation split with hardly a label is no obstacle
        found[variant] = network_scores(load_model(folder), Store(store), case.session)
    if variant == "scratch":
        return found | {name: m for name, m in metrics["baselines"].items() if "r2" in m}
    if variant == "pretrained":
        model, opened = load_model(folder), Store(store)
        draws = [network_scores(noised(model, draw), opened, case.session) for draw in range(NUM_DRAWS)]
        found["noise"] = {k: np.mean([d[k] for d in draws], 0).tolist() for k in MEASURES if k in draws[0]}
        changed = permuted(model, opened.session(case.session), case.seed)
        found["permuted"] = network_scores(changed, opened, case.session)
        found["contextless"] = network_scores(contextless(model), opened, case.session)
        if case.labels == 0:
            found["likelihood"] = _likelihood(model, opened, case.session)

    return found


def _likelihood(model: NDT, store: Store, session: str) -> Scores:
    """Returns bits per spike of hidden entries in a session on which the model took no step, beside references."""
    spec = model.spec
    binned = BinnedSession(store.session(session), spec.bin_size, spec.window_bins * spec.bin_size)

    return session_likelihood(model, binned)


def _run(
    before: Before,
    jobs: Jobs,
    workers: int,
    title: str,
) -> dict[Case, dict[str, Scores]]:
    """Pretrains, fine-tunes, and returns the scores of each case by variant."""
    run_all(list(before.values()), workers, f"pretraining, {title}")
    found: dict[Case, dict[str, Scores]] = {}
    for (case, _), scores in zip(jobs, run_all(list(jobs.values()), workers, f"decoding, {title}"), strict=True):
        found.setdefault(case, {}).update(scores)

    return found


def pooled(folds: list[Scores]) -> float:
    r"""Returns the balanced accuracy over the trials of all folds, or R² of a single one.

    .. math:: \tfrac1K \sum_k \sum_f h_{fk} / \sum_f n_{fk}

    with :math:`h_{fk}` of the :math:`n_{fk}` trials of class k in fold f decoded right.
    """
    if "recall" not in folds[0]:
        return float(np.mean([scores["r2"] for scores in folds]))
    counts = np.array([scores["class_counts"] for scores in folds], np.float64)
    right = np.nan_to_num(np.array([scores["recall"] for scores in folds], np.float64)) * counts
    occurs = counts.sum(0) > 0

    return float(np.mean(right.sum(0)[occurs] / counts.sum(0)[occurs]))

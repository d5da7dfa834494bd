"""Pretrains a model on the sessions of a store."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ndt.config import PretrainConfig
from ndt.config.reader import as_config
from ndt.data.activity import unit_activity
from ndt.data.leaks import check_store
from ndt.data.objective import MaskedModelling
from ndt.data.store import Store, open_store
from ndt.data.stored_masks import valid_windows
from ndt.data.targets import build_targets, offers
from ndt.data.windows import TRAIN, BinnedSession, TrainingData, default_bin_size, longest_window
from ndt.errors import InputError
from ndt.model.architectures import load_model, new_model
from ndt.model.checkpoint import ModelSpec, TargetSpec, save_config, write_json
from ndt.model.transformer import NDT
from ndt.model.vocabulary import Vocabulary
from ndt.session import Session
from ndt.target import Target, side_by_side, stacked, united
from ndt.train.loop import Trainer

__all__ = ["pretrain", "shared_labels"]


def pretrain(
    store: str | Path | Store,
    out: str | Path,
    config: PretrainConfig | str | Path | None = None,
    *,
    init: NDT | str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> NDT:
    """Pretrains on the training splits of a store's sessions, by masked modelling and on labels, and returns the model.

    Writes a run directory: config.yaml, model.safetensors, model.json, metrics.json, log.jsonl, tensorboard/,
    checkpoints/.

    Arguments:
        store: A store, or the folder of one.
        out: Run directory.
        config: Settings, or a file of them; the defaults are the preset `tiny`.
        init: A model, its run directory, or hf:ORG/NAME, whose training continues on these sessions with its own
            architecture, bins and window; None for a new model.
        resume: Whether to continue from the run's last checkpoint; the result equals that of an uninterrupted run.
        progress: Whether to show a progress bar.

    Raises:
        InputError: if the store has no such session, a session is too short to be split, or one trains on time that
            another holds out.
    """
    store, out, config = open_store(store, "pretrain"), Path(out), as_config(PretrainConfig, config)
    base = load_model(init) if isinstance(init, str | Path) else init
    if init is not None and isinstance(init, str | Path) and Path(init).resolve() == out.resolve():
        raise InputError(out, "out", "another folder than the initial model's", "the same")
    sessions = [store.session(s) for s in (config.sessions or store.training_ids)]
    if not sessions:
        raise InputError(store.root, "sessions", "at least one that is not kept for evaluation", "none")
    bin_size, window_bins = _bins(sessions, base, config, out)
    binned_sessions = [BinnedSession(s, bin_size, window_bins * bin_size) for s in sessions]
    check_store(store, {s.session_id for s in sessions}, window_bins * bin_size, config.leaks)
    target, labels = shared_labels(binned_sessions, config.target, None if base is None else base.spec.target)
    spec = ModelSpec(
        config=config.model if base is None else base.config,
        target=target,
        vocabulary=(Vocabulary() if base is None else base.vocabulary).extend(sessions),
        bin_size=bin_size,
        window_bins=window_bins,
        data=({} if base is None else base.spec.data) | {s.session_id: _source(s) for s in sessions},
    )
    torch.manual_seed(config.seed)  # modules initialise from the global generator
    model = new_model(spec) if base is None else base.extended(spec)
    found = _observed(model, binned_sessions, labels)
    if base is None:
        model.standardise([data.activity for data in found])
    model.drop_residuals(config.residual_dropout)
    objective = MaskedModelling(found, model, config)
    trainer = Trainer(model, objective, config.train, out=out, seed=config.seed, resume=resume, progress=progress)
    config = replace(config, bin_size=bin_size, model=spec.config)
    save_config(out, config, store.root)  # only now: a refused resume changes nothing
    counted = trainer.run()
    model.drop_residuals(0.0)
    model.store = store.root
    windows = valid_windows(found, window_bins, references=True)
    valid = _by_kind(objective.scores(model, windows)) if windows else {}
    num_parameters = sum(p.numel() for p in model.parameters())
    if trainer.accelerator.is_main_process:
        model.save_pretrained(out)
        write_json(out / "metrics.json", {"valid": valid, **counted, "num_parameters": num_parameters})

    return model


def _observed(
    model: NDT, binned_sessions: list[BinnedSession], labels: list[NDArray[np.float32]] | None
) -> list[TrainingData]:
    """Returns the training data of sessions, whose units the model observes.

    A unit of several sessions keeps the activity of the last, which is closest to future days.
    """
    found = []
    for i, binned in enumerate(binned_sessions):
        chosen = binned.split == TRAIN
        activity = unit_activity(binned, chosen)
        model.observe(binned.session, activity)
        own = None if labels is None else labels[i]
        found.append(TrainingData(binned, chosen, model.rows(binned.session), activity, own))

    return found


def _source(session: Session) -> str:
    return str(session.source.get("sha256", ""))


def _bins(sessions: list[Session], base: NDT | None, config: PretrainConfig, out: Path) -> tuple[float, int]:
    """Returns the bin width in seconds and the bins of the longest window: the initial model's, or a new model's."""
    if base is not None:
        return base.spec.bin_size, base.spec.window_bins
    bin_size = config.bin_size or default_bin_size(sessions)

    return bin_size, longest_window(config, bin_size, out)


def _by_kind(found: dict[str, float]) -> dict[str, Any]:
    """Returns measures as metrics.json has them: those of each kind of mask under ``masks``."""
    masks: dict[str, dict[str, float]] = {}
    for name, value in found.items():
        kind, _, measure = name.rpartition("/")
        if kind:
            masks.setdefault(kind, {})[measure] = value

    return {k: v for k, v in found.items() if "/" not in k and k != "score"} | {"masks": masks}


def shared_labels(
    binned_sessions: list[BinnedSession], names: str, known: TargetSpec | None = None
) -> tuple[TargetSpec | None, list[NDArray[np.float32]] | None]:
    """Returns the target, standardised over all training splits together, and each session's labels, (R, C).

    Labels of sessions that lack a target are NaN. Classes are those of any session.

    Raises:
        InputError: if no session has one of the targets, a name is ambiguous within a session, a target does not vary,
            or two sessions have it with different dimensions or units.
    """
    if not names:
        return None, None
    shared = [_shared(binned_sessions, name.strip()) for name in names.split(",")]
    targets = [side_by_side(of_session) for of_session in zip(*shared, strict=True)]
    found = [part.name for part in targets[0].parts]
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise InputError("pretrain", "target", "each once", f"{twice[0]} twice")
    train = np.concatenate([g.split == TRAIN for g in binned_sessions])
    spec = TargetSpec.fitted(stacked(targets), train, "pretrain", known)

    return spec, [spec.standardise(target.values) for target in targets]


def _shared(binned_sessions: list[BinnedSession], name: str) -> list[Target]:
    """Returns one target of each session, all with the same columns."""
    found = [
        build_targets(g.session, [name], g.start, g.bin_size) if offers(g.session, name) else None
        for g in binned_sessions
    ]
    parts = [(g.session.session_id, t.parts[0]) for g, t in zip(binned_sessions, found, strict=True) if t is not None]
    if not parts:
        raise InputError("pretrain", "target", f"{name} in one of the sessions", "none has it")
    part = united(parts)
    missing = [Target.unlabelled([part], len(g)) for g in binned_sessions]

    return [m if t is None else t.expanded([part]) for t, m in zip(found, missing, strict=True)]

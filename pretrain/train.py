"""Pretrains a model on the sessions of a store."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ndt.config import PretrainConfig
from ndt.config.reader import as_config
from ndt.data.leaks import check_store
from ndt.data.store import Store, open_store
from ndt.data.windows import TRAIN, BinnedSession, default_bin_size, longest_window
from ndt.errors import InputError
from ndt.model.architectures import new_model
from ndt.model.checkpoint import ModelSpec, save_config, write_json
from ndt.model.transformer import NDT
from ndt.model.vocabulary import Vocabulary
from ndt.pretrain.labels import shared_labels
from ndt.pretrain.objective import MaskedModelling
from ndt.train.loop import Trainer

__all__ = ["pretrain"]


def pretrain(
    store: str | Path | Store,
    out: str | Path,
    config: PretrainConfig | str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
) -> NDT:
    """Pretrains by masked modelling on the training splits of a store's sessions and returns the model.

    Writes a run directory: config.yaml, model.safetensors, model.json, metrics.json, log.jsonl, tensorboard/,
    checkpoints/.

    Arguments:
        store: A store, or the folder of one.
        out: Run directory.
        config: Settings, or a file of them; the defaults are the preset `tiny`.
        resume: Whether to continue from the run's last checkpoint; the result equals that of an uninterrupted run.
        progress: Whether to show a progress bar.

    Raises:
        InputError: if the store has no such session, a session is too short to be split, or one trains on time that
            another holds out.
    """
    store, out, config = open_store(store, "pretrain"), Path(out), as_config(PretrainConfig, config)
    sessions = [store.session(s) for s in (config.sessions or store.training_ids)]
    if not sessions:
        raise InputError(store.root, "sessions", "at least one that is not kept for evaluation", "none")
    bin_size = config.bin_size or default_bin_size(sessions)
    window_bins = longest_window(config, bin_size, out)
    binned_sessions = [BinnedSession(s, bin_size, window_bins * bin_size) for s in sessions]
    check_store(store, {s.session_id for s in sessions}, window_bins * bin_size, config.leaks)
    target, labels = shared_labels(binned_sessions, config.target)
    spec = ModelSpec(
        config=config.model,
        target=target,
        vocabulary=Vocabulary().extend(sessions),
        bin_size=bin_size,
        window_bins=window_bins,
        data={s.session_id: str(s.source.get("sha256", "")) for s in sessions},
    )
    torch.manual_seed(config.seed)  # modules initialise from the global generator
    model = new_model(spec)
    for binned in binned_sessions:  # a unit of several sessions keeps the mean of the last: closest to future days
        model.observe(binned.session, binned.mean_counts(binned.split == TRAIN))
    parts = target.parts if target is not None else ()
    objective = MaskedModelling(binned_sessions, spec.vocabulary, config, window_bins, labels, parts, model.SHARED_MASK)
    trainer = Trainer(model, objective, config.train, out=out, seed=config.seed, resume=resume, progress=progress)
    save_config(out, replace(config, bin_size=bin_size), store.root)  # only now: a refused resume changes nothing
    counted = trainer.run()
    model.store = store.root
    found = _by_kind(objective.validate(model))
    num_parameters = sum(p.numel() for p in model.parameters())
    if trainer.accelerator.is_main_process:
        model.save_pretrained(out)
        write_json(out / "metrics.json", {"valid": found, **counted, "num_parameters": num_parameters})

    return model


def _by_kind(found: dict[str, float]) -> dict[str, Any]:
    """Returns measures as metrics.json has them: those of each kind of mask under ``masks``."""
    masks: dict[str, dict[str, float]] = {}
    for name, value in found.items():
        kind, _, measure = name.rpartition("/")
        if kind:
            masks.setdefault(kind, {})[measure] = value

    return {k: v for k, v in found.items() if "/" not in k and k != "score"} | {"masks": masks}

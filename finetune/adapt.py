"""Fine-tunes a decoder for one session, and scores it together with its baselines."""

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ndt.config import FinetuneConfig
from ndt.config.reader import as_config
from ndt.data.activity import unit_activity
from ndt.data.leaks import check_base
from ndt.data.splits import assign_splits
from ndt.data.store import Store, open_store
from ndt.data.targets import find_sources
from ndt.data.windows import TRAIN, BinnedSession, TrainingData, default_bin_size, longest_window
from ndt.errors import InputError
from ndt.finetune.decoding import Decoding
from ndt.finetune.scoring import score_session
from ndt.finetune.session_labels import auxiliary_parts, auxiliary_values, seconds_of_labels, session_labels
from ndt.finetune.strategies import UNLABELLED, choose_strategy, stages
from ndt.model.architectures import load_model, new_model
from ndt.model.checkpoint import ModelSpec, TargetSpec, save_config, write_json
from ndt.model.transformer import NDT
from ndt.model.vocabulary import Vocabulary
from ndt.session import Covariate
from ndt.target import Target
from ndt.train.loop import Trainer

__all__ = ["Decoder", "finetune", "opened"]


@dataclass(frozen=True)
class Decoder:
    """A fine-tuned decoder.

    Arguments:
        model: The network.
        metrics: Content of metrics.json.
        run: Run directory.
    """

    model: NDT
    metrics: dict[str, Any]
    run: Path


def finetune(
    base: NDT | str | Path | None,
    session: str,
    target: str | None = None,
    *,
    out: str | Path,
    config: FinetuneConfig | str | Path | None = None,
    store: str | Path | Store | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Decoder:
    """Trains a decoder on a session's training split, selects it on validation, and scores it and baselines on test.

    Writes a run directory: config.yaml, model.safetensors, model.json, ensemble.json, ensemble.safetensors,
    metrics.json, predictions.npz, log.jsonl, tensorboard/, checkpoints/.

    Arguments:
        base: A pretrained model, its run directory, or hf:ORG/NAME; None trains from scratch.
        session: Session id, in the store; pretraining need not have seen it.
        target: Name of the target; by default a velocity or heading.
        out: Run directory.
        config: Settings, or a file of them.
        store: The store; by default the one that `base` was pretrained on.
        resume: Whether to continue from the run's last checkpoint.
        progress: Whether to show a progress bar.

    Raises:
        InputError: if the store has no such session or target, a split has too few labels, or the base model was
            trained on time that the session holds out.
    """
    config, out = as_config(FinetuneConfig, config), Path(out)
    base, store = opened(base, store, out)
    binned, window_bins = _binned(base, store, session, target, config)
    config = choose_strategy(config, base, seconds_of_labels(binned, target, config))
    labels, chosen, lags = session_labels(base, binned, target, config, window_bins * binned.bin_size)
    spec = _specification(base, binned, labels, chosen, config, window_bins)
    assert spec.target is not None, "a decoder has a target"

    torch.manual_seed(config.seed)  # modules initialise from the global generator
    model = new_model(spec) if base is None else base.extended(spec)
    activity = unit_activity(binned, binned.split == TRAIN)  # needs no labels
    model.observe(binned.session, activity)
    if base is None:
        model.standardise([activity])
    auxiliary = auxiliary_values(binned, spec.target.auxiliary, labels, chosen)
    values = np.concatenate([spec.target.standardise(labels.values), auxiliary.values], 1)
    labelled = config.strategy not in UNLABELLED
    data = TrainingData(binned, chosen, model.rows(binned.session), activity, values if labelled else None)
    plan = stages(config, base is not None)
    facts: dict[str, Any] = {"lags": lags}
    writes = True
    if plan:
        objective = Decoding(data, labels, model, config, plan, base is not None)
        trainer = Trainer(model, objective, config.train, out=out, seed=config.seed, resume=resume, progress=progress)
        save_config(out, config, store.root)  # only now: a refused resume changes nothing
        trainer.run()
        facts |= {"train_seconds": trainer.seconds, "steps": trainer.step}
        writes = trainer.accelerator.is_main_process
    else:
        save_config(out, config, store.root)
        model.eval()
    model.store = store.root
    metrics = _write(model, binned, labels, chosen, config, facts, out, writes)

    return Decoder(model, metrics, out)


def opened(base: NDT | str | Path | None, store: str | Path | Store | None, out: Path) -> tuple[NDT | None, Store]:
    """Returns the base model, and the store: by default the one that the model was trained on.

    Raises:
        InputError: if `out` is the base model's own folder, or there is no store.
    """
    if isinstance(base, str | Path) and Path(base).resolve() == out.resolve():
        raise InputError(out, "out", "another folder than the base model's", "the same")
    model = load_model(base) if isinstance(base, str | Path) else base

    return model, open_store(store or (None if model is None else model.store), "finetune")


def _binned(
    base: NDT | None, store: Store, session: str, target: str | None, config: FinetuneConfig
) -> tuple[BinnedSession, int]:
    """Returns the session in bins, and the bins of the longest window: the base model's, or a new model's own.

    If `config.split` asks for splits of this run alone, they are cut from time in which the target has labels.
    """
    recording = store.session(session)
    if config.split:
        sources = [source.of for source in find_sources(recording, target)]
        series = {of.name: of for of in sources if isinstance(of, Covariate)}
        splits = assign_splits(replace(recording, covariates=series or recording.covariates), config.split)
        recording = replace(recording, intervals=splits.intervals)
    if base is None:
        bin_size = config.bin_size or default_bin_size([recording], target)
        window_bins = longest_window(config, bin_size, session)
        return BinnedSession(recording, bin_size, window_bins * bin_size), window_bins
    bin_size, window_bins = base.spec.bin_size, base.spec.window_bins
    binned = BinnedSession(recording, bin_size, window_bins * bin_size)
    check_base(
        base.spec.data, base.store, store, session, window_bins * bin_size, config.leaks, own_splits=bool(config.split)
    )

    return binned, window_bins


def _specification(
    base: NDT | None,
    binned: BinnedSession,
    target: Target,
    chosen: NDArray[np.bool_],
    config: FinetuneConfig,
    window_bins: int,
) -> ModelSpec:
    """Returns the specification of the model to train."""
    session, known = binned.session, None if base is None else base.spec.target
    fitted = TargetSpec.fitted(target, chosen, session.session_id, known)
    if config.strategy not in UNLABELLED:
        fitted = replace(fitted, auxiliary=auxiliary_parts(binned, config.auxiliary, target, chosen))

    return ModelSpec(
        config=base.config if base is not None else config.model,
        vocabulary=(base.vocabulary if base is not None else Vocabulary()).extend([session]),
        bin_size=binned.bin_size,
        window_bins=window_bins,
        target=fitted,
        data={
            **(base.spec.data if base is not None else {}),
            session.session_id: str(session.source.get("sha256", "")),
        },
    )


def _write(
    model: NDT,
    binned: BinnedSession,
    target: Target,
    chosen: NDArray[np.bool_],
    config: FinetuneConfig,
    facts: dict[str, Any],
    out: Path,
    writes: bool,
) -> dict[str, Any]:
    """Scores the decoder if labels exist, writes the run's files, and returns the content of metrics.json."""
    scored = score_session(model, binned, target, chosen, config)
    metrics = scored.metrics | facts | {"architecture": asdict(model.config)}
    if writes:
        model.save_pretrained(out)
        if scored.ensemble is not None:
            scored.ensemble.save(out)
            path, temporary = out / "predictions.npz", out / f".{os.getpid()}.predictions.npz"
            np.savez_compressed(temporary, **scored.predictions)  # type: ignore[arg-type]
            os.replace(temporary, path)  # whole or not at all
        write_json(out / "metrics.json", metrics)

    return metrics

"""Fine-tunes a decoder for one session, and scores it together with its baselines."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ndt.config import FinetuneConfig, TrainConfig
from ndt.config.reader import as_config
from ndt.data.leaks import check_base
from ndt.data.splits import assign_splits
from ndt.data.store import Store, open_store
from ndt.data.targets import find_sources
from ndt.data.windows import BinnedSession, default_bin_size, longest_window
from ndt.errors import InputError
from ndt.finetune.alignment import align
from ndt.finetune.decoder_stage import DecoderStage
from ndt.finetune.decoding import Decoding
from ndt.finetune.probe import fit_probe
from ndt.finetune.scoring import score_session
from ndt.finetune.session_labels import auxiliary_parts, auxiliary_values, seconds_of_labels, session_labels
from ndt.finetune.strategies import STRATEGIES, choose_strategy
from ndt.model.architectures import load_model, new_model
from ndt.model.checkpoint import ModelSpec, TargetSpec, save_config, write_json
from ndt.model.tcn import TCNDecoder
from ndt.model.transformer import NDT
from ndt.model.vocabulary import Vocabulary
from ndt.session import Covariate
from ndt.target import Target
from ndt.train.loop import Trainer

__all__ = ["Decoder", "finetune", "opened"]

TCN_DECODERS = ("tcn", "tcn_latents")  # decoders that can learn auxiliary targets
PATIENCE = 3  # validations (tenths of the decoder training stage) without improvement: few labels are soon overfitted


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
        base: A pretrained model, or its run directory or Hub name; None trains from scratch.
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
    stores = _stores(base, store)
    config = _resolved(base, stores, binned, target, config)
    labels, chosen, lags = session_labels(base, binned, target, config, window_bins * binned.bin_size)
    spec, target_spec = _specification(base, binned, labels, chosen, config, window_bins)

    torch.manual_seed(config.seed)  # modules initialise from the global generator
    model = new_model(spec) if base is None else base.extended(spec)
    model.observe(binned.session, binned.mean_counts(chosen))
    facts: dict[str, Any] = {"lags": lags}
    if base is not None and (STRATEGIES[config.strategy].aligned or config.align_to):
        facts["alignment"] = align(model, base, stores, binned, chosen, config.align_to)

    auxiliary = auxiliary_values(binned, target_spec.auxiliary, labels, chosen)
    decoder_only = base is None and not spec.encodes
    stage, loop = (DecoderStage, _decoder_loop(config)) if decoder_only else (Decoding, config.train)
    objective = stage(binned, chosen, labels.values, model, config, _new_parts(base, spec), auxiliary)
    trainer = partial(Trainer, model, seed=config.seed, progress=progress)
    first = trainer(objective, loop, out=out, resume=resume)
    save_config(out, config, store.root)  # only now: a refused resume changes nothing
    facts |= _train(first, objective, trainer, resume)
    if STRATEGIES[config.strategy].decoder:
        fit_probe(model, binned, labels.values, chosen)
    model.store = store.root
    metrics = _write(model, binned, labels, chosen, config, facts, out, first.accelerator.is_main_process)

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
        if base is not None:  # it may have been trained on what these splits hold out
            raise InputError("settings", "split", "a model from scratch", "a pretrained one, with its own splits")
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
    check_base(base.spec.data, base.store, store, session, window_bins * bin_size, config.leaks)

    return binned, window_bins


def _stores(base: NDT | None, store: Store) -> list[Store]:
    """Returns the stores that may hold a subject's earlier days: the session's, and that of the base model."""
    found = [store]
    if base is not None and base.store is not None and base.store.resolve() != store.root.resolve():
        found += [Store(base.store)] if (base.store / "manifest.json").exists() else []

    return found


def _resolved(
    base: NDT | None, stores: list[Store], binned: BinnedSession, target: str | None, config: FinetuneConfig
) -> FinetuneConfig:
    """Returns the settings with every ``auto`` replaced by what it means for this model and session."""
    labels = seconds_of_labels(binned, target, config)
    config = choose_strategy(config, base, stores, binned.session, labels)
    if not STRATEGIES[config.strategy].labelled:  # without labels there are no ensemble weights to fit
        config = replace(config, ensemble=("network",))
    if base is None or set(map(str, binned.session.units.id)) <= set(base.vocabulary.units):
        config = replace(config, embedding_warmup_steps=0)  # all units are new, or none is

    return config


def _specification(
    base: NDT | None,
    binned: BinnedSession,
    target: Target,
    chosen: NDArray[np.bool_],
    config: FinetuneConfig,
    window_bins: int,
) -> tuple[ModelSpec, TargetSpec]:
    """Returns the specification of the model to train, and that of its target."""
    session = binned.session
    old = base.spec.target if base is not None else None
    model = base.config if base is not None else config.model
    if decoder := STRATEGIES[config.strategy].decoder:
        model = replace(model, decoder=decoder)
    if old is not None and (old.parts, old.lag) == (target.parts, target.lag):
        target_spec = old  # the decoder is kept, and with it the scale of its output
    else:
        target_spec = TargetSpec.fitted(target, chosen, session.session_id)
        if model.decoder in TCN_DECODERS:
            auxiliary = auxiliary_parts(binned, config.auxiliary, target, chosen)
            target_spec = replace(target_spec, auxiliary=auxiliary)
    spec = ModelSpec(
        config=model,
        vocabulary=(base.vocabulary if base is not None else Vocabulary()).extend([session]),
        bin_size=binned.bin_size,
        window_bins=window_bins,
        target=target_spec,
        data={
            **(base.spec.data if base is not None else {}),
            session.session_id: str(session.source.get("sha256", "")),
        },
        encodes=base.spec.encodes if base is not None else not model.decoder_reads_counts,
    )

    return spec, target_spec


def _new_parts(base: NDT | None, spec: ModelSpec) -> tuple[str, ...]:
    """Returns the prefixes of the names of parameters that were not pretrained; an empty prefix is all."""
    if base is None:
        return ("",)
    same = (base.spec.target, base.config.decoder) == (spec.target, spec.config.decoder)

    return () if same else ("decoder.",)


def _decoder_loop(config: FinetuneConfig) -> TrainConfig:
    """Returns the training loop of the decoder training stage."""
    if not config.decoder_steps:
        raise InputError("settings", "decoder_steps", "at least 1 for a decoder of counts", 0)
    every = max(config.decoder_steps // 10, 1)

    return replace(config.train, steps=config.decoder_steps, valid_every=every, patience=PATIENCE)


def _train(first: Trainer, objective: Decoding, trainer: Callable[..., Trainer], resume: bool) -> dict[str, float]:
    """Trains the model, then a TCN decoder alone, whose weights it keeps if they are better on validation.

    Returns:
        ``train_seconds``, and ``steps`` of the model and ``decoder_steps`` of the decoder training stage.
    """
    first.run()
    model, config, new = first.model, objective.config, objective.new
    if isinstance(objective, DecoderStage):
        return {"train_seconds": first.seconds, "steps": 0, "decoder_steps": first.step}
    facts = {"train_seconds": first.seconds, "steps": first.step, "decoder_steps": 0}
    learns = isinstance(model.decoder, TCNDecoder) and STRATEGIES[config.strategy].learns_decoder(new)
    if not (learns and config.decoder_steps and (new or config.backbone_lr_scale)):
        return facts
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    o, folder = objective, first.out / "decoder"
    stage = DecoderStage(o.binned, o.chosen, o.true, model, config, new, o.auxiliary)
    resume = resume and any((folder / "checkpoints").glob("step_*"))
    second = trainer(stage, _decoder_loop(config), out=folder, resume=resume)
    second.run()
    if second.best_score <= first.best_score:
        model.load_state_dict(kept)

    return facts | {"train_seconds": first.seconds + second.seconds, "decoder_steps": second.step}


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

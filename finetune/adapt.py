"""Fine-tunes a decoder for one session and scores it beside its baselines."""

import os
from dataclasses import asdict, dataclass, replace
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
from ndt.data.targets import build_targets, find_sources
from ndt.data.windows import TEST, TRAIN, VALID, BinnedSession, default_bin_size, longest_window
from ndt.errors import InputError
from ndt.finetune.alignment import align
from ndt.finetune.auxiliary import auxiliary_parts, auxiliary_values
from ndt.finetune.decoder_stage import DecoderStage
from ndt.finetune.decoding import Decoding
from ndt.finetune.lags import choose_lag
from ndt.finetune.probe import fit_probe
from ndt.finetune.scoring import score_nothing, score_session
from ndt.finetune.strategies import STRATEGIES, choose_strategy
from ndt.finetune.unlabelled import FEWEST, can_be_scored, kept_target, last_seconds, seconds_of_labels
from ndt.model.architectures import load_model, new_model
from ndt.model.checkpoint import ModelSpec, TargetSpec, save_config, write_json
from ndt.model.tcn import TCNDecoder
from ndt.model.transformer import NDT
from ndt.model.vocabulary import Vocabulary
from ndt.session import Covariate, Session
from ndt.target import Target, labelled
from ndt.train.loop import Trainer

__all__ = ["Decoder", "finetune", "opened"]

TCN_DECODERS = ("tcn", "tcn_latents")  # decoders that may learn something beside
PATIENCE = 3  # tenths of the decoder's own steps without improvement: with little data it soon knows labels by heart


@dataclass(frozen=True)
class Decoder:
    """A fine-tuned decoder.

    Arguments:
        model: The network.
        metrics: What metrics.json says.
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
    """Trains a decoder on a session's training split, chooses on validation, reports on test beside the baselines.

    Writes a run directory: config.yaml, model.safetensors, model.json, ensemble.json, ensemble.safetensors,
    metrics.json, predictions.npz, log.jsonl, tensorboard/, checkpoints/.

    Arguments:
        base: A pretrained model, or its run directory or Hub name; None trains from scratch.
        session: Session id, in the store; pretraining need not have seen it.
        target: Name of the target; by default a velocity or heading.
        out: Run directory.
        config: Settings, or a file of them.
        store: The store; by default the one that `base` was pretrained on.
        resume: Whether to go on from the run's last checkpoint.
        progress: Whether to show a progress bar.

    Raises:
        InputError: if there is no such session or target, too little of it for a split, or the base model saw what
            the session holds out.
    """
    config, out = as_config(FinetuneConfig, config), Path(out)
    base, store = opened(base, store, out)
    recording = _recording(base, store, session, target, config)
    bin_size, window_bins = _bins(base, recording, target, config)
    binned = BinnedSession(recording, bin_size, window_bins * bin_size)
    if base is not None:
        check_base(base.spec.data, base.store, store, session, window_bins * bin_size, config.leaks)
    stores = _stores(base, store)
    config = _decided(base, stores, binned, target, config)
    labels, chosen, lags = _labels(base, binned, target, config, window_bins * bin_size)
    spec = _specification(base, binned, labels, chosen, config, window_bins)

    torch.manual_seed(config.seed)  # modules initialise from the global generator
    model = new_model(spec) if base is None else base.extended(spec)
    model.observe(recording, binned.mean_counts(chosen))
    new = _new_parts(base, spec)
    found: dict[str, Any] = {"lags": lags}
    if base is not None and (STRATEGIES[config.strategy].aligned or config.align_to):
        found["alignment"] = align(model, base, stores, binned, chosen, config.align_to)
    assert spec.target is not None, "something is decoded"
    auxiliary = auxiliary_values(binned, spec.target.auxiliary, labels, chosen)
    alone = not spec.encodes and base is None
    objective = (DecoderStage if alone else Decoding)(binned, chosen, labels.values, model, config, new, auxiliary)
    train = _of_decoder(config) if alone else config.train
    if isinstance(objective, DecoderStage):
        objective.begin(model)
    trainer = Trainer(model, objective, train, out=out, seed=config.seed, resume=resume, progress=progress)
    save_config(out, config, store.root)  # only now: a refused resume changes nothing
    counted = trainer.run()
    if STRATEGIES[config.strategy].decoder:
        fit_probe(model, binned, labels.values, chosen)
    decoder = isinstance(model.decoder, TCNDecoder) and STRATEGIES[config.strategy].learns_decoder(new)
    if not alone and decoder and config.decoder_steps and (new or config.backbone_lr_scale):
        counted |= _refine(model, objective, trainer, out, resume, progress)
    model.store = store.root
    found |= {"train_seconds": counted["train_seconds"], "steps": 0 if alone else trainer.step}
    found["decoder_steps"] = trainer.step if alone else int(counted.get("decoder_steps", 0))
    metrics = _write(model, binned, labels, chosen, config, found, out, trainer.accelerator.is_main_process)

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


def _write(
    model: NDT,
    binned: BinnedSession,
    target: Target,
    chosen: NDArray[np.bool_],
    config: FinetuneConfig,
    found: dict[str, Any],
    out: Path,
    writes: bool,
) -> dict[str, Any]:
    """Scores what was trained, as far as there are labels, writes it and returns what metrics.json says."""
    score = score_session if can_be_scored(binned, target) else score_nothing
    scored = score(model, binned, target, chosen, config)
    metrics = scored.metrics | found | {"architecture": asdict(model.config)}
    if writes:
        model.save_pretrained(out)
        if scored.ensemble is not None:
            scored.ensemble.save(out)
            _save_predictions(out / "predictions.npz", scored.predictions)
        write_json(out / "metrics.json", metrics)

    return metrics


def _refine(model: NDT, whole: Decoding, before: Trainer, out: Path, resume: bool, progress: bool) -> dict[str, float]:
    """Trains the decoder on, and keeps that if it is better on validation; returns what was counted in all."""
    config, kept = whole.config, {k: v.clone() for k, v in model.state_dict().items()}
    objective = DecoderStage(whole.binned, whole.chosen, whole.true, model, config, whole.new, whole.auxiliary).begin(
        model
    )
    folder = out / "decoder"
    resume = resume and any((folder / "checkpoints").glob("step_*"))
    trainer = Trainer(
        model, objective, _of_decoder(config), out=folder, seed=config.seed, resume=resume, progress=progress
    )
    counted = trainer.run()
    if trainer.best_score <= before.best_score:
        model.load_state_dict(kept)

    return {"train_seconds": counted["train_seconds"] + before.seconds, "decoder_steps": counted["steps"]}


def _of_decoder(config: FinetuneConfig) -> TrainConfig:
    """The training loop of the decoder alone."""
    if not config.decoder_steps:
        raise InputError("settings", "decoder_steps", "at least 1 for a decoder of counts", 0)
    every = max(config.decoder_steps // 10, 1)

    return replace(config.train, steps=config.decoder_steps, valid_every=every, patience=PATIENCE)


def _decided(
    base: NDT | None, stores: list[Store], binned: BinnedSession, target: str | None, config: FinetuneConfig
) -> FinetuneConfig:
    """Settings as they are used: the way to adapt has a name, and nothing is warmed up that knows all or nothing."""
    labels = seconds_of_labels(binned, target, config)
    config = choose_strategy(config, base, stores, binned.session, labels)
    if not STRATEGIES[config.strategy].labelled:  # nor have labels a say in what is delivered
        config = replace(config, ensemble=("network",))
    if base is None or set(map(str, binned.session.units.id)) <= set(base.vocabulary.units):
        config = replace(config, embedding_warmup_steps=0)  # no unit to place, or nothing to place it in

    return config


def _new_parts(base: NDT | None, spec: ModelSpec) -> tuple[str, ...]:
    """How the names of parameters begin that were not pretrained; an empty name is all."""
    if base is None:
        return ("",)
    same = (base.spec.target, base.config.decoder) == (spec.target, spec.config.decoder)

    return () if same else ("decoder.",)


def _stores(base: NDT | None, store: Store) -> list[Store]:
    """Where a subject's earlier days may be: the session's store, and the one that the base model was trained on."""
    found = [store]
    if base is not None and base.store is not None and base.store.resolve() != store.root.resolve():
        found += [Store(base.store)] if (base.store / "manifest.json").exists() else []

    return found


def _bins(base: NDT | None, session: Session, target: str | None, config: FinetuneConfig) -> tuple[float, int]:
    """Bin width and longest window: the base model's, or a new model's own."""
    if base is not None:
        return base.spec.bin_size, base.spec.window_bins
    bin_size = config.bin_size or default_bin_size([session], target)

    return bin_size, longest_window(config, bin_size, session.session_id)


def _recording(base: NDT | None, store: Store, session: str, target: str | None, config: FinetuneConfig) -> Session:
    """The session, with blocks of this run's own where it has them: cut from time in which the target has labels."""
    recording = store.session(session)
    if not config.split:
        return recording
    if base is not None:  # it may have seen what these blocks hold out
        raise InputError("settings", "split", "a model from scratch where blocks are a run's own", "a pretrained one")
    sources = [source.of for source in find_sources(recording, target)]
    series = {of.name: of for of in sources if isinstance(of, Covariate)}
    blocks = assign_splits(replace(recording, covariates=series or recording.covariates), config.split)

    return replace(recording, intervals=blocks.intervals)


def _labels(
    base: NDT | None, binned: BinnedSession, target: str | None, config: FinetuneConfig, window: float
) -> tuple[Target, NDArray[np.bool_], dict[str, float]]:
    """Returns what is decoded, the labelled training bins to use, (R,), and validation R² by lag where it was chosen.

    A base's decoder of the same keeps its columns: it may know more classes than the session has. A way that needs no
    labels keeps the base's decoder, and takes all training bins.
    """
    if base is not None and base.spec.target is not None and not STRATEGIES[config.strategy].labelled:
        return kept_target(base.spec.target, binned, target), last_seconds(binned, config.label_seconds), {}
    lags: dict[float, float] = {}
    lag = config.lags[0]
    if len(config.lags) > 1:
        everything = build_targets(binned.session, target, binned.start, binned.bin_size, split=binned.split)
        lag, lags = choose_lag(binned, target, config.lags, _calibration(binned, everything, config, window), config)
    labels = build_targets(binned.session, target, binned.start, binned.bin_size, lag=lag, split=binned.split)
    if base is not None and base.spec.target is not None:
        labels = base.spec.target.adopt(labels) or labels

    return labels, _calibration(binned, labels, config, window), {f"{k:g}": v for k, v in lags.items()}


def _calibration(binned: BinnedSession, target: Target, config: FinetuneConfig, window: float) -> NDArray[np.bool_]:
    """Training bins to use, (R,): from the first to the last labelled one; or of the last so many seconds of labels.

    Bins without a label between them are history for the others, and train the masked loss.
    """
    if 0 < config.label_seconds < window:
        expected = f"0 for all, or at least the context window of {window:g} s"
        raise InputError("settings", "label_seconds", expected, f"{config.label_seconds:g} s")
    each = [labelled(target, i) for i in range(len(target.parts))]
    for name, split in (("training", TRAIN), ("validation", VALID), ("test", TEST)):
        for part, known in zip(target.parts, each, strict=True):
            if (found := int((known & (binned.split == split)).sum())) < FEWEST:
                expected = f"at least {FEWEST} bins with a label of {part.name}"
                raise InputError(binned.session.session_id, f"{name} split", expected, found)
    rows = np.flatnonzero(np.any(each, 0) & (binned.split == TRAIN))
    if config.label_seconds:
        rows = rows[-max(round(config.label_seconds / binned.bin_size), 1) :]
    chosen = binned.split == TRAIN
    chosen[: rows[0]] = chosen[rows[-1] + 1 :] = False

    return chosen


def _specification(
    base: NDT | None,
    binned: BinnedSession,
    target: Target,
    chosen: NDArray[np.bool_],
    config: FinetuneConfig,
    window_bins: int,
) -> ModelSpec:
    session = binned.session
    old = base.spec.target if base is not None else None
    model = base.config if base is not None else config.model
    if decoder := STRATEGIES[config.strategy].decoder:
        model = replace(model, decoder=decoder)
    if old is not None and (old.parts, old.lag) == (target.parts, target.lag):
        spec = old  # its decoder is kept, and with it what its numbers mean
    else:
        spec = TargetSpec.fitted(target, chosen, session.session_id)
        if model.decoder in TCN_DECODERS:
            spec = replace(spec, auxiliary=auxiliary_parts(binned, config.auxiliary, target, chosen))
    vocabulary = (base.vocabulary if base is not None else Vocabulary()).extend([session])
    data = {**(base.spec.data if base is not None else {}), session.session_id: str(session.source.get("sha256", ""))}

    return ModelSpec(
        config=model,
        vocabulary=vocabulary,
        bin_size=binned.bin_size,
        window_bins=window_bins,
        target=spec,
        data=data,
        encodes=base.spec.encodes if base is not None else not model.decoder_reads_counts,
    )


def _save_predictions(path: Path, predictions: dict[str, Any]) -> None:
    """Writes predictions whole or not at all."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    np.savez_compressed(temporary, **predictions)
    os.replace(temporary, path)

"""Fine-tunes a decoder for one session and scores it beside its baselines."""

import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ndt.checkpoint import CovariateSpec, ModelSpec, save_config, write_json
from ndt.config import FinetuneConfig
from ndt.data.covariates import find_covariate
from ndt.data.leaks import check_base
from ndt.data.resample import resample
from ndt.data.store import Store
from ndt.data.windows import TEST, TRAIN, VALID, Grid, default_bin_size, longest_window
from ndt.errors import InputError
from ndt.finetune.baselines import Baselines
from ndt.finetune.objective import Decoding, decode
from ndt.metrics import r2, r2_per_dim, r2_uniform
from ndt.model import NDT
from ndt.session import Covariate, Session
from ndt.training import Trainer
from ndt.vocabulary import Vocabulary

__all__ = ["Decoder", "finetune"]

BLENDS = np.linspace(0.0, 1.0, 21)
COVERAGE = 0.9

Rows = NDArray[np.floating]


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
    covariate: str | None = None,
    *,
    out: str | Path,
    config: FinetuneConfig | None = None,
    store: str | Path | Store | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Decoder:
    """Trains a decoder on a session's training block, chooses on validation, reports on test beside the baselines.

    Writes a run directory: config.yaml, model.safetensors, model.json, metrics.json, predictions.npz, log.jsonl,
    tensorboard/, checkpoints/.

    Arguments:
        base: A pretrained model, or its run directory or Hub name; None trains from scratch.
        session: Session id, in the store; pretraining need not have seen it.
        covariate: Name of the covariate; by default a velocity or heading.
        out: Run directory.
        config: Settings.
        store: The store; by default the one that `base` was pretrained on.
        resume: Whether to go on from the run's last checkpoint.
        progress: Whether to show a progress bar.

    Raises:
        InputError: if there is no such session or covariate, too little of it for a split, or the base model saw what
            the session holds out.
    """
    config, out = config or FinetuneConfig(), Path(out)
    if isinstance(base, str | Path) and Path(base).resolve() == out.resolve():
        raise InputError(out, "out", "another folder than the base model's", "the same")
    if base is not None and not isinstance(base, NDT):
        base = NDT.from_pretrained(base)
    store = _store(base, store)
    recording = store.session(session)
    series = find_covariate(recording, covariate)
    bin_size, window_bins = _bins(base, recording, series, config)
    grid = Grid(recording, bin_size, window_bins * bin_size)
    if base is not None:
        check_base(base.spec.data, base.store, store, session, window_bins * bin_size, config.leaks)
    targets = resample(series, grid.start, bin_size)
    chosen = _calibration(grid, targets, config.calibration)
    spec = _specification(base, recording, series, targets[chosen], config, bin_size, window_bins)

    torch.manual_seed(config.seed)  # modules initialise from the global generator
    model = NDT(spec) if base is None else base.extended(spec, fresh=config.fresh_contexts)
    rows = spec.vocabulary.rows(recording)
    model.observe(rows.unit, grid.mean_counts(chosen)[rows.order])
    new: tuple[str, ...] = () if base is not None and base.spec.covariate == spec.covariate else ("covariate.",)
    if base is None:
        config, new = replace(config, warm_steps=0), ("",)  # nothing knows anything yet
    elif set(spec.vocabulary.units) == set(base.vocabulary.units):
        config = replace(config, warm_steps=0)  # no unit to place in it
    objective = Decoding(grid, chosen, targets, model, config, new)
    trainer = Trainer(model, objective, config.train, out=out, seed=config.seed, resume=resume, progress=progress)
    save_config(out, config, store.root)  # only now: a refused resume changes nothing
    counted = trainer.run()
    model.store = store.root
    metrics, predictions = _report(model, grid, targets, chosen, config)
    metrics |= {"train_seconds": counted["train_seconds"], "steps": counted["steps"]}
    if trainer.accelerator.is_main_process:
        model.save_pretrained(out)
        _save_predictions(out / "predictions.npz", predictions)
        write_json(out / "metrics.json", metrics)

    return Decoder(model, metrics, out)


def _store(base: NDT | None, given: str | Path | Store | None) -> Store:
    found = given or (base.store if base is not None else None)
    if found is None:
        raise InputError("finetune", "store", "a store, since the model does not know its own", "none")

    return found if isinstance(found, Store) else Store(found)


def _bins(base: NDT | None, session: Session, series: Covariate, config: FinetuneConfig) -> tuple[float, int]:
    """Bin width and longest window: the base model's, or a new model's own."""
    if base is not None:
        return base.spec.bin_size, base.spec.window_bins
    bin_size = config.bin_size or default_bin_size([session], series.name)

    return bin_size, longest_window(config, bin_size, session.session_id)


def _calibration(grid: Grid, targets: NDArray[np.float32], seconds: float) -> NDArray[np.bool_]:
    """Labelled training bins, (R,): all, or the last so many seconds of them."""
    labelled = ~np.isnan(targets).any(1)
    for name, block in (("training", TRAIN), ("validation", VALID), ("test", TEST)):
        if (found := int((labelled & (grid.block == block)).sum())) < 10:
            raise InputError(grid.session.session_id, f"{name} block", "at least 10 labelled bins", found)
    rows = np.flatnonzero(labelled & (grid.block == TRAIN))
    if seconds:
        rows = rows[-max(round(seconds / grid.bin_size), 1) :]
    chosen = np.zeros(len(grid), bool)
    chosen[rows] = True

    return chosen


def _specification(
    base: NDT | None,
    session: Session,
    series: Covariate,
    targets: NDArray[np.float32],
    config: FinetuneConfig,
    bin_size: float,
    window_bins: int,
) -> ModelSpec:
    covariate = CovariateSpec.fitted(series, targets, session.session_id)
    if base is not None and (old := base.spec.covariate) is not None and old.same(covariate):
        covariate = old  # its decoder is kept, and with it what its numbers mean
    vocabulary = (base.vocabulary if base is not None else Vocabulary()).extend([session])
    data = {**(base.spec.data if base is not None else {}), session.session_id: str(session.source.get("sha256", ""))}
    model = base.config if base is not None else config.model

    return ModelSpec(
        config=model, vocabulary=vocabulary, bin_size=bin_size, window_bins=window_bins, covariate=covariate, data=data
    )


def _report(
    model: NDT,
    grid: Grid,
    targets: NDArray[np.float32],
    chosen: NDArray[np.bool_],
    config: FinetuneConfig,
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Scores the network, the baselines and their blend on the test block, all on the same bins.

    Returns what metrics.json says, and what predictions.npz holds.
    """
    covariate = model.spec.covariate
    assert covariate is not None, "the model decodes"
    labelled = ~np.isnan(targets).any(1)
    valid, test = labelled & (grid.block == VALID), labelled & (grid.block == TEST)
    network = decode(model, grid, grid.block >= VALID)
    start = time.perf_counter()
    baselines = Baselines.fit(grid, targets, chosen, valid, config)
    seconds = time.perf_counter() - start

    ridge = baselines.ridge
    weight = _blend_weight(targets[valid], network[valid], ridge[valid])
    delivered = weight * network + (1 - weight) * ridge
    half = np.quantile(np.abs(targets[valid] - delivered[valid]), COVERAGE, axis=0)
    inside = np.abs(targets[test] - delivered[test]) <= half
    decoded = {"true": targets, "network": network, "ridge": ridge, "delivered": delivered}
    metrics = {
        "session": grid.session.session_id,
        "covariate": covariate.name,
        "dims": list(covariate.dims),
        "unit": covariate.unit,
        "seed": config.seed,
        "bin_size": grid.bin_size,
        "calibration_seconds": float(chosen.sum() * grid.bin_size),
        "test": {
            **_scores(targets[test], delivered[test]),
            "interval_coverage_90": float(inside.mean()),
            "interval_half_width": list(map(float, half)),
        },
        "network": {"r2": r2(targets[test], network[test])},
        "valid": {"network": r2(targets[valid], network[valid]), "ridge": r2(targets[valid], ridge[valid])},
        "blend_weight": weight,
        "baselines": baselines.scores(targets, test),
        "baseline_seconds": seconds,
        "architecture": asdict(model.config),
    }

    return metrics, _predictions(grid, covariate, decoded, half)


def _blend_weight(true: Rows, network: Rows, ridge: Rows) -> float:
    """The network's share in the blend with ridge that decodes these rows best."""
    blends = [r2(true, b * network + (1 - b) * ridge) for b in BLENDS]

    return float(BLENDS[int(np.argmax(blends))])


def _scores(true: Rows, decoded: Rows) -> dict[str, Any]:
    return {
        "r2": r2(true, decoded),
        "r2_uniform": r2_uniform(true, decoded),
        "r2_per_dim": list(map(float, r2_per_dim(true, decoded))),
        "num_bins": len(true),
    }


def _predictions(grid: Grid, covariate: CovariateSpec, decoded: dict[str, Rows], half: Rows) -> dict[str, NDArray[Any]]:
    """What is true and what was decoded in the test block, (T, C) each, and the interval's half width."""
    rows = grid.block == TEST
    known: dict[str, NDArray[Any]] = {name: values[rows] for name, values in decoded.items()}
    known |= {"time": grid.start[rows] + grid.bin_size / 2, "half_width": half, "piece": grid.piece[rows]}

    return known | {"dims": np.array(covariate.dims), "unit": np.array(covariate.unit)}


def _save_predictions(path: Path, predictions: dict[str, Any]) -> None:
    """Writes predictions whole or not at all."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    np.savez_compressed(temporary, **predictions)
    os.replace(temporary, path)

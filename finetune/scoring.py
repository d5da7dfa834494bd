"""What a fine-tuned decoder is worth: its delivered blend, its intervals, and every score beside the baselines'."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.config import FinetuneConfig
from ndt.data.windows import TEST, VALID, BinnedSession
from ndt.decoders.blend import combined, ensemble_weights
from ndt.decoders.drift import Flags, InputDrift
from ndt.decoders.ensemble import Ensemble, PartEnsemble
from ndt.errors import InputError
from ndt.evaluation.bootstrap import block_bootstrap_r2
from ndt.evaluation.conformal import Conformal
from ndt.evaluation.metrics import r2
from ndt.evaluation.scores import score
from ndt.finetune.baselines import Baselines
from ndt.finetune.decoding import decode
from ndt.model.transformer import NDT
from ndt.target import Target, labelled

__all__ = ["Scored", "certainty", "score_nothing", "score_session"]

COVERAGE = 0.9

Rows = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What was found of a decoder.

    Arguments:
        metrics: What metrics.json says.
        predictions: What predictions.npz holds.
        ensemble: What is delivered beside the network; None where there is too little to score.
    """

    metrics: dict[str, Any]
    predictions: dict[str, NDArray[Any]]
    ensemble: Ensemble | None


@dataclass(frozen=True, kw_only=True)
class _PartScored:
    part_ensemble: PartEnsemble
    metrics: dict[str, Any]
    decoded: dict[str, Rows]


def score_nothing(
    model: NDT, binned: BinnedSession, target: Target, chosen: NDArray[np.bool_], config: FinetuneConfig
) -> Scored:
    """Says what was done to a session without enough labels to be scored."""
    return Scored(metrics=_about(binned, target, chosen, config), predictions={}, ensemble=None)


def score_session(
    model: NDT, binned: BinnedSession, target: Target, chosen: NDArray[np.bool_], config: FinetuneConfig
) -> Scored:
    """Fits the baselines, blends them with the network on validation, and scores all on the test split's same bins.

    Arguments:
        model: The fine-tuned network.
        binned: The session's bins.
        target: What is decoded.
        chosen: Bins that were trained on, (R,).
        config: Fine-tuning.
    """
    network = decode(model, binned, binned.split >= VALID)
    counts = binned.all_counts()
    segments = np.split(counts, np.flatnonzero(np.diff(binned.segment)) + 1)
    masks = np.split(chosen, np.flatnonzero(np.diff(binned.segment)) + 1)
    begin = time.perf_counter()
    parts = [_score_part(i, network, counts, binned, target, chosen, config) for i in range(len(target.parts))]
    seconds = time.perf_counter() - begin
    input_drift = InputDrift.fit(segments, masks, binned.bin_size)
    flags = input_drift.check(segments).select(binned.split == TEST)
    shared = _about(binned, target, chosen, config) | {"baseline_seconds": seconds}
    shared["input_drift"] = _range_metrics(flags, binned)
    for found in parts:
        found.metrics["test"]["out_of_distribution"] = float(flags.flagged.mean())
    ensemble = Ensemble(
        parts=tuple(found.part_ensemble for found in parts),
        unit_ids=tuple(map(str, binned.session.units.id)),
        input_drift=input_drift,
    )
    targets = {p.name: found.metrics for p, found in zip(target.parts, parts, strict=True)}
    metrics = shared | parts[0].metrics | {"targets": targets}

    return Scored(metrics=metrics, predictions=_predictions(binned, target, parts, flags), ensemble=ensemble)


def scored_rows(binned: BinnedSession, mask: str) -> NDArray[np.bool_]:
    """Returns which bins a table of intervals says to score, (R,).

    Arguments:
        binned: The session's bins.
        mask: Name of the table, and where in its bin a sample of it stands: ``TABLE@start``, ``TABLE@centre`` (as
            ``TABLE`` alone) or ``TABLE@end``. FALCON's is ``eval_mask@end`` in H1 and M1, ``eval_mask@start`` in M2.

    Raises:
        InputError: if the session has no such table.
    """
    table, _, place = mask.partition("@")
    tables, places = binned.session.intervals, {"start": 0.0, "": 0.5, "centre": 0.5, "end": 1.0}
    if table not in tables or place not in places:
        expected = f"one of {', '.join(tables) or 'no table'}, with @start, @centre or @end behind it or nothing"
        raise InputError(binned.session.session_id, "mask", expected, repr(mask))

    return tables[table].contains(binned.start + places[place] * binned.bin_size)


def _about(binned: BinnedSession, target: Target, chosen: NDArray[np.bool_], config: FinetuneConfig) -> dict[str, Any]:
    return {
        "session": binned.session.session_id,
        "target": target.name,
        "seed": config.seed,
        "bin_size": binned.bin_size,
        "lag": target.lag,
        "strategy": config.strategy,
        "label_seconds": float((chosen & labelled(target)).sum() * binned.bin_size),
    }


def _score_part(
    i: int,
    network: Rows,
    counts: Rows,
    binned: BinnedSession,
    target: Target,
    chosen: NDArray[np.bool_],
    config: FinetuneConfig,
) -> _PartScored:
    part, columns, known = target.parts[i], target.columns(i), labelled(target, i)
    y = target.values[:, columns]
    train, valid, test = chosen & known, known & (binned.split == VALID), known & (binned.split == TEST)
    if config.eval_mask:
        test &= scored_rows(binned, config.eval_mask)
    baselines = Baselines.fit(binned, part.kind, y, train, valid, config, counts=counts)
    decoded = {**baselines.decoded, "network": network[:, columns]}
    members = {name: decoded[name] for name in config.ensemble if name in decoded}
    weights = ensemble_weights(y[valid], {name: rows[valid] for name, rows in members.items()})
    ensemble = combined(members, weights)
    conformal = Conformal.fit(y[valid], ensemble[valid], part.kind, level=COVERAGE, segment=binned.segment[valid])

    trial = target.trial[i][test] if part.per else None
    scores: Callable[[Rows], dict[str, Any]] = lambda rows: score(y[test], rows[test], part.kind, trial=trial)

    sure = certainty(y[test], ensemble[test], baselines.decoded["ridge"][test], conformal, binned.segment[test])
    scored = {}
    for name, rows in baselines.decoded.items():
        over = block_bootstrap_r2(y[test], ensemble[test], binned.segment[test], peer=rows[test])
        behind = {"ensemble_over": over.value, "ensemble_over_error": over.error}
        scored[name] = scores(rows) | behind | baselines.facts[name]
    metrics = {
        "target": part.name,
        "kind": part.kind,
        "dims": list(part.columns),
        "unit": part.unit,
        "test": scores(ensemble) | sure,
        "network": scores(network[:, columns]),
        "valid": {name: r2(y[valid], rows[valid]) for name, rows in {**members, "ensemble": ensemble}.items()},
        "weights": weights,
        "baselines": scored | {name: fact for name, fact in baselines.facts.items() if name not in scored},
    }
    fitted = {name: baselines.fitted[name] for name in weights if name != "network"}
    part_ensemble = PartEnsemble(part=part, columns=columns, weights=weights, members=fitted, conformal=conformal)
    decoded = {"true": y, **members, "ridge": baselines.decoded["ridge"], "ensemble": ensemble}
    decoded["half"] = conformal.half_width(ensemble)
    decoded["adaptive"] = np.full_like(decoded["half"], np.nan)
    decoded["adaptive"][binned.split == TEST] = conformal.adapt(y[binned.split == TEST], ensemble[binned.split == TEST])

    return _PartScored(part_ensemble=part_ensemble, metrics=metrics, decoded=decoded)


def certainty(
    true: Rows, ensemble: Rows, ridge: Rows | None, conformal: Conformal, segment: NDArray[np.integer]
) -> dict[str, Any]:
    """Returns how sure the delivered decoder's score is, by how much it exceeds ridge's, and what its intervals hold.

    Arguments:
        true: Measured values of the rows that are scored, (R, C).
        ensemble: What was decoded, (R, C).
        ridge: What ridge decoded, (R, C); None where it was not fitted.
        conformal: The intervals.
        segment: Segment that each row lies in, (R,).
    """
    bootstrap = block_bootstrap_r2(true, ensemble, segment)
    found: dict[str, Any] = {"r2_interval_95": list(bootstrap.interval()), "r2_error": bootstrap.error}
    if ridge is not None:
        over = block_bootstrap_r2(true, ensemble, segment, peer=ridge)
        found |= {"over_ridge": over.value, "over_ridge_error": over.error}

    return found | conformal.measure(true, ensemble, segment)


def _range_metrics(flags: Flags, binned: BinnedSession) -> dict[str, Any]:
    """What the watch on the input says of the test split."""
    ids = binned.session.units.id
    shift = flags.shift[np.argmax(np.abs(flags.shift))] if len(flags.shift) else float("nan")

    return {
        "silent_units": [str(ids[n]) for n in flags.silent_units],
        "rate_shift": float(shift),
        "flagged": float(flags.flagged.mean()) if len(flags.flagged) else float("nan"),
    }


def _predictions(
    binned: BinnedSession, target: Target, parts: list[_PartScored], flags: Flags
) -> dict[str, NDArray[Any]]:
    """What is true and what was decoded in the test split, (T, C) each; names of further parts begin with theirs."""
    rows = binned.split == TEST
    found: dict[str, NDArray[Any]] = {"time": binned.start[rows] + binned.bin_size / 2, "segment": binned.segment[rows]}
    found["out_of_distribution"] = flags.flagged
    for i, (part, scored) in enumerate(zip(target.parts, parts, strict=True)):
        begin = f"{part.name}/" if i else ""
        for name, values in scored.decoded.items():
            found[begin + {"half": "half_width", "adaptive": "adaptive_half_width"}.get(name, name)] = values[rows]
        found |= {begin + "dims": np.array(part.columns), begin + "unit": np.array(part.unit)}
        found[begin + "kind"] = np.array(part.kind)

    return found

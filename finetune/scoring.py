"""Scores of a fine-tuned decoder, its network and its baselines, after training or on another session."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from ndt.config import FinetuneConfig
from ndt.data.activity import unit_activity
from ndt.data.store import Store, open_store
from ndt.data.targets import build_targets
from ndt.data.windows import TEST, TRAIN, VALID, BinnedSession
from ndt.decoders.drift import Flags, InputDrift
from ndt.decoders.ensemble import Ensemble, PartEnsemble, ensemble_weights, weighted_mean
from ndt.errors import InputError
from ndt.evaluation.bootstrap import block_bootstrap_r2
from ndt.evaluation.conformal import Conformal
from ndt.evaluation.metrics import confusion, r2, score
from ndt.finetune.baselines import Baselines, reference
from ndt.finetune.decoding import decode
from ndt.finetune.session_labels import (
    auxiliary_parts,
    auxiliary_values,
    bins_since_start,
    can_be_scored,
    too_few,
)
from ndt.model.architectures import load_model
from ndt.model.checkpoint import write_json
from ndt.model.transformer import NDT
from ndt.parsing import read_json
from ndt.target import Part, Target, labelled, scored_bins

__all__ = ["SPLITS", "Scored", "evaluate", "score_session", "scored_rows"]

COVERAGE = 0.9  # nominal, of the intervals
SPLITS = {
    "train": (TRAIN,),
    "valid": (VALID,),
    "test": (TEST,),
    "all": (0, TRAIN, VALID, TEST),
}  # values of BinnedSession.split

Rows = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores of a decoder.

    Arguments:
        metrics: Content of metrics.json.
        predictions: Content of predictions.npz.
        ensemble: The fitted ensemble; None where the session has too few labels to fit and score one.
    """

    metrics: dict[str, Any]
    predictions: dict[str, NDArray[Any]]
    ensemble: Ensemble | None


@dataclass(frozen=True, kw_only=True)
class _PartScored:
    part_ensemble: PartEnsemble
    metrics: dict[str, Any]
    predictions: dict[str, NDArray[Any]]  # by name, at all bins, (R, C)


def score_session(
    model: NDT, binned: BinnedSession, target: Target, chosen: NDArray[np.bool_], config: FinetuneConfig
) -> Scored:
    """Fits the baselines, and ensemble weights on validation, and scores all on the same bins of the test split.

    A session with too few labels to be scored has only facts on the fine-tuning.

    Arguments:
        model: The fine-tuned network.
        binned: The session's bins.
        target: The labels.
        chosen: Bins that the network was trained on, (R,).
        config: Fine-tuning.
    """
    shared: dict[str, Any] = {
        "session": binned.session.session_id,
        "target": target.name,
        "seed": config.seed,
        "bin_size": binned.bin_size,
        "lag": target.lag,
        "strategy": config.strategy,
        "label_seconds": float((chosen & labelled(target)).sum() * binned.bin_size),
    }
    if not can_be_scored(binned, target):
        return Scored(metrics=shared, predictions={}, ensemble=None)
    network, counts = decode(model, binned, binned.split >= VALID), binned.all_counts()
    auxiliary = auxiliary_values(binned, auxiliary_parts(binned, config.auxiliary, target, chosen), target, chosen)
    edges = np.flatnonzero(np.diff(binned.segment)) + 1
    segments, masks = np.split(counts, edges), np.split(chosen, edges)
    begin = time.perf_counter()
    inputs = (network, counts, auxiliary.values, binned, target, chosen, config)
    parts = [_score_part(i, *inputs) for i in range(len(target.parts))]
    shared["baseline_seconds"] = time.perf_counter() - begin
    input_drift = InputDrift.fit(segments, masks, binned.bin_size)
    flags = input_drift.check(segments).select(binned.split == TEST)
    shared["input_drift"] = _drift_metrics(flags, binned)
    for scored in parts:
        scored.metrics["test"]["out_of_distribution"] = float(flags.flagged.mean())
    ensemble = Ensemble(
        parts=tuple(scored.part_ensemble for scored in parts),
        unit_ids=tuple(map(str, binned.session.units.id)),
        input_drift=input_drift,
    )
    targets = {p.name: scored.metrics for p, scored in zip(target.parts, parts, strict=True)}
    metrics = shared | parts[0].metrics | {"targets": targets}

    return Scored(metrics=metrics, predictions=_predictions(binned, target, parts, flags), ensemble=ensemble)


def scored_rows(binned: BinnedSession, mask: str) -> NDArray[np.bool_]:
    """Returns which bins lie within the intervals of a table, (R,).

    Arguments:
        binned: The session's bins.
        mask: Name of the table, and the time in each bin that must lie within an interval: ``TABLE@start``,
            ``TABLE@centre`` (as ``TABLE`` alone) or ``TABLE@end``. FALCON's is ``eval_mask@end`` in H1 and M1,
            ``eval_mask@start`` in M2.

    Raises:
        InputError: if the session has no such table.
    """
    table, _, place = mask.partition("@")
    tables, places = binned.session.intervals, {"start": 0.0, "": 0.5, "centre": 0.5, "end": 1.0}
    if table not in tables or place not in places:
        expected = f"one of {', '.join(tables) or 'no table'}, optionally followed by @start, @centre or @end"
        raise InputError(binned.session.session_id, "mask", expected, repr(mask))

    return tables[table].contains(binned.start + places[place] * binned.bin_size)


def _score_part(
    i: int,
    network: Rows,
    counts: Rows,
    auxiliary: Rows,
    binned: BinnedSession,
    target: Target,
    chosen: NDArray[np.bool_],
    config: FinetuneConfig,
) -> _PartScored:
    """Fits baselines, ensemble weights and intervals of part i, and scores all, on one bin a trial if it has trials."""
    part, columns, is_test = target.parts[i], target.columns(i), binned.split == TEST
    scored = is_test & scored_rows(binned, config.eval_mask) if config.eval_mask else is_test
    train, valid, test = (scored_bins(target, i, rows) for rows in (chosen, binned.split == VALID, scored))
    y, since = target.values[:, columns], None
    if part.per:  # other bins of a trial have no label of their own
        y = np.where((train | valid | test)[:, None], y, np.nan)
        since = bins_since_start(binned, part, target.lag)
    baselines = Baselines.fit(
        binned, part.kind, y, train, valid, config, counts=counts, auxiliary=auxiliary, since=since
    )
    decoded = {**baselines.decoded, "network": network[:, columns]}
    members = {name: decoded[name] for name in config.ensemble if name in decoded}
    weights = ensemble_weights(y[valid], {name: rows[valid] for name, rows in members.items()})
    ensemble = weighted_mean(members, weights)
    conformal = Conformal.fit(y[valid], ensemble[valid], part.kind, level=COVERAGE, segment=binned.segment[valid])
    fitted = {name: baselines.fitted[name] for name in weights if name != "network"}
    part_ensemble = PartEnsemble(part=part, weights=weights, members=fitted, conformal=conformal)

    tested = {name: rows[test] for name, rows in {**decoded, "ensemble": ensemble}.items()}
    metrics = _part_metrics(part, y[test], tested, conformal, binned.segment[test])
    for name, facts in baselines.facts.items():
        metrics["baselines"][name] = metrics["baselines"].get(name, {}) | facts
    for name in baselines.decoded:
        over = block_bootstrap_r2(y[test], tested["ensemble"], binned.segment[test], reference=tested[name])
        metrics["baselines"][name] |= {"ensemble_over": over.value, "ensemble_over_error": over.error}
    metrics["valid"] = {name: r2(y[valid], rows[valid]) for name, rows in {**members, "ensemble": ensemble}.items()}
    metrics["weights"] = weights
    adaptive = np.full_like(half_width := conformal.half_width(ensemble), np.nan)
    adaptive[is_test] = conformal.adapt(y[is_test], ensemble[is_test])
    name = reference(part.per, part.kind)
    predictions: dict[str, NDArray[Any]] = {"true": y, **members, name: decoded[name], "ensemble": ensemble}
    predictions |= {"half_width": half_width, "adaptive_half_width": adaptive}
    if since is not None:
        metrics["label_trials"] = int(train.sum())
        predictions["bins_since_start"] = since

    return _PartScored(part_ensemble=part_ensemble, metrics=metrics, predictions=predictions)


def _part_metrics(
    part: Part,
    true: Rows,
    decoded: Mapping[str, Rows],
    conformal: Conformal,
    segment: NDArray[np.integer],
) -> dict[str, Any]:
    """Returns the scores of one part as metrics.json has them; those of ``test`` with uncertainty and coverage.

    Arguments:
        part: The part.
        true: Measured values of the R bins that are scored, one a trial if the part has trials, (R, C).
        decoded: Decoded values by name, (R, C): ``ensemble``, ``network`` and baselines.
        conformal: Intervals of the ensemble.
        segment: Segment of each bin, (R,).
    """
    scores = {name: score(true, rows, part.kind) for name, rows in decoded.items()}
    if part.per:
        for found in scores.values():
            found["num_trials"] = found.pop("num_bins")
    test, ensemble = scores.pop("ensemble"), decoded["ensemble"]
    bootstrap = block_bootstrap_r2(true, ensemble, segment)
    test |= {"r2_interval_95": list(bootstrap.interval()), "r2_error": bootstrap.error}
    if part.kind == "class":
        counts = confusion(true, ensemble)
        test["confusion"] = counts.tolist()
    if (name := reference(part.per, part.kind)) in decoded:  # a decoder adapted without labels has no baselines
        over = block_bootstrap_r2(true, ensemble, segment, reference=decoded[name])
        test |= {"reference": name, "over_reference": over.value, "over_reference_error": over.error}
    test |= conformal.measure(true, ensemble, segment)

    return {
        "target": part.name,
        "kind": part.kind,
        "dims": list(part.columns),
        "unit": part.unit,
        "test": test,
        "network": scores.pop("network"),
        "baselines": scores,
    }


def _drift_metrics(flags: Flags, binned: BinnedSession) -> dict[str, Any]:
    """Input drift in the test split."""
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
    """Measured and decoded values in the test split, (T, C) each; names of further parts begin with the part's name."""
    rows = binned.split == TEST
    found: dict[str, NDArray[Any]] = {"time": binned.start[rows] + binned.bin_size / 2, "segment": binned.segment[rows]}
    found["out_of_distribution"] = flags.flagged
    for i, (part, scored) in enumerate(zip(target.parts, parts, strict=True)):
        begin = f"{part.name}/" if i else ""
        found |= {begin + name: values[rows] for name, values in scored.predictions.items()}
        found |= {begin + "dims": np.array(part.columns), begin + "unit": np.array(part.unit)}
        found[begin + "kind"] = np.array(part.kind)

    return found


def evaluate(
    run: str | Path,
    session: str | None = None,
    *,
    store: str | Path | Store | None = None,
    split: str | None = None,
    mask: str = "",
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Returns the scores of a decoder, as metrics.json has them, with 95 % intervals by block bootstrap over time.

    Units are matched by their identity, in any order. Units that the session lacks count as not observed. Of units that
    the decoder was not trained on, only the network reads the spikes: it knows them by their activity in the session's
    training split, without labels.

    Arguments:
        run: Run directory of `ndt finetune`.
        session: Session to decode; by default the one that the decoder was trained on.
        store: Store of the session; by default the store that the run was trained on.
        split: Split to score: ``train``, ``valid``, ``test`` or ``all``; by default the test split of a session that
            the decoder was trained on, and all of any other.
        mask: Table of intervals; only bins within them are scored. An example is FALCON's eval_mask; see
            `scored_rows`.
        out: JSON file to write the result into.

    Raises:
        InputError: if the run is not a fine-tuned decoder, or the session has no labels in the split.
    """
    folder = Path(run)
    model, ensemble = load_model(folder), Ensemble.load(folder)
    if model.spec.target is None:
        raise InputError(folder, "target", "a decoder that `ndt finetune` wrote", "a model without one")
    if tuple(p.part for p in ensemble.parts) != model.spec.target.parts:
        raise InputError(folder / "ensemble.json", "parts", "those of model.json", "others")
    session = session or read_json(folder / "metrics.json", _Scores)["session"]
    recording = open_store(store or model.store, "evaluate").session(session)
    own = session in model.spec.data
    split = split or ("test" if own else "all")
    if split not in SPLITS:
        raise InputError("evaluate", "split", f"one of {', '.join(SPLITS)}", repr(split))
    spec = replace(model.spec, vocabulary=model.vocabulary.extend([recording]))
    binned = BinnedSession(recording, spec.bin_size, spec.window_bins * spec.bin_size)
    if spec != model.spec:
        model = model.extended(spec).eval()
    rows = np.isin(binned.split, SPLITS[split])
    if not own:
        model.observe(recording, unit_activity(binned, binned.split == TRAIN))
    target = _target(recording, model, binned)
    if mask:
        rows &= scored_rows(binned, mask)
    found = _scored(model, ensemble, binned, target, rows) | {"run": str(folder), "session": session, "split": split}
    if out is not None:
        write_json(Path(out), found)

    return found


class _Scores(TypedDict):
    session: str


def _target(recording: Any, model: NDT, binned: BinnedSession) -> Target:
    """Returns the session's labels of the decoder's target, with the decoder's own classes."""
    spec = model.spec.target
    assert spec is not None, "the model has a decoder"
    found = build_targets(recording, [p.request for p in spec.parts], binned.start, binned.bin_size, lag=spec.lag)
    adopted = spec.adopt(found)
    if adopted is None:
        expected = f"the decoder's target {spec.name}, in its dimensions and unit"
        raise InputError(recording.session_id, "target", expected, ", ".join(p.name for p in found.parts))

    return adopted


def _scored(
    model: NDT, ensemble: Ensemble, binned: BinnedSession, target: Target, rows: NDArray[np.bool_]
) -> dict[str, Any]:
    """Scores network, ensemble and its members on these bins, with nothing fitted."""
    unit_ids = [str(u) for u in binned.session.units.id]
    counts = np.split(binned.all_counts(), np.flatnonzero(np.diff(binned.segment)) + 1)
    counts = ensemble.arranged(counts, unit_ids)
    network, parts, edges = decode(model, binned, rows), target.parts, np.flatnonzero(np.diff(binned.segment)) + 1
    since = [np.split(bins_since_start(binned, p, target.lag), edges) if p.per else [] for p in parts]
    decoded = ensemble.predict(network, counts, since)
    flags = ensemble.input_drift.check(counts).select(rows)
    targets = {}
    for i, fitted in enumerate(ensemble.parts):
        chosen, columns = scored_bins(target, i, rows), target.columns(i)
        if shortage := too_few(target, i, rows):
            raise InputError(binned.session.session_id, "labels", *shortage)
        members = {name: fitted.predict(name, counts, since[i])[chosen] for name in fitted.members}
        members |= {"ensemble": decoded[chosen, columns], "network": network[chosen, columns]}
        y, segment = target.values[chosen, columns], binned.segment[chosen]
        found = _part_metrics(fitted.part, y, members, fitted.conformal, segment) | {"weights": fitted.weights}
        found["test"]["out_of_distribution"] = float(flags.flagged.mean())
        targets[fitted.part.name] = found
    ids = ensemble.unit_ids
    missing = [ids[n] for n in np.flatnonzero(ensemble.order(unit_ids) < 0)]
    drift = {"silent_units": [ids[n] for n in flags.silent_units], "flagged": float(flags.flagged.mean())}

    return {**next(iter(targets.values())), "input_drift": drift, "missing_units": missing, "targets": targets}

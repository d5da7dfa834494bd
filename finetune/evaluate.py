"""Scores a fine-tuned decoder on its own session or on another, without fitting anything."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.data.store import Store, open_store
from ndt.data.targets import build_targets
from ndt.data.windows import TEST, TRAIN, VALID, BinnedSession
from ndt.decoders.ensemble import Ensemble
from ndt.errors import InputError
from ndt.finetune.decoding import decode
from ndt.finetune.scoring import part_metrics, scored_rows
from ndt.finetune.session_labels import FEWEST
from ndt.model.architectures import load_model
from ndt.model.checkpoint import read_json, write_json
from ndt.model.transformer import NDT
from ndt.target import Target, labelled

__all__ = ["SPLITS", "evaluate"]

SPLITS = {"train": (TRAIN,), "valid": (VALID,), "test": (TEST,), "all": (0, TRAIN, VALID, TEST)}


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
    the decoder was not trained on, only the network reads the spikes, with the mean of the unit vectors that it knows.

    Arguments:
        run: Run directory of `ndt finetune`.
        session: Session to decode; by default the one that the decoder was trained on.
        store: Store of the session; by default the store that the run was trained on.
        split: Split to score: ``train``, ``valid``, ``test`` or ``all``; by default the test split of a session that
            the decoder was trained on, and all of any other.
        mask: Table of intervals; only bins within them are scored. An example is FALCON's eval_mask; see
            `ndt.finetune.scoring.scored_rows`.
        out: JSON file to write the result into.

    Raises:
        InputError: if the run is not a fine-tuned decoder, or the session has no labels in the split.
    """
    folder = Path(run)
    model, ensemble = load_model(folder), Ensemble.load(folder)
    if model.spec.target is None:
        raise InputError(folder, "target", "a decoder that `ndt finetune` wrote", "a model without one")
    session = session or read_json(folder / "metrics.json")["session"]
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
        model.observe(recording, binned.mean_counts(np.ones(len(binned), bool)))
    target = _target(recording, model, binned)
    if mask:
        rows &= scored_rows(binned, mask)
    found = _scored(model, ensemble, binned, target, rows) | {"run": str(folder), "session": session, "split": split}
    if out is not None:
        write_json(Path(out), found)

    return found


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
    network = decode(model, binned, rows)
    decoded = ensemble.predict(network, counts)
    flags = ensemble.input_drift.check(counts).select(rows)
    targets = {}
    for i, fitted in enumerate(ensemble.parts):
        chosen, columns = rows & labelled(target, i), target.columns(i)
        if (n := int(chosen.sum())) < FEWEST:
            expected = f"at least {FEWEST} labelled bins of {fitted.part.name} among the bins to score"
            raise InputError(binned.session.session_id, "labels", expected, n)
        members = {name: np.concatenate(member.predict(counts))[chosen] for name, member in fitted.members.items()}
        members |= {"ensemble": decoded[chosen, columns], "network": network[chosen, columns]}
        trial = target.trial[i][chosen] if fitted.part.per else None
        y, segment = target.values[chosen, columns], binned.segment[chosen]
        found = part_metrics(fitted.part, y, members, fitted.conformal, segment, trial) | {"weights": fitted.weights}
        found["test"]["out_of_distribution"] = float(flags.flagged.mean())
        targets[fitted.part.name] = found
    ids = ensemble.unit_ids
    missing = [ids[n] for n in np.flatnonzero(ensemble.order(unit_ids) < 0)]
    drift = {"silent_units": [ids[n] for n in flags.silent_units], "flagged": float(flags.flagged.mean())}

    return {**next(iter(targets.values())), "input_drift": drift, "missing_units": missing, "targets": targets}

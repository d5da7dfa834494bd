"""Scores a fine-tuned decoder as it was delivered, on its own session or on another, with nothing fitted anew."""

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
from ndt.evaluation.scores import score
from ndt.finetune.decoding import decode
from ndt.finetune.scoring import certainty, scored_rows
from ndt.model.architectures import load_model
from ndt.model.checkpoint import read_json, write_json
from ndt.model.transformer import NDT
from ndt.target import Target, labelled

__all__ = ["BLOCKS", "evaluate"]

BLOCKS = {"train": (TRAIN,), "valid": (VALID,), "test": (TEST,), "all": (0, TRAIN, VALID, TEST)}
FEWEST = 10  # labelled bins to score

Rows = NDArray[np.floating]


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

    Units are found by their identity: in whatever order the session has them, those that it lacks count as not
    observed, and of those that the decoder does not know only the network reads, with the mean of what it knows.

    Arguments:
        run: Run directory of `ndt finetune`.
        session: Session to decode; by default the one that it was fitted for.
        store: Where the session is; by default the store that the run was trained on.
        split: What is scored: ``train``, ``valid``, ``test`` or ``all``; by default the test split of a session that it
            was trained on, and all of any other.
        mask: Table of intervals within which bins are scored, such as FALCON's eval_mask; see
            `ndt.finetune.scoring.scored_rows`.
        out: JSON file to write the result into.

    Raises:
        InputError: if the run is no fine-tuned decoder, or the session has no labels in what is to be scored.
    """
    folder = Path(run)
    model, ensemble = load_model(folder), Ensemble.load(folder)
    if model.spec.target is None:
        raise InputError(folder, "target", "a decoder that `ndt finetune` wrote", "a model without one")
    session = session or read_json(folder / "metrics.json")["session"]
    recording = open_store(store or model.store, "evaluate").session(session)
    own = session in model.spec.data
    split = split or ("test" if own else "all")
    if split not in BLOCKS:
        raise InputError("evaluate", "split", f"one of {', '.join(BLOCKS)}", repr(split))
    spec = replace(model.spec, vocabulary=model.vocabulary.extend([recording]))
    binned = BinnedSession(recording, spec.bin_size, spec.window_bins * spec.bin_size)
    if spec != model.spec:
        model = model.extended(spec).eval()
    rows = np.isin(binned.split, BLOCKS[split])
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
    """What the decoder decodes, in this session, with the decoder's own classes."""
    spec = model.spec.target
    assert spec is not None, "the model decodes"
    found = build_targets(recording, [p.request for p in spec.parts], binned.start, binned.bin_size, lag=spec.lag)
    adopted = spec.adopt(found)
    if adopted is None:
        names = ", ".join(p.name for p in found.parts)
        raise InputError(recording.session_id, "target", f"what the decoder decodes: {spec.name}", names)

    return adopted


def _scored(
    model: NDT, ensemble: Ensemble, binned: BinnedSession, target: Target, rows: NDArray[np.bool_]
) -> dict[str, Any]:
    counts = np.split(binned.all_counts(), np.flatnonzero(np.diff(binned.segment)) + 1)
    counts = ensemble.arranged(counts, [str(u) for u in binned.session.units.id])
    network = decode(model, binned, rows)
    decoded = ensemble.predict(network, counts)
    flags = ensemble.input_drift.check(counts).select(rows)
    targets = {}
    for i, part_ensemble in enumerate(ensemble.parts):
        chosen, columns = rows & labelled(target, i), part_ensemble.columns
        if (n := int(chosen.sum())) < FEWEST:
            expected = f"at least {FEWEST} labelled bins of {part_ensemble.part.name} in what is scored"
            raise InputError(binned.session.session_id, "labels", expected, n)
        y, segment = target.values[chosen, columns], binned.segment[chosen]
        trial = target.trial[i][chosen] if part_ensemble.part.per else None
        members = {"test": decoded[chosen, columns], "network": network[chosen, columns]}
        for name, peer in part_ensemble.members.items():
            members[name] = np.concatenate(peer.predict(counts))[chosen]
        found = {name: score(y, x, part_ensemble.part.kind, trial=trial) for name, x in members.items()}
        # What was adapted without labels is the network alone.
        found["test"] |= certainty(y, members["test"], members.get("ridge"), part_ensemble.conformal, segment)
        found["test"]["out_of_distribution"] = float(flags.flagged.mean())
        targets[part_ensemble.part.name] = {
            "target": part_ensemble.part.name,
            "kind": part_ensemble.part.kind,
            "unit": part_ensemble.part.unit,
            "test": found.pop("test"),
            "network": found.pop("network"),
            "weights": part_ensemble.weights,
            "baselines": found,
        }
    ids = ensemble.unit_ids
    missing = [ids[n] for n in np.flatnonzero(ensemble.order([str(u) for u in binned.session.units.id]) < 0)]
    watch = {"silent_units": [ids[n] for n in flags.silent_units], "flagged": float(flags.flagged.mean())}

    return {**next(iter(targets.values())), "input_drift": watch, "missing_units": missing, "targets": targets}

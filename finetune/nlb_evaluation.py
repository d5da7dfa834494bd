"""The Neural Latents Benchmark on a session of a store: rates of a model, the submission's file, and scores."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.data.activity import unit_activity
from ndt.data.nlb_targets import Trials, as_population, nlb_targets, select_trials, unit_groups
from ndt.data.splits import within
from ndt.data.store import Store, open_store
from ndt.data.windows import TRAIN, BinnedSession
from ndt.errors import InputError
from ndt.evaluation.nlb import TASKS, NlbTask, group_name, score_submission, write_submission
from ndt.evaluation.trial_rates import trial_rates
from ndt.model.architectures import load_model
from ndt.model.transformer import NDT
from ndt.session import Session

__all__ = ["evaluate_nlb", "nlb_submission"]

PARTS = {"val": ("train",), "test": ("train", "val")}  # training trials of the velocity decoder, by the evaluated part


def evaluate_nlb(
    base: NDT | str | Path,
    session: str,
    *,
    dataset: str | NlbTask,
    store: str | Path | Store | None = None,
    test_session: str | None = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Scores a model as the Neural Latents Benchmark does, on its validation trials, and writes a submission.

    With `test_session` it is the benchmark's test trials that are predicted: their truth is on its server alone, so
    that the file is written and nothing scored.

    Arguments:
        base: A model, its run directory, or hf:ORG/NAME. It should have been trained on the session, with the
            benchmark's own blocks (`split=trials/split` when ingesting).
        session: Session id, of the benchmark's training file.
        dataset: Name of the data set, or how any other recording's trials are cut and scored.
        store: The store; by default the one that the model was trained on.
        test_session: Session id of the benchmark's test file.
        out: File of the submission, ``.h5``; None writes none.

    Returns:
        ``session``, ``dataset``, ``evaluated`` (val or test), ``bin_size``, ``trials`` and ``units`` (numbers),
        ``scores`` (see `ndt.evaluation.nlb.score_submission`; empty for the test file), ``left_out`` (why a score is
        missing), ``unknown_units`` (units that the model never saw), ``path``.

    Raises:
        InputError: if the store has no such session, the session no held-out units or no such trials, the model was
            trained on the evaluated trials, or, where a file is written, bins are neither 5 nor 20 ms.
    """
    if isinstance(dataset, str) and dataset not in TASKS:
        raise InputError("nlb", "dataset", f"one of {', '.join(TASKS)}", repr(dataset))
    task = TASKS[dataset] if isinstance(dataset, str) else dataset
    model = base if isinstance(base, NDT) else load_model(base)
    opened = open_store(store or model.store, "evaluate")
    recording, bin_size = opened.session(session), model.spec.bin_size
    group = group_name(task.name, bin_size) if out is not None else task.name
    if out is not None and task.name not in TASKS:
        raise InputError(out, "dataset", f"one of {', '.join(TASKS)} where a file is written", task.name)
    part = "val" if test_session is None else "test"
    other = recording if test_session is None else as_population(opened.session(test_session), recording)
    train = select_trials(recording, task, PARTS[part], bin_size)
    evaluated = select_trials(other, task, (part,), bin_size)
    if test_session is None:
        _not_trained_on(model, recording, evaluated)
    known = set(model.vocabulary.units)
    arrays = nlb_submission(model, recording, train, evaluated, other)
    result: dict[str, Any] = {
        "session": session,
        "dataset": task.name,
        "evaluated": part,
        "bin_size": bin_size,
        "trials": {"train": len(train), "eval": len(evaluated)},
        "units": {part: arrays[f"eval_rates_{part}"].shape[2] for part in ("heldin", "heldout")},
        "unknown_units": sum(str(u) not in known for u in recording.units.id),
        "scores": {},
        "left_out": (),
        "path": "",
    }
    if test_session is None:
        targets, result["left_out"] = nlb_targets(recording, task, train, evaluated)
        result["scores"] = score_submission(arrays, targets)
    if out is not None:
        published = TASKS[task.name].num_units if test_session is not None else (0, 0)
        result["path"] = str(write_submission(out, group, arrays, published))

    return result


def nlb_submission(
    model: NDT, session: Session, train: Trials, evaluated: Trials, other: Session | None = None
) -> dict[str, NDArray[np.float32]]:
    """Returns the arrays of a submission: predicted spikes per bin, trials by bins by units in the benchmark's order.

    Held-out units are hidden in all trials, and all units in the bins after them. Units and contexts that the model
    does not know have no learned residual. Activity of units is that of the training split.

    Arguments:
        model: The model.
        session: The session of the training trials.
        train: Training trials.
        evaluated: Trials to evaluate.
        other: The session of the trials to evaluate, with the same units; None for the same.

    Raises:
        InputError: if no unit is held out.
    """
    units = unit_groups(session)
    heldout = np.isin(np.arange(session.num_units), units["heldout"])
    spec = replace(model.spec, vocabulary=model.vocabulary.extend([session]))
    if spec != model.spec:
        model = model.extended(spec).eval()
    binned = BinnedSession(session, spec.bin_size, spec.window_bins * spec.bin_size)
    activity = unit_activity(binned, binned.split == TRAIN)
    out: dict[str, NDArray[np.float32]] = {}
    for part, of, trials in (("train", session, train), ("eval", other or session, evaluated)):
        forward = trials.forward if part == "eval" else 0
        rates = trial_rates(
            model, of, trials.start, trials.num_bins, forward=forward, heldout=heldout, activity=activity
        )
        for name, columns in units.items():
            out[f"{part}_rates_{name}"] = rates[:, : trials.num_bins, columns]
            if forward:
                out[f"{part}_rates_{name}_forward"] = rates[:, trials.num_bins :, columns]

    return out


def _not_trained_on(model: NDT, session: Session, evaluated: Trials) -> None:
    """Refuses trials of which more than half lies in the training split, where the model was trained on the session."""
    if session.session_id not in model.spec.data:
        return
    split = BinnedSession(session, evaluated.bin_size, 0.0).splits.train
    starts = evaluated.bin_starts
    inside = within(starts.ravel(), starts.ravel() + evaluated.bin_size, split, 1e-6 * evaluated.bin_size)
    seen = int(np.sum(inside.reshape(starts.shape).mean(1) > 0.5))
    if seen:
        expected = "evaluated trials outside the training split (ingest with split=trials/split)"
        raise InputError(session.session_id, "trials", expected, f"{seen} of {len(evaluated)} inside")

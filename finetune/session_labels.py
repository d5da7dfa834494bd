"""Labels that a decoder is fine-tuned on: the target, its lag and trials, auxiliary targets, and training bins."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ndt.config import FinetuneConfig
from ndt.data.targets import build_targets, find_sources, offers, requests
from ndt.data.trials import bins_in_trials, lasting
from ndt.data.windows import TEST, TRAIN, VALID, BinnedSession
from ndt.decoders.ridge import fit_ridge
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.finetune.strategies import UNLABELLED
from ndt.model.checkpoint import TargetSpec
from ndt.model.transformer import NDT
from ndt.target import Part, Target, labelled, scored_bins

__all__ = [
    "auxiliary_parts",
    "auxiliary_values",
    "bins_since_start",
    "can_be_scored",
    "choose_lag",
    "kept_target",
    "last_seconds",
    "seconds_of_labels",
    "session_labels",
    "too_few",
]

FEWEST = 10  # labelled bins of a split, to train or to score on
FEWEST_TRIALS = 4  # of a split, if each trial has one label
SPLITS = {TRAIN: "training", VALID: "validation", TEST: "test"}

Names = Sequence[str] | str | None
Bins = NDArray[np.bool_]  # (R,)

# R = bins of the session, A = columns of all auxiliary parts


def session_labels(
    base: NDT | None, binned: BinnedSession, target: str | None, config: FinetuneConfig, window: float
) -> tuple[Target, Bins, dict[str, float]]:
    """Returns the labels, the training bins to use, (R,), and validation R² by lag if a lag was chosen.

    Labels of a target that the pretrained decoder already predicts take the decoder's columns, because it may know
    classes that the session lacks. A strategy without labels keeps the decoder, and uses all training bins.

    Arguments:
        base: The pretrained model; None for a model from scratch.
        binned: The session's bins.
        target: Name of the target; None for a velocity or heading.
        config: Fine-tuning; uses `strategy`, `label_seconds`, `lags` and `max_lag`.
        window: Longest window in seconds.

    Raises:
        InputError: if the session lacks the target, or a split has too few labels of it.
    """
    kept = None if base is None else base.spec.target
    if kept is not None and config.strategy in UNLABELLED:
        return kept_target(kept, binned, target), last_seconds(binned, config.label_seconds), {}
    lag, scores = config.lags[0], dict[float, float]()
    if len(config.lags) > 1:
        chosen = _training_bins(binned, _built(binned, target), config, window)
        lag, scores = choose_lag(binned, target, config.lags, chosen, config)
    labels = _built(binned, target, lag)
    if kept is not None:
        labels = kept.adopt(labels) or labels

    return labels, _training_bins(binned, labels, config, window), {f"{k:g}": v for k, v in scores.items()}


def _built(binned: BinnedSession, names: Names, lag: float = 0.0) -> Target:
    return build_targets(binned.session, names, binned.start, binned.bin_size, lag=lag, split=binned.split)


def _training_bins(binned: BinnedSession, target: Target, config: FinetuneConfig, window: float) -> Bins:
    """Training bins from the first labelled bin to the last, (R,), or those that hold the last `label_seconds`.

    Unlabelled bins between them serve as history of the others, and contribute to the masked loss.
    """
    if 0 < config.label_seconds < window:
        expected = f"0 for all, or at least the context window of {window:g} s"
        raise InputError("settings", "label_seconds", expected, f"{config.label_seconds:g} s")
    for split, expected, found in _shortages(binned, target):
        raise InputError(binned.session.session_id, f"{SPLITS[split]} split", expected, found)
    rows = _last(labelled(target) & (binned.split == TRAIN), binned, config.label_seconds)
    chosen = binned.split == TRAIN
    chosen[: rows[0]] = chosen[rows[-1] + 1 :] = False

    return chosen


def _last(rows: Bins, binned: BinnedSession, seconds: float) -> NDArray[np.int64]:
    """Returns the indices of these bins: of all, or of the last ones that add up to `seconds`."""
    found = np.flatnonzero(rows)

    return found[-max(round(seconds / binned.bin_size), 1) :] if seconds else found


def last_seconds(binned: BinnedSession, seconds: float) -> Bins:
    """Returns the training bins, (R,): all, or the last `seconds` of them."""
    return np.isin(np.arange(len(binned)), _last(binned.split == TRAIN, binned, seconds))


def seconds_of_labels(binned: BinnedSession, target: str | None, config: FinetuneConfig) -> float:
    """Returns the seconds of labelled data that a decoder may train on; 0 if the session lacks the target."""
    if not _offered(binned, target):
        return 0.0
    seconds = float((labelled(_built(binned, target)) & (binned.split == TRAIN)).sum() * binned.bin_size)

    return min(seconds, config.label_seconds) if config.label_seconds else seconds


def can_be_scored(binned: BinnedSession, target: Target) -> bool:
    """Whether each split has enough labels of each part to fit baselines and to score."""
    return not _shortages(binned, target)


def _shortages(binned: BinnedSession, target: Target) -> list[tuple[int, str, str]]:
    """Returns each split with too few labels of a part: the split, what is needed, and what is there."""
    found = [
        (split, too_few(target, i, binned.split == split, vary=split != VALID))
        for split in SPLITS
        for i in range(len(target.parts))
    ]

    return [(split, *shortage) for split, shortage in found if shortage]


def too_few(target: Target, i: int, chosen: Bins, *, vary: bool = True) -> tuple[str, str] | None:
    """Returns what labels of part i are needed among chosen bins and what is there, if they are too few; else None.

    Labels per bin: at least 10. Labels per trial: at least 4 trials, and of classes at least two.

    Arguments:
        target: The target.
        i: Index of the part.
        chosen: Bins, (R,).
        vary: Whether trials must have two classes.
    """
    part, rows = target.parts[i], scored_bins(target, i, chosen)
    fewest, what = (FEWEST_TRIALS, "trials") if part.per else (FEWEST, "bins")
    if (number := int(rows.sum())) < fewest:
        return f"at least {fewest} {what} with a label of {part.name}", str(number)
    if vary and part.per and part.kind == "class":
        occurs = np.flatnonzero(target.values[rows, target.columns(i)].any(0))
        if len(occurs) < 2:
            return f"trials of at least 2 classes of {part.name}", f"{number} trials of {part.dims[occurs[0]]}"

    return None


def bins_since_start(binned: BinnedSession, part: Part, lag: float) -> NDArray[np.int64]:
    """Returns the number of bins since the trial (row of the table `part.per`) of each bin began, -1 outside, (R,).

    Trials without a label count too. Where rows are events, a trial lasts until the next one.

    Arguments:
        binned: The session's bins.
        part: A part with a label per trial.
        lag: Seconds by which labels follow the bins.
    """
    rows = lasting(binned.session, binned.session.intervals[part.per])

    return bins_in_trials(rows, binned.start + lag + binned.bin_size / 2, binned.bin_size)[1]


def _offered(binned: BinnedSession, target: str | None) -> bool:
    try:
        return bool(find_sources(binned.session, target))
    except InputError:
        return False


def kept_target(kept: TargetSpec, binned: BinnedSession, target: str | None) -> Target:
    """Returns the labels of parts of a pretrained decoder's target, used for scores only; NaN if the session has none.

    Arguments:
        kept: Target of the pretrained decoder.
        binned: The session's bins.
        target: Requested target, some of the decoder's parts; None for all of them.

    Raises:
        InputError: if another target is requested, or the session's has other dimensions or another unit.
    """
    parts = kept.parts if target is None else _requested(target, kept)
    names = [part.request for part in parts]
    if parts and not all(_offered(binned, name) for name in names):
        return Target.unlabelled(parts, len(binned), kept.lag)
    found = _built(binned, names or target, kept.lag)
    labels = kept.adopt(found)
    if labels is None:
        expected = f"the target of the pretrained decoder ({_summary(kept.name, kept.dims, kept.unit)})"
        other = _summary(found.name, tuple(c for p in found.parts for c in p.columns), found.parts[0].unit)
        raise InputError(binned.session.session_id, "target", expected, other)

    return labels


def _summary(name: str, dims: tuple[str, ...], unit: str) -> str:
    return f"{name}: {', '.join(dims[:6])}" + (f" in {unit}" if unit else "")


def _requested(target: str, kept: TargetSpec) -> tuple[Part, ...]:
    """Returns the parts of a decoder's target that a request names, in its order; none if it names another one."""
    if target == kept.name:
        return kept.parts
    names = [target] if len(kept.parts) == 1 and kept.parts[0].name == target else target.split(",")
    found = [[part for part in kept.parts if requests(name, part)] for name in names]

    return tuple(parts[0] for parts in found) if all(len(parts) == 1 for parts in found) else ()


def choose_lag(
    binned: BinnedSession, names: Names, lags: Sequence[float], chosen: Bins, config: FinetuneConfig
) -> tuple[float, dict[float, float]]:
    """Returns the lag in seconds with the best validation R² of ridge (of equals that nearest 0), and R² by lag.

    Labels per trial do not choose a lag; without any other it is the one nearest 0.

    One ridge regression predicts the target at all lags, with one penalty and one history. It is fitted and scored on
    the bins that have a label at every lag, so that all lags are compared on the same moments. R² is variance-weighted
    within a part, and averaged over parts.

    Arguments:
        binned: The session's bins.
        names: Names of the targets; see `build_targets`.
        lags: Candidate lags in seconds, at least one.
        chosen: Bins to train on, (R,).
        config: Fine-tuning; uses `max_lag`, the longest history.

    Raises:
        InputError: if too few bins have a label at every lag.
    """
    targets = [_built(binned, names, lag) for lag in lags]
    counts = binned.all_counts()
    per_bin = [i for i, part in enumerate(targets[0].parts) if not part.per]
    if not per_bin:
        return float(min(lags, key=abs)), {}
    each = [_r2_by_lag(binned, counts, targets, i, chosen, config.max_lag) for i in per_bin]
    scores = dict(zip(map(float, lags), np.mean(each, 0).tolist(), strict=True))

    return max(scores, key=lambda lag: (scores[lag], -abs(lag))), scores


def _r2_by_lag(
    binned: BinnedSession, counts: NDArray[np.float32], targets: list[Target], i: int, chosen: Bins, max_lag: float
) -> list[float]:
    """Validation R² of part i at each lag."""
    everywhere = np.stack([labelled(target, i) for target in targets]).all(0)
    train, valid = chosen & everywhere, (binned.split == VALID) & everywhere
    if (least := min(int(train.sum()), int(valid.sum()))) < FEWEST:
        expected = f"at least {FEWEST} training and validation bins with a label at every lag (try shorter lags)"
        raise InputError(binned.session.session_id, f"lag of {targets[0].parts[i].name}", expected, least)
    y = np.concatenate([target.values[:, target.columns(i)] for target in targets], 1)
    segments = partial(np.split, indices_or_sections=np.flatnonzero(np.diff(binned.segment)) + 1)
    x = segments(counts)
    fit = partial(fit_ridge, bin_size=binned.bin_size, max_lag_s=max_lag)
    ridge = fit(x, segments(y), segments(train), segments(valid))
    true, decoded = y[valid], np.concatenate(ridge.predict(x))[valid]
    each = (np.split(values, len(targets), 1) for values in (true, decoded))

    return [r2(*pair) for pair in zip(*each, strict=True)]


def auxiliary_parts(binned: BinnedSession, names: str, target: Target, chosen: Bins) -> tuple[Part, ...]:
    """Returns the auxiliary targets: other behaviour that the network is trained to predict as well.

    Arguments:
        binned: The session's bins.
        names: Names as of `build_targets`; ``auto`` for all other series with varying labels at training bins; empty
            for none.
        target: The decoder's target.
        chosen: Training bins, (R,).

    Raises:
        InputError: if a name fits nothing or several things, is part of the target, or has too few labels.
    """
    taken = {part.name for part in target.parts}
    if names == "auto":
        each = [_built(binned, [name], target.lag) for name in binned.session.covariates if name not in taken]
        return tuple(one.parts[0] for one in each if _varying(one, chosen).any())
    found: list[Part] = []
    for name in filter(None, map(str.strip, names.split(","))):
        one = _built(binned, [name], target.lag)
        part, where = one.parts[0], binned.session.session_id
        if part.name in taken | {p.name for p in found}:
            raise InputError(where, "auxiliary", f"each once, and others than {target.name}", part.name)
        if not _varying(one, chosen).any():
            expected = f"at least {FEWEST} training bins with a label of {part.name}, which vary"
            raise InputError(where, "auxiliary", expected, int((chosen & labelled(one)).sum()))
        found.append(part)

    return tuple(found)


def auxiliary_values(binned: BinnedSession, parts: tuple[Part, ...], target: Target, chosen: Bins) -> Target:
    """Returns auxiliary parts at training bins, in standard deviations from their mean there, (R, A); NaN elsewhere.

    A part that the session lacks, or has in another form, is NaN, and the decoder trains without it.
    """
    found = Target.unlabelled(parts, len(binned), target.lag)
    for i, part in enumerate(parts):
        one = _built(binned, [part.request], target.lag) if offers(binned.session, part.request) else None
        if one is not None and one.parts == (part,) and (rows := _varying(one, chosen)).any():
            spec = TargetSpec.fitted(one, rows, binned.session.session_id)
            found.values[rows, found.columns(i)] = spec.standardise(one.values[rows])

    return found


def _varying(one: Target, chosen: Bins) -> Bins:
    """Returns the training bins with a label, (R,); none if they are too few to learn from, or all the same."""
    rows = chosen & labelled(one)
    enough = rows.sum() >= FEWEST and bool(np.all(one.values[rows].std(0) > 0))

    return rows if enough else np.zeros_like(rows)

"""Sessions that are adapted to without labels: what is decoded of them is what the pretrained model decodes."""

import numpy as np
from numpy.typing import NDArray

from ndt.config import FinetuneConfig
from ndt.data.targets import build_targets, find_sources
from ndt.data.windows import TEST, TRAIN, VALID, BinnedSession
from ndt.errors import InputError
from ndt.model.checkpoint import TargetSpec
from ndt.target import Target, labelled

__all__ = ["FEWEST", "can_be_scored", "kept_target", "last_seconds", "seconds_of_labels"]

FEWEST = 10  # labelled bins of each block, where it is learned from or scored


def seconds_of_labels(binned: BinnedSession, target: str | None, config: FinetuneConfig) -> float:
    """Returns the seconds of labels that a decoder may be trained on; 0 where the session has no such target."""
    if not _offered(binned, target):
        return 0.0
    labels = build_targets(binned.session, target, binned.start, binned.bin_size, split=binned.split)
    seconds = float((labelled(labels) & (binned.split == TRAIN)).sum() * binned.bin_size)

    return min(seconds, config.label_seconds) if config.label_seconds else seconds


def _offered(binned: BinnedSession, target: str | None) -> bool:
    try:
        return bool(find_sources(binned.session, target))
    except InputError:
        return False


def kept_target(kept: TargetSpec, binned: BinnedSession, target: str | None) -> Target:
    """Returns the labels of what a pretrained decoder decodes, for scores alone; NaN where the session has none.

    Arguments:
        kept: What it decodes.
        binned: The session's bins.
        target: What was asked for; None for what it decodes.

    Raises:
        InputError: if something else was asked for, or the session has it in other dimensions or another unit.
    """
    session, names = binned.session, [part.request for part in kept.parts]
    if target is None and not all(_offered(binned, name) for name in names):
        target = kept.name
    if target is not None and _means(target, kept) and not _offered(binned, target):
        values = np.full((len(binned), len(kept.dims)), np.nan, np.float32)
        none = np.full(len(binned), -1, np.int64)
        return Target(parts=kept.parts, values=values, trial=(none,) * len(kept.parts), lag=kept.lag)
    found = build_targets(session, target or names, binned.start, binned.bin_size, lag=kept.lag, split=binned.split)
    labels = kept.adopt(found)
    if labels is None:
        expected = f"what the pretrained model decodes ({_said(kept.name, kept.dims, kept.unit)})"
        other = _said(found.name, tuple(c for p in found.parts for c in p.columns), found.parts[0].unit)
        raise InputError(session.session_id, "target", expected, other)

    return labels


def _said(name: str, dims: tuple[str, ...], unit: str) -> str:
    return f"{name}: {', '.join(dims[:6])}" + (f" in {unit}" if unit else "")


def _means(target: str, kept: TargetSpec) -> bool:
    """Whether names mean the parts of a decoder, in their order."""
    names = [target] if target == kept.name else [name.strip() for name in target.split(",")]
    if names == [kept.name]:
        return True

    return len(names) == len(kept.parts) and all(
        name == part.request or f"/{part.name}".endswith(f"/{name}")
        for name, part in zip(names, kept.parts, strict=True)
    )


def last_seconds(binned: BinnedSession, seconds: float) -> NDArray[np.bool_]:
    """Returns the training bins, (R,): all, or the last so many seconds of them."""
    rows = np.flatnonzero(binned.split == TRAIN)
    if seconds:
        rows = rows[-max(round(seconds / binned.bin_size), 1) :]
    chosen = np.zeros(len(binned), bool)
    chosen[rows] = True

    return chosen


def can_be_scored(binned: BinnedSession, target: Target) -> bool:
    """Whether each block has labels of each part, so that baselines can be fitted and all be scored."""
    each = [labelled(target, i) & (binned.split == b) for i in range(len(target.parts)) for b in (TRAIN, VALID, TEST)]

    return min(int(rows.sum()) for rows in each) >= FEWEST

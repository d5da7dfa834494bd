"""Labels of all sessions for the decoding loss of pretraining."""

import numpy as np
from numpy.typing import NDArray

from ndt.data.targets import build_targets, offers
from ndt.data.windows import TRAIN, BinnedSession
from ndt.errors import InputError
from ndt.model.checkpoint import TargetSpec
from ndt.target import Target, side_by_side, stacked, united

__all__ = ["shared_labels"]


def shared_labels(
    binned_sessions: list[BinnedSession], names: str
) -> tuple[TargetSpec | None, list[NDArray[np.float32]] | None]:
    """Returns the target, standardised over all training splits together, and each session's labels, (R, C).

    Labels of sessions that lack a target are NaN. Classes are those of any session.

    Raises:
        InputError: if no session has one of the targets, a name is ambiguous within a session, a target does not vary,
            or two sessions have it with different dimensions or units.
    """
    if not names:
        return None, None
    shared = [_shared(binned_sessions, name.strip()) for name in names.split(",")]
    targets = [side_by_side(of_session) for of_session in zip(*shared, strict=True)]
    found = [part.name for part in targets[0].parts]
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise InputError("pretrain", "target", "each once", f"{twice[0]} twice")
    spec = TargetSpec.fitted(stacked(targets), np.concatenate([g.split == TRAIN for g in binned_sessions]), "pretrain")

    return spec, [spec.standardise(target.values) for target in targets]


def _shared(binned_sessions: list[BinnedSession], name: str) -> list[Target]:
    """Returns one target of each session, all with the same columns."""
    found = [
        build_targets(g.session, [name], g.start, g.bin_size) if offers(g.session, name) else None
        for g in binned_sessions
    ]
    parts = [(g.session.session_id, t.parts[0]) for g, t in zip(binned_sessions, found, strict=True) if t is not None]
    if not parts:
        raise InputError("pretrain", "target", f"{name} in one of the sessions", "none has it")
    part, lengths = united(parts), map(len, binned_sessions)

    return [t.expanded([part]) if t is not None else Target.unlabelled([part], n) for t, n in zip(found, lengths, strict=True)]

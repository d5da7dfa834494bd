"""What is decoded beside the masked loss, of all sessions together."""

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
    """Returns what is decoded, as all training splits together standardise it, and each session's standardised labels.

    Sessions that lack a target get NaN for it. Classes are those of any session.

    Raises:
        InputError: if no session has one of the targets, a name fits two of a session, one does not vary, or two
            sessions have it with other dimensions or units.
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
    found = {
        i: build_targets(g.session, [name], g.start, g.bin_size)
        for i, g in enumerate(binned_sessions)
        if offers(g.session, name)
    }
    if not found:
        raise InputError("pretrain", "target", f"{name} in one of the sessions", "none has it")
    part = united([(binned_sessions[i].session.session_id, target.parts[0]) for i, target in found.items()])

    return [
        found[i].expanded([part]) if i in found else Target.unlabelled([part], len(g))
        for i, g in enumerate(binned_sessions)
    ]

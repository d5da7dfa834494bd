"""Stores and training data of sessions made in memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ndt.data.activity import unit_activity
from ndt.data.store import STORE_VERSION, Store, write_manifest, write_session
from ndt.data.windows import TRAIN, BinnedSession, TrainingData
from ndt.model.transformer import NDT
from ndt.session import Session

__all__ = ["data_of", "stored"]


def stored(sessions: Sequence[Session], root: Path) -> Store:
    """A store of these sessions."""
    root.mkdir(parents=True, exist_ok=True)
    for session in sessions:
        write_session(session, root / f"{session.session_id}.h5")
    entries = {s.session_id: {"source": f"{s.session_id}.nwb", "sha256": ""} for s in sessions}
    write_manifest(root, {"version": STORE_VERSION, "sessions": entries})

    return Store(root)


def data_of(
    model: NDT, binned: BinnedSession, labels: np.ndarray | None = None, chosen: np.ndarray | None = None
) -> TrainingData:
    """Training data of a session that the model knows: its training split, unless bins are chosen."""
    chosen = binned.split == TRAIN if chosen is None else chosen
    activity = unit_activity(binned, chosen)
    model.observe(binned.session, activity)

    return TrainingData(binned, chosen, model.rows(binned.session), activity, labels)

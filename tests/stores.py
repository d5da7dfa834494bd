"""Stores of sessions made in memory, a session whose units are tuned to four things, and training to the end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from ndt.data.store import STORE_VERSION, Store, write_manifest, write_session
from ndt.intervals import Intervals
from ndt.session import Covariate, Session, Spikes, Units

__all__ = ["CUES", "last_weights", "stored", "tuned_recording"]

CUES = np.array(["down", "up", "left", "right"])


def stored(sessions: Sequence[Session], root: Path) -> Store:
    """A store of these sessions."""
    root.mkdir(parents=True, exist_ok=True)
    for session in sessions:
        write_session(session, root / f"{session.session_id}.h5")
    entries = {s.session_id: {"source": f"{s.session_id}.nwb", "sha256": ""} for s in sessions}
    write_manifest(root, {"version": STORE_VERSION, "sessions": entries})

    return Store(root)


@contextmanager
def last_weights() -> Iterator[None]:
    """Each validation is better than the one before: training returns its last weights, however few its steps."""
    from ndt.data.objective import MaskedModelling
    from ndt.finetune.decoding import Decoding

    score = count()
    with pytest.MonkeyPatch.context() as patch:
        for objective in (MaskedModelling, Decoding):
            patch.setattr(objective, "validate", lambda self, model: {"score": float(next(score))})
        yield


def tuned_recording(seconds=60.0, seed=0) -> Session:
    """Twenty-four units, six of each tuned to one thing.

    ``stage`` is one of three for a second or so; each trial of 0.8 s has one of four cues, with 0.2 s between; ``head``
    turns; ``speed`` changes smoothly.
    """
    rng, times = np.random.default_rng(seed), np.arange(round(seconds / 0.05)) * 0.05 + 0.025
    stage = np.repeat(rng.integers(3, size=len(times)), rng.integers(10, 30, size=len(times)))[: len(times)]
    cue, trial = rng.permutation(np.arange(int(seconds)) % 4), (times % 1.0 < 0.8)
    kernel = np.hanning(23) / np.linalg.norm(np.hanning(23))
    noise = rng.standard_normal((2, len(times) + len(kernel) - 1))
    smooth = np.stack([np.convolve(n, kernel, "valid") for n in noise], 1)
    angle = np.cumsum(smooth[:, 0]) * 0.1
    preferred = np.arange(6) * np.pi / 3
    tuning = [
        rng.permutation(np.repeat(np.eye(3), 2, 0))[:, stage].T * 3,
        rng.permutation(np.concatenate([np.eye(4), np.eye(4)[:2]]))[:, cue[times.astype(int)]].T * 3 * trial[:, None],
        2.5 * np.cos(angle[:, None] - preferred),
        1.5 * smooth[:, 1:] * np.array([1, -1, 1, -1, 1, -1]),
    ]
    counts = rng.poisson(np.minimum(np.exp(np.concatenate(tuning, 1) - 1.0), 15))
    bins, units = np.nonzero(counts)
    number = counts[bins, units]
    series = {"stage": stage, "head": np.angle(np.exp(1j * angle)), "speed": smooth[:, 1]}

    return Session(
        session_id="sub-a_ses-1",
        subject="a",
        spikes=Spikes(timestamps=np.repeat(times[bins], number), unit_index=np.repeat(units, number)),
        units=Units(id=np.array([f"a/{n}" for n in range(24)])),
        observed=Intervals([0.0], [seconds]),
        covariates={
            name: Covariate(
                name=name,
                path=name,
                timestamps=times,
                values=np.asarray(values, float)[:, None],
                dims=(name,),
                unit="",
                angular=name == "head",
            )
            for name, values in series.items()
        },
        intervals={"trials": Intervals(np.arange(int(seconds)), np.arange(int(seconds)) + 0.8, {"cue": CUES[cue]})},
    )

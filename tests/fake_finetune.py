"""Fine-tuning that costs nothing: scores by a formula, in the files and the form of the real one."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from problems import recording

from ndt.config import FinetuneConfig
from ndt.data.store import STORE_VERSION, Store, write_manifest, write_session
from ndt.model.checkpoint import write_json

__all__ = ["BIN", "HAS", "Call", "FakeFinetune", "small_store"]

BIN = 0.05
HAS = 41.0  # seconds: seven tenths of the minute of `small_store`, without a second of guard


@dataclass(frozen=True)
class Call:
    """How one run was asked for."""

    base: Any
    config: FinetuneConfig
    folder: Path
    resume: bool


@dataclass
class FakeFinetune:
    """Stands for `ndt.finetune.adapt.finetune`.

    Arguments:
        score: R² of the network from scratch or not, with these settings.
        stop_at: Which call ends as Ctrl-C does, from 1.
    """

    score: Callable[[bool, FinetuneConfig], float]
    stop_at: int = 0
    calls: list[Call] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def __call__(self, base, session, target, *, out, config, store, resume, progress):
        with self.lock:
            self.calls.append(Call(base, config, out, resume))
            if len(self.calls) == self.stop_at:
                (out / "checkpoints" / "step_00000003").mkdir(parents=True)
                raise KeyboardInterrupt
        network = self.score(base is None, config)
        found: dict[str, Any] = {
            "session": session,
            "target": target or "vel",
            "bin_size": BIN,
            "label_seconds": min(config.label_seconds or HAS, HAS),
            "valid": {"network": network},
            "train_seconds": 2.0,
        }
        ridge = found["label_seconds"] / 100
        found["network"] = {"r2": network - 0.05}
        found["test"] = {"r2": max(network - 0.05, ridge)}
        found["baselines"] = {"ridge": {"r2": ridge}, "block_permuted": {"r2": 0.0}}
        write_json(out / "metrics.json", found)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> "FakeFinetune":
        """Takes the real one's place."""
        monkeypatch.setattr("ndt.finetune.adapt.finetune", self)

        return self


def small_store(root: Path) -> Store:
    """A store of one recording of a minute, made in memory."""
    session = recording(((0.0, 60.0),))
    root.mkdir(parents=True)
    write_session(session, root / f"{session.session_id}.h5")
    entry = {
        "source": "a.nwb", "sha256": "0" * 64, "options": {}, "dropped": [], "subject": "a", "units": 5, "spikes": 3000,
        "observed_seconds": 60.0, "segments": 1, "covariates": [{"name": "vel"}],
    }  # fmt: skip
    write_manifest(root, {"version": STORE_VERSION, "sessions": {session.session_id: entry}})

    return Store(root)

"""Tokens a second of making training batches from a store, beside what the training step uses."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ndt.benchmarks.ragged import RATE_HZ, masked_loss, preset
from ndt.benchmarks.timing import device, interleaved, row
from ndt.benchmarks.train import Step
from ndt.config import BenchConfig, IngestConfig
from ndt.data.ingest import ingest
from ndt.data.store import Store
from ndt.data.windows import BinnedSession
from ndt.intervals import Intervals
from ndt.model.architectures import new_model
from ndt.model.checkpoint import ModelSpec
from ndt.model.tokens import Batch
from ndt.model.vocabulary import Vocabulary
from ndt.pretrain.objective import MaskedModelling
from ndt.session import Session, Spikes, Units
from ndt.train.memory import keep_freed_memory

__all__ = ["loader", "write_store"]

BIN_SIZE, SECONDS, NUM_UNITS = 0.02, 60.0, 100
WINDOWS = 16  # of a batch: enough for a step's rate, few enough to be quick


def write_store(root: Path, sessions: int, seed: int = 0) -> Store:
    """Writes a store of Poisson recordings, 60 s of about a hundred units at 8 Hz each."""
    rng, made = np.random.default_rng(seed), []
    for s in range(sessions):
        N, name = NUM_UNITS + int(rng.integers(-NUM_UNITS // 10, NUM_UNITS // 10 + 1)), f"sub-a_ses-{s:03d}"
        times = np.sort(rng.uniform(0, SECONDS, rng.poisson(RATE_HZ * N * SECONDS)))
        spikes = Spikes(timestamps=times, unit_index=rng.integers(N, size=len(times)).astype(np.int32))
        units = Units(id=np.array([f"{name}/{n:03d}" for n in range(N)]))
        observed = Intervals([0.0], [SECONDS])
        made.append(Session(session_id=name, subject="a", spikes=spikes, units=units, observed=observed))

    return ingest(made, root, IngestConfig(workers=1), progress=False)


def loader(config: BenchConfig) -> list[dict[str, Any]]:
    """Measures draws, masks and packing in one process, beside the preset's training step on such batches."""
    keep_freed_memory()  # as the trainer does
    settings = preset(config.preset)
    settings = replace(settings, train=replace(settings.train, batch_size=WINDOWS))
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder), config.sessions)
        sessions = [store.session(s) for s in store.session_ids]
        vocabulary, window_bins = Vocabulary().extend(sessions), round(settings.window / BIN_SIZE)
        binned_sessions = [BinnedSession(s, BIN_SIZE, window_bins * BIN_SIZE) for s in sessions]
        objective = MaskedModelling(binned_sessions, vocabulary, settings, window_bins)
        draws = iter(range(10**9))  # no batch is drawn twice
        made: list[Batch] = []
        spec = ModelSpec(
            config=settings.model, vocabulary=vocabulary, bin_size=BIN_SIZE, window_bins=window_bins, data={}
        )
        batch = objective.batch(0, range(WINDOWS)).to(device())
        step = Step(new_model(spec).train().to(device()), [batch], masked_loss, config.precision == "bf16")

        def load() -> None:
            made.append(objective.batch(next(draws), range(settings.train.batch_size)))

        seconds = interleaved({"load": load, "step": step}, config.repeats)
    tokens = [len(b.time) for b in made[-config.repeats :]]
    rates = [n / s for n, s in zip(tokens, seconds["load"], strict=True)]

    return [row("loader.batch", rates, "tokens/s", "train_step", [len(batch.time) / s for s in seconds["step"]])]

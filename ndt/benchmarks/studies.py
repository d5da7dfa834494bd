"""What the benchmarks of many runs share: data sets, pretraining runs, and rows of paired differences."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ndt.benchmarks.timing import row
from ndt.config import FinetuneConfig, IngestConfig, PretrainConfig, SimulateConfig
from ndt.data.store import Store
from ndt.data.windows import BinnedSession, default_bin_size
from ndt.errors import InputError
from ndt.evaluation.metrics import paired_difference
from ndt.finetune.session_labels import seconds_of_labels
from ndt.model.checkpoint import write_json
from ndt.parsing import read_json
from ndt.pretrain import train
from ndt.train.studies import REQUEST, finish, run_all, sources

__all__ = [
    "RECORDED", "SIMULATION", "data_set", "labelled_seconds", "paired_row", "pretrained", "pretrained_seeds",
    "recorded", "simulated",
]  # fmt: skip

SIMULATION = SimulateConfig(num_subjects=4, num_sessions=10, num_regions=2, seconds=120.0, seed=40)  # ``sim40``
RECORDED = {  # files in the folder that NDT_DATA names
    "m1": "sub-m1/*.nwb",
    "s1": "sub-s1/*.nwb",
    "chewie1": "sub-chewie/*20131003*.nwb",
    "chewie2": "sub-chewie/*20131219*.nwb",
    "A2929": "sub-A2929/*.nwb",
}


def data_set(name: str, out: Path, workers: int) -> Store:
    """Returns the store of ``sim40`` or of one of `RECORDED`; it is made in ``<out>/data/`` if that folder lacks it."""
    if name == "sim40":
        return simulated(out / "data" / name, SIMULATION, workers)
    if name not in RECORDED:
        raise InputError("study", "data", f"some of {', '.join(('sim40', *RECORDED))}", name)

    return recorded(name, out)


def recorded(name: str, out: Path) -> Store:
    """Returns the store of a recording by its name in `RECORDED`."""
    from ndt.data.ingest import ingest

    root = Path(os.environ.get("NDT_DATA", "../shared/data"))
    files = sorted(root.glob(RECORDED[name]))
    if len(files) != 1:
        raise InputError(root, "NDT_DATA", f"one recording {RECORDED[name]}", len(files))

    return ingest(files, out / "data" / name / "store", progress=False)


def simulated(
    folder: Path, config: SimulateConfig, workers: int, only: Sequence[tuple[int, int]] | None = None
) -> Store:
    """Returns the store of simulated sessions; they are written and ingested if the folder has none.

    Arguments:
        folder: Folder of the recordings and of the store.
        config: Settings of the simulation.
        workers: Number of processes.
        only: Subject and session, from 0, of each recording; by default all.

    Raises:
        InputError: if the folder holds the sessions of another simulation.
    """
    from ndt.data.ingest import ingest
    from ndt.data.simulate.recordings import simulate

    request = json.loads(json.dumps({"simulate": asdict(replace(config, workers=0)), "only": only}))
    if not (folder / REQUEST).exists():
        made = simulate(folder / "recordings", replace(config, workers=workers), only)
        ingest([s.path for s in made], folder / "store", IngestConfig(workers=workers), progress=False)
        write_json(folder / REQUEST, request)  # last: only complete data sets have it
    elif read_json(folder / REQUEST) != request:
        raise InputError(folder, "simulated sessions", "those of this study, or a new folder", "those of another one")

    return Store(folder / "store")


def pretrained(store: Path, folder: Path, config: PretrainConfig) -> dict[str, Any]:
    """Pretrains unless the folder holds the run, and returns the content of its metrics.json."""
    request = {"settings": asdict(config), "data": sources(Store(store).manifest, config.sessions)}

    return finish(folder, request, partial(train.pretrain, store, config=config, progress=False))


def pretrained_seeds(store: Path, folder: Path, config: PretrainConfig, seeds: int, workers: int) -> list[Path]:
    """Returns the run directories of a model pretrained with each seed."""
    bases = [folder / f"seed{s}" for s in range(seeds)]
    jobs = [partial(pretrained, store, base, replace(config, seed=s)) for s, base in enumerate(bases)]
    run_all(jobs, workers, "pretraining")

    return bases


def labelled_seconds(store: Store, config: FinetuneConfig) -> float:
    """Returns the seconds of labelled data in the training split of a store's only session."""
    (session,) = (store.session(s) for s in store.session_ids)
    binned = BinnedSession(session, config.bin_size or default_bin_size([session]), config.window)

    return seconds_of_labels(binned, None, config)


def paired_row(
    name: str, values: Sequence[float], unit: str, peer: str | None, peers: Sequence[float], budget: str
) -> dict[str, Any]:
    """Returns a row of `ndt.benchmarks.timing.row` with the mean paired difference to the peer and its standard error.

    Arguments:
        name: Name of the row.
        values: One per seed.
        unit: Unit of the values.
        peer: Name of the peer; None for a row without one.
        peers: The peer's values, of the same seeds in the same order.
        budget: What each run was given.
    """
    found = row(name, values, unit, peer, peers if peer else ()) | {"budget": budget}
    if peer is None:
        return found
    difference, error = paired_difference(values, peers)

    return found | {"difference": difference, "standard_error": error}

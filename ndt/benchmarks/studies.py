"""What benchmarks of many runs share: data sets, pretraining of each seed, and rows of paired differences.

That no run is repeated, and that many run at a time, is `ndt.train.studies`.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndt.benchmarks.timing import row
from ndt.config import FinetuneConfig, IngestConfig, PretrainConfig, SimulateConfig, StudyConfig
from ndt.errors import InputError
from ndt.evaluation.metrics import paired_difference
from ndt.reports.runs import read_json
from ndt.train.studies import ASKED, pretrained, run_all

if TYPE_CHECKING:
    from ndt.data.store import Store

__all__ = ["RECORDED", "data_set", "labelled_seconds", "paired_row", "pretrained_seeds", "recorded", "simulated"]

RECORDED = {  # files under the folder that NDT_DATA names
    "m1": "sub-m1/*.nwb",
    "s1": "sub-s1/*.nwb",
    "chewie1": "sub-chewie/*20131003*.nwb",
    "chewie2": "sub-chewie/*20131219*.nwb",
    "A2929": "sub-A2929/*.nwb",
}


def data_set(name: str, out: Path, study: StudyConfig) -> "Store":
    """Returns the store of a study's data set; it is made under ``<out>/data/`` where it is not there.

    Arguments:
        name: ``sim40``, with the number of sessions that `study.simulate` has, or one of `RECORDED`.
        out: Folder of the study.
        study: Settings.
    """
    simulation = f"sim{study.simulate.num_subjects * study.simulate.num_sessions}"
    if name == simulation:
        return simulated(out / "data" / name, study.simulate, study.workers)
    if name not in RECORDED:
        raise InputError("study", "data", f"some of {', '.join((simulation, *RECORDED))}", name)

    return recorded(name, out)


def recorded(name: str, out: Path) -> "Store":
    """Returns the store of a recording by its name in `RECORDED`."""
    from ndt.data.ingest import ingest

    root = Path(os.environ.get("NDT_DATA", "../shared/data"))
    files = sorted(root.glob(RECORDED[name]))
    if len(files) != 1:
        raise InputError(root, "NDT_DATA", f"one recording {RECORDED[name]}", len(files))

    return ingest(files, out / "data" / name / "store", progress=False)


def simulated(
    folder: Path, config: SimulateConfig, workers: int, only: Sequence[tuple[int, int]] | None = None
) -> "Store":
    """Returns the store of simulated sessions; they are written and ingested only if the folder has none.

    Arguments:
        folder: Where recordings and store are.
        config: Settings of the simulation.
        workers: Processes.
        only: Subject and session, from 0, of each recording; by default all.

    Raises:
        InputError: if the folder holds the sessions of another simulation.
    """
    from ndt.data.ingest import ingest
    from ndt.data.simulate.recordings import simulate
    from ndt.data.store import Store
    from ndt.model.checkpoint import write_json

    asked = json.loads(json.dumps({"simulate": asdict(replace(config, workers=0)), "only": only}))
    found = read_json(folder / ASKED)
    if found and found != asked:
        raise InputError(folder, "simulated sessions", "those that are asked for, or a new folder", "other ones")
    if not found:
        made = simulate(folder / "recordings", replace(config, workers=workers), only)
        ingest([s.path for s in made], folder / "store", IngestConfig(workers=workers), progress=False)
        write_json(folder / ASKED, asked)  # last: only whole data sets have it

    return Store(folder / "store")


def pretrained_seeds(store: Path, folder: Path, config: PretrainConfig, seeds: int, workers: int) -> list[Path]:
    """Returns the run directories of a model pretrained with each seed, as far as they were not there."""
    bases = [folder / f"seed{s}" for s in range(seeds)]
    jobs = [partial(pretrained, store, base, replace(config, seed=s)) for s, base in enumerate(bases)]
    run_all(jobs, workers, "pretraining")

    return bases


def labelled_seconds(store: "Store", config: FinetuneConfig) -> float:
    """Returns the seconds of labels in the training split of a store's only session."""
    from ndt.data.windows import BinnedSession, default_bin_size
    from ndt.finetune.session_labels import seconds_of_labels

    (session,) = (store.session(s) for s in store.session_ids)
    binned = BinnedSession(session, config.bin_size or default_bin_size([session]), config.window)

    return seconds_of_labels(binned, None, config)


def paired_row(
    name: str, values: Sequence[float], unit: str, peer: str | None, peers: Sequence[float], budget: str
) -> dict[str, Any]:
    """Returns a benchmark's row: medians and spread, and the difference to the peer in paired seeds.

    Arguments:
        name: Of the row.
        values: One a seed.
        unit: Of the values.
        peer: What the values are compared to; None for what is the peer itself.
        peers: The peer's values, of the same seeds in the same order.
        budget: What each run was given.
    """
    found = row(name, values, unit, peer, peers if peer else ()) | {"budget": budget}
    if peer is None:
        return found
    difference, error = paired_difference(values, peers)

    return found | {"difference": difference, "standard_error": error}

"""What benchmarks of many runs share: data sets, pretraining, and rows of paired differences.

That no run is repeated, and that many run at a time, is `ndt.studies`.
"""

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndt.config import IngestConfig, PretrainConfig, SimulateConfig, StudyConfig
from ndt.errors import InputError
from ndt.metrics import paired_difference
from ndt.runs import read_json
from ndt.studies import ASKED, finish, sources

if TYPE_CHECKING:
    from ndt.data.store import Store

__all__ = ["data_set", "paired_row", "pretrained", "simulated"]

RECORDED = ("m1", "s1")


def data_set(name: str, out: Path, study: StudyConfig) -> "Store":
    """Returns the store of a study's data set; it is made under ``<out>/data/`` where it is not there.

    Arguments:
        name: ``sim40``, with the number of sessions that `study.simulate` has, or ``m1`` or ``s1``, which the
            environment's NDT_DATA leads to.
        out: Folder of the study.
        study: Settings.
    """
    from ndt.data.ingest import ingest

    simulation = f"sim{study.simulate.num_subjects * study.simulate.num_sessions}"
    if name == simulation:
        return simulated(out / "data" / name, study.simulate, study.workers)
    if name not in RECORDED:
        raise InputError("study", "data", f"some of {', '.join((simulation, *RECORDED))}", name)
    root = Path(os.environ.get("NDT_DATA", "../shared/data"))
    files = sorted(root.glob(f"sub-{name}/*.nwb"))
    if len(files) != 1:
        raise InputError(root, "NDT_DATA", f"one recording sub-{name}/*.nwb", len(files))

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
    from ndt.checkpoint import write_json
    from ndt.data.ingest import ingest
    from ndt.data.store import Store
    from ndt.data.synthetic import simulate

    asked = json.loads(json.dumps({"simulate": asdict(replace(config, workers=0)), "only": only}))
    found = read_json(folder / ASKED)
    if found and found != asked:
        raise InputError(folder, "simulated sessions", "those that are asked for, or a new folder", "other ones")
    if not found:
        made = simulate(folder / "recordings", replace(config, workers=workers), only)
        ingest([s.path for s in made], folder / "store", IngestConfig(workers=workers), progress=False)
        write_json(folder / ASKED, asked)  # last: only whole data sets have it

    return Store(folder / "store")


def pretrained(store: Path, folder: Path, config: PretrainConfig) -> dict[str, Any]:
    """Returns what metrics.json says of a pretraining run, which is trained as far as it has not been."""
    from ndt.data.store import Store
    from ndt.pretrain.train import pretrain

    asked = {"settings": asdict(config), "data": sources(Store(store), config.sessions)}

    return finish(folder, asked, partial(pretrain, store, config=config, progress=False))


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
    row: dict[str, Any] = {"name": name, "value": statistics.median(values), "unit": unit, "peer": peer}
    row |= {"spread": max(values) - min(values), "values": list(values), "budget": budget}
    if peer is None:
        return row
    against = statistics.median(peers)
    difference, error = paired_difference(values, peers)

    return row | {
        "peer_value": against,
        "peer_values": list(peers),
        "ratio": row["value"] / against if against > 0 else None,
        "difference": difference,
        "standard_error": error,
    }

"""Small recordings a second into a store: two workers beside one, and a local Dask cluster beside joblib."""

import hashlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import h5py

from ndt.benchmarks.timing import interleaved, row, run_folder
from ndt.config import BenchConfig, IngestConfig, SimulateConfig
from ndt.data.ingest import ingest as ingest_files
from ndt.data.probe import file_source, probe
from ndt.data.store import write_session

__all__ = ["digests", "ingest", "write_recordings"]

T = TypeVar("T")

SECONDS, NUM_UNITS, RATE_HZ = 60.0, 32, 8.0
STEPS = 30  # recordings that the cost of each step is measured with


def write_recordings(folder: Path, number: int) -> list[Path]:
    """Writes small recordings of one subject that differ in their spike times; returns their files.

    Writing one with pynwb takes ten times as long as changing a copy of it.
    """
    from ndt.data.synthetic import simulate

    config = SimulateConfig(
        num_subjects=1, num_sessions=1, num_units=NUM_UNITS, seconds=SECONDS, mean_rate_hz=RATE_HZ, workers=1
    )
    with tempfile.TemporaryDirectory() as place:
        template = simulate(place, config)[0].path
        files = [folder / f"sub-a_ses-{n:05d}_ecephys.nwb" for n in range(number)]
        folder.mkdir(parents=True, exist_ok=True)
        for n, path in enumerate(files):
            shutil.copyfile(template, path)
            with h5py.File(path, "r+") as file:
                times: Any = file["units/spike_times"]
                times[:] = times[:] * (1 - 1e-6 * n / number)  # in the same order, and within the same time

    return files


def digests(root: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file of a store, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.iterdir())}


def ingest(config: BenchConfig) -> list[dict[str, Any]]:
    """Measures `config.sessions` small files (the settled figure is of 1,000), and whether all stores are the same."""
    with run_folder(config.out) as folder, _cluster() as address:
        files = write_recordings(folder / "recordings", config.sessions)
        settings = {"one_worker": IngestConfig(workers=1), "two_workers": IngestConfig(workers=2)}
        if address:
            settings["dask"] = IngestConfig(cluster=address)
        found: dict[str, list[dict[str, str]]] = {name: [] for name in settings}
        stores = count()

        def call(name: str, paths: list[Path], keep: bool = True) -> Callable[[], None]:
            def run() -> None:
                root = folder / f"store-{next(stores)}"
                ingest_files(paths, root, settings[name], progress=False)
                if keep:
                    found[name].append(digests(root))
                shutil.rmtree(root)

            return run

        interleaved({name: call(name, files[:4], keep=False) for name in settings}, 1, warmup=0)  # starts the workers
        seconds = interleaved({name: call(name, files) for name in settings}, config.repeats, warmup=0)
        steps = _steps(files[:STEPS], folder)

    rates = {name: [len(files) / s for s in values] for name, values in seconds.items()}
    rows = [row("ingest.two_workers", rates["two_workers"], "files/s", "one_worker", rates["one_worker"])]
    if address:
        rows.append(row("ingest.dask", rates["dask"], "files/s", "two_workers", rates["two_workers"]))

    return [*rows, row("ingest.files_that_differ", [_differing(found)], "files"), *steps]


def _differing(found: dict[str, list[dict[str, str]]]) -> int:
    """Returns of how many files of a store not all of them hold the same bytes."""
    first, *others = [store for stores in found.values() for store in stores]

    return len({name for store in others for name, _ in store.items() ^ first.items()})


def _steps(files: list[Path], folder: Path) -> list[dict[str, Any]]:
    """Returns what each step costs a file, in this process."""
    from ndt.data.read import read

    spent: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], T]) -> T:
        begin = time.perf_counter()
        result = call()
        spent.setdefault(name, []).append(1e3 * (time.perf_counter() - begin))
        return result

    for path in files:
        timed("probe", partial(probe, path))
        timed("hash", partial(file_source, path))
        session = timed("read", partial(read, path, IngestConfig(probe_seconds=0.0)))
        timed("write", partial(write_session, session, folder / "one.h5"))

    return [row(f"ingest.{name}", values, "ms/file") for name, values in spent.items()]


@contextmanager
def _cluster() -> Iterator[str]:
    """Yields the address of a Dask cluster of two processes on this machine; empty without the extra ``dask``."""
    if find_spec("distributed") is None:
        yield ""
        return
    import distributed

    start: Any = distributed.LocalCluster
    with start(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.ERROR) as cluster:
        yield cluster.scheduler_address

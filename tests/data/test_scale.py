"""Ingestion of many files: killed at any moment, on a cluster, and in bounded memory."""

import hashlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from ndt.config import IngestConfig, SimulateConfig
from ndt.data.ingest import ingest
from ndt.data.simulate.recordings import simulate
from ndt.data.store import Store
from ndt.errors import InputError
from tests.recordings import units, write_nwb

pytestmark = pytest.mark.slow

NUM_FILES = 40
KILLS = 10
ROOT = Path(__file__).resolve().parents[2]
INGEST = "import sys; from ndt.data.ingest import ingest; from ndt.config import IngestConfig; "
INGEST += "ingest(sys.argv[1], sys.argv[2], IngestConfig(workers=2), progress=False)"


def write_recordings(folder: Path, number: int) -> list[Path]:
    """Writes small recordings of one subject that differ in their spike times; returns their files.

    Writing one with pynwb takes ten times as long as changing a copy of it.
    """
    config = SimulateConfig(num_subjects=1, num_sessions=1, num_units=32, seconds=60.0, mean_rate_hz=8.0, workers=1)
    with tempfile.TemporaryDirectory() as place:
        template = simulate(place, config)[0].path
        files = [folder / f"sub-a_ses-{n:05d}_ecephys.nwb" for n in range(number)]
        folder.mkdir(parents=True, exist_ok=True)
        for n, path in enumerate(files):
            shutil.copyfile(template, path)
            with h5py.File(path, "r+") as file:
                times = file["units/spike_times"]
                times[:] = times[:] * (1 - 1e-6 * n / number)  # in the same order, and within the same time

    return files


def digests(root: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file of a store, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.iterdir())}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("many"), NUM_FILES)[0].parent


@pytest.fixture(scope="module")
def whole(recordings, tmp_path_factory):
    """The store of an uninterrupted run of two processes, and what is in its files."""
    store = ingest(f"{recordings}/*.nwb", tmp_path_factory.mktemp("whole") / "store", IngestConfig(workers=2), False)

    return store, digests(store.root)


def finished(root):
    """When each session's file was written; empty before the store is there."""
    return {path.name: path.stat().st_mtime_ns for path in root.glob("*.h5")}


def test_killed_at_any_moment_and_started_again(recordings, whole, tmp_path):
    """No session is done twice: a file that was there when a run was killed is the same file in the end."""
    root, moments = tmp_path / "store", random.Random(0)
    command = [sys.executable, "-c", INGEST, f"{recordings}/*.nwb", str(root)]
    seen: dict[str, int] = {}
    counts = []
    for _ in range(KILLS):
        child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        began, known = time.monotonic(), len(finished(root))
        while child.poll() is None and len(finished(root)) == known and time.monotonic() - began < 60:
            time.sleep(0.02)  # however long imports take here: until the first session of this run is there …
        time.sleep(moments.uniform(0.0, 0.25))  # … and a moment longer, in the middle of whatever
        child.kill()
        child.wait()
        time.sleep(0.5)  # until its workers have noticed
        now = finished(root)
        assert {name: now[name] for name in seen} == seen
        seen = now
        counts.append(len(seen))
    assert 0 < counts[0] < counts[-1]
    assert counts[-1] < NUM_FILES, "the kills came too late to test anything"

    subprocess.run(command, cwd=ROOT, check=True)
    now = finished(root)
    assert {name: now[name] for name in seen} == seen
    assert digests(root) == whole[1]


def test_a_killed_first_session_leaves_no_half_of_it(recordings, whole, tmp_path):
    """Writing stops in the middle of a file; the next run removes what is there of it."""
    code = "import os, h5py; from ndt.data import store; "
    code += "store._data = lambda *a, **k: os.kill(os.getpid(), 9); " + INGEST.replace("workers=2", "workers=1")
    first = sorted(recordings.glob("*.nwb"))[0]
    killed = subprocess.run([sys.executable, "-c", code, first, tmp_path / "store"], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert {path.suffix for path in (tmp_path / "store").iterdir()} == {".tmp"}

    store = ingest(first, tmp_path / "store", IngestConfig(workers=1), progress=False)
    name = f"{store.session_ids[0]}.h5"
    assert sorted(os.listdir(store.root)) == ["manifest.json", name]
    assert digests(store.root)[name] == whole[1][name]


def test_one_process_two_and_a_cluster_write_the_same(recordings, whole, tmp_path):
    distributed = pytest.importorskip("distributed")
    one = ingest(f"{recordings}/*.nwb", tmp_path / "one", IngestConfig(workers=1), progress=False)
    assert digests(one.root) == whole[1]

    (recordings / "bad.nwb").write_text("no")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.CRITICAL}
    try:
        with distributed.LocalCluster(**options) as cluster:
            config = IngestConfig(cluster=cluster.scheduler_address)
            with pytest.raises(InputError, match=r"bad.nwb: file: expected an HDF5 file"):
                ingest(f"{recordings}/*.nwb", tmp_path / "dask", config, progress=False)
            before = finished(tmp_path / "dask")
            with pytest.raises(InputError, match=r"bad.nwb: file: expected an HDF5 file"):
                ingest(f"{recordings}/*.nwb", tmp_path / "dask", config, progress=False)
    finally:
        (recordings / "bad.nwb").unlink()
    assert finished(tmp_path / "dask") == before
    assert list(Store(tmp_path / "dask").manifest["failed"]) == [str(recordings / "bad.nwb")]
    shutil.copy(whole[0].root / "manifest.json", tmp_path / "dask")  # all but the failed one
    assert digests(tmp_path / "dask") == whole[1]


def peaks():
    """Peak memory in bytes of each process that joblib has started for this one."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
            if int(status["PPid"]) == os.getpid() and "LokyProcess" in (folder / "cmdline").read_text():
                found[folder.name] = int(status["VmHWM"].split()[0]) << 10
        except (OSError, ValueError, KeyError):  # it has just ended
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_sessions(tmp_path):
    """Twenty sessions of two million spikes; a worker holds one of them, and not what is left of the others."""
    rng, number = np.random.default_rng(0), 2_000_000
    trains = np.sort(rng.uniform(0, 1800, (50, number // 50)), axis=1)
    template = write_nwb(tmp_path / "recordings/sub-x_ses-00.nwb", units(list(trains)))
    files = [template]
    for n in range(1, 20):
        files.append(Path(shutil.copy(template, template.with_name(f"sub-x_ses-{n:02d}.nwb"))))
        with h5py.File(files[-1], "r+") as file:
            file["units/spike_times"][:] *= 1 - 1e-6 * n
    config = IngestConfig(workers=2)

    ingest(files[:6], tmp_path / "store", config, progress=False)
    before = peaks()
    ingest(files[6:], tmp_path / "store", config, progress=False)
    after = peaks()

    assert before.keys() == after.keys(), "the same two workers did both"
    assert len(after) == 2
    spikes = 16 * number  # bytes of times and units
    for pid, most in after.items():
        assert most < before[pid] + spikes, (before, after)
    manifest = json.loads((tmp_path / "store/manifest.json").read_text())
    assert {entry["spikes"] for entry in manifest["sessions"].values()} == {number}

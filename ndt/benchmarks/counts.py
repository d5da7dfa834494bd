"""From an open NWB file to counts: ours beside pynwb unit by unit, and beside bare h5py."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt.benchmarks.timing import interleaved, row
from ndt.config import BenchConfig
from ndt.data.counts import bin_file
from ndt.data.reading import Reading
from ndt.errors import InputError
from ndt.intervals import Intervals

__all__ = ["counts"]

NUM_UNITS, SECONDS, SPIKES, BIN_SIZE = 96, 1800.0, 5_000_000, 0.02

# Each runs in a process of its own, which tells its largest resident memory: the kernel's figure since exec.
_MEMORY = """
import sys, h5py, numpy as np
{body}
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
_OURS = """
from ndt.data.counts import read_counts
counts = read_counts(sys.argv[1], float(sys.argv[2])).counts
"""
_BARE = """
file, width, T = h5py.File(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
times, ends = file["units/spike_times"][:], file["units/spike_times_index"][:]
counts = np.empty((T, len(ends)), np.uint8)
for n, (a, b) in enumerate(zip([0, *ends[:-1]], ends)):
    counts[:, n] = np.bincount((times[a:b] / width).astype(np.int64), minlength=T)
"""


def counts(config: BenchConfig) -> list[dict[str, Any]]:
    """Measures spikes a second read and binned at 20 ms from an open file (96 units, 30 min, 5 million), and memory."""
    T = round(SECONDS / BIN_SIZE)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = _write(Path(folder) / "sub-a_ses-1.nwb")
        file = stack.enter_context(h5py.File(path, "r"))
        results: dict[str, NDArray[np.uint8]] = {}
        ways: dict[str, Callable[[], NDArray[np.uint8]]] = {
            "ours": lambda: bin_file(file, BIN_SIZE, Reading(str(path))).counts,
            "bare": lambda: _bare(file, T),
            "pynwb": _pynwb(path, T, stack),
        }
        calls = {name: partial(_keep, results, name, way) for name, way in ways.items()}
        seconds = interleaved(calls, config.repeats)
        ours, bare, loop = ([SPIKES / s for s in seconds[name]] for name in ("ours", "bare", "pynwb"))
        for name in ("bare", "pynwb"):
            if not (results["ours"] == results[name]).all():
                raise InputError("bench counts", name, "the same counts", "others")
        rows = [
            row("counts", ours, "spikes/s", "pynwb_histogram", loop),
            row("counts", ours, "spikes/s", "h5py_bincount", bare),
        ]
        if sys.platform == "linux":
            peaks = [[_peak(body, path, T) for _ in range(config.repeats)] for body in (_OURS, _BARE)]
            rows.append(row("counts.memory", peaks[0], "MiB", "h5py_bincount", peaks[1]))

    return rows


def _keep(results: dict[str, NDArray[np.uint8]], name: str, way: Callable[[], NDArray[np.uint8]]) -> None:
    results[name] = way()


def _write(path: Path) -> Path:
    from ndt.data.synthetic_nwb import Recording, write_recording

    rng = np.random.default_rng(0)
    share = np.array_split(np.arange(SPIKES), NUM_UNITS)
    recording = Recording(
        subject="a", session=1, num_electrodes=0, regions=(), electrodes=None, heldout=None,
        spike_times=[np.sort(rng.uniform(0, SECONDS, len(s))) for s in share],
        unit_names=[str(n) for n in range(NUM_UNITS)], observed=Intervals([0.0], [SECONDS]), trials=Intervals.empty(),
        covariates={}, timestamps=np.zeros(0), written=np.zeros(0, bool), rate_hz=None,
    )  # fmt: skip
    write_recording(recording, path)

    return path


def _bare(file: Any, T: int) -> NDArray[np.uint8]:
    """What one writes by hand: all times at once, one bincount a unit."""
    times, ends = file["units/spike_times"][:], file["units/spike_times_index"][:]
    found = np.empty((T, len(ends)), np.uint8)
    for n, (a, b) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        found[:, n] = np.bincount((times[a:b] / BIN_SIZE).astype(np.int64), minlength=T)

    return found


def _pynwb(path: Path, T: int, stack: ExitStack) -> Callable[[], NDArray[np.uint8]]:
    """What tutorials show: pynwb unit by unit, and a histogram of each."""
    from pynwb import NWBHDF5IO

    io: Any = NWBHDF5IO(path=str(path), mode="r", load_namespaces=True)
    units = stack.enter_context(io).read().units
    edges = np.arange(T + 1) * BIN_SIZE

    def count() -> NDArray[np.uint8]:
        found = np.empty((T, len(units)), np.uint8)
        for n in range(len(units)):
            found[:, n] = np.histogram(units.get_unit_spike_times(n), edges)[0]
        return found

    return count


def _peak(body: str, path: Path, T: int) -> float:
    code = _MEMORY.format(body=body)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(BIN_SIZE), str(T)], capture_output=True, text=True, check=True
    )

    return int(done.stdout) / 1024

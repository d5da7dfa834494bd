"""``ndt bench gaps``: firing rates and training windows read from a file with a fifth of its time unobserved.

The column `obs_intervals` of the file holds the time in which its units were observed. Each peer reads the file as its
documentation shows: pynapple through ``NWBFile(path)["units"]``, temporaldata into an `IrregularTimeSeries` with
``domain="auto"``. Both are right if a user passes them `obs_intervals`; neither reads that column by itself.
"""

import importlib
import tempfile
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pynwb import NWBHDF5IO, NWBFile

from ndt.benchmarks.timing import row
from ndt.config import BenchConfig, IngestConfig
from ndt.data.activity import unit_activity
from ndt.data.read.nwb import read_nwb
from ndt.data.windows import BinnedSession, Sampler, TrainingData
from ndt.intervals import Intervals
from ndt.model.vocabulary import Vocabulary

__all__ = ["Reading", "Truth", "gaps", "in_gap", "ours", "simulate", "write"]

SECONDS, UNOBSERVED, NUM_GAPS, NUM_UNITS = 600.0, 0.2, 12, 48
SHORTEST = 2.0  # seconds of a gap or of a segment at least
RATES_HZ = (1.0, 50.0)
BIN_SIZE, WINDOW_BINS, NUM_WINDOWS = 0.02, 50, 2000
UNITS = {"rate_error": "%", "rate_rms_z": "standard errors", "windows_in_gap": "%"}

Array = NDArray[np.float64]


class Truth(NamedTuple):
    """A simulated recording: true rate of each unit in Hz, (N,); observed time; and spike times of each unit."""

    rates: Array
    observed: Intervals
    spikes: list[Array]


class Reading(NamedTuple):
    """What a tool reads from the file: rate of each unit in Hz, (N,), and start and end of training windows, (M, 2)."""

    rates: Array
    windows: Array


def simulate(seed: int) -> Truth:
    """Draws rates, gaps that take a fifth of the time, and Poisson spikes in the segments between them."""
    rng, (low, high) = np.random.default_rng([seed, 2029]), np.log(RATES_HZ)
    rates = np.exp(rng.uniform(low, high, NUM_UNITS))
    lost, kept = UNOBSERVED * SECONDS, (1 - UNOBSERVED) * SECONDS
    gap = SHORTEST + rng.dirichlet(np.ones(NUM_GAPS)) * (lost - SHORTEST * NUM_GAPS)
    segment = SHORTEST + rng.dirichlet(np.ones(NUM_GAPS + 1)) * (kept - SHORTEST * (NUM_GAPS + 1))
    start = np.cumsum(np.r_[0.0, segment[:-1] + gap])
    before = np.r_[0.0, np.cumsum(segment)]  # observed seconds before each segment

    def spikes(rate: float) -> Array:
        time = np.sort(rng.uniform(0, kept, rng.poisson(rate * kept)))  # in observed seconds
        i = np.clip(np.searchsorted(before, time, side="right") - 1, 0, NUM_GAPS)
        return start[i] + time - before[i]

    return Truth(rates, Intervals(start, start + segment), [spikes(rate) for rate in rates])


def write(truth: Truth, path: Path) -> None:
    """Writes a recording as an NWB file."""
    nwb = NWBFile(
        session_description="Simulated population with gaps", identifier="gaps",
        session_start_time=datetime(2020, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    segments = np.stack([truth.observed.start, truth.observed.end], 1)
    for times in truth.spikes:
        nwb.add_unit(spike_times=times, obs_intervals=segments)
    with NWBHDF5IO(path=path, mode="w") as io:
        io.write(container=nwb)


def ours(path: Path, seed: int) -> Reading:
    """Reads the file, and draws windows as pretraining does."""
    session = read_nwb(path, IngestConfig(probe_seconds=0.0))
    binned = BinnedSession(session, BIN_SIZE, 0.0)
    chosen = np.ones(len(binned), bool)
    data = TrainingData(binned, chosen, Vocabulary().extend([session]).rows(session), unit_activity(binned, chosen))
    sampler = Sampler([data], window_bins=WINDOW_BINS, min_bins=WINDOW_BINS, seed=seed)
    drawn = [sampler.draw(sampler.generator(0, i))[1].index for i in range(NUM_WINDOWS)]
    windows = [(binned.start[first], binned.start[last - 1] + BIN_SIZE) for first, last in drawn]

    return Reading(data.activity[:, 0].astype(np.float64) / BIN_SIZE, np.array(windows))


def _pynapple(path: Path, seed: int) -> Reading:
    nap = importlib.import_module("pynapple")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = nap.NWBFile(str(path))
        units = file["units"]
        support = units.time_support
        file.close()

    return Reading(np.asarray(units.rate, np.float64), _uniform(support.start, support.end, seed))


def _temporaldata(path: Path, seed: int) -> Reading:
    temporaldata = importlib.import_module("temporaldata")
    file: Any = NWBHDF5IO(path=path, mode="r")
    with file as io:
        trains = io.read().units["spike_times"][:]
    unit = np.repeat(np.arange(len(trains)), [len(t) for t in trains])
    spikes = temporaldata.IrregularTimeSeries(timestamps=np.concatenate(trains), unit_index=unit, domain="auto")
    spikes.sort()
    start, end = spikes.domain.start, spikes.domain.end
    rates = np.bincount(spikes.unit_index, minlength=len(trains)) / float(np.sum(end - start))

    return Reading(rates, _uniform(start, end, seed))


PEERS: dict[str, Callable[[Path, int], Reading]] = {"pynapple": _pynapple, "temporaldata": _temporaldata}


def _uniform(start: Array, end: Array, seed: int) -> Array:
    """Returns windows with uniform starts, each whole within an interval."""
    rng, length = np.random.default_rng([seed, 2027]), WINDOW_BINS * BIN_SIZE
    start, room = np.asarray(start), np.maximum(np.asarray(end) - np.asarray(start) - length, 0)
    i = rng.choice(len(room), NUM_WINDOWS, p=room / room.sum())
    begin = start[i] + rng.uniform(size=NUM_WINDOWS) * room[i]

    return np.stack([begin, begin + length], 1)


def in_gap(windows: Array, observed: Intervals) -> NDArray[np.bool_]:
    """Returns which windows, (M, 2), hold more than a microsecond of unobserved time."""
    segments = observed.coalesce()
    last = np.searchsorted(segments.start, windows[:, 0] + 1e-6, side="right") - 1  # segment that a window begins in

    return (last < 0) | (windows[:, 1] > segments.end[last] + 1e-6)


def _measures(found: Reading, truth: Truth) -> dict[str, float]:
    error = found.rates - truth.rates

    return {
        "rate_error": float(np.mean(np.abs(error) / truth.rates) * 100),
        "rate_rms_z": float(np.sqrt(np.mean(error**2 / (truth.rates / truth.observed.duration)))),
        "windows_in_gap": float(in_gap(found.windows, truth.observed).mean() * 100),
    }


def gaps(config: BenchConfig) -> list[dict[str, Any]]:
    """Returns three rows for each installed peer, over one simulated recording per seed.

    The rows hold the mean relative error of rates; their root-mean-square error in standard errors, which is 1 if
    sampling is the only error; and the share of windows that hold unobserved time.
    """
    readers = {"ours": ours} | {name: read for name, read in PEERS.items() if find_spec(name)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in readers}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(config.seeds):
            truth, path = simulate(seed), Path(folder) / f"{seed}.nwb"
            write(truth, path)
            for name, read in readers.items():
                found[name].append(_measures(read(path, seed), truth))
    peers: list[str | None] = [name for name in readers if name != "ours"]

    return [
        row(f"gaps.{key}", [m[key] for m in found["ours"]], unit, peer, [m[key] for m in found.get(peer or "", [])])
        for key, unit in UNITS.items()
        for peer in peers or [None]
    ]

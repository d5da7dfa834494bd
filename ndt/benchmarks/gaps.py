"""Rates and training windows of a file with a fifth of its time unobserved: ours, and what others make of the file.

The file is written with pynwb and says in `obs_intervals` when its units were observed. Each peer reads it as its own
documentation does: pynapple through ``NWBFile(path)["units"]``, temporaldata into an `IrregularTimeSeries` with
``domain="auto"``. Both can be right where a user reads `obs_intervals` and hands them over; neither does so by itself.
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

from ndt.benchmarks.timing import row
from ndt.config import BenchConfig, IngestConfig
from ndt.intervals import Intervals
from ndt.model.vocabulary import Vocabulary
from ndt.session import Session

__all__ = ["Truth", "gaps", "in_gap", "ours", "simulate", "write"]

SECONDS, UNOBSERVED, NUM_GAPS, NUM_UNITS = 600.0, 0.2, 12, 48
SHORTEST = 2.0  # seconds of a gap or of a segment at least
RATES_HZ = (1.0, 50.0)
BIN_SIZE, WINDOW_BINS, NUM_WINDOWS = 0.02, 50, 2000

Array = NDArray[np.float64]


class Truth(NamedTuple):
    """A simulated recording.

    Arguments:
        rates: True rate of each unit in Hz, (N,).
        observed: When units were observed.
        spikes: Spike times of each unit: Poisson at its rate, in observed time.
    """

    rates: Array
    observed: Intervals
    spikes: list[Array]


class ReadContext(NamedTuple):
    """What a tool makes of the file.

    Arguments:
        rates: Rate of each unit in Hz, (N,).
        windows: Start and end in seconds of windows drawn for training, (M, 2).
    """

    rates: Array
    windows: Array


def simulate(seed: int) -> Truth:
    """Draws rates, twelve gaps that take a fifth of the time, and spikes between them."""
    rng = np.random.default_rng([seed, 2029])
    low, high = RATES_HZ
    rates = np.exp(rng.uniform(np.log(low), np.log(high), NUM_UNITS))
    lost, kept = UNOBSERVED * SECONDS, (1 - UNOBSERVED) * SECONDS
    gap = SHORTEST + rng.dirichlet(np.ones(NUM_GAPS)) * (lost - SHORTEST * NUM_GAPS)
    segment = SHORTEST + rng.dirichlet(np.ones(NUM_GAPS + 1)) * (kept - SHORTEST * (NUM_GAPS + 1))
    start = np.cumsum(np.r_[0.0, segment[:-1] + gap])
    observed = Intervals(start, start + segment)
    run = np.r_[0.0, np.cumsum(segment)]

    def spikes(rate: float) -> Array:
        at = np.sort(rng.uniform(0, kept, rng.poisson(rate * kept)))  # on a clock that stands still in gaps
        i = np.clip(np.searchsorted(run, at, side="right") - 1, 0, NUM_GAPS)
        return start[i] + at - run[i]

    return Truth(rates, observed, [spikes(rate) for rate in rates])


def write(truth: Truth, path: Path) -> None:
    """Writes a recording as an NWB file."""
    from pynwb import NWBHDF5IO, NWBFile

    nwb = NWBFile("Simulated population with gaps", "gaps", datetime(2020, 1, 1, tzinfo=UTC))
    segments = np.stack([truth.observed.start, truth.observed.end], 1)
    for times in truth.spikes:
        nwb.add_unit(spike_times=times, obs_intervals=segments)
    with NWBHDF5IO(path, "w") as io:
        io.write(nwb)


def ours(path: Path, seed: int) -> ReadContext:
    """Reads the file, and draws windows as pretraining does."""
    from ndt.data.read.nwb import read_nwb
    from ndt.data.windows import BinnedSession, Sampler

    session: Session = read_nwb(path, IngestConfig(probe_seconds=0.0))
    binned = BinnedSession(session, BIN_SIZE, 0.0)
    chosen = np.ones(len(binned), bool)
    vocabulary = Vocabulary().extend([session])
    sampler = Sampler([binned], [chosen], vocabulary, window_bins=WINDOW_BINS, min_bins=WINDOW_BINS, seed=seed)
    drawn = [sampler.draw(sampler.generator(0, i))[1].index for i in range(NUM_WINDOWS)]
    windows = [(binned.start[first], binned.start[last - 1] + BIN_SIZE) for first, last in drawn]

    return ReadContext(binned.mean_counts(chosen) / BIN_SIZE, np.array(windows))


def _pynapple(path: Path, seed: int) -> ReadContext:
    nap = importlib.import_module("pynapple")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = nap.NWBFile(str(path))
        units = file["units"]
        support = units.time_support
        file.close()

    return ReadContext(np.asarray(units.rate, np.float64), _uniform(support.start, support.end, seed))


def _temporaldata(path: Path, seed: int) -> ReadContext:
    temporaldata = importlib.import_module("temporaldata")
    pynwb = importlib.import_module("pynwb")
    with pynwb.NWBHDF5IO(str(path), "r") as io:
        trains = io.read().units["spike_times"][:]
    owner = np.repeat(np.arange(len(trains)), [len(t) for t in trains])
    spikes = temporaldata.IrregularTimeSeries(timestamps=np.concatenate(trains), unit_index=owner, domain="auto")
    spikes.sort()
    start, end = spikes.domain.start, spikes.domain.end
    rates = np.bincount(spikes.unit_index, minlength=len(trains)) / float(np.sum(end - start))

    return ReadContext(rates, _uniform(start, end, seed))


MEMBERS: dict[str, Callable[[Path, int], ReadContext]] = {"pynapple": _pynapple, "temporaldata": _temporaldata}


def _uniform(start: Array, end: Array, seed: int) -> Array:
    """Returns windows whose start is uniform wherever a whole one fits into an interval."""
    rng, length = np.random.default_rng([seed, 2027]), WINDOW_BINS * BIN_SIZE
    start, room = np.asarray(start), np.maximum(np.asarray(end) - np.asarray(start) - length, 0)
    i = rng.choice(len(room), NUM_WINDOWS, p=room / room.sum())
    begin = start[i] + rng.uniform(size=NUM_WINDOWS) * room[i]

    return np.stack([begin, begin + length], 1)


def in_gap(windows: Array, observed: Intervals) -> NDArray[np.bool_]:
    """Returns which windows (M, 2) hold more than a microsecond that was not observed."""
    segments = observed.coalesce()
    edges = np.stack([segments.start, segments.end], 1).ravel()
    seen = np.cumsum(np.r_[0.0, np.stack([segments.end - segments.start, np.zeros(len(segments))], 1).ravel()[:-1]])
    inside = np.diff(np.interp(windows, edges, seen), axis=1)[:, 0]  # of a clock that stands still in gaps

    return inside < windows[:, 1] - windows[:, 0] - 1e-6


def _measures(found: ReadContext, truth: Truth) -> dict[str, float]:
    error = found.rates - truth.rates

    return {
        "rate_error": float(np.mean(np.abs(error) / truth.rates) * 100),
        "rate_rms_z": float(np.sqrt(np.mean(error**2 / (truth.rates / truth.observed.duration)))),
        "windows_in_gap": float(in_gap(found.windows, truth.observed).mean() * 100),
    }


UNITS = {"rate_error": "%", "rate_rms_z": "standard errors", "windows_in_gap": "%"}


def gaps(config: BenchConfig) -> list[dict[str, Any]]:
    """Compares rates with their truth, and counts windows that hold unobserved time, in `config.seeds` recordings.

    Three rows a peer: mean error of rates; the same as root mean square of standard errors, which is 1 where sampling
    alone is to blame; share of windows in which something was not observed. Peers that are not installed have no rows.
    """
    readers = {"ours": ours} | {name: read for name, read in MEMBERS.items() if find_spec(name)}
    found: dict[str, dict[str, list[float]]] = {name: {key: [] for key in UNITS} for name in readers}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(config.seeds):
            truth, path = simulate(seed), Path(folder) / f"{seed}.nwb"
            write(truth, path)
            for name, read in readers.items():
                for key, value in _measures(read(path, seed), truth).items():
                    found[name][key].append(value)
    mine = found.pop("ours")

    if not found:
        return [row(f"gaps.{key}", mine[key], unit) for key, unit in UNITS.items()]

    return [row(f"gaps.{k}", mine[k], unit, name, of[k]) for k, unit in UNITS.items() for name, of in found.items()]

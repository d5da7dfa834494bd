"""Simulates recordings of a population with known truth, and writes them as NWB files.

All recordings share the latent dynamics and the map from latents to cursor velocity. Each subject has its own array and
units. From one session to the next some units stay with drifting tuning, and new units replace the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from ndt.config import SimulateConfig
from ndt.config.reader import as_config
from ndt.data.simulate.oracle import oracle_velocity
from ndt.data.simulate.population import (
    BIN_SIZE,
    STEP,
    Tuning,
    rotating_latents,
    simulate_latents,
    spike_times,
    velocity,
)
from ndt.data.splits import within
from ndt.evaluation.metrics import r2
from ndt.intervals import Intervals
from ndt.spikes import bin_edges, num_bins

__all__ = ["Simulated", "simulate"]

PER_BIN = round(BIN_SIZE / STEP)  # steps
CENTRES = slice(PER_BIN // 2, None, PER_BIN)  # the steps around the centres of bins
NUM_EMPTY = 2  # units without a spike
HELDOUT_SHARE = 0.2
TRIAL_SECONDS = (2.0, 4.0)
REACH_SECONDS = (1.4, 1.8)  # trials of the rotational population
GAP_SECONDS = (1.0, 4.0)
SEGMENT_SECONDS = (20.0, 40.0)

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A simulated recording and the truth behind it, in T bins of `bin_size`.

    Arguments:
        path: The NWB file.
        session_id: As `ndt.read` names it.
        bin_size: Seconds.
        time: Starts of bins in seconds, shape (T,).
        latents: At bin centres, shape (T, K).
        rates_hz: Mean firing rate of each unit within each bin, shape (T, N).
        velocity: ``cursor_vel`` at bin centres in cm/s, shape (T, 2).
        counts: Spikes in each bin as written, shape (T, N).
        observed: When spikes were recorded.
        unit_names: True identity of each unit, as in the file's column ``unit_name``, shape (N,).
        electrodes: Electrode of each unit, shape (N,).
        tuning: True tuning of the units.
    """

    path: Path
    session_id: str
    bin_size: float
    time: Array
    latents: Array
    rates_hz: Array
    velocity: Array
    counts: NDArray[np.int64]
    observed: Intervals
    unit_names: NDArray[np.str_]
    electrodes: NDArray[np.int64]
    tuning: Tuning

    def valid(self, intervals: Intervals) -> NDArray[np.bool_]:
        """Returns which bins lie wholly inside the intervals, shape (T,)."""
        return within(self.time, self.time + self.bin_size, intervals.coalesce(), 1e-6 * self.bin_size)

    def oracle_velocity(self) -> Array:
        """Returns the velocity that the oracle decodes from the counts and the true tuning, shape (T, 2)."""
        return oracle_velocity(self.counts, self.valid(self.observed), self.tuning, self.bin_size)

    def oracle_r2(self, intervals: Intervals) -> float:
        """Returns the oracle's variance-weighted R² of ``cursor_vel`` over observed bins inside the intervals."""
        rows = self.valid(intervals) & self.valid(self.observed)

        return r2(self.velocity[rows], self.oracle_velocity()[rows])

    def save(self, path: Path) -> None:
        """Writes the truth as ``.npz``."""
        arrays = {name: value for name, value in vars(self).items() if name not in ("path", "observed", "tuning")}
        arrays |= {f"tuning_{name}": values for name, values in vars(self.tuning).items()}
        observed = np.stack([self.observed.start, self.observed.end], 1)
        np.savez_compressed(path, path=str(self.path), observed=observed, **arrays)


def simulate(
    out: Path | str, config: SimulateConfig | str | Path | None = None, only: Sequence[tuple[int, int]] | None = None
) -> list[Simulated]:
    """Writes NWB files ``<out>/sub-simA_ses-01_behavior+ecephys.nwb`` and so on, and the truth under ``<out>/truth/``.

    The files depend on the configuration alone. A session's content does not depend on the number of sessions, and its
    units do not depend on its length.

    Arguments:
        out: Folder of the recordings.
        config: Settings, or a file of them.
        only: Subject and session, counted from 0, of each recording to write; by default all.

    Example:
        >>> [s.session_id for s in simulate(tmp, SimulateConfig(num_subjects=1, num_sessions=2, seconds=20.0))]
        ['sub-simA_ses-01', 'sub-simA_ses-02']
    """
    config, out = as_config(SimulateConfig, config), Path(out)
    (out / "truth").mkdir(parents=True, exist_ok=True)
    every = [(a, b) for a in range(config.num_subjects) for b in range(config.num_sessions)]
    jobs = every if only is None else list(only)
    assert set(jobs) <= set(every), "only sessions that the settings have"
    workers = min(config.workers or joblib.cpu_count(), len(jobs))
    if config.workers == 0 and len(jobs) * config.seconds * config.num_units < 50_000:
        workers = 1  # starting processes would take longer than the work

    return list(joblib.Parallel(n_jobs=workers)(joblib.delayed(_simulate_session)(out, config, *job) for job in jobs))


def _letters(index: int) -> str:
    """Returns A … Z, AA, AB …"""
    return _letters(index // 26 - 1) + chr(65 + index % 26) if index >= 26 else chr(65 + index)


def _rng(config: SimulateConfig, *key: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, *key])


def _population(
    config: SimulateConfig, subject: int, session: int
) -> tuple[Tuning, NDArray[np.int64], NDArray[np.int64]]:
    """Returns the session's units in order of their electrodes: tuning, electrode, and number within the subject."""
    N, rate = config.num_units, config.mean_rate_hz
    rng = _rng(config, subject, 0, 0)
    tuning = Tuning.draw(N, rate, rng)
    electrodes, number = np.sort(rng.permutation(config.num_electrodes)[:N]), np.arange(N)
    last_used = np.full(config.num_electrodes, -1)
    last_used[electrodes] = 0
    for day in range(1, session + 1):
        rng = _rng(config, subject, day, 0)
        stay = np.sort(rng.permutation(N)[: round(config.persistence * N)])
        num_new = N - len(stay)
        kept = tuning.select(stay).mix(Tuning.draw(len(stay), rate, rng), config.drift, rate)
        last_used[electrodes[stay]] = day
        # New units appear on the electrodes unused for longest, so that they seldom inherit an identity.
        free = rng.permutation(np.flatnonzero(last_used < day))
        new = free[np.argsort(last_used[free], kind="stable")][:num_new]
        last_used[new] = day
        electrodes, tuning = np.r_[electrodes[stay], new], Tuning.join(kept, Tuning.draw(num_new, rate, rng))
        number = np.r_[number[stay], N * (day + 1) + np.arange(num_new)]
        order = np.argsort(electrodes)
        electrodes, tuning, number = electrodes[order], tuning.select(order), number[order]

    return tuning, electrodes, number


def _simulate_session(out: Path, config: SimulateConfig, subject: int, session: int) -> Simulated:
    """Simulates one session, and writes its file and its truth."""
    T = num_bins(config.seconds, BIN_SIZE)
    tuning, electrodes, number = _population(config, subject, session)
    rng = _rng(config, subject, session, 1)
    if "empty_units" in config.awkward:
        tuning.silent[rng.permutation(config.num_units)[:NUM_EMPTY]] = True
    spans = _spans(config, T * PER_BIN * STEP, _rng(config, subject, session, 3))
    z = simulate_latents(T * PER_BIN, rng)
    if config.dynamics == "rotational":
        z = rotating_latents(z, np.round(spans / STEP).astype(np.int64), _rng(config, subject, session, 5))
    rates_hz = tuning.rates_hz(z)
    observed, written = _observed(config, T, _rng(config, subject, session, 2))
    spikes = [t[observed.contains(t)] for t in spike_times(rates_hz, rng)]
    # As in real files, the order of units in the file differs from the order of their identities.
    listed = _rng(config, subject, session, 6).permutation(config.num_units)
    spikes = [spikes[n] for n in listed]
    edges = bin_edges(0.0, BIN_SIZE, T)
    v = velocity(z)
    name = f"sim{_letters(subject)}"
    session_id = f"sub-{name}_ses-{session + 1:02d}"
    truth = Simulated(
        path=out / f"{session_id}_behavior+ecephys.nwb",
        session_id=session_id,
        bin_size=BIN_SIZE,
        time=edges[:-1],
        latents=z[CENTRES],
        rates_hz=rates_hz[:, listed].reshape(T, PER_BIN, -1).mean(1),
        velocity=v[CENTRES],
        counts=np.stack([np.diff(np.searchsorted(t, edges)) for t in spikes], 1),
        observed=observed,
        unit_names=np.array([f"{name}-{n:06d}" for n in number[listed]]),
        electrodes=electrodes[listed],
        tuning=tuning.select(listed),
    )
    heldout = _rng(config, subject, session, 4).random(config.num_units) < HELDOUT_SHARE
    position = np.cumsum(v, 0) * STEP
    trials = _trials(spans, position)
    _write(truth, config, spikes=spikes, position=position[CENTRES], written=written, trials=trials, heldout=heldout)

    return truth


def _write(truth: Simulated, config: SimulateConfig, **content: Any) -> None:
    """Writes the file, whose `content` is that of `write_recording`, and the truth."""
    from ndt.data.simulate.writer import write_recording  # pynwb takes seconds to import

    write_recording(truth, config, **content)
    truth.save(truth.path.parent / "truth" / f"{truth.session_id}.npz")


def _observed(config: SimulateConfig, T: int, rng: np.random.Generator) -> tuple[Intervals, NDArray[np.bool_]]:
    """Returns the time when spikes were recorded, and which samples of the cursor were written.

    Cursor samples exist in every second gap; in the others they are missing, unless they have a regular rate.
    """
    end, written = T * BIN_SIZE, np.ones(T, bool)
    if "gaps" not in config.awkward:
        return Intervals([0.0], [end]), written
    starts, ends, t = [0.0], [], 0.0
    while (t := t + min(rng.uniform(*SEGMENT_SECONDS), 0.3 * end)) + GAP_SECONDS[1] < end:
        ends.append(t)
        starts.append(t := t + rng.uniform(*GAP_SECONDS) * min(1.0, end / 60))
    observed = Intervals(starts, [*ends, end])
    for a, b in list(zip(observed.end[:-1], observed.start[1:], strict=True))[::2]:
        centres = (np.arange(T) + 0.5) * BIN_SIZE
        written &= ~((centres >= a) & (centres < b)) | ("rate_series" in config.awkward)

    return observed, written


def _spans(config: SimulateConfig, end: float, rng: np.random.Generator) -> Array:
    """Returns start and end of each trial, shape (M, 2); trials have breaks between them or overlap by 0.5 s."""
    length = REACH_SECONDS if config.dynamics == "rotational" else TRIAL_SECONDS
    overlapping = "overlapping_trials" in config.awkward
    found, t = [], rng.uniform(0.0, 0.3)
    while t + length[1] + 0.5 < end:
        start = t
        t += rng.uniform(*length)
        found.append((start, t + 0.5 if overlapping else t))
        t += rng.uniform(0.2, 0.5) if not overlapping else 0.0

    return np.reshape(np.array(found, np.float64), (-1, 2))


def _trials(spans: Array, position: Array) -> Intervals:
    """Returns the trials; targets are octants of displacement."""
    first, last = np.minimum(spans / STEP, len(position) - 1).astype(np.int64).T
    moved = position[last] - position[first]
    angle = np.arctan2(moved[:, 1], moved[:, 0])

    return Intervals(spans[:, 0], spans[:, 1], {"target": np.round(angle / (np.pi / 4)).astype(np.int64) % 8})

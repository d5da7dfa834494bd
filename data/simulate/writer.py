"""Writes a simulated recording as a real NWB file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from hdmf.common import ElementIdentifiers
from numpy.typing import NDArray
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.core import DynamicTableRegion, VectorData, VectorIndex
from pynwb.file import Subject
from pynwb.misc import Units

from ndt.intervals import Intervals

__all__ = ["Recording", "write_recording"]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What goes into one file.

    Arguments:
        subject: Subject's name.
        session: Number of the session, from 1.
        spike_times: Each unit's spike times in seconds.
        unit_names: Identity of each unit across sessions.
        electrodes: Each unit's electrode; None to write no electrodes at all.
        num_electrodes: Electrodes of all arrays.
        regions: Brain regions with an array; each has as many electrodes, one after another.
        heldout: Whether a unit is held out; None to write no such column.
        observed: When spikes were recorded.
        trials: With a column ``target``.
        covariates: Values at bin centres by name, each with its unit, shape (T, 2).
        timestamps: Of covariates, shape (T,).
        written: Which samples of covariates are in the file, shape (T,).
        rate_hz: Where given, covariates are written with a starting time and this rate.
    """

    subject: str
    session: int
    spike_times: Sequence[NDArray[np.float64]]
    unit_names: Sequence[str]
    electrodes: NDArray[np.int64] | None
    num_electrodes: int
    regions: Sequence[str]
    heldout: NDArray[np.bool_] | None
    observed: Intervals
    trials: Intervals
    covariates: dict[str, tuple[NDArray[np.float64], str]]
    timestamps: NDArray[np.float64]
    written: NDArray[np.bool_]
    rate_hz: float | None


def write_recording(recording: Recording, path: Path) -> None:
    """Writes the file beside its place and renames it, so that a crash leaves no half file."""
    day = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=recording.session - 1)
    nwb = NWBFile(
        "Simulated population with known truth",
        f"sub-{recording.subject}_ses-{recording.session:02d}",
        day,
        session_id=f"{recording.session:02d}",
        file_create_date=day,  # so that one seed gives one content
        experiment_description="simulated cursor movement",
    )
    nwb.subject = Subject(subject_id=recording.subject, species="Macaca mulatta", description="simulated")
    if recording.electrodes is not None:
        _add_electrodes(nwb, recording)
    nwb.units = _units(nwb, recording)
    if len(recording.trials):
        _add_trials(nwb, recording)
    _add_covariates(nwb, recording)

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    with NWBHDF5IO(partial, "w") as io:
        io.write(nwb)
    os.replace(partial, path)


def _add_electrodes(nwb: NWBFile, recording: Recording) -> None:
    device = nwb.create_device("array")
    side = int(np.ceil(np.sqrt(recording.num_electrodes)))
    shares = np.array_split(np.arange(recording.num_electrodes), len(recording.regions))
    for region, electrodes in zip(recording.regions, shares, strict=True):
        name = "array" if len(recording.regions) == 1 else f"array in {region}"
        group = nwb.create_electrode_group(name, description="simulated array", location=region, device=device)
        for e in electrodes.tolist():
            nwb.add_electrode(group=group, location=region, x=400.0 * (e % side), y=400.0 * (e // side), z=0.0)


def _units(nwb: NWBFile, recording: Recording) -> Units:
    """Returns the units table made of whole columns, which is much faster than adding rows."""
    N, num_segments = len(recording.spike_times), len(recording.observed)
    segments = np.stack([recording.observed.start, recording.observed.end], 1)

    def ends(target: VectorData, end: NDArray[np.int64]) -> VectorIndex:
        return VectorIndex(name=f"{target.name}_index", data=end, target=target)

    times = VectorData(
        name="spike_times", description="spike times, s", data=np.concatenate([*recording.spike_times, np.zeros(0)])
    )
    observed = VectorData(
        name="obs_intervals", description="when the unit was observed, s", data=np.tile(segments, (N, 1))
    )
    columns: list[VectorData] = [
        times,
        ends(times, np.cumsum([len(t) for t in recording.spike_times])),
        observed,
        ends(observed, num_segments * np.arange(1, N + 1)),
        VectorData(name="unit_name", description="true identity across sessions", data=list(recording.unit_names)),
    ]
    if recording.heldout is not None:
        columns.append(VectorData(name="heldout", description="whether the unit is held out", data=recording.heldout))
    if recording.electrodes is not None:
        of_unit = DynamicTableRegion(
            name="electrodes", data=recording.electrodes, description="the unit's electrode", table=nwb.electrodes
        )
        columns += [of_unit, ends(of_unit, np.arange(1, N + 1))]

    return Units(
        name="units",
        description="simulated units",
        id=ElementIdentifiers(name="id", data=np.arange(N)),
        columns=columns,
    )


def _add_trials(nwb: NWBFile, recording: Recording) -> None:
    nwb.add_trial_column("target", "octant of the cursor's displacement during the trial, 0 to 7")
    trials = recording.trials
    for start, end, target in zip(trials.start, trials.end, trials.columns["target"], strict=True):
        nwb.add_trial(start_time=float(start), stop_time=float(end), target=int(target))


def _add_covariates(nwb: NWBFile, recording: Recording) -> None:
    module = nwb.create_processing_module("behavior", "cursor kinematics")
    times, written = recording.timestamps, recording.written
    clock: dict[str, Any] = {"timestamps": times[written]} if recording.rate_hz is None else {}
    if recording.rate_hz is not None:
        clock = {"starting_time": float(times[0]), "rate": recording.rate_hz}
    for name, (values, unit) in recording.covariates.items():
        module.add(
            TimeSeries(
                name=name,
                data=values[written],
                unit=unit,
                description=f"{name} at bin centres",
                comments="columns=['x', 'y']",
                **clock,
            )
        )

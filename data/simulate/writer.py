"""Writes a simulated recording as an NWB file."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from hdmf.common import ElementIdentifiers
from numpy.typing import NDArray
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.core import DynamicTableRegion, VectorData, VectorIndex
from pynwb.file import Subject
from pynwb.misc import Units

from ndt.config import SimulateConfig
from ndt.intervals import Intervals

if TYPE_CHECKING:
    from ndt.data.simulate.recordings import Simulated

__all__ = ["write_recording"]

REGIONS = ("M1", "PMd", "S1", "PPC")

Array = NDArray[np.float64]


def write_recording(
    truth: "Simulated",
    config: SimulateConfig,
    *,
    spikes: Sequence[Array],
    position: Array,
    written: NDArray[np.bool_],
    trials: Intervals,
    heldout: NDArray[np.bool_],
) -> None:
    """Writes the file under a temporary name and renames it, so that a crash leaves no incomplete file.

    Arguments:
        truth: The simulated recording.
        config: Settings of the simulation.
        spikes: Each unit's spike times in seconds.
        position: Cursor position at bin centres in cm, shape (T, 2).
        written: Bins whose samples of the cursor are in the file, shape (T,).
        trials: Trials with a column ``target``.
        heldout: Whether a unit is held out, shape (N,); written if the settings include ``heldout``.
    """
    subject, session = truth.session_id.removeprefix("sub-").split("_ses-")
    day = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=int(session) - 1)
    nwb = NWBFile(
        "Simulated population with known truth",
        truth.session_id,
        day,
        session_id=session,
        file_create_date=day,  # so that the content depends on the seed alone
        experiment_description="simulated cursor movement",
    )
    nwb.subject = Subject(subject_id=subject, species="Macaca mulatta", description="simulated")
    if "no_electrodes" not in config.awkward:
        _add_electrodes(nwb, config)
    nwb.units = _units(nwb, truth, spikes, heldout if "heldout" in config.awkward else None)
    if len(trials):
        _add_trials(nwb, trials)
    _add_covariates(nwb, truth, position, written, "rate_series" in config.awkward)

    partial = truth.path.with_name(f".{os.getpid()}.{truth.path.name}")
    with NWBHDF5IO(partial, "w") as io:
        io.write(nwb)
    os.replace(partial, truth.path)


def _add_electrodes(nwb: NWBFile, config: SimulateConfig) -> None:
    device = nwb.create_device("array")
    side = int(np.ceil(np.sqrt(config.num_electrodes)))
    regions = REGIONS[: config.num_regions]
    parts = np.array_split(np.arange(config.num_electrodes), len(regions))
    for region, electrodes in zip(regions, parts, strict=True):
        name = "array" if len(regions) == 1 else f"array in {region}"
        group = nwb.create_electrode_group(name, description="simulated array", location=region, device=device)
        for e in electrodes.tolist():
            nwb.add_electrode(group=group, location=region, x=400.0 * (e % side), y=400.0 * (e // side), z=0.0)


def _units(nwb: NWBFile, truth: "Simulated", spikes: Sequence[Array], heldout: NDArray[np.bool_] | None) -> Units:
    """Returns the units table made of whole columns, which is much faster than adding rows."""
    N, segments = len(spikes), np.stack([truth.observed.start, truth.observed.end], 1)
    columns: list[VectorData] = []

    def add(column: VectorData, ends: NDArray[np.int64] | None = None) -> None:
        """Adds a column; with `ends`, a ragged one whose row n ends before ``ends[n]``."""
        columns.append(column)
        if ends is not None:
            columns.append(VectorIndex(name=f"{column.name}_index", data=ends, target=column))

    times = np.concatenate([*spikes, np.zeros(0)])
    add(VectorData(name="spike_times", description="spike times, s", data=times), np.cumsum(list(map(len, spikes))))
    observed = VectorData(
        name="obs_intervals", description="when the unit was observed, s", data=np.tile(segments, (N, 1))
    )
    add(observed, len(segments) * np.arange(1, N + 1))
    names = truth.unit_names.tolist()
    add(VectorData(name="unit_name", description="true identity across sessions", data=names))
    if heldout is not None:
        add(VectorData(name="heldout", description="whether the unit is held out", data=heldout))
    if nwb.electrodes is not None:
        region = DynamicTableRegion(
            name="electrodes", data=truth.electrodes, description="the unit's electrode", table=nwb.electrodes
        )
        add(region, np.arange(1, N + 1))
    numbers = ElementIdentifiers(name="id", data=np.arange(N))

    return Units(name="units", description="simulated units", id=numbers, columns=columns)


def _add_trials(nwb: NWBFile, trials: Intervals) -> None:
    nwb.add_trial_column("target", "octant of the cursor's displacement during the trial, 0 to 7")
    for start, end, target in zip(trials.start, trials.end, trials.columns["target"], strict=True):
        nwb.add_trial(start_time=float(start), stop_time=float(end), target=int(target))


def _add_covariates(
    nwb: NWBFile, truth: "Simulated", position: Array, written: NDArray[np.bool_], regular: bool
) -> None:
    """Adds the cursor's velocity and position, with timestamps or, if regular, a starting time and a rate."""
    module = nwb.create_processing_module("behavior", "cursor kinematics")
    times = truth.time + truth.bin_size / 2
    clock: dict[str, Any] = {"timestamps": times[written]}
    if regular:
        clock = {"starting_time": float(times[0]), "rate": 1 / truth.bin_size}
    for name, values, unit in (("cursor_vel", truth.velocity, "cm/s"), ("cursor_pos", position, "cm")):
        text = {"description": f"{name} at bin centres", "comments": "columns=['x', 'y']"}
        module.add(TimeSeries(name=name, data=values[written], unit=unit, **text, **clock))

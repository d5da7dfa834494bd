"""Small NWB files for tests, written with pynwb."""

import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.behavior import CompassDirection, Position, SpatialSeries
from pynwb.file import Subject

SPIKES = [np.array([0.5, 1.0, 2.0, 3.25]), np.array([]), np.array([0.25, 2.0, 2.0, 3.75])]


def write_nwb(path: Path, *fill: Callable[[NWBFile], None], subject: str = "x") -> Path:
    """Writes a file of one subject; each function in `fill` adds something to it."""
    start = datetime(2020, 1, 2, 3, tzinfo=UTC)
    nwb = NWBFile("reaching", path.stem, start, subject=Subject(subject_id=subject, species="Macaca mulatta"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these files are wrong on purpose
        for add in fill:
            add(nwb)
        path.parent.mkdir(parents=True, exist_ok=True)
        with NWBHDF5IO(path, "w") as io:
            io.write(nwb)
    return path


def units(
    spikes: Sequence[np.ndarray] = SPIKES,
    obs: Sequence | None = None,
    electrodes: Sequence | None = None,
    **columns: Sequence,
) -> Callable[[NWBFile], None]:
    """Adds units; `obs` holds each unit's observation intervals, `electrodes` the row of each unit's electrode."""

    def add(nwb: NWBFile) -> None:
        if electrodes is not None:
            group = nwb.create_electrode_group("probe", "a probe", location="M1", device=nwb.create_device("device"))
            for row in range(max(electrodes) + 1):
                nwb.add_electrode(group=group, location="PMd" if row else "unknown")
        for name in columns:
            nwb.add_unit_column(name, name)
        for n, times in enumerate(spikes):
            extra = {name: values[n] for name, values in columns.items()}
            extra |= {"obs_intervals": np.reshape(obs[n], (-1, 2))} if obs is not None else {}
            extra |= {"electrodes": [electrodes[n]]} if electrodes is not None else {}
            nwb.add_unit(spike_times=times, **extra)

    return add


def series(name: str = "hand_vel", data: np.ndarray | None = None, module: str = "behavior", **options: object):
    """Adds a time series to a processing module; 20 Hz from 0 s on unless `options` say otherwise."""
    data = np.arange(160.0).reshape(80, 2) if data is None else data
    if not options.keys() & {"timestamps", "rate"}:
        options["timestamps"] = np.arange(len(data)) / 20

    def add(nwb: NWBFile) -> None:
        home = nwb.processing.get(module) or nwb.create_processing_module(module, module)
        home.add(TimeSeries(name=name, data=data, **({"unit": "m/s"} | options)))

    return add


def tracking(nwb: NWBFile) -> None:
    """Adds position and head direction to ``/acquisition``, as older files do."""
    times = np.arange(100) / 25
    frame = {"reference_frame": "room", "timestamps": times}
    nwb.add_acquisition(Position([SpatialSeries(name="xy", data=np.ones((100, 2)), unit="cm", **frame)]))
    nwb.add_acquisition(CompassDirection([SpatialSeries(name="ry", data=times % 6, unit="radian", **frame)]))


def trials(nwb: NWBFile) -> None:
    """Adds three trials, two of them overlapping, with numeric, string and ragged columns."""
    for name in ("target", "cue"):
        nwb.add_trial_column(name, name)
    nwb.add_trial_column("words", "words", index=True)
    nwb.add_trial(start_time=0.0, stop_time=2.0, target=3, cue="left", words=["a", "b"])
    nwb.add_trial(start_time=1.0, stop_time=3.0, target=1, cue="rïght", words=["c"])
    nwb.add_trial(start_time=3.0, stop_time=4.0, target=2, cue="", words=[])


def invalid(*rows: tuple[float, float]) -> Callable[[NWBFile], None]:
    """Adds invalid times."""

    def add(nwb: NWBFile) -> None:
        for start, stop in rows:
            nwb.add_invalid_time_interval(start_time=start, stop_time=stop)

    return add

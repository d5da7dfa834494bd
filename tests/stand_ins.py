"""Small files with the fields of public data sets, since tests have no internet: what recipes are tried on.

Each says in its docstring what of the real files it has. Names, shapes and habits are theirs; values are chance.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pynwb import NWBFile, TimeSeries
from pynwb.behavior import BehavioralTimeSeries, CompassDirection, Position, SpatialSeries

from tests.recordings import series, write_nwb

SECONDS = 20.0
MUSCLES = (
    *("APL", "BCPs", "DLTa", "DLTp", "ECRB", "ECU", "EDC", "FCR"),
    *("FCU", "FDI", "FDPr", "FDPu", "Hypoth", "PECmaj", "TCPlat", "Thenar"),
)


def trains(num_units: int, seconds: float = SECONDS, rate_hz: float = 10.0, seed: int = 0) -> list[np.ndarray]:
    """Spike times of each unit, Poisson."""
    rng = np.random.default_rng(seed)

    return [np.sort(rng.uniform(0, seconds, rng.poisson(rate_hz * seconds))) for _ in range(num_units)]


def path_of(seconds: float, rate_hz: float, C: int = 2) -> np.ndarray:
    """A smooth path, (M, C)."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz

    return np.stack([np.sin((0.7 + 0.2 * c) * t + c) for c in range(C)], 1)


# MATLAB 7.3: HDF5 behind a header of its own, every array transposed, cells as references


def write_mat73(path: Path, values: dict[str, Any]) -> Path:
    """Writes a file as MATLAB 7.3 does: arrays, text, object arrays as cells, mappings as structs."""
    with h5py.File(path, "w", userblock_size=512) as file:
        writer = _Mat73(file.create_group("#refs#"))
        for name, value in values.items():
            writer.put(file, name, value)
    with path.open("r+b") as header:
        header.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 .".ljust(124) + b"\x00\x02IM")

    return path


class _Mat73:
    def __init__(self, cells: h5py.Group) -> None:
        self.cells, self.number = cells, 0

    def put(self, home: h5py.Group, name: str, value: Any) -> h5py.HLObject:
        if isinstance(value, dict):
            group = home.create_group(name)
            group.attrs["MATLAB_class"] = np.bytes_("struct")
            for key, part in value.items():
                self.put(group, key, part)
            return group
        if isinstance(value, str):  # one column of codes: transposed
            codes = np.array([[ord(letter)] for letter in value], np.uint16)
            return self.dataset(home, name, codes, "char", (0, 0) if not value else None)
        value = np.atleast_2d(value)
        empty = value.shape if value.size == 0 else None
        if value.dtype != object:
            return self.dataset(home, name, value.T, "double", empty)
        links = np.empty(value.size, h5py.ref_dtype)
        for i, cell in enumerate(value.T.ravel()):
            self.number += 1
            links[i] = self.put(self.cells, f"c{self.number}", cell).ref

        return self.dataset(home, name, links.reshape(value.T.shape), "cell", empty)

    @staticmethod
    def dataset(
        home: h5py.Group, name: str, data: np.ndarray, kind: str, empty: tuple[int, ...] | None
    ) -> h5py.Dataset:
        """An empty array stores its own shape and is marked as empty."""
        stored = home.create_dataset(name, data=data if empty is None else np.array(empty, np.uint64))
        stored.attrs["MATLAB_class"] = np.bytes_(kind)
        if empty is not None:
            stored.attrs["MATLAB_empty"] = np.uint8(1)
        return stored


def cell_array(cells: Sequence[Any], shape: tuple[int, ...] | None = None) -> np.ndarray:
    """An object array, filled one by one so that cells of one length stay cells."""
    array = np.empty(len(cells), object)
    for i, cell in enumerate(cells):
        array[i] = cell

    return array.reshape(shape or (len(cells), 1))


def indy_values(num_channels: int = 6, num_sorts: int = 3, seconds: float = 90.0, arrays: int = 1) -> dict[str, Any]:
    """What a file of Zenodo 3854034 holds.

    `spikes`: cells of channels by sorts, the first of what no sorted unit took, those without a unit empty; `wf`, the
    waveforms, of the same shape; `chan_names` (``M1 001`` …, then ``S1 001`` … where a second array was recorded); `t`
    at 250 Hz from 100 s on; `cursor_pos` and `target_pos` in mm, `finger_pos` in cm (z, -x, -y, and three angles).
    """
    first = 100.0
    per = num_channels // arrays
    names = [f"{array} {n + 1:03d}" for array in ("M1", "S1")[:arrays] for n in range(per)]
    cells = []
    for n, times in enumerate(trains(num_channels * num_sorts, seconds, seed=3)):
        channel, sort = divmod(n, num_sorts)
        absent = channel == 2 or (sort == num_sorts - 1 and channel % 2 == 1)  # channel 2 is silent altogether
        cells.append(np.zeros((0, 0)) if absent else first + times[:, None])
    t = first + np.arange(round(250 * seconds)) / 250
    cursor = 50 * path_of(seconds, 250.0)
    finger = np.concatenate([0.1 * path_of(seconds, 250.0, 1), -cursor / 10, 0.2 * path_of(seconds, 250.0, 3)], 1)

    return {
        "chan_names": cell_array(names),
        "cursor_pos": cursor,
        "finger_pos": finger,
        "spikes": cell_array(cells, (num_channels, num_sorts)),
        "t": t[:, None],
        "target_pos": np.repeat(np.random.default_rng(5).uniform(-50, 50, (len(t) // 250 + 1, 2)), 250, 0)[: len(t)],
        "wf": cell_array([np.zeros((len(cell), 4)) for cell in cells], (num_channels, num_sorts)),
    }


# NWB


def write_nlb(path: Path, split: Sequence[str] = ("train",) * 7 + ("val",) * 3, rtt: bool = False) -> Path:
    """MC_Maze (hand) or, `rtt`, MC_RTT (cursor and finger): DANDI 000128, 000129, 000138 to 000140.

    Units with `heldout`, ids whose first digit says the array (1: PMd, 2: M1), electrodes that in MC_Maze are PMd's for
    both, and one obs_interval a trial; trials of 2 s with `split`, and gaps of 0.25 s, which
    RTT lacks; behaviour at 1 kHz in processing/behavior, velocity as a plain TimeSeries with its columns named in
    `comments`, in mm/s.
    """
    length, gap = 2.0, 0.0 if rtt else 0.25
    start = np.arange(len(split)) * (length + gap)
    segments = np.stack([start, start + length], 1)
    seconds = float(segments[-1, 1])
    spikes = [t[((t[:, None] >= segments[:, 0]) & (t[:, None] < segments[:, 1])).any(1)] for t in trains(8, seconds)]
    observed = [[0.0, seconds]] if rtt else segments

    def fill(nwb: NWBFile) -> None:
        device = nwb.create_device("electrode_array")
        for name in ("M1",) if rtt else ("PMd", "M1"):
            group = nwb.create_electrode_group(f"electrode_group_{name}", "a Utah array", location=name, device=device)
            for _ in range(8 if rtt else 4):
                nwb.add_electrode(group=group, location=name, x=np.nan, y=np.nan, z=np.nan)
        nwb.add_unit_column("heldout", "whether the unit is held out in the benchmark")
        for n, times in enumerate(spikes):
            number, electrode = (n, n) if rtt else (1000 * (1 + n // 4) + n % 4, n % 4)
            nwb.add_unit(
                id=number, spike_times=times, obs_intervals=observed, electrodes=[electrode], heldout=n % 4 == 3
            )
        nwb.add_trial_column("split", "train, val, test or none")
        for (a, b), block in zip(segments, split, strict=True):
            nwb.add_trial(start_time=a, stop_time=b, split=block)

    position = 100 * path_of(seconds, 1000.0)
    velocity = 1000 * np.gradient(position, axis=0)
    behaviour = [
        (f"{'cursor' if rtt else 'hand'}_pos", position, "mm"),
        ("target_pos" if rtt else "eye_pos", position, "mm"),
    ]
    behaviour.append(("finger_vel" if rtt else "hand_vel", velocity, "mm/s"))
    options = {"rate": 1000.0, "starting_time": 0.0} if rtt else {"timestamps": np.arange(len(position)) / 1000}
    added = [series(name, data, unit=unit, comments="columns=[x, y]", **options) for name, data, unit in behaviour]

    return write_nwb(path, fill, *added, subject="Indy" if rtt else "Jenkins")


def write_falcon_h1(path: Path, split: str = "held_in_calib") -> Path:
    """FALCON's H1 (DANDI 000954): units alone, no electrodes, no obs_intervals, no trials but epochs.

    Seven velocities and `eval_mask` in acquisition, one sample for each bin of 20 ms, at its end. Their `rate` is the
    period (0.02) and their `offset` the first timestamp: its own loader reads ``offset + arange(M) * rate``, and leaves
    the data as they are.
    """

    def fill(nwb: NWBFile) -> None:
        for times in trains(8):
            nwb.add_unit(spike_times=times)
        velocity = path_of(SECONDS, 50.0, 7)
        mask = np.arange(len(velocity)) % 200 < 150
        dims = "tx,ty,tz,rx,g1,g2,g3"
        for name, data, about in (
            ("OpenLoopKinematics", np.cumsum(velocity, 0) / 50, dims),
            ("OpenLoopKinematicsVelocity", velocity, dims),
            ("TrialNum", np.arange(len(velocity)) // 250, "Trial number"),
            ("eval_mask", mask, "Timesteps to ignore covariates"),
        ):
            nwb.add_acquisition(
                TimeSeries(name=name, data=data, rate=0.02, offset=0.02, unit="arbitrary", description=about)
            )
        nwb.add_epoch(start_time=0.0, stop_time=5.0, tags=["Presentation"])
        nwb.add_epoch(start_time=5.0, stop_time=SECONDS, tags=["Reach"])

    return write_nwb(path, fill, subject=f"HumanPitt_{split}")


def write_falcon_h2(path: Path, split: str = "held_in_calib") -> Path:
    """FALCON's H2 (DANDI 000950): no units at all, counts in acquisition/binned_spikes, timestamps at ends of bins.

    Three trials of 6 s with pauses of 1 s in which nothing was recorded; `eval_mask`; the sentence of each trial in
    ``trials/cue``, words parted by ">".
    """
    times = np.concatenate([7.0 * k + 0.02 * np.arange(1, 301) for k in range(3)])

    def fill(nwb: NWBFile) -> None:
        counts = np.random.default_rng(0).poisson(0.3, (len(times), 12)).astype(np.uint8)
        nwb.add_acquisition(TimeSeries(name="binned_spikes", data=counts, timestamps=times, unit="count"))
        nwb.add_acquisition(TimeSeries(name="eval_mask", data=np.ones(len(times), bool), timestamps=times, unit="bool"))
        nwb.add_trial_column("cue", "sentence participant was prompted to write")
        nwb.add_trial_column("block_num", "experimental block")
        for k, cue in enumerate(("to>be", "or>not", "to>be>that")):
            nwb.add_trial(start_time=7.0 * k, stop_time=7.0 * k + 6.0, cue=cue, block_num=1)

    return write_nwb(path, fill, subject=f"T5_{split}")


def _boxed(name: str, parts: Sequence[str], values: np.ndarray, times: np.ndarray, unit: str) -> BehavioralTimeSeries:
    """A container of one-dimensional series on the same timestamps."""
    each = [TimeSeries(name=p, data=values[:, c], timestamps=times, unit=unit) for c, p in enumerate(parts)]

    return BehavioralTimeSeries(time_series=each, name=name)


def _array(nwb: NWBFile, spikes: Sequence[np.ndarray], seconds: float) -> None:
    """Units of one array in M1, each on its electrode and observed throughout."""
    device = nwb.create_device("array")
    group = nwb.create_electrode_group("M1_array", "hand area", location="M1", device=device)
    for n, times in enumerate(spikes):
        nwb.add_electrode(group=group, location="M1", x=400.0 * n, y=0.0, z=0.0)
        nwb.add_unit(spike_times=times, electrodes=[n], obs_intervals=[[0.0, seconds]])


def write_falcon_m1(path: Path, split: str = "held_in_calib") -> Path:
    """FALCON's M1 (DANDI 000941): 16 muscles as one-dimensional series in one container, trials with objects."""
    times = 0.02 * np.arange(1, round(SECONDS / 0.02))

    def fill(nwb: NWBFile) -> None:
        _array(nwb, trains(8), SECONDS)
        emg = np.abs(path_of(SECONDS, 50.0, 16))[: len(times)]
        nwb.add_acquisition(_boxed("preprocessed_emg", MUSCLES, emg, times, "AU"))
        nwb.add_acquisition(TimeSeries(name="eval_mask", data=times % 2 < 1.5, timestamps=times, unit="bool"))
        for name in ("gocue_time", "tgt_obj", "tgt_loc"):
            nwb.add_trial_column(name, name)
        for k in range(10):
            nwb.add_trial(
                start_time=2.0 * k, stop_time=2.0 * k + 1.5, gocue_time=2.0 * k + 0.5, tgt_obj="Sphere", tgt_loc=45.0
            )

    return write_nwb(path, fill, subject=f"MonkeyL_{split}")


def write_falcon_m2(path: Path, split: str = "held_in_calib") -> Path:
    """FALCON's M2 (DANDI 000953): position and velocity of two groups of fingers, timestamps at starts of bins."""
    times = 0.02 * np.arange(round(SECONDS / 0.02))

    def fill(nwb: NWBFile) -> None:
        _array(nwb, trains(8), SECONDS)
        for name in ("finger_pos", "finger_vel"):
            nwb.add_acquisition(_boxed(name, ("index", "mrs"), path_of(SECONDS, 50.0), times, "AU"))
        nwb.add_acquisition(TimeSeries(name="eval_mask", data=times % 2 < 1.5, timestamps=times, unit="bool"))
        nwb.add_trial_column("tgt_loc", "location of target")
        for k in range(10):
            nwb.add_trial(start_time=2.0 * k, stop_time=2.0 * k + 1.5, tgt_loc=[0.2, 0.8])

    return write_nwb(path, fill, subject=f"MonkeyN_{split}")


def write_churchland(path: Path) -> Path:
    """Churchland and others' mazes (DANDI 000070): positions only, in a container; one obs_interval a trial."""
    start = 2.25 * np.arange(9)
    segments = np.stack([start, start + 2.0], 1)

    def fill(nwb: NWBFile) -> None:
        device = nwb.create_device("Utah Array(M1)")
        group = nwb.create_electrode_group("2", "array in M1", location="M1", device=device)
        for n, times in enumerate(trains(6, 20.0)):
            nwb.add_electrode(group=group, location="M1")
            inside = ((times[:, None] >= segments[:, 0]) & (times[:, None] < segments[:, 1])).any(1)
            nwb.add_unit(spike_times=times[inside], electrodes=[n], obs_intervals=segments)
        times = np.concatenate([a + np.arange(2000) / 1000 for a in start])
        xy = np.stack([np.sin(times), np.cos(times)], 1)
        frame = {"reference_frame": "screen", "timestamps": times, "unit": "mm"}
        module = nwb.create_processing_module("behavior", "contains monkey movement data")
        module.add(Position([SpatialSeries(name=name, data=xy, **frame) for name in ("Cursor", "Eye", "Hand")]))
        for name in ("discard_trial", "task_success"):
            nwb.add_trial_column(name, name)
        for a, b in segments:
            nwb.add_trial(start_time=a, stop_time=b, discard_trial=0, task_success=1)

    return write_nwb(path, fill, subject="Jenkins")


def write_ibl(path: Path) -> Path:
    """A processed session of IBL's map (DANDI 000409): two probes, scores of units, the wheel at 1 kHz, two cameras."""

    def fill(nwb: NWBFile) -> None:
        for name in (
            "unit_name",
            "ibl_quality_score",
            "kilosort2_label",
            "presence_ratio",
            "distance_from_probe_tip_um",
        ):
            nwb.add_unit_column(name, name)
        regions = ("Ventral posteromedial nucleus of the thalamus", "CA1")
        groups = [
            nwb.create_electrode_group(f"Probe0{p}", "a probe", location=region, device=nwb.create_device(f"probe0{p}"))
            for p, region in enumerate(regions)
        ]
        for n, times in enumerate(trains(12)):
            probe = n % 2
            nwb.add_electrode(group=groups[probe], location=regions[probe], rel_x=16.0, rel_y=20.0 * n)
            nwb.add_unit(
                spike_times=times,
                electrodes=[n],
                unit_name=f"probe0{probe}_{n // 2}",
                ibl_quality_score=(0.0, 1 / 3, 2 / 3, 1.0)[n // 2 % 4],
                kilosort2_label="good" if n % 3 else "mua",
                presence_ratio=0.9,
                distance_from_probe_tip_um=20.0 * n,
            )
        wheel = nwb.create_processing_module("wheel", "wheel")
        stamps = np.sort(np.random.default_rng(0).uniform(0, SECONDS, 4000))
        raw = SpatialSeries(
            name="WheelPosition", data=np.sin(stamps), timestamps=stamps, unit="rad", reference_frame="0"
        )
        wheel.add(CompassDirection(spatial_series=raw, name="CompassDirection"))
        wheel.add(
            TimeSeries(name="WheelVelocitySmoothed", data=path_of(SECONDS, 1000.0, 1)[:, 0], rate=1e3, unit="rad/s")
        )
        energy = nwb.create_processing_module("motion_energy", "motion energy")
        for name, rate in (("LeftCameraMotionEnergy", 60.0), ("BodyCameraMotionEnergy", 30.0)):
            stamps = np.arange(round(SECONDS * rate)) / rate
            energy.add(TimeSeries(name=name, data=np.abs(np.sin(stamps)), timestamps=stamps, unit="a.u."))
        for name in ("mouse_wheel_choice", "probability_left"):
            nwb.add_trial_column(name, name)
        for k in range(6):
            nwb.add_trial(
                start_time=3.0 * k, stop_time=3.0 * k + 2.5, mouse_wheel_choice="clockwise", probability_left=0.5
            )

    return write_nwb(path, fill, subject="NYU-21")


def write_embryoid(path: str | Path, num_cells: int = 2000, num_dims: int = 100, seed: int = 0) -> Path:
    """Writes simulated cells along a stem that branches after the first sample, in the form of ``eb_velocity_v5.npz``.

    Arguments:
        path: The .npz file to write.
        num_cells: Cells of all samples, of unequal sizes as in the experiment.
        num_dims: Components; five carry the tree, the others noise of decreasing variance.
        seed: Seed of all draws.
    """
    rng = np.random.default_rng(seed)
    label = rng.choice(5, num_cells, p=[0.14, 0.23, 0.2, 0.22, 0.21])
    age = label + rng.normal(0, 0.2, num_cells)
    side, other = (rng.choice([-1.0, 1.0], num_cells) for _ in range(2))
    grown = np.maximum(age - 1, 0)  # since the first branch
    later = np.maximum(age - 2.5, 0)
    tree = np.stack([2 * age, 1.2 * side * grown, 0.5 * np.sin(age), 0.8 * later * other, 0.2 * age**2], 1)
    rate = np.stack(
        [np.full(num_cells, 2.0), 1.2 * side * (age > 1), 0.5 * np.cos(age), 0.8 * other * (age > 2.5), 0.4 * age], 1
    )
    noise = 0.4 / np.sqrt(1 + np.arange(num_dims) / 5)
    pcs = noise * rng.normal(size=(num_cells, num_dims))
    delta = 0.1 * noise * rng.normal(size=(num_cells, num_dims))
    pcs[:, : tree.shape[1]] += tree[:, :num_dims]
    delta[:, : tree.shape[1]] += rate[:, :num_dims]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, pcs=pcs, pcs_delta=delta, sample_labels=label)

    return path

"""Files of well-known archives: what they hold is recognised, and does what it means."""

import numpy as np
from pynwb import TimeSeries
from pynwb.behavior import BehavioralEpochs, BehavioralEvents, BehavioralTimeSeries, CompassDirection, SpatialSeries
from pynwb.epoch import TimeIntervals
from pynwb.misc import AnnotationSeries, IntervalSeries

from ndt.config import IngestConfig
from ndt.data.covariates import find_covariate
from ndt.data.read.nwb import read_nwb
from ndt.data.reading import read
from tests.recordings import SPIKES, invalid, series, tracking, units, write_nwb

QUICK = IngestConfig(probe_seconds=0.0)


def nlb(nwb):
    nwb.add_trial_column("split", "benchmark's block")
    for k, name in enumerate(["train", "val", "train", "none", "train", "val"] * 4):
        nwb.add_trial(start_time=2.0 * k, stop_time=2.0 * k + 1.5, split=name)


LONG = [np.arange(0.05, 50, 0.1 + 0.01 * n) for n in range(3)]
WHOLE = [[(0.0, 50.0)]] * 3


def test_nlb_held_out_units_and_blocks(tmp_path) -> None:
    path = write_nwb(tmp_path / "a.nwb", units(LONG, obs=WHOLE, heldout=[True, False, False]), nlb)
    session = read(path, IngestConfig(probe_seconds=0.0, split="trials/split"))
    assert set(session.source["conventions"]) == {"NLB"}
    table = session.intervals["split"]
    of = {name: table.start[table.columns["block"] == name].tolist() for name in ("train", "valid", "test")}
    assert of["test"] == [
        2.0,
        10.0,
        14.0,
        22.0,
        26.0,
        34.0,
        38.0,
        46.0,
    ]  # rows of val; no file has labels for the others
    assert of["valid"] == [40.0, 44.0]  # the last eighth of training rows
    assert len(of["train"]) == 10


def test_falcon_a_mask_of_samples_is_a_table_and_muscles_are_one_covariate(tmp_path) -> None:
    times = np.arange(200) / 50

    def behaviour(nwb):
        box = BehavioralTimeSeries(name="preprocessed_emg")
        for n in range(3):
            box.add_timeseries(TimeSeries(name=f"muscle{n}", data=n + times, unit="mV", timestamps=times))
        nwb.add_acquisition(box)
        nwb.add_acquisition(
            TimeSeries(name="eval_mask", data=(times >= 1) & (times < 3), unit="bool", timestamps=times)
        )

    session = read_nwb(write_nwb(tmp_path / "a.nwb", units(), behaviour), QUICK)
    emg = session.covariates["preprocessed_emg"]
    assert (emg.dims, emg.unit, emg.path) == (("muscle0", "muscle1", "muscle2"), "mV", "acquisition/preprocessed_emg")
    np.testing.assert_array_equal(emg.values, times[:, None] + np.arange(3))
    assert {"muscle0", "muscle1", "muscle2"} <= set(session.covariates)
    mask = session.intervals["eval_mask"]
    np.testing.assert_allclose([mask.start, mask.end], [[0.99], [2.99]])
    assert "eval_mask" not in session.covariates
    assert "FALCON" in session.source["conventions"]
    only = read(tmp_path / "a.nwb", IngestConfig(probe_seconds=0.0, covariates=("preprocessed_emg",)))
    assert set(only.covariates) == {"preprocessed_emg"}


def allen(nwb):
    """Two probes; units name their peak channel by the electrode's id; one invalid time is tagged with a probe."""
    device = nwb.create_device("rig")
    for name, location in (("probeA", "VISp"), ("probeB", "LGd")):
        group = nwb.create_electrode_group(name, name, location=location, device=device)
        for k in range(2):
            nwb.add_electrode(id=1000 * (name == "probeB") + k, group=group, location=location, rel_y=20.0 * k)
    for name in ("peak_channel_id", "isi_violations", "quality"):
        nwb.add_unit_column(name, name)
    for channel, times in zip((1001, 0, 1000), SPIKES, strict=True):
        nwb.add_unit(
            spike_times=times, peak_channel_id=channel, isi_violations=0.1, quality="good", obs_intervals=[[0.0, 4.0]]
        )
    nwb.add_invalid_time_interval(start_time=0.4, stop_time=1.2, tags=["EcephysSession", "123", "probeB"])
    nwb.add_invalid_time_interval(start_time=3.5, stop_time=4.0, tags=["EcephysSession"])


def test_allen_peak_channels_are_electrodes_and_invalid_times_are_of_their_probe(tmp_path) -> None:
    session = read_nwb(write_nwb(tmp_path / "a.nwb", allen), QUICK)
    assert set(session.source["conventions"]) == {"Allen"}
    columns = session.units.columns
    np.testing.assert_array_equal(columns["group"], ["probeB", "probeA", "probeB"])
    np.testing.assert_array_equal(columns["location"], ["LGd", "VISp", "LGd"])
    np.testing.assert_array_equal(columns["electrode"], [3, 0, 2])
    np.testing.assert_array_equal(columns["rel_y"], [20.0, 0.0, 0.0])
    each = session.units.observed
    spans = {
        n: list(zip(each.start[r], each.end[r], strict=True))
        for n in range(3)
        for r in [each.columns["unit_index"] == n]
    }
    assert spans == {0: [(0.0, 0.4), (1.2, 3.5)], 1: [(0.0, 3.5)], 2: [(0.0, 0.4), (1.2, 3.5)]}
    np.testing.assert_array_equal(session.observed.end, [3.5])  # probe A went on
    # unit 0 of SPIKES fires at 0.5, 1, 2, 3.25, unit 2 at 0.25, 2, 2, 3.75
    np.testing.assert_array_equal(session.spikes.timestamps, [0.25, 2.0, 2.0, 2.0, 3.25])


def test_ibl_columns_are_recognised(tmp_path) -> None:
    path = write_nwb(tmp_path / "a.nwb", units(ibl_quality_score=[1.0, 0.33, 0.66]))
    assert set(read_nwb(path, QUICK).source["conventions"]) == {"IBL"}
    assert read(path, IngestConfig(probe_seconds=0.0, select="ibl_quality_score == 1")).num_units == 1


def test_ordinary_files_follow_none(tmp_path) -> None:
    assert read_nwb(write_nwb(tmp_path / "a.nwb", units(), series()), QUICK).source["conventions"] == {}


def events(nwb):
    """Events in every form that NWB has for them."""
    table = nwb.create_events_table if hasattr(nwb, "create_events_table") else None
    if table is not None:
        licks = table(name="licks", description="licks")
        licks.add_column(name="side", description="side")
        for t, side in ((0.5, "left"), (1.5, "right")):
            licks.add_row(timestamp=t, side=side)
    rewards = BehavioralEvents(name="rewards")
    rewards.add_timeseries(TimeSeries(name="drop", data=[1.0, 2.0], unit="ml", timestamps=[0.75, 2.5]))
    nwb.add_acquisition(rewards)
    nwb.add_acquisition(AnnotationSeries(name="notes", data=["begin", "end"], timestamps=[0.0, 3.0]))
    runs = BehavioralEpochs(name="running")
    runs.add_interval_series(IntervalSeries(name="bouts", data=[1, -1, 1, -1], timestamps=[0.0, 1.0, 2.0, 2.5]))
    box = nwb.create_processing_module("behavior", "behavior")
    box.add(runs)
    stages = TimeIntervals(name="stages", description="sleep")
    stages.add_column(name="stage", description="stage")
    stages.add_row(start_time=0.0, stop_time=2.0, stage="wake")
    box.add(stages)


def test_events_and_intervals_of_every_form_are_tables(tmp_path) -> None:
    session = read_nwb(write_nwb(tmp_path / "a.nwb", units(), events), QUICK)
    found = {name: list(zip(t.start, t.end, strict=True)) for name, t in session.intervals.items()}
    expected = {
        "drop": [(0.75, 0.75), (2.5, 2.5)],
        "notes": [(0.0, 0.0), (3.0, 3.0)],
        "bouts": [(0.0, 1.0), (2.0, 2.5)],
        "stages": [(0.0, 2.0)],
    }
    if "licks" in found:
        expected["licks"] = [(0.5, 0.5), (1.5, 1.5)]
        np.testing.assert_array_equal(session.intervals["licks"].columns["side"], ["left", "right"])
    assert found == expected
    np.testing.assert_array_equal(session.intervals["drop"].columns["value"], [1.0, 2.0])
    np.testing.assert_array_equal(session.intervals["notes"].columns["value"], ["begin", "end"])
    np.testing.assert_array_equal(session.intervals["stages"].columns["stage"], ["wake"])
    assert session.covariates == {}


def test_a_heading_in_degrees_is_an_angle_and_a_joint_is_not(tmp_path) -> None:
    times = np.arange(100) / 25

    def angles(nwb):
        compass = SpatialSeries(name="yaw", data=times * 90, unit="degrees", reference_frame="room", timestamps=times)
        nwb.add_acquisition(CompassDirection([compass]))

    path = write_nwb(tmp_path / "a.nwb", units(), angles, series("joint_angle", np.arange(80.0), unit="degrees"))
    session = read_nwb(path, QUICK)
    yaw = session.covariates["CompassDirection/yaw"]
    assert (yaw.angular, yaw.unit) == (True, "radian")
    np.testing.assert_allclose(yaw.values[:, 0], times * np.pi / 2)
    assert not session.covariates["joint_angle"].angular


def test_series_are_found_in_every_corner_and_raw_ones_only_by_name(tmp_path) -> None:
    def corners(nwb):
        nwb.add_stimulus(TimeSeries(name="contrast", data=np.arange(80.0), unit="1", rate=20.0))
        nwb.add_analysis(TimeSeries(name="speed", data=np.arange(80.0), unit="m/s", rate=20.0))
        nwb.add_scratch(TimeSeries(name="pupil", data=np.arange(80.0), unit="mm", rate=20.0))
        nwb.add_acquisition(TimeSeries(name="sync", data=np.zeros(60_000), unit="V", rate=30_000.0))

    path = write_nwb(tmp_path / "a.nwb", units(), tracking, corners)
    session = read_nwb(path, QUICK)
    assert set(session.covariates) == {"contrast", "speed", "pupil", "Position/xy", "CompassDirection/ry"}
    assert session.covariates["contrast"].path == "stimulus/presentation/contrast"
    assert find_covariate(session, "analysis/speed").name == "speed"
    assert (
        "acquisition/sync: 30,000 Hz is a raw recording's rate; name it among the covariates to read it"
        in session.dropped
    )
    assert set(read(path, IngestConfig(probe_seconds=0.0, covariates=("sync",))).covariates) == {"sync"}


def test_samples_without_a_timestamp_are_left_out_and_said(tmp_path) -> None:
    times = np.arange(80) / 20
    times[7] = np.nan
    session = read_nwb(write_nwb(tmp_path / "a.nwb", units(), series(timestamps=times)), QUICK)
    assert len(session.covariates["hand_vel"].timestamps) == 79
    assert "processing/behavior/hand_vel: 1 of 80 samples have no timestamp and are left out" in session.warnings


def test_arrays_larger_than_allowed_are_not_read(tmp_path) -> None:
    path = write_nwb(tmp_path / "a.nwb", units(), series(), invalid((1.0, 1.1)))
    session = read_nwb(path, IngestConfig(probe_seconds=0.0, max_gib=1e-6))
    assert session.covariates == {}
    assert session.dropped[-1].startswith("processing/behavior/hand_vel: 0.0 GiB are more than max_gib")

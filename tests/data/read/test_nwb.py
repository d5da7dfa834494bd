import warnings

import h5py
import numpy as np
import pytest
from pynwb import TimeSeries
from pynwb.ecephys import ElectricalSeries

from ndt.config import IngestConfig
from ndt.data.read.file_probe import session_id_of
from ndt.data.read.nwb import read_nwb
from ndt.data.reading import read
from ndt.errors import InputError
from ndt.spikes import bin_spikes
from tests.realdata import real_file
from tests.recordings import SPIKES, invalid, series, tracking, trials, units, write_nwb

QUICK = IngestConfig(probe_seconds=0.0)  # the child process that opens files first has its own tests


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A file with a little of everything."""
    path = tmp_path_factory.mktemp("nwb") / "sub-x_ses-1_behavior+ecephys.nwb"
    columns = {"heldout": [True, False, False], "quality": ["good", "mua", "gööd"], "snr": [1.5, 2.5, np.nan]}
    vel = series(data=np.arange(160, dtype=np.float32).reshape(80, 2), comments="columns=['vx', 'vy']", conversion=0.01)
    force = series("force", data=np.arange(200), rate=50.0, starting_time=0.5, conversion=2.0, offset=-1.0, unit="N")
    slow = series("temperature", data=np.arange(5.0), rate=0.5)
    fill = [units(electrodes=[1, 0, 1], **columns), vel, force, slow, tracking, trials, invalid((1.5, 1.75))]
    return read_nwb(write_nwb(path, *fill), QUICK)


def test_spikes_of_all_units_come_out_in_one_ascending_list(rich):
    np.testing.assert_array_equal(rich.spikes.timestamps, [0.25, 0.5, 1.0, 2.0, 2.0, 2.0, 3.25, 3.75])
    np.testing.assert_array_equal(rich.spikes.unit_index, [2, 0, 0, 0, 2, 2, 0, 2])


def test_who_and_when(rich):
    assert (rich.session_id, rich.subject, rich.task) == ("sub-x_ses-1", "x", "reaching")
    assert rich.recording_date == "2020-01-02T03:00:00+00:00"
    assert len(rich.source["sha256"]) == 64


def test_custom_unit_columns_and_electrodes_are_kept(rich):
    columns = rich.units.columns
    np.testing.assert_array_equal(columns["heldout"], [True, False, False])
    np.testing.assert_array_equal(columns["quality"], ["good", "mua", "gööd"])
    np.testing.assert_array_equal(columns["snr"], [1.5, 2.5, np.nan])
    np.testing.assert_array_equal(columns["electrode"], [1, 0, 1])
    np.testing.assert_array_equal(columns["group"], ["probe"] * 3)
    np.testing.assert_array_equal(columns["location"], ["PMd", "M1", "PMd"])  # row 0 says "unknown", its group says M1


def test_timestamps_conversion_and_column_names(rich):
    vel = rich.covariates["hand_vel"]
    np.testing.assert_array_equal(vel.timestamps, np.arange(80) / 20)
    np.testing.assert_allclose(vel.values, np.arange(160).reshape(80, 2) / 100, rtol=1e-6)  # float32 as in the file
    assert (vel.values.dtype, vel.dims, vel.unit) == (np.float32, ("vx", "vy"), "m/s")
    assert vel.path == "processing/behavior/hand_vel"


def test_rate_start_and_offset(rich):
    force = rich.covariates["force"]
    np.testing.assert_allclose(force.timestamps, 0.5 + np.arange(200) / 50, rtol=0, atol=1e-12)  # rounding
    np.testing.assert_array_equal(force.values[:, 0], 2.0 * np.arange(200) - 1.0)


def test_behaviour_in_acquisition_and_angles(rich):
    assert set(rich.covariates) == {"hand_vel", "force", "Position/xy", "CompassDirection/ry"}
    assert [name for name, covariate in rich.covariates.items() if covariate.angular] == ["CompassDirection/ry"]
    assert rich.covariates["Position/xy"].dims == ("x", "y")


def test_trials_stay_as_they_are_overlapping_and_with_their_columns(rich):
    table = rich.intervals["trials"]
    np.testing.assert_array_equal(table.start, [0.0, 1.0, 3.0])
    np.testing.assert_array_equal(table.end, [2.0, 3.0, 4.0])
    np.testing.assert_array_equal(table.columns["target"], [3, 1, 2])
    np.testing.assert_array_equal(table.columns["cue"], ["left", "rïght", ""])
    np.testing.assert_array_equal(table.columns["words"], ["a,b", "c", ""])


def test_without_obs_intervals_all_between_first_and_last_spike_is_observed_but_invalid_times(rich):
    np.testing.assert_array_equal(rich.observed.start, [0.25, 1.75])
    np.testing.assert_array_equal(rich.observed.end, [1.5, np.nextafter(3.75, np.inf)])  # half-open: the last is inside
    assert rich.units.observed is None
    (warning,) = rich.warnings
    assert warning.startswith(
        "units/obs_intervals: none; observed time is taken to be that from the first to the last spike"
    )


def test_what_is_left_out_is_said(rich):
    assert rich.dropped == ("processing/behavior/temperature: median rate 0.5 Hz is below 1 Hz",)


def raw_recordings(nwb):
    region = nwb.create_electrode_table_region([0, 1], "both")
    nwb.add_acquisition(ElectricalSeries(name="raw", data=np.zeros((100, 2)), electrodes=region, rate=1000.0))
    nwb.add_acquisition(TimeSeries(name="wide", data=np.zeros((100, 17)), unit="V", rate=100.0))
    nwb.add_acquisition(TimeSeries(name="back", data=np.zeros(3), unit="V", timestamps=[0.0, 2.0, 1.0]))
    nwb.add_acquisition(TimeSeries(name="one", data=np.zeros(1), unit="V", rate=100.0))


def test_raw_wide_unordered_and_tiny_series_are_no_covariates(tmp_path):
    session = read_nwb(write_nwb(tmp_path / "a.nwb", units(electrodes=[0, 1, 1]), raw_recordings), QUICK)

    assert session.covariates == {}
    reasons = dict(line.split(": ", 1) for line in session.dropped)
    assert reasons == {
        "acquisition/raw": "ElectricalSeries is a raw recording",
        "acquisition/wide": "shape (100, 17) is not (samples, 1 to 16 dimensions)",
        "acquisition/back": "timestamps do not ascend",
        "acquisition/one": "1 samples are fewer than 2",
    }


def test_names_grow_until_they_are_unambiguous(tmp_path):
    fill = [units(), series("pos", module="hand"), series("pos", module="eye"), series("vel", module="eye")]

    assert set(read_nwb(write_nwb(tmp_path / "a.nwb", *fill), QUICK).covariates) == {"hand/pos", "eye/pos", "vel"}


def test_common_obs_intervals_are_the_sessions(tmp_path):
    obs = [[(0.0, 1.0), (2.0, 3.25)]] * 3
    session = read_nwb(write_nwb(tmp_path / "a.nwb", units(obs=obs), series()), QUICK)

    assert session.units.observed is None
    np.testing.assert_array_equal(session.observed.start, [0.0, 2.0])
    # half-open: 1.0 and 3.25 lie on ends, 2.0 on a start
    np.testing.assert_array_equal(session.spikes.timestamps, [0.25, 0.5, 2.0, 2.0, 2.0])
    assert session.dropped == ("units/spike_times: 3 of 8 spikes lie outside observed time",)


def test_units_observed_at_different_times(tmp_path):
    obs = [[(0.0, 1.5)], [], [(1.0, 3.0), (3.5, 4.0)]]
    session = read_nwb(write_nwb(tmp_path / "a.nwb", units(obs=obs), invalid((2.5, 2.75))), QUICK)

    np.testing.assert_array_equal(session.observed.start, [0.0, 2.75, 3.5])
    np.testing.assert_array_equal(session.observed.end, [2.5, 3.0, 4.0])
    each = session.units.observed
    np.testing.assert_array_equal(each.columns["unit_index"], [0, 2, 2, 2])
    np.testing.assert_array_equal(each.start, [0.0, 1.0, 2.75, 3.5])
    np.testing.assert_array_equal(session.spikes.timestamps, [0.5, 1.0, 2.0, 2.0, 3.75])
    np.testing.assert_array_equal(session.spikes.unit_index, [0, 0, 2, 2, 2])


@pytest.mark.parametrize(
    ("name", "session_id"),
    [
        ("sub-m1_ses-a_behavior+ecephys.nwb", "sub-m1_ses-a"),
        ("sub-Jenkins_ses-small_desc-train_behavior+ecephys.nwb", "sub-Jenkins_ses-small_desc-train"),
        ("sub-1_ecephys.nwb", "sub-1"),
        ("my_recording.nwb", "my_recording"),
    ],
)
def test_session_names(name, session_id):
    assert session_id_of(name) == session_id


@pytest.mark.parametrize(
    ("identity", "ids"),
    [
        ("electrode", ["x/probe/00001/0", "x/probe/00000/0", "x/probe/00001/1"]),
        ("session", ["a/unit/00000", "a/unit/00001", "a/unit/00002"]),
        ("label", ["x/u9", "x/u3", "x/u5"]),
    ],
)
def test_unit_identities(tmp_path, identity, ids):
    path = write_nwb(tmp_path / "a.nwb", units(electrodes=[1, 0, 1], label=["u9", "u3", "u5"]))

    np.testing.assert_array_equal(read(path, IngestConfig(unit_identity=identity)).units.id, ids)


def test_units_without_electrodes_belong_to_their_session(tmp_path):
    session = read_nwb(write_nwb(tmp_path / "a.nwb", units()), QUICK)

    np.testing.assert_array_equal(session.units.id, ["a/unit/00000", "a/unit/00001", "a/unit/00002"])
    np.testing.assert_array_equal(session.units.columns["electrode"], [-1, -1, -1])


def shorten(path):
    with h5py.File(path, "a") as file:
        home = file["processing/behavior/hand_vel"]
        attrs, values = dict(home["data"].attrs), home["data"][:-5]
        del home["data"]
        home.create_dataset("data", data=values).attrs.update(attrs)


BAD = {
    "no units": ((), "units: expected a column of spike times, or a series of spike counts .*, found none"),
    "descending": ((units([np.array([1.0, 3.0, 2.0])]),), "units/spike_times: .*ascending.*2 s after 3 s in unit 0"),
    "NaN": ((units([np.zeros(1), np.array([1.0, np.nan])]),), "units/spike_times: .*finite.*nan in unit 1"),
    "backward": ((units(obs=[[(2.0, 1.0)]] * 3),), r"units/obs_intervals: .*in that order, found \[2.0, 1.0\]"),
    "all invalid": ((units(), invalid((0.0, 9.0))), "observed time: .*outside invalid_times, found none"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_content_is_one_line_that_names_file_and_field(tmp_path, name):
    fill, message = BAD[name]
    path = write_nwb(tmp_path / "bad.nwb", *fill)

    with pytest.raises(InputError, match=f"bad.nwb: {message}") as error:
        read_nwb(path, QUICK)
    assert "\n" not in str(error.value)


def test_covariate_shorter_than_its_timestamps(tmp_path):
    path = write_nwb(tmp_path / "bad.nwb", units(), series())
    shorten(path)

    session = read_nwb(path, QUICK)
    assert session.covariates == {}
    assert session.dropped == ("processing/behavior/hand_vel: 75 samples do not fit 80 timestamps",)


def test_identity_columns_must_exist_and_identify(tmp_path):
    path = write_nwb(tmp_path / "bad.nwb", units(label=["a", "b", "a"]))

    with pytest.raises(InputError, match=r"unit_identity: expected electrode, session or .*label.*, found name"):
        read(path, IngestConfig(unit_identity="name", probe_seconds=0.0))
    with pytest.raises(InputError, match=r"units/label: .*found a twice"):
        read(path, IngestConfig(unit_identity="label", probe_seconds=0.0))


def test_files_that_are_not_nwb_are_refused_without_the_child_process_too(tmp_path):
    (tmp_path / "text.nwb").write_text("spikes: many")

    with pytest.raises(InputError, match=r"text.nwb: file: expected an HDF5 file"):
        read_nwb(tmp_path / "text.nwb", QUICK)


def test_reading_says_nothing_on_the_way(tmp_path):
    path = write_nwb(tmp_path / "a.nwb", units(), series(), trials)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_nwb(path, QUICK)
    assert [str(warning.message) for warning in caught] == []


REAL = {  # units, spikes, segments, observed seconds (PROVENANCE.md)
    "sub-m1/*.nwb": (171, 2352815, 1, 776.8),
    "sub-s1/*.nwb": (52, 842910, 391, 1756.45),
    "sub-chewie/*20131003*.nwb": (174, 45021, 159, 86.55),
    "sub-chewie/*20131219*.nwb": (155, 44144, 180, 83.5),
    "sub-A2929/*.nwb": (15, 98794, 1, 1199.9595),  # without obs_intervals: first to last spike
}


@pytest.mark.real
@pytest.mark.parametrize("pattern", REAL)
def test_real_recordings(pattern):
    num_units, num_spikes, segments, seconds = REAL[pattern]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session = read_nwb(real_file(pattern), QUICK)

    assert (session.num_units, len(session.spikes.timestamps), len(session.observed)) == (
        num_units,
        num_spikes,
        segments,
    )
    np.testing.assert_allclose(session.observed.duration, seconds, rtol=1e-7)
    assert session.dropped == ()
    for covariate in session.covariates.values():  # no sample lies in a gap; A2929's outlast its last spike
        assert session.observed.contains(covariate.timestamps).mean() > 0.9999


@pytest.mark.real
@pytest.mark.parametrize(("pattern", "bin_size"), [("sub-m1/*.nwb", 0.05), ("sub-chewie/*20131219*.nwb", 0.1)])
def test_spikes_of_a_real_recording_lie_inside_the_bins_of_its_behaviour(pattern, bin_size):
    """The files were laid out from counts at 2 to 98 % of each bin around a sample: binning there loses no spike."""
    session = read_nwb(real_file(pattern), QUICK)
    times = session.covariates["hand_vel"].timestamps - bin_size / 2
    total = 0
    for start, end in zip(session.observed.start, session.observed.end, strict=True):
        segment = times[(times >= start - 1e-6) & (times < end - 1e-6)]
        np.testing.assert_allclose(segment[0], start, rtol=0, atol=1e-9)
        total += bin_spikes(session, segment[0], bin_size, len(segment)).sum(dtype=np.int64)

    assert total == len(session.spikes.timestamps)


@pytest.mark.real
def test_a_file_of_another_laboratory():
    session = read_nwb(real_file("sub-A2929/*.nwb"), QUICK)

    assert session.subject == "A2929"  # the file's own field is empty; its name is not
    assert session.covariates["CompassDirection/ry"].angular
    assert session.covariates["Position/x"].path == "acquisition/Position/x"
    np.testing.assert_array_equal(session.intervals["epochs"].columns["tags"], ["sleep", "wake"])
    assert set(session.intervals) == {"epochs", "position_time_support", "sleep_ripples", "sleep_ripples_timesupport"}
    assert set(session.units.columns["location"]) == {"adn", "ca1"}
    np.testing.assert_array_equal(np.unique(session.units.columns["group"]), [0, 1])


def test_units_without_a_spike_are_kept(tmp_path):
    session = read_nwb(write_nwb(tmp_path / "a.nwb", units([SPIKES[1], SPIKES[0], SPIKES[1]])), QUICK)

    assert session.num_units == 3
    np.testing.assert_array_equal(np.unique(session.spikes.unit_index), [1])


def changed(path, change):
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def test_a_series_whose_type_pynwb_does_not_know_is_said_to_be_left_out(tmp_path):
    """pynwb skips such a group without a word."""

    def rename(file):
        file["processing/behavior/hand_vel"].attrs["neurodata_type"] = "FooSeries"

    session = read_nwb(changed(write_nwb(tmp_path / "a.nwb", units(), series(), series("pos")), rename), QUICK)
    assert set(session.covariates) == {"pos"}
    assert session.dropped == ("processing/behavior/hand_vel: pynwb knows no such type",)


def test_what_pynwb_warns_of_is_kept_with_the_session(tmp_path):
    def point_nowhere(file):
        file["units/electrodes"][:] = [0, 1, 7]

    path = write_nwb(tmp_path / "a.nwb", units(electrodes=[0, 1, 0]))
    with pytest.raises(InputError, match=r"units/electrodes: expected rows of 2 electrodes, found 7"):
        read_nwb(changed(path, point_nowhere), QUICK)

    def link(file):
        file["acquisition/gone"] = h5py.SoftLink("/nowhere")

    session = read_nwb(changed(write_nwb(tmp_path / "b.nwb", units()), link), QUICK)
    assert any(w.startswith("pynwb: ") and "acquisition/gone" in w for w in session.warnings)


def test_ids_that_stand_for_several_units_and_odd_text_are_doubted(tmp_path):
    def spoil(file):
        file["units/id"][:] = 0
        del file["units/quality"]
        file["units/quality"] = np.array([b"a\xff", b"a\xfe", b"b"])
        attrs = {"neurodata_type": "VectorData", "namespace": "hdmf-common", "description": "q", "object_id": "x"}
        file["units/quality"].attrs.update(attrs)

    path = write_nwb(tmp_path / "a.nwb", units(quality=["a", "b", "c"]))
    told = read_nwb(changed(path, spoil), QUICK).warnings
    assert "units/id: several units have the same id; their rows distinguish them" in told
    assert any(w.startswith("units/quality: text that is not UTF-8") for w in told)


def test_a_recording_of_years_is_a_wrong_clock(tmp_path):
    path = write_nwb(tmp_path / "a.nwb", units(obs=[[(0.0, 1.6e9)]] * 3))
    with pytest.raises(InputError, match=r"observed time: expected at most 1e\+07 s in all, found 1\.6e\+09 s"):
        read_nwb(path, QUICK)


def test_an_index_of_halves_is_refused(tmp_path):
    def halve(file):
        ends, attrs = file["units/spike_times_index"][:], dict(file["units/spike_times_index"].attrs)
        del file["units/spike_times_index"]
        file["units/spike_times_index"] = ends + 0.5
        file["units/spike_times_index"].attrs.update(attrs)

    with pytest.raises(InputError, match=r"units/spike_times_index: expected whole numbers, found \[4\.5\]"):
        read_nwb(changed(write_nwb(tmp_path / "a.nwb", units()), halve), QUICK)

import hashlib
import json
import pickle
import subprocess
import sys
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest

from ndt.data.store import STORE_VERSION, Store, read_entry, read_session, write_manifest, write_session
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Covariate, Session, Spikes, Units
from tests.realdata import ROOT


def session(num_spikes=50, **changes):
    """A session with a little of everything that a file could hold."""
    rng = np.random.default_rng(0)
    angle = Covariate(
        name="CompassDirection/ry",
        path="acquisition/CompassDirection/ry",
        timestamps=np.arange(40) / 10,
        values=rng.uniform(0, 6, (40, 1)),
        dims=("ry",),
        unit="radian",
        angular=True,
    )
    vel = Covariate(
        name="hand_vel",
        path="processing/behavior/hand_vel",
        timestamps=np.arange(80) / 20,
        values=rng.normal(size=(80, 2)).astype(np.float32),
        dims=("x", "ÿ"),
        unit="m/s",
    )
    each = Intervals([0.0, 1.0, 3.0], [4.0, 2.0, 4.0], {"unit_index": np.array([0, 1, 1])})
    columns = {
        "location": np.array(["M1", "S1"]),
        "quality": np.array(["gööd", ""]),
        "heldout": np.array([True, False]),
    }
    cues = {"cue": np.array(["left", "rïght"]), "go_time": np.array([0.5, np.nan])}
    fields = {
        "session_id": "sub-x_ses-1",
        "subject": "x",
        "task": "reaching",
        "recording_date": "2020-01-02T03:00:00+00:00",
        "spikes": Spikes(
            timestamps=np.sort(rng.uniform(0, 4, num_spikes)),
            unit_index=rng.integers(0, 2, num_spikes).astype(np.int32),
        ),
        "units": Units(id=np.array(["x/a/00000/0", "x/a/00001/0"]), columns=columns, observed=each),
        "observed": Intervals([0.0, 3.0], [2.5, 4.0]),
        "covariates": {"CompassDirection/ry": angle, "hand_vel": vel},
        "intervals": {"trials": Intervals([0.0, 1.0], [2.0, 3.0], cues), "units": Intervals.empty()},
        "source": {"path": "a.nwb", "sha256": "0" * 64, "size": 12, "conventions": {"NLB": "held-out units"}},
        "warnings": ("units/obs_intervals: none", "ü"),
        "count_bin": 0.02,
        "dropped": ("acquisition/raw: ElectricalSeries is a raw recording", "ü"),
    }
    return Session(**(fields | changes))


def assert_same(one, two):
    """The same type, numbers and strings all the way down."""
    if isinstance(one, np.ndarray):
        assert one.dtype.kind == two.dtype.kind
        assert one.dtype.kind == "U" or one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_same(one[key], two[key])
    elif hasattr(one, "__dataclass_fields__"):
        assert type(one) is type(two)
        assert_same(vars(one), vars(two))
    else:
        assert one == two


@pytest.fixture
def store(tmp_path):
    write_session(session(), tmp_path / "sub-x_ses-1.h5")
    entry = {"source": "/far/a.nwb"}
    write_manifest(tmp_path, {"version": STORE_VERSION, "sessions": {"sub-x_ses-1": entry}})
    return Store(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_spikes": 0},
        {"covariates": {}, "intervals": {}, "dropped": ()},
        {"units": Units(id=np.array(["a", "b"]))},
    ],
)
def test_round_trip(tmp_path, changes):
    original = session(**changes)
    write_session(original, tmp_path / "a.h5")

    assert_same(read_session(tmp_path / "a.h5"), original)


def test_long_arrays_are_memory_maps_of_the_file(store):
    found, path = store.session("sub-x_ses-1"), store.path("sub-x_ses-1")
    arrays = [found.spikes.timestamps, found.spikes.unit_index, found.covariates["hand_vel"].values]
    for array in arrays:
        assert isinstance(array, np.memmap)
        assert str(array.filename) == str(path.resolve())
        assert array.ctypes.data % 64 == 0
        assert not array.flags.owndata

    with h5py.File(path) as file:
        offset = file["spikes/timestamps"].id.get_offset()
    with path.open("r+b") as file:  # a map shows what the file now holds
        file.seek(offset)
        file.write(np.float64(-7.0).tobytes())
    assert found.spikes.timestamps[0] == -7.0


def test_the_file_is_contiguous_uncompressed_and_aligned(store):
    checked = []

    def check(name, dataset):
        if isinstance(dataset, h5py.Dataset) and dataset.size:
            assert dataset.chunks is None
            assert dataset.id.get_offset() % 64 == 0
            checked.append(name)

    with h5py.File(store.path("sub-x_ses-1")) as file:
        file.visititems(check)
        assert file.attrs["object"] == "Data"
        assert dict(file["spikes"].attrs.items())["object"] == "IrregularTimeSeries"
        np.testing.assert_array_equal(file["spikes"].attrs["timekeys"], [b"timestamps"])
        times = file["spikes/timestamps"][:]
        np.testing.assert_array_equal(file["spikes/timestamp_indices_1s"], [np.sum(times < t) for t in range(5)])
    assert "covariates/hand_vel/values" in checked


def test_same_input_same_bytes(tmp_path):
    def digest(name):
        write_session(session(), tmp_path / name, {"task": ""})
        return hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()

    first = digest("a.h5")
    time.sleep(1.1)  # HDF5 keeps times to the second
    assert digest("b.h5") == first


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    write_session(session(), tmp_path / "a.h5")
    before = (tmp_path / "a.h5").read_bytes()
    broken = session(intervals={"trials": Intervals([0.0], [1.0], {"cue": np.array([object()])})})

    with pytest.raises(TypeError):
        write_session(broken, tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_sessions_are_listed_cached_and_know_their_source(store):
    assert store.session_ids == ["sub-x_ses-1"]
    assert store.session("sub-x_ses-1") is store.session("sub-x_ses-1")
    assert store.session("sub-x_ses-1").source["path"] == "/far/a.nwb"


def test_a_pickled_store_carries_no_data(store):
    empty = len(pickle.dumps(store))
    store.session("sub-x_ses-1")

    assert len(pickle.dumps(store)) == empty
    assert pickle.loads(pickle.dumps(store)).session_ids == store.session_ids


def test_an_unknown_session_lists_what_there_is(store):
    with pytest.raises(InputError, match="session: expected one of sub-x_ses-1, found sub-y"):
        store.session("sub-y")


def test_not_a_store(tmp_path):
    with pytest.raises(InputError, match=r"manifest.json: expected a store that `ndt ingest` made, found no such file"):
        Store(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"content: expected a store's manifest, found Expecting property"):
        Store(tmp_path)


def test_a_store_of_another_version(store):
    (store.root / "manifest.json").write_text(json.dumps({"version": STORE_VERSION + 1, "sessions": {}}))

    with pytest.raises(InputError, match=rf"version: expected {STORE_VERSION} .*, found {STORE_VERSION + 1}"):
        Store(store.root)


def test_a_session_file_of_another_version_or_kind(store, tmp_path):
    with h5py.File(store.path("sub-x_ses-1"), "a") as file:
        file.attrs["ndt_store_version"] = STORE_VERSION + 1
    with pytest.raises(InputError, match=rf"ndt_store_version: expected {STORE_VERSION}"):
        store.session("sub-x_ses-1")

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match=r"other.h5: domain: expected the layout of a store"):
        read_session(tmp_path / "other.h5")
    with pytest.raises(InputError, match=r"gone.h5: file: .*found no such file"):
        read_session(tmp_path / "gone.h5")


def test_reading_a_store_needs_no_pynwb_and_no_torch():
    code = "import sys, ndt.data.store, ndt.data.ingest; sys.exit(bool({'pynwb', 'torch'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def chunked(path):
    """Rewrites all arrays of a file compressed, as another writer might."""
    with h5py.File(path, "a") as file:
        names = []
        file.visititems(lambda name, thing: names.append(name) if getattr(thing, "size", 0) else None)
        for name in names:
            values = file[name][()]
            del file[name]
            file.create_dataset(name, data=values, chunks=True, compression="gzip")


def test_compressed_files_of_other_writers_read_the_same(tmp_path):
    write_session(session(), tmp_path / "a.h5")
    chunked(tmp_path / "a.h5")

    assert_same(read_session(tmp_path / "a.h5"), session())


@pytest.mark.parametrize("lazy", [True, False])
def test_temporaldata_opens_and_slices_our_store(tmp_path, lazy):
    """Read at once, it refuses to slice tables whose rows overlap (trials, units_observed); so none here."""
    temporaldata = pytest.importorskip(
        "temporaldata", reason="temporaldata, the layout's other reader, is not installed"
    )
    trials = Intervals([0.0, 2.0], [2.0, 3.0], {"cue": np.array(["left", "right"])})
    recording = session(units=Units(id=np.array(["a", "b"])), intervals={"trials": trials})
    write_session(recording, tmp_path / "a.h5", entry={"units": 2})
    data, ours = temporaldata.Data.load(tmp_path / "a.h5", lazy=lazy), read_session(tmp_path / "a.h5")

    np.testing.assert_array_equal(data.units.id, ours.units.id)
    np.testing.assert_array_equal(data.trials.start, ours.intervals["trials"].start)
    assert data.session.task == "reaching"
    part = data.slice(1.0, 2.0, reset_origin=False)
    assert part.trials.cue.tolist() == ["left"]
    times = ours.spikes.timestamps
    np.testing.assert_array_equal(part.spikes.timestamps, times[(times >= 1.0) & (times < 2.0)])
    np.testing.assert_array_equal(part.covariates.hand_vel.values, ours.covariates["hand_vel"].values[20:40])


def test_a_file_says_what_the_manifest_should(tmp_path):
    entry = {"task": "reach\u00fcng", "dropped": ["a"] * 10_000, "units": 2}  # more than an attribute may hold
    write_session(session(), tmp_path / "a.h5", {"x": 1}, entry)
    write_session(session(), tmp_path / "b.h5")
    (tmp_path / "c.h5").write_text("no")

    assert read_entry(tmp_path / "a.h5") == entry
    assert_same(read_session(tmp_path / "a.h5"), read_session(tmp_path / "b.h5"))
    assert [read_entry(tmp_path / f"{name}.h5") for name in "bcd"] == [{}, {}, {}]
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["ndt_store_version"] = STORE_VERSION - 1
    assert read_entry(tmp_path / "a.h5") == {}


def test_nothing_is_written_by_the_second_where_a_clock_jumped(tmp_path):
    """A series at 1e9 s beside spikes at 4 s had an index of a billion rows."""
    one = session()
    times = np.r_[one.covariates["hand_vel"].timestamps[:40], 1e9 + np.arange(40) / 20]
    far = replace(one.covariates["hand_vel"], timestamps=times)
    write_session(replace(one, covariates={"hand_vel": far}), tmp_path / "a.h5")

    assert (tmp_path / "a.h5").stat().st_size < 100_000
    np.testing.assert_array_equal(read_session(tmp_path / "a.h5").covariates["hand_vel"].timestamps, times)


def test_what_temporaldata_writes_opens_here(tmp_path):
    td = pytest.importorskip("temporaldata", reason="temporaldata, the layout's other writer, is not installed")
    times, unit = np.array([0.5, 1.5, 2.5]), np.array([0, 1, 0])
    domain = td.Interval(start=np.array([0.0]), end=np.array([4.0]))
    data = td.Data(
        session=td.Data(id="theirs", task="centre-out"),
        subject=td.Data(id="monkey"),
        spikes=td.IrregularTimeSeries(timestamps=times, unit_index=unit, domain=domain),
        units=td.ArrayDict(id=np.array(["a", "b"])),
        trials=td.Interval(start=np.array([0.0]), end=np.array([2.0]), target=np.array([3])),
        hand=td.RegularTimeSeries(sampling_rate=10.0, vel=np.arange(80.0).reshape(40, 2), domain_start=0.0),
        domain=domain,
    )
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        data.to_hdf5(file)
    found = read_session(tmp_path / "theirs.h5")

    assert (found.session_id, found.subject, found.task) == ("theirs", "monkey", "centre-out")
    np.testing.assert_array_equal(found.spikes.timestamps, times)
    np.testing.assert_array_equal(found.spikes.unit_index, unit)
    np.testing.assert_array_equal(found.units.id, ["a", "b"])
    np.testing.assert_array_equal(found.intervals["trials"].columns["target"], [3])
    np.testing.assert_array_equal(found.covariates["hand/vel"].values, np.arange(80.0).reshape(40, 2))
    np.testing.assert_allclose(found.covariates["hand/vel"].timestamps, np.arange(40) / 10, rtol=0, atol=1e-12)

"""Whatever a recording lies in, it becomes the same session."""

import h5py
import numpy as np
import pytest

import ndt
from ndt.config import ArraysConfig, IngestConfig
from ndt.data.reading import read
from ndt.data.store import write_session
from ndt.errors import InputError
from tests.recordings import SPIKES, series, units, write_nwb

QUICK = IngestConfig(probe_seconds=0.0)
WHOLE = [[(0.0, 4.0)]] * 3


@pytest.fixture
def recording(tmp_path):
    return write_nwb(tmp_path / "sub-x_ses-1_behavior+ecephys.nwb", units(SPIKES, obs=WHOLE), series())


def same_spikes(one, two):
    np.testing.assert_array_equal(one.spikes.timestamps, two.spikes.timestamps)
    np.testing.assert_array_equal(one.spikes.unit_index, two.spikes.unit_index)
    np.testing.assert_array_equal([one.observed.start, one.observed.end], [two.observed.start, two.observed.end])


def test_a_session_file_is_a_recording_too(recording, tmp_path):
    """Our stores have the layout of brainsets, and so has what others write in it."""
    original = read(recording, QUICK)
    write_session(original, tmp_path / "theirs.h5")
    found = read(tmp_path / "theirs.h5", IngestConfig(select="num_spikes > 0", task="attention_window"))
    same_spikes(read(recording, IngestConfig(probe_seconds=0.0, select="num_spikes > 0")), found)
    assert (found.session_id, found.task, found.num_units) == ("sub-x_ses-1", "attention_window", 2)
    assert found.source["sha256"] != original.source["sha256"]  # that of the file which was read

    store = ndt.ingest(tmp_path / "theirs.h5", tmp_path / "store", IngestConfig(workers=1), progress=False)
    same_spikes(store.session("theirs"), original)


def test_what_temporaldata_writes_is_ingested(tmp_path):
    td = pytest.importorskip("temporaldata", reason="temporaldata, the layout's other writer, is not installed")
    times, unit = np.sort(np.random.default_rng(0).uniform(0, 40, 200)), np.arange(200) % 3
    data = td.Data(
        session=td.Data(id="theirs"),
        spikes=td.IrregularTimeSeries(timestamps=times, unit_index=unit, domain="auto"),
        units=td.ArrayDict(id=np.array(["a", "b", "c"])),
        domain=td.Interval(start=np.array([0.0]), end=np.array([40.0])),
    )
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        data.to_hdf5(file)
    store = ndt.ingest(tmp_path / "theirs.h5", tmp_path / "store", IngestConfig(workers=1), progress=False)
    found = store.session("theirs")
    np.testing.assert_array_equal(found.spikes.timestamps, times)
    np.testing.assert_array_equal(found.spikes.unit_index, unit)
    np.testing.assert_array_equal(found.units.id, ["a", "b", "c"])


def test_archives_of_arrays(recording, tmp_path):
    values = {"t": np.concatenate(SPIKES), "n": np.repeat(np.arange(3), list(map(len, SPIKES)))}
    np.savez(tmp_path / "sub-x_ses-1.npz", **values, rows=np.array([[0.0, 4.0]]), quality=np.array(["a", "b", "a"]))
    arrays = ArraysConfig(spikes="t", unit_index="n", observed="rows", columns=("quality=quality",))
    same_spikes(read(tmp_path / "sub-x_ses-1.npz", IngestConfig(arrays=arrays)), read(recording, QUICK))
    chosen = read(tmp_path / "sub-x_ses-1.npz", IngestConfig(arrays=arrays, select="quality == 'a'"))
    assert chosen.num_units == 2


def test_arrays_become_a_store_without_a_file(tmp_path):
    session = ndt.data.from_arrays(SPIKES, session_id="made", observed=[[0.0, 4.0]])
    stored = ndt.ingest(session, tmp_path / "store", progress=False).session("made")
    np.testing.assert_array_equal(stored.spikes.timestamps, np.sort(np.concatenate(SPIKES)))
    np.testing.assert_array_equal(stored.spikes.unit_index, session.spikes.unit_index)
    np.testing.assert_array_equal([stored.observed.start, stored.observed.end], [[0.0], [4.0]])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.nwb", "no.nwb: file: expected an NWB file, found no such file"),
        ("no.h5", "no.h5: file: expected an NWB file, found no such file"),
        ("no.npz", "no.npz: file: expected a .mat or .npz file, found no such file"),
    ],
)
def test_what_is_not_there(name, message, tmp_path):
    with pytest.raises(InputError) as error:
        read(tmp_path / name)
    assert str(error.value).endswith(message)

import json
import os
import shutil

import numpy as np
import pytest

import ndt.data
from ndt.config import IngestConfig
from ndt.data.ingest import ingest
from ndt.data.nwb import read_nwb
from ndt.data.store import Store
from ndt.errors import InputError
from tests.realdata import real_file
from tests.recordings import SPIKES, series, units, write_nwb
from tests.test_store import assert_same

ONE = IngestConfig(workers=1, probe_seconds=0.0)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Two sessions of one subject."""
    folder = tmp_path_factory.mktemp("recordings")
    for day in (1, 2):
        write_nwb(folder / f"sub-x/sub-x_ses-{day}_ecephys.nwb", units([times * day / 2 for times in SPIKES]), series())
    return folder


@pytest.fixture
def recordings(originals, tmp_path):
    return shutil.copytree(originals, tmp_path / "recordings")


def stamps(store):
    return {path.name: path.stat().st_mtime_ns for path in store.root.glob("*.h5")}


def test_every_session_arrives_as_it_was_read(recordings, tmp_path):
    store = ingest(f"{recordings}/**/*.nwb", tmp_path / "store", IngestConfig(workers=2), progress=False)

    assert store.session_ids == ["sub-x_ses-1", "sub-x_ses-2"]
    for path in sorted(recordings.glob("*/*.nwb")):
        assert_same(store.session(path.stem.removesuffix("_ecephys")), read_nwb(path, ONE))
    assert sorted(os.listdir(store.root)) == ["manifest.json", "sub-x_ses-1.h5", "sub-x_ses-2.h5"]


def test_the_manifest_names_what_each_session_is(recordings, tmp_path):
    store = ingest(recordings / "sub-x/sub-x_ses-1_ecephys.nwb", tmp_path / "store", ONE, progress=False)

    manifest = json.loads((store.root / "manifest.json").read_text())
    assert manifest == store.manifest
    entry = manifest["sessions"]["sub-x_ses-1"]
    assert {"source", "sha256", "size", "subject", "task", "units", "spikes", "observed_seconds", "pieces"} <= set(
        entry
    )
    assert {"covariates", "options", "tool_version", "dropped"} <= set(entry)
    assert entry["options"] == {"unit_identity": "electrode", "task": ""}
    assert (entry["units"], entry["spikes"]) == (3, 8)


def test_again_does_nothing_until_file_or_options_change(recordings, tmp_path):
    files, out = f"{recordings}/**/*.nwb", tmp_path / "store"
    before = stamps(ingest(files, out, ONE, progress=False))
    assert stamps(ingest(files, out, ONE, progress=False)) == before

    write_nwb(recordings / "sub-x/sub-x_ses-2_ecephys.nwb", units(SPIKES[:1]))
    after = stamps(store := ingest(files, out, ONE, progress=False))
    assert [name for name in after if after[name] != before[name]] == ["sub-x_ses-2.h5"]
    assert store.manifest["sessions"]["sub-x_ses-2"]["units"] == 1

    options = IngestConfig(workers=1, probe_seconds=0.0, unit_identity="session")
    changed = stamps(ingest(files, out, options, progress=False))
    assert all(changed[name] != after[name] for name in after)


def test_a_lost_file_is_made_again_and_the_same_bytes(recordings, tmp_path):
    files, out = f"{recordings}/**/*.nwb", tmp_path / "store"
    lost = ingest(files, out, ONE, progress=False).path("sub-x_ses-1")
    content = lost.read_bytes()
    lost.unlink()

    assert ingest(files, out, ONE, progress=False).path("sub-x_ses-1").read_bytes() == content


def test_two_files_for_one_session(recordings, tmp_path):
    twin = shutil.copytree(recordings / "sub-x", recordings / "copy") / "sub-x_ses-1_ecephys.nwb"

    with pytest.raises(InputError, match="session_id: expected another one for each file, found sub-x_ses-1 in"):
        ingest(f"{recordings}/*/*ses-1*.nwb", tmp_path / "store", ONE, progress=False)
    ingest(recordings / "sub-x/sub-x_ses-1_ecephys.nwb", tmp_path / "store", ONE, progress=False)
    with pytest.raises(InputError, match=r"copy/sub-x_ses-1_ecephys.nwb: session_id: "):
        ingest(twin, tmp_path / "store", ONE, progress=False)


def test_a_moved_recording_is_the_same_session(recordings, tmp_path):
    path = recordings / "sub-x/sub-x_ses-1_ecephys.nwb"
    ingest(path, tmp_path / "store", ONE, progress=False)
    moved = path.rename(recordings / path.name)

    store = ingest(moved, tmp_path / "store", ONE, progress=False)
    assert store.session("sub-x_ses-1").source["path"] == str(moved)


def test_a_bad_file_is_reported_while_the_others_go_on(recordings, tmp_path, capsys):
    (recordings / "aaa.nwb").write_text("no")
    (recordings / "bbb.nwb").write_text("no")
    config = IngestConfig(workers=1)

    with pytest.raises(InputError, match=r"expected 4 that can be ingested, found 2 that failed, .*aaa.nwb: file"):
        ingest(f"{recordings}/**/*.nwb", tmp_path / "store", config, progress=False)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rsplit("/", 1)[-1][:40] for line in lines] == [
        "aaa.nwb: file: expected an HDF5 file, fo",
        "bbb.nwb: file: expected an HDF5 file, fo",
    ]
    assert Store(tmp_path / "store").session_ids == ["sub-x_ses-1", "sub-x_ses-2"]


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_ends_at_the_first_bad_file(recordings, tmp_path, workers):
    (recordings / "aaa.nwb").write_text("no")

    with pytest.raises(InputError, match=r"aaa.nwb: file: expected an HDF5 file"):
        ingest(f"{recordings}/**/*.nwb", tmp_path / "store", IngestConfig(workers=workers, strict=True), progress=False)
    (recordings / "aaa.nwb").unlink()
    store = ingest(f"{recordings}/**/*.nwb", tmp_path / "store", ONE, progress=False)  # nothing is in the way
    assert store.session_ids == sorted(store.manifest["sessions"])
    assert len(store.session_ids) == len(list(recordings.glob("**/*.nwb")))


def test_a_failed_ingestion_leaves_no_store_behind(tmp_path):
    (tmp_path / "bad.nwb").write_text("no")

    with pytest.raises(InputError, match=r"bad.nwb: file: expected an"):
        ingest(str(tmp_path / "bad.nwb"), tmp_path / "store", ONE, progress=False)
    assert not (tmp_path / "store").exists()


def test_progress_is_shown_on_stderr(recordings, tmp_path, capsys):
    ingest(f"{recordings}/**/*.nwb", tmp_path / "store", ONE)

    shown = capsys.readouterr()
    assert "Ingested" in shown.err
    assert "100%" in shown.err
    assert shown.out == ""


def test_the_package_offers_its_nouns_by_name():
    for name in ndt.data.__all__:
        assert getattr(ndt.data, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute nonsense"):
        ndt.data.nonsense  # noqa: B018


@pytest.mark.real
def test_a_real_recording_goes_through_the_store(tmp_path):
    path = real_file("sub-s1/*.nwb")
    store = ingest(path, tmp_path / "store", ONE, progress=False)

    (session_id,) = store.session_ids
    assert_same(store.session(session_id), read_nwb(path, ONE))
    assert isinstance(store.session(session_id).spikes.timestamps, np.memmap)

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import fields, replace

import numpy as np
import pytest
from joblib import parallel_config

import ndt.data
from ndt.config import ArraysConfig, IngestConfig
from ndt.data.ingest import ingest, options_of
from ndt.data.reading import read
from ndt.data.store import HOST, Store, read_entry, write_manifest
from ndt.errors import InputError
from tests.data.test_store import assert_same
from tests.data.test_store import session as small_session
from tests.realdata import real_file
from tests.recordings import SPIKES, series, units, write_nwb

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
        assert_same(store.session(path.stem.removesuffix("_ecephys")), read(path, ONE))
    assert sorted(os.listdir(store.root)) == ["manifest.json", "sub-x_ses-1.h5", "sub-x_ses-2.h5"]


def test_the_manifest_names_what_each_session_is(recordings, tmp_path):
    store = ingest(recordings / "sub-x/sub-x_ses-1_ecephys.nwb", tmp_path / "store", ONE, progress=False)

    manifest = json.loads((store.root / "manifest.json").read_text())
    assert manifest == store.manifest
    entry = manifest["sessions"]["sub-x_ses-1"]
    assert {"source", "sha256", "size", "subject", "task", "units", "spikes", "observed_seconds", "segments"} <= set(
        entry
    )
    assert {"covariates", "options", "tool_version", "dropped"} <= set(entry)
    assert entry["options"] == options_of(ONE, "sub-x_ses-1")
    assert (entry["units"], entry["spikes"], entry["role"]) == (3, 8, "train")
    assert manifest["failed"] == {}


def test_options_are_the_settings_that_change_a_session():
    """A setting that is new is one of them until somebody says otherwise."""
    config = IngestConfig(covariates=("hand_vel",), workers=7, arrays=ArraysConfig(spikes="times"))
    options = options_of(config, "sub-x_ses-1")

    assert {f.name for f in fields(IngestConfig)} - options.keys() == {
        "workers", "cluster", "probe_seconds", "evaluate",
    }  # fmt: skip
    assert (options["covariates"], options["arrays"]["spikes"]) == (["hand_vel"], "times")
    assert options == json.loads(json.dumps(options))


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

    before = stamps(Store(tmp_path / "store"))
    store = ingest(moved, tmp_path / "store", ONE, progress=False)
    assert store.session("sub-x_ses-1").source["path"] == str(moved)
    assert stamps(store) == before


def test_what_a_lost_manifest_said_is_in_the_files(recordings, tmp_path):
    """A killed run leaves sessions that its manifest does not name."""
    files, out = f"{recordings}/**/*.nwb", tmp_path / "store"
    store = ingest(files, out, ONE, progress=False)
    before, manifest = stamps(store), (out / "manifest.json").read_bytes()

    (out / "manifest.json").unlink()
    assert stamps(ingest(files, out, ONE, progress=False)) == before
    assert (out / "manifest.json").read_bytes() == manifest
    for session_id, entry in store.manifest["sessions"].items():
        assert read_entry(out / f"{session_id}.h5") == {k: v for k, v in entry.items() if k not in ("source", "role")}


def test_a_file_is_believed_before_an_older_manifest(recordings, tmp_path):
    """Options changed, killed after a file was replaced, options changed back: the manifest seems to be up to date."""
    files, out, name = f"{recordings}/**/*ses-1*.nwb", tmp_path / "store", "sub-x_ses-1"
    other = replace(ONE, unit_identity="session")
    manifest = ingest(files, out, ONE, progress=False).manifest
    content = (out / f"{name}.h5").read_bytes()
    ingest(files, out, other, progress=False)
    write_manifest(out, manifest)

    assert ingest(files, out, ONE, progress=False).manifest == manifest
    assert (out / f"{name}.h5").read_bytes() == content


def test_another_version_of_the_tool_reads_anew(recordings, tmp_path, monkeypatch):
    before = stamps(ingest(f"{recordings}/**/*.nwb", tmp_path / "store", ONE, progress=False))
    monkeypatch.setattr("ndt.__version__", "99")

    store = ingest(f"{recordings}/**/*.nwb", tmp_path / "store", ONE, progress=False)
    assert all(after != before[name] for name, after in stamps(store).items())
    assert {entry["tool_version"] for entry in store.manifest["sessions"].values()} == {"99"}


def test_drafts_of_killed_runs_are_removed(recordings, tmp_path):
    (out := tmp_path / "store").mkdir()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    ended = subprocess.Popen([sys.executable, "-c", ""])  # and nobody has asked how: it stays listed
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    mine = os.getpid()
    drafts = {"a": gone.pid, "b": mine, "c": mine, "d": 99999999999, "e": ended.pid, "f": 1}
    names = [f".{name}.h5.{HOST}.{pid}.tmp" for name, pid in drafts.items()]
    names.insert(3, ".notes.tmp")
    for name in names:
        (out / name).touch()
    os.utime(out / names[2], (0, 0))  # a process of that number runs, but this is not what it is writing

    ingest(f"{recordings}/**/*.nwb", out, ONE, progress=False)
    ended.wait()
    assert sorted(path.name for path in out.glob(".*")) == [names[1], names[6], names[3]]


def test_roles_follow_the_patterns_without_reading_again(recordings, tmp_path, capsys):
    files, out = f"{recordings}/**/*.nwb", tmp_path / "store"
    before = stamps(ingest(files, out, ONE, progress=False))

    store = ingest(files, out, replace(ONE, evaluate=("*_ses-2",)), progress=False)
    assert {k: entry["role"] for k, entry in store.manifest["sessions"].items()} == {
        "sub-x_ses-1": "train",
        "sub-x_ses-2": "evaluate",
    }
    assert stamps(store) == before
    capsys.readouterr()
    ingest(files, out, replace(ONE, evaluate=("*_ses-2", "sub-y*")), progress=False)
    assert capsys.readouterr().err == "evaluate: no session is named sub-y*\n"


def test_a_split_that_is_meant_for_some_sessions_reads_only_those_again(recordings, tmp_path):
    files, out = f"{recordings}/**/*.nwb", tmp_path / "store"
    before = stamps(ingest(files, out, ONE, progress=False))
    store = ingest(files, out, replace(ONE, split="first:2", evaluate=("*_ses-2",)), progress=False)
    after = stamps(store)
    assert [name for name in after if after[name] != before[name]] == ["sub-x_ses-2.h5"]
    assert ["split" in store.session(name).intervals for name in store.session_ids] == [False, True]


def test_sessions_without_files(recordings, tmp_path):
    one = replace(small_session(), session_id="made", source={})
    store = ingest([f"{recordings}/**/*ses-1*.nwb", one], tmp_path / "store", ONE, progress=False)
    assert store.session_ids == ["made", "sub-x_ses-1"]
    assert_same(store.session("made").spikes, one.spikes)

    fewer = replace(one, spikes=replace(one.spikes, **{k: v[:5] for k, v in vars(one.spikes).items()}))
    store = ingest(fewer, tmp_path / "store", ONE, progress=False)  # written anew: it may be another
    assert len(store.session("made").spikes.timestamps) == 5
    assert store.session_ids == ["made", "sub-x_ses-1"]
    with pytest.raises(InputError, match=r"session_id: expected a name that a file can have, found '\.\./made'"):
        ingest(replace(one, session_id="../made"), tmp_path / "store", ONE, progress=False)
    with pytest.raises(InputError, match="session_id: expected another one for each file"):
        ingest(replace(one, session_id="sub-x_ses-1"), tmp_path / "store", ONE, progress=False)


def test_a_remote_file_is_known_by_the_hash_that_its_archive_says(tmp_path, monkeypatch):
    from ndt.data.read.remote import RemoteFile

    known = {"dandiset": "000129", "version": "draft", "url": "http://[::]/", "size": 9}
    file = RemoteFile(path="sub-x/sub-x_ses-9.nwb", sha256="ab" * 32, **known)
    calls = []

    def fake(source, config):
        calls.append(source)
        return replace(small_session(), source={"path": str(source), "sha256": source.sha256, "size": source.size})

    monkeypatch.setattr("ndt.data.reading.read", fake)
    for _ in range(2):
        store = ingest(file, tmp_path / "store", ONE, progress=False)
    assert calls == [file]
    assert store.manifest["sessions"]["sub-x_ses-9"]["source"] == "dandi:000129@draft/sub-x/sub-x_ses-9.nwb"
    assert store.session("sub-x_ses-9").session_id == "sub-x_ses-9"

    unknown = RemoteFile(path="sub-x/sub-x_ses-8.nwb", **known)  # nobody hashed it: nobody knows whether it changed
    for _ in range(2):
        ingest([unknown], tmp_path / "store", ONE, progress=False)
    assert calls == [file, unknown, unknown]


def test_the_odd_file_does_not_take_the_others_with_it(recordings, tmp_path, monkeypatch, capsys):
    def odd(source, config):
        if "ses-1" in str(source):
            raise RecursionError("maximum\nrecursion depth exceeded")
        return read(source, config)

    monkeypatch.setattr("ndt.data.reading.read", odd)
    message = "expected a recording that can be ingested, found RecursionError maximum recursion depth exceeded"
    with pytest.raises(InputError, match=f"ses-1_ecephys.nwb: file: {message}"):
        ingest(f"{recordings}/**/*.nwb", tmp_path / "store", ONE, progress=False)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert Store(tmp_path / "store").session_ids == ["sub-x_ses-2"]


def test_threads_take_turns(recordings, tmp_path, monkeypatch):
    """As in a Dask worker with several threads: readers of NWB files are not made for them."""
    inside, most = [], []

    def slow(source, config):
        inside.append(source)
        most.append(len(inside))
        threading.Event().wait(0.05)
        inside.remove(source)
        return read(source, config)

    monkeypatch.setattr("ndt.data.reading.read", slow)
    with parallel_config(backend="threading"):
        config = replace(ONE, workers=2)
        store = ingest(f"{recordings}/**/*.nwb", tmp_path / "store", config, progress=False)
    assert store.session_ids == ["sub-x_ses-1", "sub-x_ses-2"]
    assert most == [1, 1]


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
    store = Store(tmp_path / "store")
    assert store.session_ids == ["sub-x_ses-1", "sub-x_ses-2"]
    failed = store.manifest["failed"]
    assert list(failed) == [str(recordings / f"{name}.nwb") for name in ("aaa", "bbb")]
    assert failed[str(recordings / "aaa.nwb")].startswith("file: expected an HDF5 file, found ")

    (recordings / "bbb.nwb").unlink()
    write_nwb(recordings / "aaa.nwb", units())
    store = ingest(f"{recordings}/aaa.nwb", tmp_path / "store", config, progress=False)
    assert list(store.manifest["failed"]) == [str(recordings / "bbb.nwb")]  # nothing was heard of it


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
    assert_same(store.session(session_id), read(path, ONE))
    assert isinstance(store.session(session_id).spikes.timestamps, np.memmap)

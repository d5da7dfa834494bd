"""Several processes that ingest into one store at once: each session arrives, whatever the others do."""

import errno
import fcntl
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from ndt.config import IngestConfig
from ndt.data import manifest
from ndt.data.ingest import ingest
from ndt.data.manifest import LOCK, Manifest, locked, present
from ndt.data.store import Store, read_manifest, remove_drafts, write_session
from ndt.errors import InputError
from tests.data.test_store import session as small_session

ONE = IngestConfig(workers=1, probe_seconds=0.0)
FORK = multiprocessing.get_context("fork")  # the libraries are loaded once


def made(name, **changes):
    return replace(small_session(**changes), session_id=name, source={})


def at_once(jobs) -> list[int]:
    """Calls functions at the same moment, each in a process of its own; returns the exit codes."""
    gate = FORK.Barrier(len(jobs))

    def one(call):
        gate.wait(60)
        call()

    processes = [FORK.Process(target=one, args=(job,)) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)

    return [process.exitcode for process in processes]


def ingests(root, sessions, *, bad=False):
    """The job of one process: its sessions one call each, and one call more that fails if `bad`."""

    def run():
        for name in sessions:
            config = replace(ONE, evaluate=(name,) if name.endswith("0") else ())
            ingest(made(name), root, config, progress=False)
        if bad:
            with pytest.raises(InputError):
                ingest(str(root.parent / "bad.nwb"), root, ONE, progress=False)

    return run


def check_rounds(tmp_path, rounds, most=8, seed=0):
    """From two processes to `most` in each round, some of which fail; every session is in the round's store."""
    rng = np.random.default_rng(seed)
    (tmp_path / "bad.nwb").write_text("no")
    for n in range(rounds):
        root, many = tmp_path / f"store{n}", int(rng.integers(2, most + 1))
        names = [[f"p{k}_{i}" for i in range(int(rng.integers(0, 4)))] for k in range(many)]
        assert at_once([ingests(root, own, bad=bool(k % 2)) for k, own in enumerate(names)]) == [0] * many
        every = sorted(chain(*names))
        if not every:
            assert not root.exists()
            continue
        store = Store(root)
        assert store.session_ids == every
        assert {s: entry["role"] for s, entry in store.manifest["sessions"].items()} == {
            s: "evaluate" if s.endswith("0") else "train" for s in every
        }
        assert set(store.manifest["failed"]) <= {str(tmp_path / "bad.nwb")}
        assert sorted(os.listdir(root)) == ["manifest.json", *(f"{s}.h5" for s in every)]
        for name in every:
            assert store.session(name).session_id == name


def test_two_processes_lose_nothing(tmp_path):
    """One read the manifest before the other had written it, and then wrote it whole."""
    check_rounds(tmp_path, 2, most=2)


@pytest.mark.slow
def test_two_to_eight_processes_lose_nothing(tmp_path):
    check_rounds(tmp_path, 8)


@pytest.mark.attack
@pytest.mark.parametrize("seed", range(10))
def test_two_to_eight_processes_lose_nothing_in_a_hundred_rounds(tmp_path, seed):
    check_rounds(tmp_path, 10, seed=seed)


def entry(source, sha256="0"):
    return {"source": str(source), "sha256": sha256}


def test_each_adds_to_what_the_others_wrote(tmp_path):
    one, two = Manifest(tmp_path), Manifest(tmp_path)
    for own, name in ((one, "a"), (two, "b")):
        own.keep(f"{name}.nwb", name, entry(f"{name}.nwb"))
        own.keep("bad.nwb", "bad", InputError("bad.nwb", "file", "a recording", name))
    one.write()
    two.write()
    found = read_manifest(tmp_path)
    assert found["sessions"] == {"a": entry("a.nwb"), "b": entry("b.nwb")}
    assert found["failed"] == {"bad.nwb": "file: expected a recording, found b"}

    later = Manifest(tmp_path)
    later.keep("bad.nwb", "bad", entry("bad.nwb"))
    later.keep("a.nwb", "a", entry("a.nwb", "changed"))
    later.write()
    one.write()  # it has nothing new
    assert read_manifest(tmp_path)["failed"] == {}
    assert read_manifest(tmp_path)["sessions"]["a"] == entry("a.nwb", "changed")
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("mine_is_on_disk", [True, False])
def test_two_files_for_one_session_at_once(tmp_path, mine_is_on_disk):
    """Both write one path: the manifest says what is there, and the later process that there were two."""
    root, files = tmp_path / "store", [tmp_path / "a" / "x.nwb", tmp_path / "b" / "x.nwb"]
    root.mkdir()
    for file in files:
        file.parent.mkdir()
        file.touch()
    theirs, mine = Manifest(root), Manifest(root)
    theirs.keep(str(files[0]), "x", entry(files[0], "theirs"))
    mine.keep(str(files[1]), "x", entry(files[1], "mine"))
    on_disk = {"sha256": "mine" if mine_is_on_disk else "theirs"}
    write_session(made("x"), root / "x.h5", entry=on_disk)
    theirs.write()
    mine.write()
    assert read_manifest(root)["sessions"]["x"]["sha256"] == on_disk["sha256"]
    assert not theirs.clashes
    assert (
        str(mine.clashes["x"])
        == f"{files[1]}: session_id: expected another one for each file, found x in {files[0]} too"
    )


def test_one_process_at_a_time_holds_the_lock(tmp_path):
    inside, seen = [], []

    def hold():
        for _ in range(20):
            with locked(tmp_path) as safe:
                inside.append(safe)
                seen.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 80
    assert os.listdir(tmp_path) == []


def test_a_lock_that_stays_held_is_one_line_and_that_of_a_killed_process_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "WAIT", 0.1)
    held = FORK.Event()

    def hold():
        with locked(tmp_path):
            held.set()
            time.sleep(60)

    process = FORK.Process(target=hold)
    process.start()
    assert held.wait(30)
    with pytest.raises(InputError, match=r"\.lock: expected a lock that is free within 0\.1 s, found one that another"):
        with locked(tmp_path):
            pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with locked(tmp_path) as safe:
        assert safe
    assert os.listdir(tmp_path) == []


def test_a_file_system_without_locks_is_stated(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    assert ingest(made("a"), tmp_path / "store", ONE, progress=False).session_ids == ["a"]
    assert capsys.readouterr().err.endswith("has no locks: run one ingestion into this store at a time\n")
    assert sorted(os.listdir(tmp_path / "store")) == ["a.h5", "manifest.json"]


def test_a_folder_is_kept_while_anyone_ingests_into_it(tmp_path):
    root = tmp_path / "new" / "store"
    with present(root):
        with present(root):
            pass
        assert root.is_dir()
        remove_drafts(root)
        assert len(os.listdir(root)) == 1
    assert not root.exists()


def test_drafts_of_other_computers_are_left_alone(tmp_path):
    """Their processes have numbers that no process has here."""
    theirs, old = tmp_path / ".a.h5.elsewhere.99999999.tmp", tmp_path / ".b.h5.elsewhere.99999999.tmp"
    for path in (theirs, old):
        path.touch()
    os.utime(old, (0, 0))
    remove_drafts(tmp_path)
    assert os.listdir(tmp_path) == [theirs.name]

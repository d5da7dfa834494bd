import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from ndt.data.read import file_probe as module
from ndt.data.read import file_probe_child as probe_child
from ndt.data.read.file_probe import find_files, probe, session_id_of
from ndt.errors import InputError
from tests.data.test_workers import gone
from tests.recordings import series, units, write_nwb

READ = "import json, sys; path, memory, seconds, _ = json.loads(sys.stdin.readline()); "
CHILD = [sys.executable, "-P", probe_child.__file__]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_nwb(tmp_path_factory.mktemp("probe") / "good.nwb", units(), series())


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.nwb").write_text("spikes: many")
    return tmp_path / "text.nwb"


def pid():
    return module._ours.process.pid


def test_a_good_file_passes(good):
    assert probe(good) is None


def test_not_hdf5(text):
    with pytest.raises(InputError, match=r"text.nwb: file: expected an HDF5 file, found .*signature"):
        probe(text)


def test_hdf5_but_not_nwb(tmp_path):
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["spikes"] = [1.0, 2.0]

    with pytest.raises(InputError, match=r"plain.h5: neurodata_type: expected an NWB file .*not NWB"):
        probe(tmp_path / "plain.h5")


def test_a_truncated_file(good, tmp_path):
    (tmp_path / "half.nwb").write_bytes(good.read_bytes()[: good.stat().st_size // 2])

    with pytest.raises(InputError, match=r"half.nwb: file: expected an HDF5 file, found .*truncated"):
        probe(tmp_path / "half.nwb")


def test_a_hang_ends_in_time(good):
    command, start = [sys.executable, "-c", "import time; time.sleep(60)"], time.monotonic()

    with pytest.raises(InputError, match=r"good.nwb: file: expected a file that opens within 0.3 s"):
        probe(good, seconds=0.3, command=command)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"found a crash \(SIGSEGV\)"),
        ("import sys; sys.exit('free(): invalid pointer')", r"found a crash \(exit code 1\) free\(\): invalid pointer"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "expected a file that opens in time"),
        ("import signal; signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause()", "expected a file that opens in"),
    ],
)
def test_a_crash_takes_only_the_child(good, code, message):
    with pytest.raises(InputError, match=message):
        probe(good, command=[sys.executable, "-c", code])


def test_memory_is_limited(good, tmp_path):
    hungry = READ + "import resource; resource.setrlimit(resource.RLIMIT_AS, (memory, memory)); bytes(2 * memory)"

    with pytest.raises(InputError, match=r"found a crash .*MemoryError"):
        probe(good, memory=1 << 28, command=[sys.executable, "-c", hungry])
    with h5py.File(tmp_path / "wide.nwb", "w") as file:
        file.attrs["neurodata_type"] = "NWBFile"
        file.create_dataset("units/waveform_mean", (1, 1 << 25), "f4")  # 128 MiB a unit
    with pytest.raises(InputError, match=r"wide.nwb: units/waveform_mean: expected a readable dataset, found .*alloc"):
        probe(tmp_path / "wide.nwb", memory=3 << 26)
    assert probe(tmp_path / "wide.nwb") is None  # the limit was for once


def test_one_child_opens_all_files(good, text):
    probe(good)
    first = pid()
    with pytest.raises(InputError, match="expected an HDF5 file"):
        probe(text)
    probe(good)

    assert pid() == first


def test_a_child_that_hangs_or_dies_costs_that_file_only(good):
    probe(good)
    os.kill(stopped := pid(), signal.SIGSTOP)
    with pytest.raises(InputError, match="no end"):
        probe(good, seconds=0.2)
    assert gone(stopped)

    assert probe(good) is None
    os.kill(victim := pid(), signal.SIGSTOP)
    threading.Timer(0.2, os.kill, (victim, signal.SIGKILL)).start()
    with pytest.raises(InputError, match=r"a crash \(SIGKILL\)"):
        probe(good)

    assert probe(good) is None
    os.kill(idle := pid(), signal.SIGKILL)
    assert gone(idle)
    assert probe(good) is None  # nothing was asked of it when it died


def test_an_interrupted_question_gets_no_late_answer(good, text, monkeypatch):
    probe(good)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            probe(text)
    assert probe(good) is None  # and not what was wrong with the other


def test_threads_get_their_own_answers(good, text):
    def verdict(path):
        try:
            return probe(path)
        except InputError as error:
            return error.where

    files = [good, text] * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(verdict, files)) == [None, str(text)] * 20


def test_a_forked_process_starts_a_child_of_its_own(good):
    probe(good)
    theirs, (reading, writing) = pid(), os.pipe()
    if (forked := os.fork()) == 0:
        try:
            probe(good)
            os.write(writing, str(pid()).encode())
        finally:
            os._exit(0)
    os.waitpid(forked, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        own = int(pipe.read())

    assert own != theirs
    assert gone(own)
    assert probe(good) is None
    assert pid() == theirs


def test_the_child_ends_with_a_process_that_is_killed(good):
    code = f"import os; from ndt.data.read import file_probe as p; p.probe({str(good)!r}); "
    code += "print(p._ours.process.pid, flush=True)"
    done = subprocess.run([sys.executable, "-c", f"{code}; os.kill(os.getpid(), 9)"], capture_output=True, text=True)

    assert done.returncode == -signal.SIGKILL
    assert gone(int(done.stdout))


def test_the_child_has_an_alarm_of_its_own(tmp_path):
    os.mkfifo(tmp_path / "fifo")  # whoever opens it waits for a writer
    with subprocess.Popen(CHILD, stdin=subprocess.PIPE) as child:
        child.stdin.write(json.dumps([str(tmp_path / "fifo"), 1 << 32, 0.2, None]).encode() + b"\n")
        child.stdin.flush()
        assert child.wait(timeout=20) == -signal.SIGALRM


def test_the_child_has_nothing_of_ours():
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); print([m for m in sys.modules if m.startswith('ndt')])"
    done = subprocess.run([sys.executable, "-P", "-c", code, CHILD[-1]], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


@pytest.fixture
def nwb(tmp_path):
    """An almost empty NWB file, open for writing."""
    with h5py.File(tmp_path / "a.nwb", "w") as file:
        file.attrs["neurodata_type"] = "NWBFile"
        file.create_group("units").attrs["colnames"] = ["spike_times"]
        yield file


def make(file, path, shape, kind="", dtype="f8", **options):
    dataset = file.create_dataset(path, shape, dtype, **options)
    if kind:
        dataset.parent.attrs["neurodata_type"] = kind
    file.flush()
    return dataset


MANY = 1 << 50


@pytest.mark.parametrize(
    ("path", "shape", "kind"),
    [
        ("units/spike_times", (MANY,), ""),
        ("processing/behavior/hand/data", (MANY, 2), "TimeSeries"),
        ("processing/behavior/hand/timestamps", (MANY,), "TimeSeries"),
        ("acquisition/Position/xy/data", (MANY, 16), "SpatialSeries"),
        ("units/spike_times_index", (MANY,), ""),
    ],
)
def test_data_that_were_declared_and_never_written(nwb, path, shape, kind):
    make(nwb, path, shape, kind, chunks=(1024, *shape[1:]))

    found = probe_child.trouble(nwb.filename)
    assert found[:2] == (path, "as much data as it declares")
    assert found[2] == f"{8 * np.prod(shape, dtype=float):.4g} bytes declared, 0 stored"


@pytest.mark.parametrize(
    ("path", "shape", "kind"),
    [
        ("acquisition/raw/data", (MANY, 4), "ElectricalSeries"),
        ("acquisition/raw/timestamps", (MANY,), "ElectricalSeries"),
        ("acquisition/video/data", (1 << 40, 640, 480), "ImageSeries"),
        ("acquisition/wide/data", (MANY, 17), "TimeSeries"),
        ("units/waveforms", (1 << 40, 96), ""),
        ("stimulus/presentation/noise/data", (MANY,), "TimeSeries"),
        ("units/spike_times", (2 << 20,), ""),  # 16 MiB: no harm
    ],
)
def test_sparse_files_are_legal(nwb, path, shape, kind):
    make(nwb, path, shape, kind, chunks=(1024, *shape[1:]))

    assert probe_child.trouble(nwb.filename) is None


def test_what_packs_well_was_written(nwb, tmp_path):
    make(nwb, "units/spike_times", (40 << 20,), dtype="i1", chunks=(4 << 20,), compression="gzip")[:] = 0
    nwb.flush()
    assert nwb["units/spike_times"].id.get_storage_size() * 1000 < 41 << 20
    assert probe_child.trouble(nwb.filename) is None

    make(nwb, "units/depth", (1 << 40,), chunks=(1 << 20,), compression="gzip")[0] = 1
    nwb.flush()
    assert probe_child.trouble(nwb.filename)[0] == "units/depth"
    del nwb["units/depth"]

    with h5py.File(tmp_path / "other.h5", "w") as other:  # what lies elsewhere is not stored here
        other["a"] = np.zeros(3 << 20)
    layout = h5py.VirtualLayout((3 << 20,), "f8")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "a", (3 << 20,))
    nwb.create_virtual_dataset("units/there", layout)
    nwb.flush()
    assert probe_child.trouble(nwb.filename) is None


@pytest.mark.parametrize("kind", ["link", "raw data", "sources"])
def test_a_file_that_leads_to_a_pipe(nwb, tmp_path, kind):
    """Whoever opens a pipe that nobody writes waits forever: the child, and not the reader after it."""
    os.mkfifo(tmp_path / "pipe")
    if kind == "link":
        nwb["acquisition/x"] = h5py.ExternalLink("pipe", "/x")
    elif kind == "raw data":
        nwb.create_dataset("acquisition/x/data", (8,), "f8", external=[(str(tmp_path / "pipe"), 0, 64)])
    else:
        layout = h5py.VirtualLayout((8,), "f8")
        layout[:] = h5py.VirtualSource(tmp_path / "pipe", "a", (8,))
        nwb.create_virtual_dataset("acquisition/x/data", layout)
    nwb.close()

    with pytest.raises(InputError, match=r"expected a file that opens within 0\.5 s, found no end"):
        probe(tmp_path / "a.nwb", seconds=0.5)


def test_a_link_to_nowhere_is_for_the_reader_to_judge(nwb):
    nwb["acquisition/soft"] = h5py.SoftLink("/nowhere")
    nwb["acquisition/round"] = h5py.SoftLink("/acquisition/round")
    nwb["acquisition/gone"] = h5py.ExternalLink("gone.h5", "/")
    nwb["acquisition/group"] = h5py.SoftLink("/units")
    nwb.flush()

    assert probe_child.trouble(nwb.filename) is None


def test_a_column_that_cannot_be_read_is_named(nwb):
    nwb["units/quality"] = h5py.SoftLink("/nowhere")
    nwb.flush()

    assert probe_child.trouble(nwb.filename)[:2] == ("units/quality", "a readable dataset")


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(InputError, match=r"nothing.nwb: file: expected an NWB file, found no such file"):
        probe(tmp_path / "nothing.nwb")
    with pytest.raises(InputError, match="found a directory"):
        probe(tmp_path)


def test_patterns_find_each_file_once_in_order(tmp_path):
    names = ["a.nwb", "deep/b.nwb", "deep/odd[1].nwb", "c.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    patterns = [f"{tmp_path}/**/*.nwb", tmp_path / "a.nwb", tmp_path / "deep/odd[1].nwb"]

    assert find_files(patterns) == [tmp_path / name for name in names[:3]]
    assert find_files(f"{tmp_path}/*.txt") == [tmp_path / "c.txt"]
    with pytest.raises(InputError, match=r"zzz.*: files: expected at least one file, found no file"):
        find_files([f"{tmp_path}/zzz*"])
    with pytest.raises(InputError, match="files: expected at least one file, found an empty list"):
        find_files([])


def test_links_are_files_and_loops_are_not_followed(tmp_path):
    (tmp_path / "a.nwb").touch()
    (tmp_path / "b.nwb").symlink_to("a.nwb")
    (tmp_path / "loop.nwb").symlink_to("loop.nwb")

    assert find_files(f"{tmp_path}/[ab].nwb") == [tmp_path / "a.nwb"]
    (found,) = find_files(tmp_path / "loop.nwb")
    with pytest.raises(InputError, match="no such file"):
        probe(found)


def test_addresses_on_dandi_are_expanded(tmp_path, monkeypatch):
    from ndt.data.read import remote

    def expand(spec):
        return [
            remote.RemoteFile(dandiset=spec[6:12], version="draft", path=f"sub-{n}/sub-{n}_ses-1.nwb", url="", size=n)
            for n in (2, 1)
        ]

    monkeypatch.setattr(remote, "expand", expand)
    (tmp_path / "a.nwb").touch()

    found = find_files(["dandi:000129@draft", tmp_path / "a.nwb"])
    assert list(map(str, found[1:])) == [f"dandi:000129@draft/sub-{n}/sub-{n}_ses-1.nwb" for n in (1, 2)]
    assert [session_id_of(path) for path in found] == ["a", "sub-1_ses-1", "sub-2_ses-1"]
    (tmp_path / "dandi:here").touch()  # a file of that name is a file
    monkeypatch.chdir(tmp_path)
    assert find_files("dandi:here") == [Path("dandi:here")]


def test_a_group_that_holds_itself_is_refused_and_one_that_is_linked_twice_is_not(good, tmp_path):
    path = shutil.copy(good, tmp_path / "linked.nwb")
    with h5py.File(path, "r+") as file:
        file["scratch/twice"] = file["processing/behavior"]
    probe(path)
    with h5py.File(path, "r+") as file:
        file["processing/behavior/a"] = file["processing"]
    with pytest.raises(InputError, match=r"processing/behavior/a: expected groups that do not contain themselves"):
        probe(path)

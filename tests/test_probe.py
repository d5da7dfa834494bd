import sys
import time

import h5py
import pytest

from ndt.data.probe import find_files, probe
from ndt.errors import InputError
from tests.recordings import series, units, write_nwb


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_nwb(tmp_path_factory.mktemp("probe") / "good.nwb", units(), series())


def test_a_good_file_passes(good):
    assert probe(good) is None


def test_not_hdf5(tmp_path):
    (tmp_path / "text.nwb").write_text("spikes: many")

    with pytest.raises(InputError, match=r"text.nwb: file: expected an HDF5 file, found .*signature"):
        probe(tmp_path / "text.nwb")


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
    ],
)
def test_a_crash_takes_only_the_child(good, code, message):
    with pytest.raises(InputError, match=message):
        probe(good, command=[sys.executable, "-c", code])


def test_memory_is_limited(good):
    hungry = "import resource, sys; m = int(sys.argv[2]); resource.setrlimit(resource.RLIMIT_AS, (m, m)); bytes(2 * m)"

    with pytest.raises(InputError, match=r"found a crash .*MemoryError"):
        probe(good, memory=1 << 28, command=[sys.executable, "-c", hungry])


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

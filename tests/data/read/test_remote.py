"""Files on DANDI, from an archive on this machine: listed, read in parts, and what may go wrong."""

import hashlib
import pickle
import socket

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynwb import NWBHDF5IO
from pynwb.ecephys import ElectricalSeries

from ndt.data.read import transport
from ndt.data.read.file_probe import session_id_of
from ndt.data.read.remote import RemoteFile, expand, open_remote
from ndt.errors import InputError
from tests.dandi_server import Archive, serve
from tests.recordings import series, trials, units, write_nwb

INDY, LOCO = "sub-Indy/sub-Indy_ses-1_desc-train_behavior+ecephys.nwb", "sub-Loco/sub-Loco_ses-1_ecephys.nwb"
OLD, NEW = "0.220113.0407", "0.241017.1444"
NOISE = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def archive(monkeypatch):
    """Three versions of a dandiset, a draft of another, and a client that does not wait."""
    monkeypatch.setattr(transport, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(transport, "TIMEOUT", 5.0)
    monkeypatch.delenv("DANDI_API_KEY", raising=False)
    both = {INDY: NOISE, LOCO: NOISE[::-1], "dataset_description.json": b"{}"}
    versions = {("000129", "draft"): both, ("000129", OLD): {INDY: b"old"}, ("000129", NEW): both}
    drafts = {f"sub-{n:02d}/sub-{n:02d}.nwb": bytes([n] * n) for n in range(25)} | {"sub-a/a.nwb.zarr": b""}
    with serve(Archive(versions | {("000777", "draft"): drafts})) as archive:
        yield archive


@pytest.fixture
def noise(archive) -> RemoteFile:
    return expand(f"dandi:000129/{INDY}", archive.api)[0]


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A file in which voltages that nobody needs are most of the bytes."""

    def voltages(nwb):
        data = np.random.default_rng(1).integers(-500, 500, (1_600_000, 2)).astype(np.int16)
        region = nwb.create_electrode_table_region([0, 1], "all")
        nwb.add_acquisition(ElectricalSeries("raw", data, region, rate=30000.0))

    rng = np.random.default_rng(2)
    spikes = [np.sort(rng.uniform(0, 60, 2000)) for _ in range(20)]
    fill = [units(spikes, electrodes=[0, 1] * 10), series(), trials, voltages]
    return write_nwb(tmp_path_factory.mktemp("remote") / "sub-x_ses-1_ecephys.nwb", *fill)


def paths(spec, archive):
    return [file.path for file in expand(spec, archive.api)]


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_version_is_the_one_asked_for_else_the_last_published_else_the_draft(archive):
    assert {f.version for f in expand("dandi:000129", archive.api)} == {NEW}
    assert {f.version for f in expand("dandi:000129@draft", archive.api)} == {"draft"}
    assert {f.version for f in expand("dandi:000777", archive.api)} == {"draft"}
    for spec in (f"dandi:000129@{OLD}", f"DANDI:000129/{OLD}", f"dandi:000129@{OLD}/sub-Indy"):
        (file,) = expand(spec, archive.api)
        assert (file.version, file.path, file.size) == (OLD, INDY, 3)
        assert file.sha256 == hashlib.sha256(b"old").hexdigest()


def test_patterns_choose_files_and_only_nwb_files_are_chosen(archive):
    assert paths("dandi:000129", archive) == [INDY, LOCO]
    assert paths(f"dandi:000129/{LOCO}", archive) == [LOCO]
    assert paths("dandi:000129/sub-Indy/", archive) == [INDY]
    assert paths("dandi:000129@draft/sub-Indy/*behavior*.nwb", archive) == [INDY]
    assert paths("dandi:000129/*_ecephys.nwb", archive) == [LOCO]
    assert paths("dandi:000129/sub-?o*", archive) == [LOCO]
    assert paths("dandi:000777/sub-0[135]*", archive) == [f"sub-0{n}/sub-0{n}.nwb" for n in (1, 3, 5)]


def test_a_list_of_many_pages_comes_whole_and_in_order(archive):
    archive.page = 4
    files = expand("dandi:000777", archive.api)
    assert [f.size for f in files] == list(range(25))
    assert [f.path for f in files] == sorted(f.path for f in files)
    assert sum(path.endswith("/assets/") for path in archive.asked) == 7  # of 26 files, four a page


def test_digests_that_a_list_lacks_are_asked_for_and_may_be_unknown(archive):
    known = expand("dandi:000129", archive.api)
    asked = len(archive.asked)
    archive.digests = False
    assert expand("dandi:000129", archive.api) == known
    assert len(archive.asked) == asked + 2 + len(known)
    archive.hashes[LOCO] = ""
    assert [bool(f.sha256) for f in expand("dandi:000129", archive.api)] == [True, False]


def test_a_file_says_what_it_is_and_crosses_processes(noise):
    assert str(noise) == f"dandi:000129@{NEW}/{INDY}"
    assert session_id_of(noise.path) == "sub-Indy_ses-1_desc-train"
    assert pickle.loads(pickle.dumps(noise)) == noise


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("dandi:129", "name: expected dandi:NNNNNN"),
        ("dandi:000129@latest", "name: expected dandi:NNNNNN"),
        ("dandi:000555", "dandiset: expected one that exists, found 404"),
        ("dandi:000129@0.990101.0000", "version: expected one of dandiset 000129, found 404"),
        ("dandi:000129/sub-Jenkins/*", "matches sub-Jenkins/*, found none among 0 files"),
        ("dandi:000129/dataset*", "found none among 1 files"),
        ("dandi:000777/sub-a", "expected an NWB file (HDF5) that matches sub-a, found none among 1 files"),
    ],
)
def test_a_name_that_stands_for_nothing_is_one_line(archive, spec, said):
    with pytest.raises(InputError) as error:
        expand(spec, archive.api)
    assert one_line(error).startswith(f"{spec}: ")
    assert said in str(error.value)


def test_without_a_network_the_error_says_so(archive):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match=r"dandi:000129: network: .*refused, 4 times") as error:
            expand("dandi:000129", f"http://127.0.0.1:{unused.getsockname()[1]}/api")
    one_line(error)


def test_an_archive_that_hangs_or_is_no_archive_is_one_line(archive, monkeypatch):
    with pytest.raises(InputError, match=r"dandi:000129: dandiset: .*404"):
        expand("dandi:000129", archive.api.removesuffix("/api") + "/elsewhere")
    monkeypatch.setattr(transport, "TIMEOUT", 0.05)
    archive.delay = 0.3
    with pytest.raises(InputError, match=r"network: expected an answer within 0.05 s, .*found .*timed out") as error:
        expand("dandi:000129", archive.api)
    one_line(error)


def test_an_answer_that_fails_for_a_moment_is_asked_for_again(archive):
    archive.failures = [503, 429, 502]
    assert paths("dandi:000129", archive) == [INDY, LOCO]
    archive.failures = [503] * 4
    with pytest.raises(InputError, match=r"network: .*found 503 Service Unavailable, 4 times"):
        expand("dandi:000129", archive.api)


def test_a_key_opens_an_embargoed_dandiset_and_goes_to_the_archive_alone(archive, monkeypatch):
    archive.key = "secret"
    with pytest.raises(InputError, match=r"access: .*DANDI_API_KEY, found 401"):
        expand("dandi:000129", archive.api)
    monkeypatch.setenv("DANDI_API_KEY", "secret")
    file = expand("dandi:000129/sub-Indy", archive.api)[0]
    assert open_remote(file).read(10) == NOISE[:10]
    assert not archive.leaked


def test_any_part_reads_as_it_is(noise):
    spans = st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 20_000)), min_size=1, max_size=5)

    @settings(max_examples=60)
    @given(spans, st.sampled_from([512, 4096, 40_000, 400_000]), st.sampled_from([1, 2, 5, 99]))
    def check(spans, block, most):
        file = open_remote(noise, block / 2**20, most * block / 2**20)
        for first, length in spans:
            assert file.seek(first) == file.tell() == first
            assert file.read(length) == NOISE[first : first + length]
            assert len(file.blocks) <= most
        assert file.seek(-7, 2) == len(NOISE) - 7
        assert file.read() == NOISE[-7:]
        assert file.read(5) == b""

    check()


def test_what_is_in_memory_is_not_asked_for_again_and_what_follows_costs_few_requests(noise, archive):
    file = open_remote(noise, 1000 / 2**20, 1.0)
    archive.asked.clear()
    for _ in range(300):
        file.read(1000)
    requests = len(archive.asked) - 1  # without the redirect
    assert requests == 5 + 17  # 1, 2, 4, 8 and 16 blocks, then 16 at a time up to 300
    assert archive.sent == len(NOISE)
    file.seek(0)
    assert file.read() == NOISE
    assert archive.sent == len(NOISE)


def test_an_address_that_has_expired_is_asked_for_anew(noise, archive):
    archive.signed = 3
    file = open_remote(noise, 5000 / 2**20)
    assert b"".join(iter(lambda: file.read(5000), b"")) == NOISE
    assert sum(path.endswith("/download/") for path in archive.asked) > 2


def test_a_line_that_breaks_is_tried_again(noise, archive):
    archive.cuts = 2
    assert open_remote(noise, 10_000 / 2**20).read(100_000) == NOISE[:100_000]
    archive.cuts = 99
    with pytest.raises(InputError, match=r"network: .*found .*1000.* 4 times") as error:
        open_remote(noise, 10_000 / 2**20).read(100)
    one_line(error)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"ranges": False}, "server: expected one that answers range requests, found 127.0.0.1"),
        ({"longer": 5}, "size: expected 300000 bytes, as the archive says, found 300005 bytes"),
        ({"failures": [404] * 9}, "file: expected one that can be read, found 404"),
    ],
)
def test_a_server_that_cannot_be_read_from_is_one_line(noise, archive, fault, said):
    vars(archive).update(fault)
    with pytest.raises(InputError) as error:
        open_remote(noise).read(10)
    assert one_line(error).startswith(f"{noise}: {said}")


def test_pynwb_reads_through_ranges_what_it_reads_from_disk(archive, recording):
    archive.versions["000129", "draft"] = {"sub-x/sub-x_ses-1_ecephys.nwb": recording.read_bytes()}
    (file,) = expand("dandi:000129@draft", archive.api)
    archive.asked.clear()
    with h5py.File(open_remote(file, 1 / 16), "r") as h5, NWBHDF5IO(file=h5, load_namespaces=True) as io:
        table = io.read().units
        times, ends = table["spike_times"].target.data[:], table["spike_times"].data[:]
    with NWBHDF5IO(recording, "r") as io:
        table = io.read().units
        np.testing.assert_array_equal(times, table["spike_times"].target.data[:])
        np.testing.assert_array_equal(ends, table["spike_times"].data[:])
    assert len(times) == 40_000
    assert archive.sent < 0.25 * file.size
    assert len(archive.asked) < 40


def test_an_error_on_the_way_comes_out_of_hdf5_as_it_was(archive, recording):
    archive.versions["000129", "draft"] = {"sub-x/sub-x_ses-1_ecephys.nwb": recording.read_bytes()}
    (file,) = expand("dandi:000129@draft", archive.api)
    with h5py.File(open_remote(file, 1 / 64, 1 / 32), "r") as h5:
        archive.failures = [410] * 99
        with pytest.raises(InputError, match="file: expected an answer, found 410 Gone"):
            h5["units/spike_times"][:]
        archive.failures = []


def test_a_path_that_leaves_the_dandiset_is_refused(archive):
    archive.versions["000129", "draft"] = {"sub-x/../../../x.nwb": b"x"}
    with pytest.raises(InputError, match="path: expected one inside the dandiset"):
        expand("dandi:000129@draft", archive.api)

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_matrix

from ndt.config.data import ArraysConfig
from ndt.data.read import file_probe as probe
from ndt.data.read.archive import load_arrays, texts
from ndt.data.read.array_files import read_arrays
from ndt.errors import InputError
from ndt.spikes import bin_spikes
from tests.stand_ins import cell_array, indy_values, write_mat73

INDY = ArraysConfig(
    covariates=("cursor_pos", "finger_pos"),
    timestamps=("t",),
    columns=("electrode=chan_names",),
    unit=("cursor_pos=mm",),
)


@pytest.fixture(scope="module")
def indy(tmp_path_factory):
    values = indy_values(seconds=5.0)
    return read_arrays(write_mat73(tmp_path_factory.mktemp("mat") / "indy_20160407_02.mat", values), INDY), values


def test_cells_of_channels_by_sorts_become_units(indy):
    session, values = indy
    # channels 0 to 5, three sorts each; 2 is silent and keeps its first cell, odd ones lack the last sort
    np.testing.assert_array_equal(session.units.columns["channel"], [0, 0, 0, 1, 1, 2, 3, 3, 4, 4, 4, 5, 5])
    np.testing.assert_array_equal(session.units.columns["sort"], [0, 1, 2, 0, 1, 0, 0, 1, 0, 1, 2, 0, 1])
    for n, (channel, sort) in enumerate(
        zip(session.units.columns["channel"], session.units.columns["sort"], strict=True)
    ):
        got = session.spikes.timestamps[session.spikes.unit_index == n]
        np.testing.assert_array_equal(got, values["spikes"][channel, sort].ravel())
    assert "spikes: 5 of 18 cells are empty and give no units" in session.dropped
    assert (session.session_id, session.subject, session.source["size"] > 0) == ("indy_20160407_02", "indy", True)


def test_names_of_channels_say_electrode_group_and_region(indy):
    columns = indy[0].units.columns
    np.testing.assert_array_equal(columns["electrode"], columns["channel"] + 1)  # M1 001 is row 0
    np.testing.assert_array_equal(columns["group"], ["M1"] * 13)
    np.testing.assert_array_equal(columns["location"], ["M1"] * 13)
    assert columns["electrode_name"][-1] == "M1 006"


def test_covariates_of_a_file(indy):
    session, values = indy
    position = session.covariates["cursor_pos"]
    np.testing.assert_array_equal(position.values, values["cursor_pos"])
    np.testing.assert_array_equal(position.timestamps, values["t"].ravel())
    assert position.unit == "mm"
    assert session.covariates["finger_pos"].values.shape[1] == 6


def test_two_arrays_keep_their_electrodes_apart(tmp_path):
    path = write_mat73(tmp_path / "loco.mat", indy_values(num_channels=4, seconds=2.0, arrays=2))
    columns = read_arrays(path, INDY).units.columns
    first = columns["sort"] == 0
    np.testing.assert_array_equal(columns["location"][first], ["M1", "M1", "S1", "S1"])
    np.testing.assert_array_equal(columns["electrode"][first], [1, 2, 1, 2])


def test_a_cell_that_is_no_list_of_times_is_left_out_and_listed(tmp_path):
    values = indy_values(num_channels=4, seconds=2.0)
    values["spikes"][1, 1] = np.ones((2, 2))
    session = read_arrays(write_mat73(tmp_path / "a.mat", values), INDY)
    assert "spikes: 1 cells are not lists of times, the first (1, 1) of shape (2, 2)" in session.dropped
    assert (1, 1) not in set(zip(session.units.columns["channel"], session.units.columns["sort"], strict=True))


def _mat5(path, values):
    savemat(path, values)
    return path


def _mat5_compressed(path, values):
    savemat(path, values, do_compression=True)
    return path


WRITERS = [write_mat73, _mat5, _mat5_compressed]
SPIKES = [np.array([0.1, 0.5, 0.75]), np.array([0.25]), np.zeros(0)]
STRUCT = ArraysConfig(
    spikes="data.spikes",
    covariates=("vel=data.kin.vel", "force=data.force"),
    timestamps=("data.kin.t", "force=data.tf"),
    columns=("area=data.area", "snr=data.snr"),
)


def struct_values():
    kin = {"t": np.arange(4.0)[:, None] / 4, "vel": np.arange(8.0).reshape(4, 2)}
    return {
        "data": {
            "spikes": cell_array(SPIKES, (1, 3)),
            "kin": kin,
            "force": np.array([[5.0, 6.0]]),
            "tf": np.array([[0.0, 0.5]]),
            "area": cell_array(["M1", "PMd", "M1"]),
            "snr": np.array([[1.5, 2.5, np.nan]]),
        }
    }


@pytest.mark.parametrize("write", WRITERS)
def test_both_formats_of_matlab_give_the_same_session(write, tmp_path):
    session = read_arrays(write(tmp_path / "Jango_1.mat", struct_values()), STRUCT)
    np.testing.assert_array_equal(session.spikes.timestamps, [0.1, 0.25, 0.5, 0.75])
    np.testing.assert_array_equal(session.spikes.unit_index, [0, 1, 0, 0])
    assert (session.num_units, session.subject) == (3, "Jango")  # the third never fires
    np.testing.assert_array_equal(session.units.columns["area"], ["M1", "PMd", "M1"])
    np.testing.assert_array_equal(session.units.columns["snr"], [1.5, 2.5, np.nan])
    np.testing.assert_array_equal(session.covariates["vel"].values, np.arange(8.0).reshape(4, 2))
    np.testing.assert_array_equal(session.covariates["force"].timestamps, [0.0, 0.5])


def test_a_field_of_a_struct_array_is_a_cell_array(tmp_path):
    units = np.zeros((1, 3), dtype=[("times", object), ("name", object)])
    for n, times in enumerate(SPIKES):
        units[0, n] = times, f"unit {n}"
    savemat(tmp_path / "x.mat", {"units": units})
    config = ArraysConfig(spikes="units.times", columns=("name=units.name",))
    session = read_arrays(tmp_path / "x.mat", config)
    np.testing.assert_array_equal(session.spikes.timestamps, [0.1, 0.25, 0.5, 0.75])
    np.testing.assert_array_equal(session.units.columns["name"], ["unit 0", "unit 1", "unit 2"])


@pytest.mark.parametrize("compressed", [False, True])
def test_values_of_matlab_5_are_those_that_scipy_wrote(compressed, tmp_path):
    values = {
        "double": np.random.default_rng(0).normal(size=(3, 4)),
        "single": np.float32([[1.5, -2.5]]),
        "deep": np.arange(24, dtype=np.int16).reshape(2, 3, 4),
        "large": np.array([[2**62, -(2**62)]]),
        "bytes": np.array([[0, 255]], np.uint8),
        "truth": np.array([[True, False, True]]),
        "empty": np.zeros((0, 3)),
        "text": np.array(["rïght"]),
        "rows": np.array(["ab", "cd"]),
        "cells": cell_array([np.array([[1.0, 2.0]]), cell_array([np.array(["x"])]), np.zeros((0, 0))], (1, 3)),
        "sparse": csc_matrix(np.array([[0.0, 2.0], [0.0, 0.0], [3.0, 0.0]])),
        "x" * 31: np.array([[1.0]]),  # as long as a name may be
    }
    savemat(tmp_path / "x.mat", values, do_compression=compressed)
    found = load_arrays(tmp_path / "x.mat", values)
    for name in ("double", "single", "deep", "large", "bytes", "truth", "empty", "text", "rows", "x" * 31):
        np.testing.assert_array_equal(found[name], values[name])
    np.testing.assert_array_equal(found["sparse"], values["sparse"].toarray())
    assert found["cells"].shape == (1, 3)
    np.testing.assert_array_equal(found["cells"][0, 0], [[1.0, 2.0]])
    assert texts(found["cells"][0, 1]) == ["x"]
    assert found["cells"][0, 2].size == 0


def test_sparse_counts_of_matlab(tmp_path):
    counts = np.random.default_rng(0).poisson(0.2, (30, 4))
    savemat(tmp_path / "x.mat", {"counts": csc_matrix(counts)})
    session = read_arrays(tmp_path / "x.mat", ArraysConfig(spikes="counts", bin_size=0.05))
    np.testing.assert_array_equal(bin_spikes(session, 0.0, 0.05, 30), counts)


def test_sparse_counts_of_matlab_7_3(tmp_path):
    counts = csc_matrix(np.random.default_rng(0).poisson(0.2, (30, 4)))
    with h5py.File(tmp_path / "x.mat", "w") as file:
        group = file.create_group("counts")
        group.attrs["MATLAB_sparse"] = np.uint64(30)
        group["data"], group["ir"], group["jc"] = counts.data.astype(float), counts.indices, counts.indptr
    session = read_arrays(tmp_path / "x.mat", ArraysConfig(spikes="counts", bin_size=0.05))
    np.testing.assert_array_equal(bin_spikes(session, 0.0, 0.05, 30), counts.toarray())


def test_a_small_file_that_inflates_to_a_large_array_is_not_read(tmp_path):
    savemat(tmp_path / "x.mat", {"spikes": np.zeros((1000, 1000))}, do_compression=True)
    assert (tmp_path / "x.mat").stat().st_size < 20_000
    savemat(tmp_path / "y.mat", {"spikes": np.zeros((1000, 1000))})
    for name in ("x.mat", "y.mat"):
        with pytest.raises(InputError, match=r"spikes: expected at most 0.001 GiB \(max_gib\), found 0.0 GiB"):
            read_arrays(tmp_path / name, ArraysConfig(bin_size=0.1), max_gib=0.001)


def address_space() -> int:
    """Returns the bytes of address space that the child process has."""
    status = Path(f"/proc/{probe._ours.process.pid}/status").read_text()
    return int(status.split("VmSize:")[1].split()[0]) << 10


def test_a_file_that_inflates_beyond_memory_costs_the_child_only(tmp_path):
    cells = cell_array([np.zeros(1 << 21)] * 2, (1, 2))  # 32 MiB in 33 kB
    savemat(tmp_path / "x.mat", {"spikes": cells}, do_compression=True)
    with pytest.raises(InputError, match=r"x.mat: spikes: expected at most 0.01 GiB \(max_gib\), found 0.0 GiB"):
        read_arrays(tmp_path / "x.mat", max_gib=0.01)
    with pytest.raises(InputError, match=r"x.mat: file: expected arrays that fit into memory .*, found larger ones"):
        probe.probe(tmp_path / "x.mat", memory=address_space() + (24 << 20), variables=["spikes"])


def test_flat_times_of_an_archive_and_labels_that_are_no_rows(tmp_path):
    np.savez(tmp_path / "x.npz", times=[0.3, 0.1, 0.2], cluster=[40, 7, 40], depth=[1.0, 2.0])
    config = ArraysConfig(spikes="times", unit_index="cluster", columns=("depth",))
    session = read_arrays(tmp_path / "x.npz", config)
    np.testing.assert_array_equal(session.spikes.unit_index, [0, 1, 1])
    np.testing.assert_array_equal(session.units.columns["label"], [7, 40])
    np.testing.assert_array_equal(session.units.columns["depth"], [1.0, 2.0])


def test_labels_are_rows_where_columns_say_that_there_are_more_units(tmp_path):
    np.savez(tmp_path / "x.npz", times=[0.1, 0.2], unit=[2, 0], area=["a", "b", "c"])
    session = read_arrays(tmp_path / "x.npz", ArraysConfig(spikes="times", unit_index="unit", columns=("area",)))
    assert session.num_units == 3
    np.testing.assert_array_equal(session.spikes.unit_index, [2, 0])


def test_counts_of_an_archive_and_a_covariate_of_one_value_a_bin(tmp_path):
    counts = np.arange(8).reshape(4, 2)
    np.savez(tmp_path / "x.npz", counts=counts, vel=np.arange(4.0))
    session = read_arrays(tmp_path / "x.npz", ArraysConfig(spikes="counts", bin_size=0.02, covariates=("vel",)))
    assert session.count_bin == 0.02
    np.testing.assert_array_equal(bin_spikes(session, 0.0, 0.02, 4), counts)
    np.testing.assert_allclose(session.covariates["vel"].timestamps, 0.02 * np.arange(4) + 0.01, rtol=0, atol=1e-12)


def test_observed_time_is_of_a_key_or_that_of_timestamps(tmp_path):
    values = {
        "s": np.array([1.0, 2.5, 7.0]), "n": np.array([0, 0, 1]), "t": 0.5 + np.arange(20) / 4, "x": np.arange(20.0),
        "rows": np.array([[0.0, 2.0], [3.0, 9.0]]),
    }  # fmt: skip
    np.savez(tmp_path / "a.npz", **values)
    config = {"spikes": "s", "unit_index": "n", "covariates": ("x=x",), "timestamps": ("t",)}
    spans = {
        "rows": ([0.0, 3.0], [2.0, 9.0]),
        "timestamps": ([0.5], [5.5]),  # the last sample at 5.25 lasts a quarter of a second
        "": ([1.0], [np.nextafter(7.0, 8.0)]),  # first to last spike
    }
    for observed, (start, end) in spans.items():
        session = read_arrays(tmp_path / "a.npz", ArraysConfig(**config, observed=observed))
        np.testing.assert_array_equal(session.observed.start, start)
        np.testing.assert_array_equal(session.observed.end, end)
    with pytest.raises(InputError, match=r"arrays\.observed: expected timestamps of covariates"):
        read_arrays(tmp_path / "a.npz", ArraysConfig(spikes="s", unit_index="n", observed="timestamps"))


def test_covariates_at_a_rate_begin_at_zero(tmp_path):
    np.savez(tmp_path / "x.npz", times=[0.1], unit=[0], vel=np.arange(3.0))
    config = ArraysConfig(spikes="times", unit_index="unit", covariates=("vel",), rate=2.0)
    np.testing.assert_array_equal(read_arrays(tmp_path / "x.npz", config).covariates["vel"].timestamps, [0, 0.5, 1])


def test_an_array_of_objects_is_refused_with_a_hint_and_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "x.npz", spikes=cell_array(SPIKES))
    with pytest.raises(
        InputError, match=r"spikes: .* save flat spike times and a unit_index, found an array of Python obj"
    ):
        read_arrays(tmp_path / "x.npz")


FILES = {
    "no key": (
        ArraysConfig(spikes="spike"),
        "spike: expected one of the file's keys: .*spikes.*, found none of that .*",
    ),
    "a struct": (ArraysConfig(spikes="meta"), "meta: expected numbers, text or cells of them, found a struct; .*"),
    "no struct": (ArraysConfig(spikes="t.x"), "t: expected a struct with a field x, found no struct"),
    "no field": (ArraysConfig(spikes="meta.x"), "x: expected one of the file's keys: rate, found none of that name"),
    "no cells": (ArraysConfig(spikes="t"), "t: expected a cell array of spike times; or flat times and .*"),
    "cells of text": (ArraysConfig(spikes="names"), "names: expected cells that are lists of spike times, .*"),
    "cells with an index": (ArraysConfig(unit_index="t"), "spikes: expected numbers, since unit_index or .*"),
    "columns": (ArraysConfig(columns=("x=t",)), "t: expected one value for each of 3 units or channels, .*"),
    "names": (ArraysConfig(columns=("electrode=names",)), "names: expected names that end in a number, .* found 'a'"),
    "timestamps": (ArraysConfig(covariates=("vel",)), "arrays.timestamps of vel: expected a key of timestamps, .*"),
    "length": (ArraysConfig(covariates=("vel",), timestamps=("names",)), "names: expected a list of numbers, .*cells"),
    "samples": (ArraysConfig(covariates=("vel",), timestamps=("odd",)), "covariates/vel: expected numbers, .*"),
    "covariate": (ArraysConfig(covariates=("names",), timestamps=("t",)), "names: expected samples by dimensions, .*"),
    "other name": (ArraysConfig(timestamps=("vel=t",)), "arrays.timestamps: expected names of covariates: none, .*"),
    "twice": (ArraysConfig(covariates=("a=vel", "a=t")), "arrays.covariates: expected words name=key, .*"),
}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("config", "message"), FILES.values(), ids=FILES)
def test_what_does_not_fit_a_file_is_said_in_one_line(write, config, message, tmp_path):
    values = {
        "spikes": cell_array(SPIKES, (1, 3)),
        "names": cell_array(["a", "b", "c"]),
        "t": np.arange(4.0)[:, None],
        "vel": np.ones((4, 2)),
        "odd": np.arange(3.0)[:, None],
        "meta": {"rate": np.array([[30000.0]])},
    }
    path = write(tmp_path / "x.mat", values)
    with pytest.raises(InputError, match=f"^{path}: {message}$"):
        read_arrays(path, config)


@pytest.mark.parametrize("kind", ["7.3", "5", "npz"])
def test_a_file_cut_short_ends_in_one_line(kind, tmp_path):
    read = ("spikes", "t", "chan_names", "finger_pos", "cursor_pos")  # what is not read may be missing
    values = {key: value for key, value in indy_values(seconds=2.0).items() if key in read}
    whole = tmp_path / ("x.npz" if kind == "npz" else "x.mat")
    config = ArraysConfig(spikes="times", unit_index="unit") if kind == "npz" else INDY
    if kind == "7.3":
        write_mat73(whole, values)
    elif kind == "5":
        savemat(whole, values)
    else:
        np.savez(whole, times=np.arange(500.0), unit=np.zeros(500, int))
    assert read_arrays(whole, config).num_units > 0
    data, cut = whole.read_bytes(), tmp_path / f"cut{whole.suffix}"
    for size in [0, 1, 100, 512, *np.random.default_rng(0).integers(513, len(data) - 64, 12)]:
        cut.write_bytes(data[:size])
        with pytest.raises(InputError, match=r"cut\.(mat|npz): ") as error:
            read_arrays(cut, config)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["7.3", "5"])
def test_a_damaged_file_ends_in_one_line_or_in_a_session(kind, tmp_path):
    whole, cut = tmp_path / "x.mat", tmp_path / "cut.mat"
    write_mat73(whole, struct_values()) if kind == "7.3" else savemat(whole, struct_values())
    data, rng, ends = whole.read_bytes(), np.random.default_rng(1), []
    for _ in range(40):
        broken = bytearray(data)
        for place in rng.integers(0, len(data), 8):
            broken[place] = int(rng.integers(0, 256))
        cut.write_bytes(bytes(broken))
        try:
            ends.append(type(read_arrays(cut, STRUCT)).__name__)
        except InputError as error:  # anything else fails the test
            ends.append(f"{len(str(error).splitlines())} line")
    assert "1 line" in ends
    assert set(ends) <= {"1 line", "Session"}


def test_other_files_and_missing_ones(tmp_path):
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(InputError, match=r"x.csv: file: expected a \.mat or \.npz file, found a \.csv file"):
        read_arrays(tmp_path / "x.csv")
    with pytest.raises(InputError, match="found no such file"):
        read_arrays(tmp_path / "y.mat")
    with pytest.raises(InputError, match="found a directory"):
        read_arrays(tmp_path)


def test_an_array_that_says_it_is_enormous_is_not_read(tmp_path):
    path = write_mat73(tmp_path / "x.mat", {"spikes": cell_array(SPIKES)})
    with h5py.File(path, "r+") as file:
        file.create_dataset("t", (1, 1 << 40), "f8", chunks=(1, 1024)).attrs["MATLAB_class"] = np.bytes_("double")
    config = ArraysConfig(covariates=("x=t",), timestamps=("t",))
    with pytest.raises(InputError, match=r"t: expected at most 8 GiB \(max_gib\), found 8,192.0 GiB"):
        read_arrays(path, config)


def test_cells_that_hold_themselves_end(tmp_path):
    path = write_mat73(tmp_path / "x.mat", {"spikes": cell_array(SPIKES)})
    with h5py.File(path, "r+") as file:
        file["spikes"][0, 0] = file["spikes"].ref
    with pytest.raises(InputError, match="spikes: expected cells in cells, at most 4 deep, found more"):
        read_arrays(path)

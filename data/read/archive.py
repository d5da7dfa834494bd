"""Reads arrays of a ``.mat`` or ``.npz`` file by key: numbers, text, and cells of either, without running code.

Three formats give the same values: MATLAB up to v7.2 (read by scipy, first in a child process), MATLAB v7.3 (HDF5 with
transposed arrays; a cell array is an array of references, and an empty array holds its shape), and NumPy archives
without objects. Only the given keys are read. A dot in a key steps into a struct; a field of a struct array is a cell
array.
"""

import math
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.io.matlab import MatlabFunction, MatlabOpaque

from ndt.data.read.file_probe import probe
from ndt.errors import InputError

__all__ = ["load_arrays", "texts"]

GIB = 1 << 30
DEPTH = 4  # cells within cells; deeper ones may refer to themselves
MEMORY = 4 * GIB  # address space of the child process without the data
ITEMSIZE = dict(single=4, int32=4, uint32=4, char=4, int16=2, uint16=2, int8=1, uint8=1, logical=1)  # else 8

Value = NDArray[Any]  # numbers, text (one string per row), or objects: cells


def load_arrays(
    path: str | Path, keys: Iterable[str], max_gib: float = 8.0, probe_seconds: float = 60.0
) -> dict[str, Value]:
    """Returns the values of the keys: numbers as in MATLAB (rows first), text as strings, cells as objects.

    Arguments:
        path: A ``.mat`` or ``.npz`` file.
        keys: Keys to read; ``a.b`` is field b of struct a.
        max_gib: Largest array that is read, in GiB.
        probe_seconds: Time limit of the child process that opens a file before MATLAB 7.3; 0 for no test.

    Raises:
        InputError: if the file cannot be read, lacks a key, or the value of a key is not an array.
    """
    path, keys = Path(path), list(dict.fromkeys(keys))
    if not path.is_file():
        raise InputError(path, "file", "a .mat or .npz file", "a directory" if path.is_dir() else "no such file")
    try:
        return _read(path, keys, max_gib, probe_seconds)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(path, "file", "arrays that fit into memory", "larger ones") from error
    except Exception as error:  # the exceptions that h5py and zipfile raise for broken files cannot be listed
        found = f"{type(error).__name__} {error}"
        raise InputError(path, "file", f"a {path.suffix.lower()} file that can be read", found) from error


def texts(value: Value) -> list[str] | None:
    """Returns text as a list of strings, one per row or cell; None for values that are not text."""
    if value.dtype.kind == "U":
        return [str(row) for row in value.ravel()]
    if value.dtype.kind == "S":
        return [row.decode("utf-8", "replace") for row in value.ravel().tolist()]
    if value.dtype != object:
        return None
    cells = [texts(cell) for cell in value.ravel()]

    return ["".join(cell) for cell in cells if cell is not None] if all(c is not None for c in cells) else None


def _read(path: Path, keys: list[str], max_gib: float, probe_seconds: float) -> dict[str, Value]:
    if path.suffix.lower() == ".npz":
        return _read_npz(path, keys, max_gib)
    if path.suffix.lower() != ".mat":
        raise InputError(path, "file", "a .mat or .npz file", f"a {path.suffix or 'nameless'} file")
    if h5py.is_hdf5(path):
        return _read_hdf5(path, keys, max_gib)

    return _read_mat5(path, keys, max_gib, probe_seconds)


def _check_key(path: Path, key: str, known: Iterable[str]) -> None:
    names = sorted(name for name in known if not name.startswith(("#", "__")))
    if key not in names:
        shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        raise InputError(path, key, f"one of the file's keys: {shown or '(none)'}", "none of that name")


def _check_size(path: Path, key: str, shape: Iterable[int], item: int, max_gib: float) -> None:
    gib = math.prod(map(int, shape)) * item / GIB
    if gib > max_gib:
        raise InputError(path, key, f"at most {max_gib:g} GiB (max_gib)", f"{gib:,.1f} GiB")


def _read_npz(path: Path, keys: list[str], max_gib: float) -> dict[str, Value]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        for key in keys:
            _check_key(path, key, members)
            with archive.open(members[key]) as file:
                major, _ = np.lib.format.read_magic(file)
                head = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                shape, _, dtype = head(file)
            if dtype.hasobject:
                hint = "arrays of numbers or text; save flat spike times and a unit_index"
                raise InputError(path, key, hint, "an array of Python objects, which would have to be unpickled")
            _check_size(path, key, shape, dtype.itemsize, max_gib)
            with archive.open(members[key]) as file:
                found[key] = _plain(path, key, np.lib.format.read_array(file, allow_pickle=False))

    return found


def _plain(path: Path, key: str, value: Value) -> Value:
    """Returns numbers and text unchanged; raises for anything else."""
    if value.dtype.kind not in "biufUS":
        raise InputError(path, key, "numbers, text or cells of them", f"values of type {value.dtype}")

    return value


def _read_mat5(path: Path, keys: list[str], max_gib: float, seconds: float) -> dict[str, Value]:
    from scipy import io

    tops = list(dict.fromkeys(key.split(".")[0] for key in keys))
    probe(path, seconds, MEMORY + int(2 * max_gib * GIB), variables=tops)  # scipy may not end for wrong lengths
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that occurs twice
        known = {name: (shape, kind) for name, shape, kind in io.whosmat(path, appendmat=False)}
        for top in tops:
            _check_key(path, top, known)
            shape, kind = known[top]
            _check_size(path, top, shape, ITEMSIZE.get(kind, 8), max_gib)
        found = io.loadmat(path, appendmat=False, mat_dtype=True, variable_names=tops)

    return {key: _mat5_value(path, key, _mat5_field(path, key, found), max_gib) for key in keys}


def _mat5_field(path: Path, key: str, found: dict[str, Any]) -> Any:
    """Returns the variable or the field of a struct that a key names; of a struct array, as cells."""
    top, *fields = key.split(".")
    thing = found[top]
    for k, name in enumerate(fields, 1):
        if not isinstance(thing, np.ndarray) or thing.dtype.names is None:
            raise InputError(path, ".".join([top, *fields][:k]), f"a struct with a field {name}", "no struct")
        _check_key(path, name, thing.dtype.names)
        values = list(thing[name].ravel(order="F"))
        thing = values[0] if len(values) == 1 else _cells(values, (len(values), 1))

    return thing


def _mat5_value(path: Path, key: str, thing: Any, max_gib: float) -> Value:
    if sparse.issparse(thing):
        return _dense(path, key, thing, max_gib)
    if type(thing) is not np.ndarray or thing.dtype.names is not None:
        structs = isinstance(thing, np.ndarray) and not isinstance(thing, MatlabFunction | MatlabOpaque)
        what = "a struct; name one of its fields" if structs else "a function, table or object"
        raise InputError(path, key, "numbers, text or cells of them", what)
    if thing.dtype != object:
        _check_size(path, key, thing.shape, thing.dtype.itemsize, max_gib)
        return _plain(path, key, thing)

    return _cells([_mat5_value(path, key, cell, max_gib) for cell in thing.ravel()], thing.shape)


def _dense(path: Path, key: str, matrix: Any, max_gib: float) -> Value:
    """Returns a sparse matrix as a dense one, after a check of its indices."""
    _check_size(path, key, matrix.shape, matrix.dtype.itemsize, max_gib)
    matrix.check_format(full_check=True)

    return _plain(path, key, matrix.toarray())


def _cells(values: list[Value], shape: tuple[int, ...]) -> Value:
    """Returns a cell array; cells are assigned one by one, since NumPy would stack cells of equal shape."""
    cells = np.empty(len(values), object)
    for i, value in enumerate(values):
        cells[i] = value

    return cells.reshape(shape)


def _read_hdf5(path: Path, keys: list[str], max_gib: float) -> dict[str, Value]:
    found = {}
    with h5py.File(path, "r") as file:
        for key in keys:
            thing: Any = file
            for k, name in enumerate(key.split(".")):
                if not isinstance(thing, h5py.Group):
                    raise InputError(path, ".".join(key.split(".")[:k]), f"a struct with a field {name}", "no struct")
                _check_key(path, name, thing)
                thing = thing[name]
            found[key] = _hdf5_value(file, thing, (path, key, max_gib))

    return found


def _hdf5_value(file: Any, thing: Any, where: tuple[Path, str, float], depth: int = 0) -> Value:
    path, key, max_gib = where
    if isinstance(thing, h5py.Group):
        if "MATLAB_sparse" not in thing.attrs:
            raise InputError(path, key, "numbers, text or cells of them", "a struct; name one of its fields")
        return _hdf5_sparse(thing, where)
    _check_size(path, key, thing.shape, thing.dtype.itemsize, max_gib)
    kind = thing.attrs.get("MATLAB_class", b"")
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    refers = h5py.check_ref_dtype(thing.dtype) is h5py.Reference
    if "MATLAB_empty" in thing.attrs:  # the data are the shape of the empty array
        dtype = object if refers or kind == "cell" else "U" if kind == "char" else float
        return np.zeros(tuple(map(int, thing[()])), dtype)
    data = np.asarray(thing[()]).T
    if refers:
        if depth == DEPTH:
            raise InputError(path, key, f"cells in cells, at most {DEPTH} deep", "more")
        return _cells([_hdf5_value(file, file[cell], where, depth + 1) for cell in data.ravel()], data.shape)
    if kind == "char":
        return np.array(["".join(map(chr, row.tolist())) for row in np.atleast_2d(data)], np.str_)

    return _plain(path, key, data)


def _hdf5_sparse(group: Any, where: tuple[Path, str, float]) -> Value:
    """Returns a sparse matrix (compressed columns) as a dense one."""
    path, key, max_gib = where
    columns = np.asarray(group["jc"][()])
    shape = (int(group.attrs["MATLAB_sparse"]), len(columns) - 1)
    _check_size(path, key, shape, 8, max_gib)
    if "data" not in group:  # all zero
        return np.zeros(shape)

    values, rows = np.asarray(group["data"][()]), np.asarray(group["ir"][()])

    return _dense(path, key, sparse.csc_matrix((values, rows, columns), shape=shape), max_gib)

"""Checks sessions' files: that all their data lie in them, and that sessions hold what later stages rely on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Covariate, Session, Units

__all__ = ["check_contained", "check_session"]

MOST_SECONDS = 1e8  # of observed time: three years
MOST_DEPTH = 16  # of groups
RATIO = 1100  # of dataset to file: deflate reaches 1,032
LEAST_FILE = 1 << 20  # bytes; smaller files may hold as much as this one
ROWS = 1 << 22  # spikes that are looked at together: their number has no effect on memory


def check_contained(file: Any, path: Path) -> None:
    """Raises unless all groups and datasets of an HDF5 file lie in the file itself, and none is larger than it.

    Links could lead to other files or never end; so could datasets whose data are elsewhere.

    Arguments:
        file: The open file.
        path: Its path.
    """
    most, seen = RATIO * max(path.stat().st_size, LEAST_FILE), set()
    for name, thing, depth in _things(file, file.name, 0):
        address = h5py.h5o.get_info(thing.id).addr
        if depth > MOST_DEPTH or (isinstance(thing, h5py.Group) and address in seen):
            raise InputError(path, name, "groups that do not hold themselves", "one that does")
        seen.add(address)
        if isinstance(thing, h5py.Dataset):
            if thing.external or thing.is_virtual:
                raise InputError(path, name, "data in this file", "data of another file")
            if thing.size and thing.size * thing.dtype.itemsize > most:
                raise InputError(path, name, "a dataset that the file can hold", f"shape {thing.shape}")


def _things(group: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any, int]]:
    for name in group:
        below = f"{prefix.rstrip('/')}/{name}"
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise InputError(group.file.filename, below, "a group or dataset", "a link to one")
        thing = group[name]
        yield below, thing, depth
        if isinstance(thing, h5py.Group):
            yield from _things(thing, below, depth + 1)


def check_session(session: Session, path: Path) -> None:
    """Raises unless a session is as `Session` describes: finite, ascending times, and units that exist.

    Arguments:
        session: The session.
        path: Its file, for errors.
    """
    _check_spikes(session, path)
    _check_units(session.units, path)
    _check_observed(session.observed, path)
    for covariate in session.covariates.values():
        _check_covariate(covariate, path)
    if not 0 <= session.count_bin <= 10:
        raise InputError(path, "session/count_bin", "0 to 10 seconds", session.count_bin)
    splits = session.intervals.get("split")
    if splits is not None and splits.columns.get("block", np.zeros(0)).dtype.kind not in "UO":
        raise InputError(path, "split", "a column of text, block", ", ".join(splits.columns) or "none")


def _check_spikes(session: Session, path: Path) -> None:
    times, unit = session.spikes.timestamps, session.spikes.unit_index
    _check_array(times, "f", 1, path, "spikes/timestamps")
    _check_array(unit, "iu", 1, path, "spikes/unit_index")
    if len(times) != len(unit):
        raise InputError(path, "spikes", "a unit for each time", f"{len(times):,} times, {len(unit):,} units")
    for a in range(0, len(times), ROWS):
        some, units = np.asarray(times[max(a - 1, 0) : a + ROWS]), np.asarray(unit[a : a + ROWS])
        if not np.isfinite(some).all():
            raise InputError(path, "spikes/timestamps", "finite times", f"{int((~np.isfinite(some)).sum()):,} others")
        if not np.all(some[1:] >= some[:-1]):
            found = f"{int(np.sum(some[1:] < some[:-1])):,} that are earlier than the one before"
            raise InputError(path, "spikes/timestamps", "ascending times", found)
        if units.min() < 0 or units.max() >= session.num_units:
            found = units.min() if units.min() < 0 else units.max()
            raise InputError(path, "spikes/unit_index", f"rows of {session.num_units} units", found)


def _check_units(units: Units, path: Path) -> None:
    if units.id.ndim != 1 or len(set(units.id.tolist())) != len(units):
        raise InputError(path, "units/id", "an identity of each unit, each once", f"shape {units.id.shape}, or twice")
    for name, values in units.columns.items():
        if not values.ndim or len(values) != len(units):
            raise InputError(path, f"units/{name}", f"a value of each of {len(units)} units", f"shape {values.shape}")
    if units.observed is not None:
        index: NDArray[Any] = units.observed.columns.get("unit_index", np.zeros(0))
        _check_array(index, "iu", 1, path, "units_observed/unit_index")
        rows = index.astype(np.int64)
        if np.any((rows < 0) | (rows >= len(units))):
            raise InputError(path, "units_observed/unit_index", f"rows of {len(units)} units", "others")
        if not np.isfinite([units.observed.start, units.observed.end]).all():
            raise InputError(path, "units_observed", "finite times", "others")


def _check_observed(observed: Intervals, path: Path) -> None:
    times = np.stack([observed.start, observed.end], 1).ravel()
    if not np.isfinite(times).all() or not np.all(np.diff(times) >= 0):
        raise InputError(path, "domain", "ascending, disjoint intervals of finite times", "others")
    if observed.duration > MOST_SECONDS:
        raise InputError(path, "domain", f"at most {MOST_SECONDS:g} observed seconds", f"{observed.duration:g}")


def _check_covariate(covariate: Covariate, path: Path) -> None:
    name, times = covariate.path, covariate.timestamps
    _check_array(times, "fiu", 1, path, f"{name}/timestamps")
    if not np.isfinite(times).all() or not np.all(np.diff(times) >= 0):
        raise InputError(path, f"{name}/timestamps", "ascending finite times", "others")
    shape = (len(times), len(covariate.dims))
    if covariate.values.shape != shape:
        raise InputError(path, f"{name}/values", f"shape {shape} (samples, dimensions)", covariate.values.shape)
    if not all(isinstance(dim, str) for dim in covariate.dims):
        raise InputError(path, f"{name}/dims", "names of dimensions", covariate.dims)


def _check_array(values: NDArray[Any], kinds: str, ndim: int, path: Path, name: str) -> None:
    if values.dtype.kind not in kinds or values.ndim != ndim:
        words = "integers" if kinds == "iu" else "numbers"
        raise InputError(path, name, f"{words} in {ndim} dimension", f"{values.dtype} of shape {values.shape}")

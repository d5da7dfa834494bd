"""Opens files and reports errors in them: the program that `ndt.data.read.file_probe` runs in a child process.

libhdf5 and scipy may hang, crash or exhaust memory on a damaged file, hence a separate process with limits. The program
imports h5py, scipy for MATLAB files, and nothing of ndt. It reads requests from standard input and writes answers to
standard output, one line each, as JSON.
"""

import json
import math
import resource
import signal
import sys
import warnings
from contextlib import suppress
from typing import Any

import h5py

low: Any = h5py  # has modules that type checkers do not see

__all__ = ["main", "trouble"]

Trouble = tuple[str, str, str]  # field, expected, found

MAX_DEFLATED = 1100  # deflate compresses by at most 1032
SLACK = 16 << 20  # bytes that may be declared without being stored
FIXED_RATIO = {low.h5z.FILTER_DEFLATE, low.h5z.FILTER_SHUFFLE, low.h5z.FILTER_FLETCHER32}
TABLES = ("units", "intervals", "general/extracellular_ephys/electrodes", "processing", "acquisition")
SERIES = ("TimeSeries", "SpatialSeries")
MAX_DIMS = 16


def main() -> None:
    """Answers requests ``[path, memory in bytes, seconds, variables]`` with null or an error, until input ends."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the alarm ends the process even if no process waits for it
    for line in sys.stdin:
        path, memory, seconds, variables = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        _limit(memory)
        found = trouble(path) if variables is None else matlab_trouble(path, variables)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(found), flush=True)


def _limit(memory: int) -> None:
    for name, value in (("RLIMIT_AS", memory), ("RLIMIT_CORE", 0)):
        try:
            which = getattr(resource, name)
            hard = resource.getrlimit(which)[1]
            resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
        except (AttributeError, OSError, ValueError):  # not available or not permitted on this system
            pass


def trouble(path: str) -> Trouble | None:
    """Returns the first error of an NWB file, or None.

    Visits all objects and targets of links, and reads both ends of each units column, which uses the index, the chunks
    and the filters of the data needed later.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        return "file", "an HDF5 file", str(error)
    try:
        with file:
            kind = _text(file.attrs.get("neurodata_type", ""))
            if kind != "NWBFile":
                expected = "an NWB file (NWBFile at the root)"
                return "neurodata_type", expected, kind or "an HDF5 file that is not NWB"
            found = file.visititems(_visit) or _loop(file, "", {})
            _follow(file)
            return found or _unreadable(file.get("units"))
    except Exception as error:  # the exceptions that h5py raises for broken files cannot be listed
        return "file", "a readable HDF5 file", f"{type(error).__name__} {error}"


def matlab_trouble(path: str, variables: list[str]) -> Trouble | None:
    """Returns the first error of a MATLAB file before version 7.3, or None; loads the named variables."""
    from scipy import io

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            io.whosmat(path, appendmat=False)
            io.loadmat(path, appendmat=False, mat_dtype=True, variable_names=variables)
    except MemoryError:
        return "file", "arrays that fit into memory (max_gib)", "larger ones"
    except Exception as error:  # the exceptions that scipy raises for broken files cannot be listed
        return "file", "a readable MATLAB file", f"{type(error).__name__} {error}"

    return None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _follow(file: Any) -> None:
    """Opens the targets of links, which may be pipes that never end; readers report other errors there."""
    names: list[bytes] = []
    away = (low.h5l.TYPE_SOFT, low.h5l.TYPE_EXTERNAL)
    file.id.links.visit(lambda name, info: names.append(name) if info.type in away else None, info=True)
    for name in names:
        with suppress(Exception):
            _touch(file[name])


def _loop(group: Any, name: str, finished: dict[int, bool]) -> Trouble | None:
    """Returns an error if a group contains itself at any depth: readers of such a file do not terminate.

    Arguments:
        group: The group.
        name: Its path.
        finished: Visited groups by address, and whether all groups inside were visited; grows.
    """
    address = low.h5o.get_info(group.id).addr
    if address in finished:
        return None if finished[address] else (name, "groups that do not contain themselves", "a link to one above")
    finished[address] = False
    for child in group:
        if isinstance(group.get(child, getlink=True), h5py.HardLink) and group.get(child, getclass=True) is h5py.Group:
            found = _loop(group[child], f"{name}/{child}".lstrip("/"), finished)
            if found is not None:
                return found
    finished[address] = True

    return None


def _touch(dataset: Any) -> None:
    """Reads both ends of a dataset whose data lie in another file."""
    with suppress(Exception):
        if _is_elsewhere(dataset):
            _ = dataset[(0,) * dataset.ndim], dataset[(-1,) * dataset.ndim]


def _is_elsewhere(dataset: Any) -> bool:
    layout = dataset.id.get_create_plist()

    return layout.get_layout() == low.h5d.VIRTUAL or layout.get_external_count() > 0


def _unreadable(units: Any) -> Trouble | None:
    if not isinstance(units, h5py.Group):
        return None
    for name in units:
        try:
            thing = units[name]
            if isinstance(thing, h5py.Dataset) and thing.shape and thing.shape[0]:
                _ = thing[0], thing[-1]
        except Exception as error:
            return f"units/{name}", "a readable dataset", f"{type(error).__name__} {error}"

    return None


def _visit(name: str, thing: Any) -> Trouble | None:
    """Returns an error if a dataset that ndt reads declares far more data than are stored.

    Raw recordings may be declared and never written; ndt does not read them.
    """
    if not isinstance(thing, h5py.Dataset):
        return None
    if _is_elsewhere(thing):
        _touch(thing)
        return None
    declared = math.prod(thing.shape or ()) * thing.id.get_type().get_size()
    if declared <= SLACK or not _is_read(name, thing):
        return None
    stored = thing.id.get_storage_size()
    layout = thing.id.get_create_plist()
    filters = {layout.get_filter(i)[0] for i in range(layout.get_nfilters())}
    if declared <= MAX_DEFLATED * stored + SLACK or (stored and not filters <= FIXED_RATIO):
        return None

    return name, "as much data as it declares", f"{declared:.4g} bytes declared, {stored:.4g} stored"


def _is_read(name: str, dataset: Any) -> bool:
    """Whether a dataset belongs to a table that ndt reads, or to a series that could be a covariate."""
    leaf = name.rpartition("/")[2]
    if not name.startswith(TABLES) or leaf.startswith("waveform"):
        return False
    attrs = dataset.parent.attrs
    if "colnames" in attrs:
        return True

    narrow = math.prod(dataset.shape[1:]) <= MAX_DIMS and leaf in ("data", "timestamps")
    return narrow and _text(attrs.get("neurodata_type", "")) in SERIES


if __name__ == "__main__":
    main()

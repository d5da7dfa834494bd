"""A program that `ndt.data.read.file_probe` runs: it opens the files that it is asked for and says what is wrong with each.

libhdf5 and scipy may hang, crash or take all memory on a damaged file, so this runs in a process of its own, with
limits. It imports h5py, scipy for MATLAB's files, and nothing of ours. Requests come on standard input, one a line, and
are answered one a line, as JSON.
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

Trouble = tuple[str, str, str]  # field, what was expected, what was found

MAX_DEFLATED = 1100  # deflate packs at most 1032 bytes into one
SLACK = 16 << 20  # bytes that may be declared without being stored: they cost nothing
FIXED_RATIO = {low.h5z.FILTER_DEFLATE, low.h5z.FILTER_SHUFFLE, low.h5z.FILTER_FLETCHER32}
TABLES = ("units", "intervals", "general/extracellular_ephys/electrodes", "processing", "acquisition")
SERIES = ("TimeSeries", "SpatialSeries")
MAX_DIMS = 16


def main() -> None:
    """Answers requests ``[path, memory in bytes, seconds, variables]`` by null or what is wrong, until input ends."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the alarm ends the process, even where nobody waits for it any more
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
        except (AttributeError, OSError, ValueError):  # the system does not have it, or does not let us
            pass


def trouble(path: str) -> Trouble | None:
    """Returns what is wrong with an NWB file, or None.

    Visits all objects and what links lead to, and reads the ends of each units column, which visits the index, the
    chunks and the filters of the data needed later.
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
    except Exception as error:  # h5py raises whatever the broken part happens to cause
        return "file", "a readable HDF5 file", f"{type(error).__name__} {error}"


def matlab_trouble(path: str, variables: list[str]) -> Trouble | None:
    """Returns what is wrong with a MATLAB file before version 7.3, or None; loads the variables named."""
    from scipy import io

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            io.whosmat(path, appendmat=False)
            io.loadmat(path, appendmat=False, mat_dtype=True, variable_names=variables)
    except MemoryError:
        return "file", "arrays that fit into memory (max_gib)", "larger ones"
    except Exception as error:  # scipy raises whatever the broken part happens to cause
        return "file", "a readable MATLAB file", f"{type(error).__name__} {error}"

    return None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _follow(file: Any) -> None:
    """Opens what links lead to, which may be a pipe that never ends; what else is wrong there, readers say."""
    names: list[bytes] = []
    away = (low.h5l.TYPE_SOFT, low.h5l.TYPE_EXTERNAL)
    file.id.links.visit(lambda name, info: names.append(name) if info.type in away else None, info=True)
    for name in names:
        with suppress(Exception):
            _touch(file[name])


def _loop(group: Any, name: str, finished: dict[int, bool]) -> Trouble | None:
    """Returns where a group holds itself, at whatever depth: whoever reads such a file never comes to an end of it.

    Arguments:
        group: Where to look.
        name: Its path.
        finished: Groups met before, by address, and whether all below them was looked at; grows.
    """
    address = low.h5o.get_info(group.id).addr
    if address in finished:
        return None if finished[address] else (name, "groups that do not hold themselves", "a link to one above")
    finished[address] = False
    for child in group:
        if isinstance(group.get(child, getlink=True), h5py.HardLink) and group.get(child, getclass=True) is h5py.Group:
            found = _loop(group[child], f"{name}/{child}".lstrip("/"), finished)
            if found is not None:
                return found
    finished[address] = True

    return None


def _touch(dataset: Any) -> None:
    """Reads the ends of a dataset whose data lie in another file."""
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
    """Returns what is wrong with a dataset that would be read and declares far more data than are stored.

    Raw recordings may be declared and never written: nobody reads them here.
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

    return name, "as much data as it declares", f"{_bytes(declared)} declared, {_bytes(stored)} stored"


def _is_read(name: str, dataset: Any) -> bool:
    """Returns whether a dataset is a column of a table that we read, or of a series that could be a covariate."""
    leaf = name.rpartition("/")[2]
    if not name.startswith(TABLES) or leaf.startswith("waveform"):
        return False
    attrs = dataset.parent.attrs
    if "colnames" in attrs:
        return True

    narrow = math.prod(dataset.shape[1:]) <= MAX_DIMS and leaf in ("data", "timestamps")
    return narrow and _text(attrs.get("neurodata_type", "")) in SERIES


def _bytes(number: int) -> str:
    power = 0 if number < 1000 else min((len(str(number)) - 1) // 3, 6)

    return f"{number / 1000**power:.4g} {('bytes', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB')[power]}"


if __name__ == "__main__":
    main()

"""The store: one HDF5 file per session, in the layout that brainsets and temporaldata read and write.

Arrays are contiguous, uncompressed and 64-byte aligned, so that they are memory-mapped and read without HDF5::

    <session>.h5                      Data; attrs ndt_store_version, absolute_start
    ├── brainset, subject, session    Data: source, subject, date, task, messages of ingestion
    ├── domain                        Interval: observed time
    ├── spikes                        IrregularTimeSeries: timestamps, unit_index
    ├── units                         ArrayDict: id and the file's own columns
    ├── units_observed                Interval with unit_index, only if units differ
    ├── fingerprint                   ArrayDict: hashes of a sample of the spike trains, see `ndt.data.fingerprint`
    ├── covariates/<name>             IrregularTimeSeries: timestamps, values (M, C)
    └── trials, epochs, …             Interval, one per table

Files of other writers in this layout are read too: chunked arrays through h5py, regular series with timestamps added.
temporaldata 0.1 reads these files, with two limits: it slices a table with overlapping rows only if it was opened
lazily, and lazily no series that spans more than ten million seconds, whose index would have as many rows.
"""

import json
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt.data.fingerprint import VERSION, fingerprint
from ndt.data.session_checks import check_contained, check_session
from ndt.data.session_reader import SessionReader
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.parsing import check_regular, parse_json, read_json
from ndt.schema import Count
from ndt.session import Covariate, Session

__all__ = [
    "STORE_VERSION",
    "Store",
    "draft_of",
    "open_store",
    "read_entry",
    "read_manifest",
    "read_session",
    "remove_drafts",
    "write_manifest",
    "write_session",
]

STORE_VERSION = 2
MAX_INDEXED = 1e7  # seconds
HOST = re.sub(r"\W", "-", platform.node())  # computers that share a store have processes of the same number
OURS = ("brainset", "covariates", "domain", "fingerprint", "session", "spikes", "subject", "units", "units_observed")


class Store:
    """Sessions on disk, by identifier.

    Arguments:
        root: Directory that `ndt.data.ingest` made.

    Example:
        >>> store = Store("store/")  # doctest: +SKIP
        >>> store.session(store.session_ids[0]).spikes.timestamps  # a memory map  # doctest: +SKIP
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.manifest = read_manifest(self.root)
        self._sessions: dict[str, Session] = {}

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r}, {len(self.session_ids)} sessions)"

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        return Store, (self.root,)  # a worker process maps the files itself

    @property
    def session_ids(self) -> list[str]:
        """Identifiers of all sessions, sorted."""
        return sorted(self.manifest["sessions"])

    @property
    def training_ids(self) -> list[str]:
        """Identifiers of the sessions without the role ``evaluate`` (`IngestConfig.evaluate`), sorted."""
        return [s for s in self.session_ids if self.manifest["sessions"][s].get("role") != "evaluate"]

    def path(self, session_id: str) -> Path:
        """Returns the session's file."""
        if session_id not in self.manifest["sessions"]:
            raise InputError(self.root, "session", f"one of {', '.join(self.session_ids) or '(none)'}", session_id)
        return self.root / f"{session_id}.h5"

    def session(self, session_id: str) -> Session:
        """Returns a session with memory-mapped arrays; repeated calls return the same object."""
        if session_id not in self._sessions:
            session, entry = read_session(self.path(session_id)), self.manifest["sessions"][session_id]
            if session.session_id != session_id:
                raise InputError(self.path(session_id), "session/id", session_id, session.session_id)
            self._sessions[session_id] = replace(session, source=session.source | {"path": entry["source"]})
        return self._sessions[session_id]


def open_store(store: "str | Path | Store | None", verb: str) -> Store:
    """Returns the store, opened if given as a folder; None is an error of `verb`."""
    if store is None:
        raise InputError(verb, "store", "a store, since the model does not know its own", "none")

    return store if isinstance(store, Store) else Store(store)


class _Covariate(TypedDict):
    name: str


class _Stored(TypedDict, total=False):
    """What is relied upon of the entry in a session's file; `ndt.data.inspection.summary.summarise` makes all of it."""

    sha256: str
    role: Literal["train", "evaluate"]
    subject: str
    task: str
    units: Count
    spikes: Count
    segments: Count
    observed_seconds: float
    covariates: list[_Covariate]
    options: dict[str, Any]
    dropped: list[str]
    warnings: list[str]


class _Entry(_Stored):
    """The same in the manifest, which knows where the recording is."""

    source: str


class _Manifest(TypedDict):
    version: int
    sessions: dict[str, _Entry]
    failed: NotRequired[dict[str, str]]


def read_manifest(root: Path) -> dict[str, Any]:
    """Returns a store's manifest; raises `InputError` if it is missing or has another version."""
    path = root / "manifest.json"
    if not path.exists():
        raise InputError(root, "manifest.json", "a store that `ndt ingest` made", "no such file")
    manifest = read_json(path, _Manifest, "a store's manifest")
    version = manifest["version"]
    if version != STORE_VERSION:
        raise InputError(path, "version", f"{STORE_VERSION} (ingest the recordings anew)", version)
    for name in manifest["sessions"]:
        if (
            Path(name).name != name or name in ("", "..") or "\0" in name
        ):  # it names the session's file, which lies in the store
            raise InputError(path, "sessions", "names that files of the store can have", repr(name))

    return {**manifest}


def write_manifest(root: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest atomically."""
    with _beside(root / "manifest.json") as path:
        path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yields the path of a draft, which replaces `path` if no exception is raised."""
    draft = draft_of(path)
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def draft_of(path: Path) -> Path:
    """Returns the path of this process's draft of a file."""
    return path.with_name(f".{path.name}.{HOST}.{os.getpid()}.tmp")


def remove_drafts(root: Path) -> None:
    """Removes drafts of processes of this computer that have ended, and drafts unchanged for an hour."""
    for draft in root.glob(".*.tmp"):
        host, pid = draft.name.split(".")[-3:-1]
        with suppress(ValueError, FileNotFoundError):  # no draft of ours, or removed by another process
            if (not _runs(int(pid)) and host == HOST) or time.time() - draft.stat().st_mtime > 3600:
                draft.unlink()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends no signal
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # a process of another user, or a system without /proc
        return True

    return state not in "ZX"  # in a container, ended processes may stay listed


def write_session(
    session: Session, path: str | Path, options: dict[str, Any] | None = None, entry: dict[str, Any] | None = None
) -> None:
    """Writes a session's file atomically; the same session and options give the same bytes.

    Arguments:
        session: The session.
        path: The file to write.
        options: Settings of ingestion, as JSON values.
        entry: The session's entry of the manifest, as JSON values. See `read_entry`.
    """
    # threshold 1: short arrays are aligned too
    with _beside(Path(path)) as draft, h5py.File(draft, "w", alignment_threshold=1, alignment_interval=64) as file:
        _object(file, "Data", absolute_start=0.0, ndt_store_version=STORE_VERSION)
        name = Path(str(session.source.get("path", ""))).name.encode(errors="replace").decode()  # need not be UTF-8
        source = {"source": name, "size": session.source.get("size", 0)}
        origin = {"id": "ndt", "origin_version": session.source.get("sha256", ""), **source}
        conventions = json.dumps(session.source.get("conventions", {}), sort_keys=True)
        options_text = json.dumps(options or {}, sort_keys=True)
        brainset = _data(file, "brainset", **origin, options=options_text, conventions=conventions)
        if entry is not None:
            _dataset(brainset, "entry", np.array([json.dumps(entry, sort_keys=True)]))
        _data(file, "subject", id=session.subject)
        about = _data(file, "session", id=session.session_id, recording_date=session.recording_date, task=session.task)
        about.attrs["count_bin"] = session.count_bin
        _dataset(about, "dropped", np.array(session.dropped, np.str_))
        _dataset(about, "warnings", np.array(session.warnings, np.str_))
        _intervals(file, "domain", session.observed)
        spikes = {"timestamps": session.spikes.timestamps, "unit_index": session.spikes.unit_index}
        _series(file, "spikes", spikes, session.observed)
        _columns(file, "units", {"id": session.units.id, **session.units.columns})
        if session.units.observed is not None:
            _intervals(file, "units_observed", session.units.observed)
        sample = fingerprint(session)
        group = _columns(file, "fingerprint", {k: v for k, v in vars(sample).items() if k != "span"})
        number = len(session.spikes.timestamps)  # to detect changed spikes
        group.attrs.update(version=VERSION, num_spikes=number, digest=sample.digest())
        group = _data(file, "covariates")
        _intervals(group, "domain", session.observed)
        for name, covariate in session.covariates.items():
            _write_covariate(group, name, covariate)
        for name, table in session.intervals.items():
            flat = name.replace("/", "__")
            _intervals(file, f"{flat}_intervals" if flat in OURS else flat, table).attrs["name"] = name


def _object(group: h5py.Group, kind: str, **attrs: object) -> h5py.Group:
    group.attrs["object"] = kind
    for name, value in attrs.items():
        group.attrs[name] = value
    return group


def _data(parent: h5py.Group, name: str, **attrs: object) -> h5py.Group:
    return _object(parent.create_group(name), "Data", absolute_start=0.0, **attrs)


def _dataset(group: h5py.Group, name: str, values: NDArray[Any]) -> None:
    if values.dtype.kind == "U":
        values = np.char.encode(values, "utf-8") if values.size else np.zeros(values.shape, "S1")
    group.create_dataset(name, data=values, track_times=False)  # no times: same input, same bytes


def _columns(parent: h5py.Group, name: str, columns: dict[str, NDArray[Any]], kind: str = "ArrayDict") -> h5py.Group:
    group = _object(parent.create_group(name), kind)
    text = [key for key, values in columns.items() if values.dtype.kind == "U"]
    # other readers decode unicode keys as ASCII and raise otherwise; they get other text as bytes
    plain = [key for key in text if all(value.isascii() for value in columns[key].ravel())]
    group.attrs["_unicode_keys"] = np.array(plain, "S")
    group.attrs["_utf8_keys"] = np.array([key for key in text if key not in plain], "S")
    for key, values in columns.items():
        _dataset(group, key, values)
    return group


def _intervals(parent: h5py.Group, name: str, table: Intervals) -> h5py.Group:
    group = _columns(parent, name, {"start": table.start, "end": table.end, **table.columns}, "Interval")
    group.attrs["timekeys"] = np.array(["start", "end", *(k for k in table.columns if k.endswith("_time"))], "S")
    return group


def _series(parent: h5py.Group, name: str, columns: dict[str, NDArray[Any]], domain: Intervals) -> h5py.Group:
    group = _columns(parent, name, columns, "IrregularTimeSeries")
    group.attrs["timekeys"] = np.array(["timestamps"], "S")
    _intervals(group, "domain", domain)
    if not len(domain) or domain.end[-1] - domain.start[0] <= MAX_INDEXED:
        binned = np.arange(domain.start[0], domain.end[-1] + 1.0, 1.0) if len(domain) else np.zeros(0)
        _dataset(group, "timestamp_indices_1s", np.searchsorted(columns["timestamps"], binned))
    return group


def _write_covariate(parent: h5py.Group, name: str, covariate: Covariate) -> None:
    times = covariate.timestamps
    extent = Intervals(times[:1], times[-1:])
    group = _series(parent, name.replace("/", "__"), {"timestamps": times, "values": covariate.values}, extent)
    group.attrs.update({"name": covariate.name, "path": covariate.path, "unit": covariate.unit})
    group.attrs.update({"dims": json.dumps(covariate.dims), "angular": covariate.angular})


def read_entry(path: Path) -> dict[str, Any]:
    """Returns the manifest entry in a session's file; empty if the file is missing or of another version.

    The file has precedence over the manifest, which may be older after a killed run.
    """
    try:
        check_regular(path, "a session's HDF5 file")
        with h5py.File(path, "r") as file:
            known, entry = file.attrs["ndt_store_version"] == STORE_VERSION, np.asarray(file["brainset/entry"])
            return {**parse_json(entry[0].decode(), _Stored, path)} if known else {}
    except Exception:  # whatever is wrong with it, the recording is read anew
        return {}


def read_session(path: str | Path) -> Session:
    """Reads a session's file with memory-mapped arrays.

    In files of brainsets and temporaldata, every array of a time series becomes a covariate ``group/key``.

    Raises:
        InputError: if there is no such file, or it is not one of a session; see `ndt.data.session_checks`.
    """
    path = Path(path)
    check_regular(path, "a session's HDF5 file", "file")
    try:
        with h5py.File(path, "r") as file:
            check_contained(file, path)
            session = _checked(file, path)
        check_session(session, path)
    except InputError:
        raise
    except Exception as error:  # the exceptions that h5py raises for broken files cannot be listed
        found = f"{type(error).__name__} {error}"
        raise InputError(path, "content", "a session's HDF5 file", found) from error

    return session


def _checked(file: Any, path: Path) -> Session:
    version = file.attrs.get("ndt_store_version", STORE_VERSION)
    if version != STORE_VERSION:
        raise InputError(path, "ndt_store_version", f"{STORE_VERSION} (ingest the recording anew)", version)
    for name in ("domain", "spikes", "units"):
        if name not in file:
            raise InputError(path, name, f"the layout of a store ({', '.join(OURS)})", f"only {', '.join(file)}")

    return SessionReader(path).session(file)

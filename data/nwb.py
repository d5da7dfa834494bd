"""NWB files to `Session`: pynwb says what things mean, h5py reads the long arrays in one piece."""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pynwb import NWBHDF5IO

from ndt.config import IngestConfig
from ndt.data.probe import probe, session_id_of
from ndt.data.series import NWB, column_values, read_covariates, read_intervals
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Covariate, Session, Spikes, Units

__all__ = ["file_source", "read_nwb"]


def read_nwb(path: str | Path, config: IngestConfig | None = None) -> Session:
    """Reads one recording.

    Spikes outside observed time, and whatever else is left out, are listed in the session's `dropped`.

    Arguments:
        path: An NWB file (HDF5).
        config: How units are identified, and how long opening may take.

    Example:
        >>> session = read_nwb("sub-m1_ses-stevenson2011_behavior+ecephys.nwb")  # doctest: +SKIP
        >>> session.num_units, sorted(session.covariates)  # doctest: +SKIP
        (171, ['hand_pos', 'hand_vel'])
    """
    path, config = Path(path), config or IngestConfig()
    probe(path, config.probe_seconds)
    with _open(path) as nwb:
        return _session(nwb, path, config)


def file_source(path: str | Path) -> dict[str, Any]:
    """Returns where a session comes from: absolute path, SHA-256 and size in bytes of the file."""
    path = Path(path).resolve()
    stat = path.stat()

    return {"path": str(path), "sha256": _sha256(path, stat.st_mtime_ns, stat.st_size), "size": stat.st_size}


@lru_cache(maxsize=16)  # ingesting asks twice: is this file known, and what is in it
def _sha256(path: Path, mtime_ns: int, size: int) -> str:
    del mtime_ns, size
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _open(path: Path) -> Iterator[NWB]:
    with warnings.catch_warnings():
        # harmless: fields deprecated since the file was written, its copy of an old schema; lengths are checked by us
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(hdmf|pynwb)\b")
        warnings.filterwarnings("ignore", message=".*cached namespace.*")
        warnings.filterwarnings("ignore", message=".*[Ll]ength of data does not match length of timestamps.*")
        try:
            io: Any = NWBHDF5IO(path=str(path), mode="r")
            nwb = io.read()
        except Exception as error:  # hdmf raises whatever the broken part happens to cause
            raise InputError(path, "file", "an NWB file that pynwb reads", f"{type(error).__name__} {error}") from error
        with io:
            try:
                yield nwb
            except OSError as error:
                raise InputError(path, "file", "data that HDF5 can read", error) from error


def _session(nwb: NWB, path: Path, config: IngestConfig) -> Session:
    dropped: list[str] = []
    session_id = session_id_of(path)
    entities = dict(part.split("-", 1) for part in session_id.split("_") if "-" in part)
    subject = (nwb.subject and nwb.subject.subject_id) or entities.get("sub") or session_id
    times, unit = _spikes(nwb, path)
    covariates = read_covariates(nwb, path, dropped)
    intervals = read_intervals(nwb, dropped)
    invalid = intervals.get("invalid_times", Intervals.empty())
    observed, of_units = _observed(nwb, path, _extent(times, covariates, intervals))
    observed, of_units = observed - invalid, of_units and _cut(of_units, invalid)
    if len(observed) == 0:
        raise InputError(path, "observed time", "at least one interval outside invalid_times", "none")

    keep = _inside(times, unit, observed, of_units)
    if not keep.all():
        dropped.append(f"units/spike_times: {np.sum(~keep)} of {len(keep)} spikes lie outside observed time")
    times, unit = times[keep], unit[keep]
    order = np.argsort(times, kind="stable")  # equal times stay in order of unit

    return Session(
        session_id=session_id,
        subject=str(subject),
        task=config.task or str(nwb.protocol or nwb.session_description or "").strip(),
        recording_date=nwb.session_start_time.isoformat(),
        spikes=Spikes(timestamps=times[order], unit_index=unit[order].astype(np.int32)),
        units=_units(nwb, path, (session_id, str(subject)), config.unit_identity, of_units, dropped),
        observed=observed,
        covariates=covariates,
        intervals=intervals,
        source=file_source(path),
        dropped=tuple(dropped),
    )


def _spikes(nwb: NWB, path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns all spike times, unit after unit, and the unit of each."""
    units = nwb.units
    if units is None or len(units) == 0:
        raise InputError(path, "units", "at least one unit", "none")
    if "spike_times" not in units.colnames:
        raise InputError(path, "units/spike_times", "a column of spike times", "none")
    times, ends = _ragged(units["spike_times"], np.float64)
    unit = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    if len(unit) != len(times):
        raise InputError(path, "units/spike_times_index", f"to end at {len(times)} spike times", len(unit))
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        raise InputError(path, "units/spike_times", "finite seconds", f"{times[bad[0]]} in unit {unit[bad[0]]}")
    bad = np.flatnonzero((np.diff(times) < 0) & (unit[1:] == unit[:-1]))
    if len(bad):
        found = f"{times[bad[0] + 1]:.9g} s after {times[bad[0]]:.9g} s in unit {unit[bad[0]]}"
        raise InputError(path, "units/spike_times", "ascending times in each unit", found)

    return times, unit


def _ragged(column: Any, dtype: type[np.generic]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Returns the flat data of a ragged column, read at once, and where each row ends in it."""
    return np.asarray(column.target.data[:], dtype), np.asarray(column.data[:], np.int64)


def _extent(times: NDArray[np.float64], covariates: dict[str, Covariate], intervals: dict[str, Intervals]) -> Intervals:
    """Returns the interval from the first to the last thing known of; its end lies just after the last point."""
    points = [s for s in (times, *(c.timestamps for c in covariates.values())) if len(s)]
    tables = [table for table in intervals.values() if len(table)]
    if not points and not tables:
        return Intervals.empty()
    start = min([s.min() for s in points] + [table.start.min() for table in tables])
    end = max([np.nextafter(s.max(), np.inf) for s in points] + [table.end.max() for table in tables])

    return Intervals(start, end)


def _observed(nwb: NWB, path: Path, extent: Intervals) -> tuple[Intervals, Intervals | None]:
    """Returns when any unit was observed, and when each one was, or None if that is the same for all."""
    if "obs_intervals" not in nwb.units.colnames:
        return extent, None
    rows, ends = _ragged(nwb.units["obs_intervals"], np.float64)
    if len(rows) == 0:
        return extent, None
    if rows.ndim != 2 or rows.shape[1] != 2 or not np.all(_good_rows(rows)):
        raise InputError(path, "units/obs_intervals", "pairs of start and end, finite, in that order", _bad_row(rows))
    num_rows = np.diff(ends, prepend=0)
    if np.all(num_rows == num_rows[0]) and np.ptp(rows.reshape(len(ends), -1, 2), axis=0).max() == 0:
        return Intervals(*rows[: num_rows[0]].T).coalesce(), None
    unit = np.repeat(np.arange(len(ends)), num_rows)

    start, end = rows.T
    return Intervals(start, end).coalesce(), Intervals(start, end, {"unit_index": unit.astype(np.int32)})


def _good_rows(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.isfinite(rows).all(axis=1) & (rows[:, 1] >= rows[:, 0])


def _bad_row(rows: NDArray[np.float64]) -> str:
    if rows.ndim != 2 or rows.shape[1] != 2:
        return f"shape {rows.shape}"
    return str(rows[~_good_rows(rows)][0].tolist())


def _cut(of_units: Intervals, invalid: Intervals) -> Intervals:
    """Returns each unit's intervals, coalesced and without invalid times."""
    unit = of_units.columns["unit_index"]
    pieces = {n: of_units.select(unit == n) - invalid for n in np.unique(unit)}
    start, end = (np.concatenate([getattr(p, side) for p in pieces.values()]) for side in ("start", "end"))

    return Intervals(
        start, end, {"unit_index": np.repeat(np.array([*pieces], np.int32), list(map(len, pieces.values())))}
    )


def _inside(
    times: NDArray[np.float64], unit: NDArray[np.int64], observed: Intervals, of_units: Intervals | None
) -> NDArray[np.bool_]:
    if of_units is None:
        return observed.contains(times)
    inside = np.zeros(len(times), bool)
    owner = of_units.columns["unit_index"]
    for n in np.unique(owner):
        rows = slice(*np.searchsorted(unit, [n, n + 1]))  # spikes come unit after unit
        inside[rows] = of_units.select(owner == n).contains(times[rows])

    return inside


def _units(
    nwb: NWB, path: Path, names: tuple[str, str], identity: str, observed: Intervals | None, dropped: list[str]
) -> Units:
    units, columns = nwb.units, {}
    for name in units.colnames:
        if name in ("spike_times", "obs_intervals", "electrodes", "electrode_group"):
            continue
        values = None if name.startswith("waveform") else column_values(units[name])
        if values is None:
            dropped.append(f"units/{name}: a column of this kind is not read")
        else:
            columns[name] = values
    electrode, group, location = _electrodes(nwb)
    columns = _depth(nwb, electrode) | {"location": location, "group": group, "electrode": electrode} | columns
    columns.setdefault("nwb_id", np.asarray(units.id.data[:]))
    unit_id = _identities(path, names, identity, columns, (electrode, group))

    return Units(id=unit_id, columns=dict(sorted(columns.items())), observed=observed)


def _electrodes(nwb: NWB) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]:
    """Returns for each unit the row of its first electrode (-1: none), its group's name and its region."""
    units, N = nwb.units, len(nwb.units)
    electrode = np.full(N, -1)
    groups = list(units["electrode_group"].data[:]) if "electrode_group" in units.colnames else [None] * N
    location = [""] * N
    if "electrodes" in units.colnames and nwb.electrodes is not None:
        rows, ends = _ragged(units["electrodes"], np.int64)
        starts, table = np.r_[0, ends[:-1]], nwb.electrodes
        some = ends > starts
        electrode[some] = rows[starts[some]]
        of_rows = list(table["group"].data[:]) if "group" in table.colnames else [None] * len(table)
        regions = column_values(table["location"]) if "location" in table.colnames else None
        groups = [of_rows[e] if e >= 0 else g for e, g in zip(electrode, groups, strict=True)]
        location = [str(regions[e]) if e >= 0 and regions is not None else "" for e in electrode]
    known = {"", "unknown", "none"}  # then the group's own region may say more
    location = [
        str(g.location or here) if here.lower() in known and g is not None else here
        for here, g in zip(location, groups, strict=True)
    ]

    return electrode, np.array(["" if g is None else g.name for g in groups], np.str_), np.array(location, np.str_)


def _depth(nwb: NWB, electrode: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Returns the depth of each unit's electrode in micrometres as a column, where the file has it; NaN without one."""
    for name in ("rel_z", "z"):
        if nwb.electrodes is not None and name in nwb.electrodes.colnames and (electrode >= 0).any():
            values = np.asarray(nwb.electrodes[name].data[:], np.float64)
            if np.isfinite(values).any() and len(np.unique(values)) > 1:
                return {"depth": np.where(electrode >= 0, values[np.maximum(electrode, 0)], np.nan)}

    return {}


def _identities(
    path: Path,
    names: tuple[str, str],
    identity: str,
    columns: dict[str, NDArray[np.generic]],
    electrodes: tuple[NDArray[np.int64], NDArray[Any]],
) -> NDArray[Any]:
    """Returns each unit's identity; see `IngestConfig.unit_identity`."""
    session_id, subject = names
    electrode, group = electrodes
    if identity in ("electrode", "session"):
        ids, seen = [], dict.fromkeys(electrode.tolist(), 0)
        for n, e in enumerate(electrode.tolist()):
            on_electrode = identity == "electrode" and e >= 0
            ids.append(f"{subject}/{group[n]}/{e:05d}/{seen[e]}" if on_electrode else f"{session_id}/unit/{n:05d}")
            seen[e] += 1
        return np.array(ids, np.str_)

    if identity not in columns:
        choices = f"electrode, session or one of the units columns {', '.join(sorted(columns))}"
        raise InputError(path, "unit_identity", choices, identity)
    values, counts = np.unique(columns[identity], return_counts=True)
    if np.any(counts > 1):
        raise InputError(path, f"units/{identity}", "another value for each unit", f"{values[counts > 1][0]} twice")

    return np.array([f"{subject}/{value}" for value in columns[identity]], np.str_)

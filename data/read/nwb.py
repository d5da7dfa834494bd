"""Reads NWB files into `Session`: pynwb interprets the file, h5py reads the long arrays.

Spikes are spike times, or counts: a `TimeSeries` of counts (FALCON's H2), or `BinnedSpikes` (``ndx-binned-spikes``).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from hdmf.build import BuildManager
from numpy.typing import NDArray
from pynwb import NWBHDF5IO, TimeSeries, get_type_map

from ndt.config import IngestConfig
from ndt.data.read.context import (
    LONGEST,
    Ragged,
    ReadContext,
    cut,
    named,
    num_units,
    observation,
    observed_spikes,
    spike_column,
    spike_times,
)
from ndt.data.read.conventions import of_probes, recognise, subject_name
from ndt.data.read.counted import ObservedSpikes, check_counts, lay_bins, lay_spikes
from ndt.data.read.file_probe import file_source, probe, session_id_of
from ndt.data.read.series import NWB, read_covariates, sample_times, walk
from ndt.data.read.tables import read_tables, unit_columns
from ndt.data.splits import within
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Session, Units

if TYPE_CHECKING:
    from ndt.data.read.remote import RemoteFile

__all__ = ["count_series", "open_hdf5", "read_counts_series", "read_nwb"]

LONGEST_SESSION = 1e7  # seconds, four months: more is a wrong clock
PLACES = ("acquisition/", "processing/", "stimulus/presentation/", "analysis/", "scratch/")
COUNTS = ("binned_spikes", "spike_counts", "binned_spike_counts", "spikes_binned")


def read_nwb(path: "str | Path | RemoteFile", config: IngestConfig | None = None) -> Session:
    """Reads one recording as it is in its file; `ndt.data.reading` then selects, merges and names its units.

    The session's `dropped` lists what is left out, such as spikes outside observed time. Without `obs_intervals` the
    observed time is that from the first to the last spike of any unit.

    Arguments:
        path: An NWB file (HDF5), local or on DANDI.
        config: Settings `covariates`, `counts`, `counts_at`, `task`, `probe_seconds` and `max_gib`.

    Raises:
        InputError: for any error in the file.

    Example:
        >>> session = read_nwb("sub-m1_ses-stevenson2011_behavior+ecephys.nwb")  # doctest: +SKIP
        >>> session.num_units, sorted(session.covariates)  # doctest: +SKIP
        (171, ['hand_pos', 'hand_vel'])
    """
    config = config or IngestConfig()
    path = Path(path) if isinstance(path, str) else path
    context = ReadContext(str(path), config.max_gib)
    with open_hdf5(path, config.probe_seconds) as file, _recorded_warnings() as messages:
        try:
            nwb = _open(file, context)
            session = _session(file, nwb, path, context, config)
        except InputError:
            raise
        except Exception as error:  # the exceptions that hdmf raises for broken files cannot be listed
            raise context.error("content", "what the NWB format allows", f"{type(error).__name__} {error}") from error

    return replace(session, warnings=(*session.warnings, *messages))


@contextmanager
def open_hdf5(path: "Path | RemoteFile", probe_seconds: float = 60.0) -> Iterator[Any]:
    """Opens an HDF5 file for reading after a test in a child process.

    A file on DANDI is downloaded first, unless it is large: then parts are read on demand, without that test.
    """
    source: Any = nullcontext(path)
    if not isinstance(path, Path):
        from ndt.data.read.remote import WHOLE, download, open_remote

        source = download(path) if path.size <= WHOLE else open_remote(path)
    with source as content:
        try:
            if isinstance(content, Path):
                probe(content, probe_seconds)
            file = h5py.File(content, "r")
        except InputError as error:  # a download is a copy, which has another name
            raise InputError(path, error.field, error.expected, error.found) from error
        except OSError as error:
            raise InputError(path, "file", "an HDF5 file", error) from error
        with file:
            yield file


@contextmanager
def _recorded_warnings() -> Iterator[list[str]]:
    """Yields a list that at exit receives the distinct warnings raised inside, which are not printed."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # harmless: deprecated fields, a copy of an old schema in the file; we check lengths ourselves
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*cached namespace.*")
        warnings.filterwarnings("ignore", message=".*[Ll]ength of data does not match length of timestamps.*")
        yield found
        sentences = (" ".join(f"pynwb: {w.message}".split()) for w in caught)
        found += dict.fromkeys(text if len(text) <= LONGEST else f"{text[:LONGEST]} …" for text in sentences)


def _open(file: Any, context: ReadContext) -> NWB:
    """Opens a file with pynwb. Types of extensions are read from the file itself."""
    known = {"core", "hdmf-common", "hdmf-experimental"}
    plain = set(file.get("specifications", {})) <= known
    # the installed schema is read once per process: for small files that is a third of the work
    how: dict[str, Any] = {"manager": BuildManager(_type_map())} if plain else {"load_namespaces": True}
    try:
        io: Any = NWBHDF5IO(file=file, mode="r", **how)
        return io.read()
    except Exception as error:  # the exceptions that hdmf raises for broken files cannot be listed
        raise context.error("file", "an NWB file that pynwb reads", f"{type(error).__name__} {error}") from error


@cache
def _type_map() -> Any:
    return get_type_map()


def _unknown(file: Any, nwb: NWB) -> list[str]:
    """Returns the paths of groups with data that pynwb does not know and silently leaves out."""
    known = {path for path, _ in walk(nwb)}
    found: list[str] = []

    def visit(name: str, thing: Any) -> None:
        if isinstance(thing, h5py.Group) and "data" in thing and name.startswith(PLACES) and name not in known:
            if not any(path.startswith(f"{name}/") or name.startswith(f"{path}/") for path in known):
                found.append(name)

    file.visititems(visit)

    return found


def _session(file: Any, nwb: NWB, path: "Path | RemoteFile", context: ReadContext, config: IngestConfig) -> Session:
    source = path if isinstance(path, Path) else path.path
    session_id = session_id_of(source)
    entities = dict(part.split("-", 1) for part in session_id.split("_") if "-" in part)
    subject = " ".join(str((nwb.subject and nwb.subject.subject_id) or entities.get("sub") or session_id).split())
    tables = read_tables(nwb, context)
    counts = count_series(nwb, config.counts)
    found, columns, bin_size = _spikes(file, nwb, tables, counts, context, config)
    covariates = read_covariates(nwb, context, config.covariates, "" if counts is None else counts[0])
    if len(found.observed) == 0:
        raise context.error("observed time", "at least one interval outside invalid_times", "none")
    if (seconds := found.observed.duration) > LONGEST_SESSION:
        raise context.error("observed time", f"at most {LONGEST_SESSION:g} s in all", f"{seconds:g} s")
    context.dropped += [f"{name}: pynwb knows no such type" for name in _unknown(file, nwb)]
    names = np.array([f"{session_id}/unit/{n:05d}" for n in range(found.num_units)], np.str_)
    conventions = recognise(columns, tables, bin_size > 0)

    return Session(
        session_id=session_id,
        subject=subject_name(subject),
        task=config.task or str(nwb.protocol or nwb.session_description or "").strip(),
        recording_date=nwb.session_start_time.isoformat(),
        spikes=found.spikes,
        units=Units(id=names, columns=columns, observed=found.of_units),
        observed=found.observed,
        covariates=covariates,
        intervals=tables,
        source=file_source(path) | {"conventions": conventions},
        dropped=tuple(context.dropped),
        warnings=tuple(context.warnings),
        count_bin=bin_size,
    )


def _spikes(
    file: Any,
    nwb: NWB,
    tables: dict[str, Intervals],
    counts: tuple[str, NWB] | None,
    context: ReadContext,
    config: IngestConfig,
) -> tuple[ObservedSpikes, dict[str, NDArray[np.generic]], float]:
    """Returns spikes and observed time, columns of units, and the width of bins of counts (0 for spike times)."""
    invalid = tables.get("invalid_times", Intervals.empty())
    column = spike_column(file, context)
    if config.counts and counts is None:
        raise context.error("counts", "a series of spike counts of that name", repr(config.counts))
    if counts is not None and (config.counts or column is None):
        found, width = read_counts_series(*counts, config.counts_at, invalid, context)
        return found, unit_columns(nwb, found.num_units, context), width
    if counts is not None:
        context.dropped.append(f"{counts[0]}: spike times are read instead; counts={counts[1].name} reads these")
    if column is None:
        known = "a column of spike times, or a series of spike counts (counts=NAME)"
        raise context.error("units/spike_times" if num_units(file) else "units", known, "none")
    if len(column.ends) == 0:
        raise context.error("units", "at least one unit", "none")

    columns = unit_columns(nwb, len(column.ends), context)

    return _timed(file, column, columns["group"], invalid, context), columns, 0.0


def _timed(
    file: Any, column: Ragged, probe_names: NDArray[np.generic], invalid: Intervals, context: ReadContext
) -> ObservedSpikes:
    N = len(column.ends)
    times, unit = spike_times(column, context)
    known = observation(file, context)
    if known is None:
        ends = (times.min(), np.nextafter(times.max(), np.inf)) if len(times) else (0.0, 0.0)
        known = Intervals(*ends).coalesce(), None
        context.warnings.append(
            "units/obs_intervals: none; observed time is taken to be that from the first to the last spike"
        )
    observed, of_units = known
    for some, units in of_probes(invalid, probe_names):
        observed, of_units = cut(observed, of_units, some, units, N)
    spikes = observed_spikes(times, unit, observed, of_units)
    if lost := len(times) - len(spikes.timestamps):
        context.dropped.append(f"units/spike_times: {lost} of {len(times)} spikes lie outside observed time")

    return ObservedSpikes(spikes, observed, of_units, N)


def count_series(nwb: NWB, wanted: str) -> tuple[str, NWB] | None:
    """Returns path and object of the counts of this name; without a name, of the first known series of counts."""
    for path, thing in walk(nwb):
        kind = type(thing).__name__
        known = kind == "BinnedSpikes" or (isinstance(thing, TimeSeries) and thing.name.lower() in COUNTS)
        if named(path, (wanted,)) if wanted else known:
            return path, thing

    return None


def read_counts_series(
    path: str, series: NWB, at: str, invalid: Intervals, context: ReadContext
) -> tuple[ObservedSpikes, float]:
    """Returns the spikes of a series of counts, and the width of its bins in seconds.

    Arguments:
        path: Path of the series, for messages.
        series: The series.
        at: Position of a timestamp in its bin: ``start``, ``centre`` or ``end``.
        invalid: Times that were not observed; bins that touch them are left out.
        context: The file.
    """
    kind, data = type(series).__name__, context.array(series.data, f"{path}/data")
    where = f"{context.where}: {path}"
    if kind == "BinnedSpikes":
        width = float(series.bin_width_in_ms) / 1e3
        start = float(series.start_time_in_ms or 0.0) / 1e3 + np.arange(data.shape[1], dtype=np.float64) * width
        return _laid_out(data.T, start, width, invalid, where)
    if not isinstance(series, TimeSeries) or data.ndim != 2:
        raise context.error(path, "a time series of counts, bins by units", f"{kind} of shape {data.shape}")
    times = sample_times(series, context, path)
    if len(times) != len(data) or len(times) < 2 or not np.all(np.diff(times) > 0):
        found = f"{len(times)}, or they do not ascend"
        raise context.error(f"{path}/timestamps", f"{len(data)} ascending seconds", found)
    width = round(float(np.median(np.diff(times))), 9)  # files give 19.99999 ms
    shift = {"start": 0.0, "centre": 0.5, "end": 1.0}[at]

    return _laid_out(data, times - shift * width, width, invalid, where)


def _laid_out(
    counts: NDArray[np.generic], start: NDArray[np.float64], width: float, invalid: Intervals, where: str
) -> tuple[ObservedSpikes, float]:
    """Returns the spikes of counts (T, N) in bins from `start`, (T,); bins that touch invalid time are left out."""
    whole, valid = check_counts(counts, where)
    bins = lay_bins(start, width, len(whole), where, drift=True)
    clear = Intervals([bins.start.min()], [bins.start.max() + 2 * width]) - invalid
    valid &= within(bins.start, bins.start + width, clear, 1e-6 * width)[:, None]

    return lay_spikes(whole, valid, bins), width

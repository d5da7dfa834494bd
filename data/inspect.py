"""What a recording holds, what is kept of it, and why the rest is not; as JSON, and as pages to be looked at.

`ndt.data.inspect_page` makes the pages, and is imported only where they are asked for.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ndt.config import IngestConfig
from ndt.data.presence import seconds_before
from ndt.data.probe import find_files, session_id_of
from ndt.data.workers import DIED, spread
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.page import worst, write_text
from ndt.session import Covariate, Session
from ndt.settings import as_config

if TYPE_CHECKING:
    from ndt.data.quality import Quality
    from ndt.data.remote import RemoteFile

    Source = Path | RemoteFile

__all__ = ["GUARD", "examine", "inspect", "sampled", "summarise"]

GUARD = 2.0  # seconds between the blocks shown; a model's own window decides when it is trained
KINDS = {"b": "yes or no", "i": "number", "u": "number", "f": "number"}
BRIDGED = 1.5  # intervals between samples that may lie between two samples that follow each other

Entry = dict[str, Any]
_one_at_a_time = threading.Lock()  # neither pynwb nor matplotlib is made for the threads that a Dask worker may have


def inspect(
    files: Sequence[str | Path] | str | Path,
    config: IngestConfig | str | Path | None = None,
    out: str | Path | None = None,
    *,
    nwb_check: bool = True,
    progress: bool = False,
) -> list[Entry]:
    """Returns one JSON-able entry for each file that paths and patterns stand for, in their order; see `examine`.

    A file that cannot be read becomes an entry of ``source``, ``error`` and the grade ``error``, and the others go on.

    Arguments:
        files: Recordings, patterns for them, or ``dandi:…`` addresses.
        config: How files become sessions, and how many are read at once, each of which holds one session in memory.
        out: Folder for a page ``<session_id>.html`` of each file, ``index.html`` and ``inspect.json``; made where
            missing, unless no file can be read.
        nwb_check: Whether to ask NWB Inspector, where it is installed, about NWB files.
        progress: Whether to show a bar on stderr.

    Example:
        >>> inspect("recordings/*.nwb", out="inspected/")[0]["grade"]  # doctest: +SKIP
        'warning'
    """
    config, sources = as_config(IngestConfig, config), find_files(files)
    root = None if out is None else Path(out)
    names = _names([session_id_of(source) for source in sources])
    jobs = [(s, None if root is None else root / f"{n}.html") for s, n in zip(sources, names, strict=True)]
    call = partial(_inspect_one, config=config, nwb_check=nwb_check)
    found: dict[int, Entry] = {}
    with _bar(len(jobs), progress) as advance:
        for i, entry in spread(call, jobs, config.workers, config.cluster):
            found[i] = (
                _failed(sources[i], InputError(sources[i], "file", "a recording", DIED)) if entry is None else entry
            )
            advance(f"Inspected {names[i]}")
    entries = [found[i] for i in range(len(jobs))]
    if root is not None and any("error" not in entry for entry in entries):
        from ndt.data.inspect_index import index_page

        write_text(root / "index.html", index_page(entries))
        write_text(root / "inspect.json", json.dumps({"files": entries}, indent=1, allow_nan=False) + "\n")

    return entries


def _names(session_ids: Sequence[str]) -> list[str]:
    """Returns a name for the page of each session, unlike any other and the index's, where case is ignored, too."""
    taken, names = {"index"}, []
    for session_id in session_ids:
        choices = (session_id if n == 1 else f"{session_id}-{n}" for n in range(1, len(session_ids) + 2))
        names.append(next(name for name in choices if name.casefold() not in taken))
        taken.add(names[-1].casefold())

    return names


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True, soft_wrap=True), disable=not shown) as bar:
        task = bar.add_task("Inspecting", total=total)
        yield lambda text: bar.update(task, advance=1, description=text)


def _failed(source: "Source", error: InputError) -> Entry:
    return {"source": str(source), "error": str(error), "grade": "error"}


def _inspect_one(job: "tuple[Source, Path | None]", config: IngestConfig, nwb_check: bool) -> Entry:
    source, page = job
    try:
        with _one_at_a_time:
            return _inspect_file(source, page, config, nwb_check)
    except InputError as error:
        return _failed(source, error)
    except Exception as error:  # one odd file of many must not take the others with it
        found = f"{type(error).__name__} {error}"
        return _failed(source, InputError(source, "inspection", "a recording that can be inspected", found))


def _inspect_file(source: "Source", page: Path | None, config: IngestConfig, nwb_check: bool) -> Entry:
    from ndt.data.nwb_check import check_nwb
    from ndt.data.quality import assess
    from ndt.data.read import read

    session = read(source, config)
    quality = assess(session)
    entry = examine(session, quality)
    if nwb_check:
        entry["nwb_check"] = check_nwb(source)
    if page is not None:
        from ndt.data.inspect_page import recording_page

        entry["page"] = page.name
        text = recording_page(session, quality, entry, config)
        page.parent.mkdir(parents=True, exist_ok=True)
        write_text(page, text)

    return entry


def summarise(session: Session) -> Entry:
    """Returns what a session holds, and what was dropped of its file, as JSON-able values."""
    source = session.source
    return {
        "session_id": session.session_id,
        "source": str(source.get("path", "")),
        "sha256": str(source.get("sha256", "")),
        "size": int(source.get("size", 0)),
        "subject": session.subject,
        "task": session.task,
        "recording_date": session.recording_date,
        "units": session.num_units,
        "unit_columns": sorted(session.units.columns),
        "regions": sorted(set(map(str, session.units.columns.get("location", ())))),
        "spikes": len(session.spikes.timestamps),
        "count_bin": session.count_bin,
        "conventions": dict(source.get("conventions", {})),
        "observed_seconds": session.observed.duration,
        "pieces": len(session.observed),
        "covariates": [_covariate(session.covariates[name], session.observed) for name in sorted(session.covariates)],
        "intervals": {name: len(table) for name, table in sorted(session.intervals.items())},
        "labels": {name: sorted(table.columns) for name, table in sorted(session.intervals.items()) if table.columns},
        "dropped": list(session.dropped),
        "warnings": list(session.warnings),
    }


def _covariate(covariate: Covariate, observed: Intervals) -> Entry:
    missing = ~np.isfinite(covariate.values).all(axis=1)
    return {
        "name": covariate.name,
        "path": covariate.path,
        "dims": list(covariate.dims),
        "unit": covariate.unit,
        "rate": 1.0 / covariate.interval if covariate.interval > 0 else 0.0,
        "samples": len(covariate.timestamps),
        "shape": list(covariate.values.shape),
        "coverage": (observed & sampled(covariate)).duration / max(observed.duration, 1e-9),  # nothing observed: 0
        "missing": float(np.mean(missing)) if len(covariate.timestamps) else 0.0,
        "angular": covariate.angular,
    }


def sampled(covariate: Covariate, valid: NDArray[np.bool_] | None = None) -> Intervals:
    """Returns when a covariate has samples: each reaches half an interval to both sides.

    Samples that follow each other at up to one and a half intervals leave no gap between them, since clocks jitter.

    Arguments:
        covariate: The covariate.
        valid: Which samples to take, shape (M,); by default all.
    """
    times = covariate.timestamps if valid is None else covariate.timestamps[valid]
    if len(times) == 0:
        return Intervals.empty()
    interval = float(np.nan_to_num(covariate.interval))
    cuts = np.flatnonzero(np.diff(times) > BRIDGED * interval)

    return Intervals(times[np.r_[0, cuts + 1]] - interval / 2, times[np.r_[cuts, len(times) - 1]] + interval / 2)


def examine(session: Session, quality: "Quality | None" = None) -> Entry:
    """Returns what `summarise` does, and what is to be known before anything is trained.

    That is ``quality`` (of each unit, pairs of units, gaps and silences, in seconds), ``split`` (blocks, or why there
    are none), ``tables`` (rows, durations, overlaps, labels), ``findings`` and their worst ``grade``.

    Arguments:
        session: The recording.
        quality: What `ndt.data.quality.assess` says of it, where that has been asked.
    """
    if quality is None:
        from ndt.data.quality import assess

        quality = assess(session)
    dropped = set(session.dropped)  # said as such; no need to say it twice
    found = [f for f in quality.findings if f.grade != "note" or f.message not in dropped]
    findings = [{"grade": f.grade, "where": f.where, "message": f.message} for f in found]
    units = {"id": session.units.id, **quality.units}

    entry = summarise(session) | {
        "quality": {
            "units": {name: values.tolist() for name, values in units.items()},
            "pairs": [_pair(pair, session.units.id) for pair in quality.pairs],
            "gaps": _spans(quality.gaps),
            "silences": _spans(quality.silences),
        },
        "split": _blocks(session),
        "tables": [_table(name, rows, session.observed) for name, rows in sorted(session.intervals.items())],
        "findings": findings,
        "grade": worst([f["grade"] for f in findings]),
    }

    plain: Entry = _plain(entry)

    return plain


def _pair(pair: Any, unit_id: NDArray[Any]) -> Entry:
    names = {"first": str(unit_id[pair.first]), "second": str(unit_id[pair.second])}

    return names | {"kind": pair.kind, "shared": pair.shared, "expected": pair.expected}


def _spans(intervals: Intervals) -> Entry:
    return {"seconds": intervals.duration, "intervals": np.stack([intervals.start, intervals.end], 1).tolist()}


def _blocks(session: Session) -> Entry:
    from ndt.data.splits import split

    try:
        found = split(session, GUARD)
    except InputError as error:
        return {"error": f"{error.field}: expected {error.expected}, found {error.found}"}

    return {
        "guard_seconds": GUARD,
        "train": _spans(found.train),
        "valid": _spans(found.valid),
        "test": _spans(found.test),
    }


def _table(name: str, rows: Intervals, observed: Intervals) -> Entry:
    """Returns how long rows last, how many begin before an earlier one has ended, and what labels they have."""
    order = np.argsort(rows.start, kind="stable")
    start, end = rows.start[order], rows.end[order]
    latest = np.maximum.accumulate(end) if len(end) else end

    return {
        "name": name,
        "rows": len(rows),
        "median_seconds": float(np.median(rows.end - rows.start)) if len(rows) else 0.0,
        "overlaps": int(np.sum(start[1:] < latest[:-1])),
        "observed": float(np.mean(_observed_share(rows, observed))) if len(rows) else 0.0,
        "columns": [_column(label, values) for label, values in sorted(rows.columns.items())],
    }


def _observed_share(rows: Intervals, observed: Intervals) -> NDArray[np.float64]:
    """Returns which share of each row was observed; of an event without length, 0 or 1."""
    pieces, length = observed.coalesce(), rows.end - rows.start
    inside = seconds_before(pieces, rows.end) - seconds_before(pieces, rows.start)

    return np.where(length > 0, inside / np.where(length > 0, length, 1.0), observed.contains(rows.start))


def _column(name: str, values: NDArray[Any]) -> Entry:
    kind = KINDS.get(values.dtype.kind, "text")
    if values.ndim > 1:
        return {"name": name, "kind": f"{kind}, {values.shape[1]} a row", "distinct": None, "missing": 0}
    present = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    distinct = len(np.unique(present.astype(str) if values.dtype.kind == "O" else present))

    return {"name": name, "kind": kind, "distinct": distinct, "missing": len(values) - len(present)}


def _plain(value: Any) -> Any:
    """Returns the same as JSON knows it: no numbers of NumPy, and None for what is not a finite number."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None

    return value

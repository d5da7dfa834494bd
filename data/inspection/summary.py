"""Summaries of recordings as JSON-able values: content, left-out data, quality, splits and findings."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.data.inspection.findings import GRADES
from ndt.data.inspection.presence import sampled, seconds_before
from ndt.data.inspection.quality import Quality, assess
from ndt.data.splits import split
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Covariate, Session

__all__ = ["GUARD", "examine", "summarise"]

GUARD = 2.0  # seconds between the shown splits; training uses the model's window
KINDS = {"b": "yes or no", "i": "number", "u": "number", "f": "number"}
MOST_VALUES = 20  # distinct values up to which rows are counted by value

Entry = dict[str, Any]


def summarise(session: Session) -> Entry:
    """Returns the content of a session, and the dropped content of its file, as JSON-able values."""
    source = session.source
    return {
        "session_id": session.session_id,
        "source": str(source.get("path", "")),
        "sha256": str(source.get("sha256", "")),
        "sha256_verified": bool(source.get("verified", source.get("sha256"))),
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
        "segments": len(session.observed),
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


def examine(session: Session, quality: Quality | None = None) -> Entry:
    """Returns the summary of a session with all that should be known before training.

    It adds to `summarise`: ``quality`` (of units, pairs of units, gaps and silences, in seconds), ``split`` (train,
    valid and test, or why there are none), ``tables`` (rows, durations, overlaps, labels), ``findings`` and the worst
    ``grade``. `quality`, if given, is that of `ndt.data.inspection.quality.assess`.
    """
    quality = quality or assess(session)
    dropped = set(session.dropped)  # the page lists notes on dropped data once
    findings = [f._asdict() for f in quality.findings if f.grade != "note" or f.message not in dropped]
    unit_id = session.units.id.tolist()

    entry = summarise(session) | {
        "quality": {
            "units": {"id": unit_id} | {name: values.tolist() for name, values in quality.units.items()},
            "pairs": [vars(p) | {"first": unit_id[p.first], "second": unit_id[p.second]} for p in quality.pairs],
            "gaps": _spans(quality.gaps),
            "silences": _spans(quality.silences),
        },
        "split": _splits(session),
        "tables": [_table(name, rows, session.observed) for name, rows in sorted(session.intervals.items())],
        "findings": findings,
        "grade": min((f["grade"] for f in findings), key=GRADES.index, default="ok"),
    }

    return {str(key): _plain(value) for key, value in entry.items()}


def _spans(intervals: Intervals) -> Entry:
    return {"seconds": intervals.duration, "intervals": np.stack([intervals.start, intervals.end], 1).tolist()}


def _splits(session: Session) -> Entry:
    try:
        found = split(session, GUARD)
    except InputError as error:
        return {"error": f"{error.field}: expected {error.expected}, found {error.found}"}

    return {"guard_seconds": GUARD} | {name: _spans(getattr(found, name)) for name in ("train", "valid", "test")}


def _table(name: str, rows: Intervals, observed: Intervals) -> Entry:
    """Returns the durations of a table's rows, the number of overlapping rows, and its label columns."""
    order = np.argsort(rows.start, kind="stable")
    start, end = rows.start[order], rows.end[order]
    low, median, high = np.percentile(end - start, [5, 50, 95]) if len(rows) else (0.0, 0.0, 0.0)

    return {
        "name": name,
        "rows": len(rows),
        "median_seconds": median,
        "percentiles_5_95_seconds": [low, high],
        "overlaps": int(np.sum(start[1:] < np.maximum.accumulate(end)[:-1])),
        "observed": float(np.mean(_observed_share(rows, observed))) if len(rows) else 0.0,
        "columns": [_column(label, values) for label, values in sorted(rows.columns.items())],
    }


def _observed_share(rows: Intervals, observed: Intervals) -> NDArray[np.float64]:
    """Returns the observed share of each row; 0 or 1 for events without length."""
    segments, length = observed.coalesce(), rows.end - rows.start
    inside = seconds_before(segments, rows.end) - seconds_before(segments, rows.start)

    return np.where(length > 0, inside / np.where(length > 0, length, 1.0), observed.contains(rows.start))


def _column(name: str, values: NDArray[Any]) -> Entry:
    """Returns the number of distinct values of a label column and, for 2 to 20 of them, of rows with each value."""
    kind = KINDS.get(values.dtype.kind, "text")
    if values.ndim > 1:
        return {"name": name, "kind": f"{kind}, {values.shape[1]} a row", "distinct": None, "missing": 0, "values": {}}
    valid = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    distinct, counts = np.unique(valid.astype(str) if values.dtype.kind == "O" else valid, return_counts=True)
    lost, counted = len(values) - len(valid), Counter[str]()
    if few := 2 <= len(distinct) + (lost > 0) <= MOST_VALUES:
        for value, count in zip(distinct.tolist(), counts.tolist(), strict=True):
            counted[_word(value)] += count

    return {
        "name": name,
        "kind": kind,
        "distinct": len(distinct),
        "missing": lost,
        "values": dict(counted) | ({"missing": lost} if few and lost else {}),
    }


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"

    return f"{value:g}" if isinstance(value, float) else str(value) or "(empty)"


def _plain(value: Any) -> Any:
    """Returns a JSON-able copy: Python numbers for NumPy's, and None for NaN and infinity."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None

    return value

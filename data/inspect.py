"""What a recording holds, what is kept of it, and why the rest is not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ndt.config import IngestConfig
from ndt.data.probe import find_files
from ndt.session import Covariate, Session

__all__ = ["inspect", "summarise"]


def inspect(files: Sequence[str | Path] | str | Path, config: IngestConfig | None = None) -> list[dict[str, Any]]:
    """Returns one JSON-able summary for each NWB file that paths and patterns stand for; see `summarise`."""
    from ndt.data.nwb import read_nwb

    return [summarise(read_nwb(path, config)) for path in find_files(files)]


def summarise(session: Session) -> dict[str, Any]:
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
        "observed_seconds": session.observed.duration,
        "pieces": len(session.observed),
        "covariates": [_covariate(session.covariates[name]) for name in sorted(session.covariates)],
        "intervals": {name: len(table) for name, table in sorted(session.intervals.items())},
        "dropped": list(session.dropped),
    }


def _covariate(covariate: Covariate) -> dict[str, Any]:
    return {
        "name": covariate.name,
        "path": covariate.path,
        "dims": list(covariate.dims),
        "unit": covariate.unit,
        "rate": 1.0 / covariate.interval if covariate.interval > 0 else 0.0,
        "samples": len(covariate.timestamps),
        "angular": covariate.angular,
    }

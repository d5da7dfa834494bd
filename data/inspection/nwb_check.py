"""Findings of NWB Inspector about a file (extra ``nwb-check``)."""

import warnings
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndt.data.read.remote import RemoteFile

__all__ = ["IMPORTANCE", "check_nwb"]

IMPORTANCE = {  # grade of NWB Inspector, worst first -> words, and our grade, which gives the colour
    "ERROR": ("Error", "error"),
    "PYNWB_VALIDATION": ("Not valid", "error"),
    "CRITICAL": ("Critical", "warning"),
    "BEST_PRACTICE_VIOLATION": ("Violation", "note"),
    "BEST_PRACTICE_SUGGESTION": ("Suggestion", "ok"),
}
ABSENT = "NWB Inspector is not installed: pip install 'ndt[nwb-check]'"


def check_nwb(path: "str | Path | RemoteFile") -> dict[str, Any]:
    """Returns NWB Inspector's ``messages`` about a local NWB file, or the reason why it was ``skipped``.

    Messages of one check are merged into its ``importance``, ``check``, first 8 ``objects``, their number (``count``)
    and first ``message``. The most important come first.
    """
    if not isinstance(path, str | Path) or Path(path).suffix != ".nwb":
        return {"skipped": "NWB Inspector runs on NWB files on local storage only"}
    try:
        inspector: Any = import_module("nwbinspector")
    except ImportError:
        return {"skipped": ABSENT}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pynwb warns about faults that NWB Inspector reports
        try:
            found = [message for message in inspector.inspect_nwbfile(nwbfile_path=str(path)) if message is not None]
        except Exception as error:  # any check may fail on an unusual file
            return {"skipped": f"NWB Inspector failed on this file: {type(error).__name__} {error}"}

    return {"messages": _merged(found)}


def _merged(found: list[Any]) -> list[dict[str, Any]]:
    by_check = defaultdict(list)
    for message in found:
        by_check[message.importance.name, _line(message.check_function_name)].append(message)
    rows = [
        {
            "importance": importance,
            "check": check,
            "count": len(messages),
            "objects": sorted({_object(message) for message in messages})[:8],
            "message": _line(messages[0].message),
        }
        for (importance, check), messages in by_check.items()
    ]

    rank = {importance: i for i, importance in enumerate(IMPORTANCE)}
    return sorted(rows, key=lambda row: (rank.get(row["importance"], len(rank)), row["check"]))


def _object(message: Any) -> str:
    location, name = (message.location or "").rstrip("/"), message.object_name or ""

    return location if location.endswith(f"/{name}") else f"{location}/{name}"


def _line(text: str | None) -> str:
    """Returns the last line of a text: of a traceback, the line with the error."""
    return (str(text or "").strip().splitlines() or [""])[-1].strip()

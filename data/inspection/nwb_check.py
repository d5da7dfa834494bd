"""NWB Inspector's findings about a file, where it is installed (extra ``nwb-check``)."""

import warnings
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndt.data.read.remote import RemoteFile

__all__ = ["IMPORTANCE", "check_nwb"]

IMPORTANCE = {  # NWB Inspector's grades, the worst first: in words, and the grade of ours that colours them
    "ERROR": ("Error", "error"),
    "PYNWB_VALIDATION": ("Not valid", "error"),
    "CRITICAL": ("Critical", "warning"),
    "BEST_PRACTICE_VIOLATION": ("Violation", "note"),
    "BEST_PRACTICE_SUGGESTION": ("Suggestion", "ok"),
}
ABSENT = "NWB Inspector is not installed: pip install 'ndt[nwb-check]'"


def check_nwb(path: "str | Path | RemoteFile") -> dict[str, Any]:
    """Returns what NWB Inspector says of a local NWB file: ``skipped`` with the reason, or ``messages``.

    Messages of the same check are one: its ``importance``, ``check``, the ``objects`` that it names (the first 8), how
    many (``count``), and the first ``message``. The most important come first.
    """
    if not isinstance(path, str | Path) or Path(path).suffix != ".nwb":
        return {"skipped": "NWB Inspector is asked about NWB files on local storage only"}
    try:
        inspector: Any = import_module("nwbinspector")
    except ImportError:
        return {"skipped": ABSENT}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pynwb about the file; NWB Inspector says the same in its own words
        try:
            found = [message for message in inspector.inspect_nwbfile(nwbfile_path=str(path)) if message is not None]
        except Exception as error:  # what a check raises on a file that it did not expect
            return {"skipped": f"NWB Inspector failed on this file: {type(error).__name__} {error}"}

    return {"messages": _together(found)}


def _together(found: list[Any]) -> list[dict[str, Any]]:
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
    place, name = (message.location or "").rstrip("/"), message.object_name or ""

    return place if place.endswith(f"/{name}") else f"{place}/{name}"


def _line(text: str | None) -> str:
    """Returns the last line that says something: of a traceback, the one with the error."""
    return (str(text or "").strip().splitlines() or [""])[-1].strip()

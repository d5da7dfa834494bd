"""The page that lists inspected recordings: the worst first, and those that could not be read before all others."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from ndt.glossary import RECORDING
from ndt.page import GRADES, Cell, Graded, Section, Table, compact, count_grades, render, worst

__all__ = ["index_page", "written"]

MOST_NAMES = 4  # covariates named in a row


def written() -> str:
    """Returns when, and by what, a page is written now."""
    return f"page written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by ndt"


def index_page(entries: Sequence[dict[str, Any]]) -> str:
    """Returns the page of what `ndt.data.inspect.inspect` found, with links to the page of each recording."""
    order = list(GRADES)
    read, failed = [e for e in entries if "error" not in e], [e for e in entries if "error" in e]
    read.sort(key=lambda e: (order.index(e["grade"]), e["session_id"]))
    sections = []
    if failed:
        lost = [Graded(grade="error", where=PurePath(e["source"]).name, message=e["error"]) for e in failed]
        sections.append(Section(title="Not read", anchor="failed", findings=lost))
    head = ["recording", "grade", "units", "spikes", "observed (s)", "covariates", "findings"]
    table = Table(head=head, rows=[_row(entry) for entry in read], numeric={2, 3, 4}, dense=True)
    sections.append(Section(title="Recordings", anchor="recordings", tables=[table]))
    sections.append(Section(title="What the numbers mean", anchor="definitions", definitions=RECORDING))
    tiles = [
        (GRADES[worst([e["grade"] for e in entries])], "worst of all"),
        (f"{len(read):,}", f"of {len(entries):,} files read"),
        (f"{sum(e['units'] for e in read):,}", "units"),
        (compact(sum(e["spikes"] for e in read)), "spikes"),
        (f"{sum(e['observed_seconds'] for e in read):,.0f} s", "observed"),
    ]

    return render(f"{len(entries):,} recording{'s' * (len(entries) != 1)}", written(), sections, tiles, "inspect")


def _row(entry: dict[str, Any]) -> list[str | Cell]:
    names = [c["name"] for c in entry["covariates"]]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""

    return [
        Cell(entry["session_id"], href=quote(entry["page"])),
        Cell(GRADES[entry["grade"]], grade=entry["grade"]),
        f"{entry['units']:,}",
        f"{entry['spikes']:,}",
        f"{entry['observed_seconds']:,.0f}",
        ", ".join(names[:MOST_NAMES]) + more or "none",
        count_grades([f["grade"] for f in entry["findings"]]),
    ]

"""HTML pages of an inspection: one for each recording, and their index."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from ndt.config import ArraysConfig, IngestConfig
from ndt.data.inspection.nwb_check import IMPORTANCE
from ndt.data.inspection.quality import Quality
from ndt.data.inspection.recording_figures import View, activity, close_look, intervals, time_line, view_of
from ndt.reports import page
from ndt.reports.names import RECORDING
from ndt.reports.page import GRADES, Cell, Graded, Section, Table, count_grades, many, number, percent
from ndt.reports.plots_recording import plain_text
from ndt.session import Session

__all__ = ["index_page", "recording_page"]

MOST_PAIRS, MOST_REGIONS, MOST_SILENCES, MOST_NAMES = 30, 24, 6, 4
ORDER = list(GRADES)  # worst first
PACKAGES = ("ndt", "numpy", "h5py", "pynwb", "nwbinspector", "matplotlib")


def recording_page(session: Session, quality: Quality, entry: dict[str, Any], config: IngestConfig) -> str:
    """Returns the page of one recording.

    Arguments:
        session: Recording.
        quality: Its quality, from `ndt.data.inspection.quality.assess`.
        entry: Its summary, from `ndt.data.inspection.summary.examine`, with NWB Inspector's ``nwb_check`` if it ran.
        config: Settings of the reader.
    """
    view = view_of(session, quality, entry)
    with plain_text():
        covariates = close_look(view)
        sections = [
            _findings(entry),
            _time_line(view),
            _ingested(view),
            *(_units(view) if session.num_units else ()),
            _pairs(view),
            *([Section(title="Covariates", anchor="covariates", drawings=covariates)] if covariates else []),
            *([_nwb_check(entry["nwb_check"])] if "nwb_check" in entry else []),
            _settings(config),
            Section(title="Definitions", anchor="definitions", definitions=RECORDING),
        ]

    return page.render(session.session_id, _subtitle(entry), sections, _tiles(entry), "inspect")


def index_page(entries: Sequence[dict[str, Any]]) -> str:
    """Returns the index of inspected recordings: unreadable files, then recordings by grade, worst first."""
    read, failed = [e for e in entries if "error" not in e], [e for e in entries if "error" in e]
    read.sort(key=lambda e: (ORDER.index(e["grade"]), e["session_id"]))
    sections = []
    if failed:
        lost = [Graded(grade="error", where=PurePath(e["source"]).name, message=e["error"]) for e in failed]
        sections.append(Section(title="Not read", anchor="failed", findings=lost))
    head = ["recording", "grade", "units", "spikes", "observed (s)", "covariates", "findings"]
    table = Table(head=head, rows=[_row(entry) for entry in read], numeric={2, 3, 4})
    sections.append(Section(title="Recordings", anchor="recordings", tables=[table]))
    sections.append(Section(title="Definitions", anchor="definitions", definitions=RECORDING))
    tiles = [
        (GRADES[page.worst([e["grade"] for e in entries])], "worst grade"),
        (f"{len(read):,}", f"of {len(entries):,} files read"),
        (f"{sum(e['units'] for e in read):,}", "units"),
        (page.compact(sum(e["spikes"] for e in read)), "spikes"),
        (f"{sum(e['observed_seconds'] for e in read):,.0f} s", "observed"),
    ]

    return page.render(many(len(entries), "recording"), _written(), sections, tiles, "inspect")


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


def _written() -> str:
    return f"page written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by ndt"


def _subtitle(entry: dict[str, Any]) -> str:
    date = f"recorded {entry['recording_date'][:10]}" if entry["recording_date"] else ""
    size, subject = f"{entry['size'] / 1e6:,.1f} MB", f"subject {entry['subject'] or 'unnamed'}"
    parts = [PurePath(entry["source"]).name, size, subject, date]

    return f"{', '.join(part for part in parts if part)}; {_written()}"


def _tiles(entry: dict[str, Any]) -> list[tuple[str, str]]:
    units, covariates = entry["units"], len(entry["covariates"])

    return [
        (GRADES[entry["grade"]], count_grades([f["grade"] for f in entry["findings"]])),
        (f"{units:,}", "unit" if units == 1 else "units"),
        (page.compact(entry["spikes"]), "spikes"),
        (f"{entry['observed_seconds']:,.0f} s", f"observed, in {many(entry['segments'], 'segment')}"),
        (f"{covariates:,}", "covariate" if covariates == 1 else "covariates"),
    ]


def _findings(entry: dict[str, Any]) -> Section:
    found = sorted(entry["findings"], key=lambda f: ORDER.index(f["grade"]))
    text = [] if found else ["No findings."]

    return Section(title="Findings", anchor="findings", text=text, findings=[Graded(**f) for f in found])


def _time_line(view: View) -> Section:
    section = Section(title="Time line", anchor="timeline", drawings=[time_line(view)])
    if view.origin:
        section.text.append(f"Zero on all axes of this page is second {view.origin:,.0f} of the file's clock.")
    gaps, silences = view.quality.gaps, view.shift(view.quality.silences)
    length = gaps.end - gaps.start
    section.text.append(
        f"Observed time has {many(len(gaps), 'gap')}, {number(gaps.duration)} s in all; the median is "
        f"{number(float(np.median(length)))} s, the longest {number(float(length.max()))} s."
        if len(gaps) else "Observed time has no gap."
    )  # fmt: skip
    if len(silences):
        spans = zip(silences.start[:MOST_SILENCES], silences.end[:MOST_SILENCES], strict=True)
        named = ", ".join(f"{a:,.1f} to {b:,.1f} s" for a, b in spans)
        more = f" and {many(len(silences) - MOST_SILENCES, 'more segment')}" if len(silences) > MOST_SILENCES else ""
        section.text.append(f"No unit fires in these segments of it: {named}{more}.")
    if "error" in view.entry["split"]:
        section.text.append(f"There is no split into training, validation and test: {view.entry['split']['error']}.")

    return section


def _ingested(view: View) -> Section:
    entry = view.entry
    section = Section(title="Ingested data", anchor="ingested")
    if entry["task"]:
        section.text.append(f"Task: {entry['task']}")
    if entry["count_bin"]:
        section.text.append(
            f"The file counts spikes in bins of {1e3 * entry['count_bin']:g} ms: it allows no finer bins and has no "
            "inter-spike intervals."
        )
    section.text += [f"It follows conventions of {name}: {what}." for name, what in entry["conventions"].items()]
    section.text.append(f"Columns of units: {', '.join(entry['unit_columns']) or 'none'}.")
    made = (_regions(view), _covariates(entry), *_tables(entry["tables"]))
    section.tables = [table for table in made if table.rows]
    if entry["dropped"]:
        section.dropped = {PurePath(entry["source"]).name or entry["session_id"]: entry["dropped"]}
    else:
        section.text.append("Nothing was left out.")

    return section


def _regions(view: View) -> Table:
    units, names = view.quality.units, np.array(view.groups, np.str_)
    regions = sorted(set(view.groups))
    rows = []
    for name in regions[:MOST_REGIONS]:
        hz, num_spikes = units["rate_hz"][names == name], units["num_spikes"][names == name]
        median = number(float(np.median(hz[np.isfinite(hz)]))) if np.isfinite(hz).any() else "–"
        counts = [f"{len(hz):,}", f"{int(num_spikes.sum()):,}", median, f"{np.sum(num_spikes == 0):,}"]
        rows.append([name or "not named", *counts])
    head = ["region", "units", "spikes", "median rate (spikes/s)", "units without a spike"]
    caption = "Units" + (f"; {len(regions) - MOST_REGIONS} more regions" if len(regions) > MOST_REGIONS else "")

    return Table(head=head, rows=rows, numeric={1, 2, 3, 4}, caption=caption)


def _covariates(entry: dict[str, Any]) -> Table:
    rows = []
    for c in entry["covariates"]:
        unit = (c["unit"] or "–") + (" (angle)" if c["angular"] else "")
        shape = " × ".join(f"{n:,}" for n in c["shape"])
        rows.append(
            [c["name"], c["path"], shape, number(c["rate"]), unit, percent(c["coverage"]), percent(c["missing"])]
        )
    head = ["covariate", "path", "shape", "samples/s", "unit", "coverage", "missing"]

    return Table(head=head, rows=rows, numeric={2, 3, 5, 6}, caption="Covariates")


def _tables(tables: Sequence[dict[str, Any]]) -> tuple[Table, Table]:
    """Returns a table of the file's tables, and one of the number of rows with each label."""
    rows, counts = [], []
    for t in tables:
        columns = []
        for c in t["columns"]:
            columns.append(f"{c['name']} ({c['kind'] if c['distinct'] is None else format(c['distinct'], ',')})")
            if c["values"]:
                counts.append([f"{t['name']}/{c['name']}", ", ".join(f"{v}: {n:,}" for v, n in c["values"].items())])
        spread = " to ".join(map(number, t["percentiles_5_95_seconds"])) if t["rows"] else "–"
        numbers = [f"{t['rows']:,}", number(t["median_seconds"]), spread, f"{t['overlaps']:,}", percent(t["observed"])]
        rows.append([t["name"], *numbers, ", ".join(columns) or "none"])
    head = ["table", "rows", "median length (s)", "5 to 95 % (s)", "overlapping", "observed", "labels (distinct)"]
    caption = "Tables of intervals and events; an overlapping row begins before an earlier one has ended"
    labels = Table(head=["label", "rows with each value"], rows=counts, caption="Labels with 2 to 20 distinct values")

    return Table(head=head, rows=rows, numeric={1, 2, 3, 4, 5}, caption=caption), labels


def _units(view: View) -> list[Section]:
    """Returns the sections of activity and of inter-spike intervals."""
    drawings = intervals(view)
    isi = Section(title="Inter-spike intervals", anchor="isi", drawings=drawings)
    if not drawings:
        isi.text.append("Not available: spike times are too coarse, or no unit has two spikes.")
    table = _measures(view.quality.units)

    return [Section(title="Activity", anchor="activity", drawings=activity(view), tables=[table]), isi]


def _measures(units: dict[str, NDArray[Any]]) -> Table:
    rows = []
    for label, values in (
        ("rate (spikes/s)", units["rate_hz"]),
        ("spikes", units["num_spikes"]),
        ("observed (s)", units["observed_seconds"]),
        ("presence (%)", 100 * units["presence"]),
        ("intervals under 2 ms (%)", 100 * units["isi_under_2ms"]),
    ):
        finite = values[np.isfinite(values)]
        points = np.percentile(finite, [0, 10, 50, 90, 100]).tolist() if len(finite) else [np.nan] * 5
        rows.append([label, *map(number, points)])
    head = ["measure", "minimum", "10 %", "median", "90 %", "maximum"]

    caption = "Distribution over units; inspect.json lists each unit"

    return Table(head=head, rows=rows, numeric={1, 2, 3, 4, 5}, caption=caption)


def _pairs(view: View) -> Section:
    pairs, unit_id = view.quality.pairs, view.session.units.id
    section = Section(title="Duplicates and cross-talk", anchor="pairs")
    if not pairs:
        unassessed = [f["message"] for f in view.entry["findings"] if "cross-talk are not assessed" in f["message"]]
        section.text += unassessed or ["No two units share more of their spikes than expected."]
        return section
    rows = [
        [str(unit_id[p.first]), str(unit_id[p.second]), p.kind, percent(p.shared), percent(p.expected)]
        for p in sorted(pairs, key=lambda p: -p.shared)[:MOST_PAIRS]
    ]
    head = ["unit", "shares spikes with", "kind", "shared", "expected"]
    caption = many(len(pairs), "pair")
    caption += f"; the {MOST_PAIRS} that share most, inspect.json lists all" if len(pairs) > MOST_PAIRS else ""
    section.tables.append(Table(head=head, rows=rows, numeric={3, 4}, caption=caption))

    return section


def _nwb_check(found: dict[str, Any]) -> Section:
    section = Section(title="NWB Inspector", anchor="nwb-inspector")
    if "skipped" in found:
        section.text.append(f"{found['skipped']}.")
    elif not found["messages"]:
        section.text.append("NWB Inspector has no findings.")
    for m in found.get("messages", ()):
        word, grade = IMPORTANCE.get(m["importance"], (m["importance"].capitalize(), "note"))
        others = f" and others, {m['count']:,} in all" if m["count"] > len(m["objects"]) else ""
        objects = ", ".join(m["objects"]) + others
        section.findings.append(Graded(grade=grade, where=objects, message=f"{m['message']} [{m['check']}]", word=word))

    return section


def _settings(config: IngestConfig) -> Section:
    import yaml

    settings = json.loads(json.dumps(asdict(config)))  # lists instead of tuples, for YAML
    if config.arrays == ArraysConfig():
        del settings["arrays"]
    section = Section(title="Settings and versions", anchor="settings", tables=[page.versions(PACKAGES)])
    section.sources["Settings of the reader"] = yaml.safe_dump(settings, sort_keys=False).strip()

    return section

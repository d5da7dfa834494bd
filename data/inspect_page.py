"""The page of one recording: what a laboratory looks at before it trains anything."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.config import ArraysConfig, IngestConfig
from ndt.data.inspect_figures import View, activity, close_look, intervals, time_line, trials, view_of
from ndt.data.inspect_index import written
from ndt.data.quality import Quality
from ndt.glossary import RECORDING
from ndt.page import GRADES, Graded, Section, Table, compact, count_grades, number, percent, render, versions
from ndt.plots_recording import plain_text
from ndt.session import Session

__all__ = ["recording_page"]

MOST_PAIRS, MOST_REGIONS, MOST_SILENCES = 30, 24, 6
PACKAGES = ("ndt", "numpy", "h5py", "pynwb", "nwbinspector", "matplotlib")
IMPORTANCE = {  # NWB Inspector's words in ours, and the grade that colours them
    "ERROR": ("Error", "error"),
    "PYNWB_VALIDATION": ("Not valid", "error"),
    "CRITICAL": ("Critical", "warning"),
    "BEST_PRACTICE_VIOLATION": ("Violation", "note"),
    "BEST_PRACTICE_SUGGESTION": ("Suggestion", "ok"),
}


def recording_page(session: Session, quality: Quality, entry: dict[str, Any], config: IngestConfig) -> str:
    """Returns the page of one recording.

    Arguments:
        session: The recording.
        quality: What `ndt.data.quality.assess` says of it.
        entry: What `ndt.data.inspect.examine` says of it; with ``nwb_check``, NWB Inspector's findings are shown.
        config: How it was read.
    """
    view = view_of(session, quality, entry)
    with plain_text():
        sections = [
            _findings(entry),
            _time_line(view),
            _ingested(view),
            _activity(view),
            intervals(view),
            _pairs(view),
            close_look(view),
            trials(view),
            _nwb_check(entry),
            _settings(config),
            Section(title="What the numbers mean", anchor="definitions", definitions=RECORDING),
        ]
    shown = [section for section in sections if section is not None]

    return render(session.session_id, _subtitle(entry), shown, _tiles(entry), "inspect")


def _subtitle(entry: dict[str, Any]) -> str:
    parts = [
        PurePath(entry["source"]).name,
        f"{entry['size'] / 1e6:,.1f} MB",
        f"subject {entry['subject'] or 'unnamed'}",
    ]
    parts += [f"recorded {entry['recording_date'][:10]}"] if entry["recording_date"] else []

    return f"{', '.join(part for part in parts if part)}; {written()}"


def _tiles(entry: dict[str, Any]) -> list[tuple[str, str]]:
    grades = [f["grade"] for f in entry["findings"]]
    num_covariates = len(entry["covariates"])

    return [
        (GRADES[entry["grade"]], count_grades(grades) if grades else "needs attention"),
        (f"{entry['units']:,}", f"unit{'s' * (entry['units'] != 1)}"),
        (compact(entry["spikes"]), "spikes"),
        (
            f"{entry['observed_seconds']:,.0f} s",
            f"observed, in {entry['pieces']:,} piece{'s' * (entry['pieces'] != 1)}",
        ),
        (f"{num_covariates:,}", f"covariate{'s' * (num_covariates != 1)}"),
    ]


def _findings(entry: dict[str, Any]) -> Section:
    order = list(GRADES)
    found = sorted(entry["findings"], key=lambda f: order.index(f["grade"]))
    section = Section(title="Findings", anchor="findings", findings=[Graded(**f) for f in found])
    if not found:
        section.text.append("Nothing was found that needs attention.")

    return section


def _time_line(view: View) -> Section:
    section = Section(title="Time line", anchor="timeline", drawings=[time_line(view)])
    if view.origin:
        section.text.append(f"Zero on all axes of this page is second {view.origin:,.0f} of the file's clock.")
    section.text.append(_gaps(view))
    if "error" in view.entry["split"]:
        section.text.append(f"There are no blocks of training, validation and test: {view.entry['split']['error']}.")

    return section


def _gaps(view: View) -> str:
    gaps, silences = view.quality.gaps, view.shift(view.quality.silences)
    text = "Observed time has no gap."
    if len(gaps):
        length = gaps.end - gaps.start
        text = (
            f"Observed time has {len(gaps):,} gap{'s' * (len(gaps) > 1)}, {number(gaps.duration)} s in all; "
            f"the median is {number(float(np.median(length)))} s, the longest {number(float(length.max()))} s."
        )
    if len(silences):
        spans = zip(silences.start[:MOST_SILENCES], silences.end[:MOST_SILENCES], strict=True)
        named = ", ".join(f"{a:,.1f} to {b:,.1f} s" for a, b in spans)
        more = f" and {len(silences) - MOST_SILENCES:,} more times" if len(silences) > MOST_SILENCES else ""
        text += f" Within it no unit fires at {named}{more}."

    return text


def _ingested(view: View) -> Section:
    entry = view.entry
    section = Section(title="What is ingested", anchor="ingested")
    if entry["task"]:
        section.text.append(f"Task: {entry['task']}")
    if entry["count_bin"]:
        section.text.append(
            f"The file counts spikes in bins of {1e3 * entry['count_bin']:g} ms: finer bins and inter-spike intervals "
            "mean nothing."
        )
    section.text += [f"It follows conventions of {name}: {what}." for name, what in entry["conventions"].items()]
    section.text.append(f"Columns of units: {', '.join(entry['unit_columns']) or 'none'}.")
    if entry["units"]:
        section.tables.append(_regions(view))
    if entry["covariates"]:
        section.tables.append(_covariates(entry["covariates"]))
    if entry["tables"]:
        section.tables.append(_tables(entry["tables"]))
    if entry["dropped"]:
        section.dropped = {PurePath(entry["source"]).name or entry["session_id"]: entry["dropped"]}
    else:
        section.text.append("Nothing was left out.")

    return section


def _regions(view: View) -> Table:
    units, names = view.quality.units, np.array(view.groups, np.str_)
    regions = [*dict.fromkeys(sorted(view.groups))]
    rows = []
    for name in regions[:MOST_REGIONS]:
        own = names == name
        hz, num_spikes = units["rate_hz"][own], units["num_spikes"][own]
        median = number(float(np.median(hz[np.isfinite(hz)]))) if np.isfinite(hz).any() else "–"
        counts = [f"{own.sum():,}", f"{int(num_spikes.sum()):,}", median, f"{np.sum(num_spikes == 0):,}"]
        rows.append([name or "not named", *counts])
    head = ["region", "units", "spikes", "median rate (Hz)", "units without a spike"]
    caption = "Units" + (f"; {len(regions) - MOST_REGIONS} more regions" if len(regions) > MOST_REGIONS else "")

    return Table(head=head, rows=rows, numeric={1, 2, 3, 4}, caption=caption)


def _covariates(covariates: Sequence[dict[str, Any]]) -> Table:
    rows = []
    for c in covariates:
        unit = c["unit"] or "–"
        shape = " × ".join(f"{n:,}" for n in c["shape"])
        shares = [percent(c["coverage"]), percent(c["missing"])]
        rows.append(
            [c["name"], c["path"], shape, number(c["rate"]), f"{unit} (angle)" if c["angular"] else unit, *shares]
        )
    head = ["covariate", "path", "shape", "rate (Hz)", "unit", "coverage", "missing"]

    return Table(head=head, rows=rows, numeric={2, 3, 5, 6}, caption="Covariates", dense=True)


def _tables(tables: Sequence[dict[str, Any]]) -> Table:
    rows = []
    for t in tables:
        columns = [
            f"{c['name']} ({c['kind'] if c['distinct'] is None else format(c['distinct'], ',')})" for c in t["columns"]
        ]
        numbers = [f"{t['rows']:,}", number(t["median_seconds"]), f"{t['overlaps']:,}", percent(t["observed"])]
        rows.append([t["name"], *numbers, ", ".join(columns) or "none"])
    caption = "Tables of intervals and events; overlapping rows begin before an earlier one has ended"
    head = ["table", "rows", "median length (s)", "overlapping", "observed", "labels (distinct values)"]

    return Table(head=head, rows=rows, numeric={1, 2, 3, 4}, caption=caption, dense=True)


def _activity(view: View) -> Section | None:
    if view.session.num_units == 0:
        return None
    section = Section(title="Activity", anchor="activity", drawings=activity(view))
    section.tables.append(_measures(view.quality.units))

    return section


def _measures(units: dict[str, NDArray[Any]]) -> Table:
    shown = {"rate (Hz)": ("rate_hz", 1.0), "spikes": ("num_spikes", 1.0), "observed (s)": ("observed_seconds", 1.0)}
    shown |= {"presence (%)": ("presence", 100.0), "intervals under 2 ms (%)": ("isi_under_2ms", 100.0)}
    rows = []
    for label, (name, scale) in shown.items():
        values = scale * np.asarray(units[name], np.float64)
        values = values[np.isfinite(values)]
        points = np.percentile(values, [0, 10, 50, 90, 100]).tolist() if len(values) else [np.nan] * 5
        rows.append([label, *map(number, points)])
    head = ["per unit", "least", "10 %", "median", "90 %", "most"]

    return Table(
        head=head, rows=rows, numeric={1, 2, 3, 4, 5}, caption="How units differ; inspect.json has each of them"
    )


def _pairs(view: View) -> Section:
    pairs, unit_id = view.quality.pairs, view.session.units.id
    section = Section(title="Duplicates and cross-talk", anchor="pairs")
    if not pairs:
        unassessed = [f["message"] for f in view.entry["findings"] if "cross-talk are not assessed" in f["message"]]
        section.text += unassessed or ["No two units share more of their spikes than can be expected."]
        return section
    rows = [
        [str(unit_id[p.first]), str(unit_id[p.second]), p.kind, percent(p.shared), percent(p.expected)]
        for p in sorted(pairs, key=lambda p: -p.shared)[:MOST_PAIRS]
    ]
    head = ["unit", "shares spikes with", "kind", "shared", "expected"]
    caption = f"{len(pairs):,} pair{'s' * (len(pairs) > 1)}"
    caption += f", of which the {MOST_PAIRS} that share most; inspect.json has all" if len(pairs) > MOST_PAIRS else ""
    section.tables.append(Table(head=head, rows=rows, numeric={3, 4}, caption=caption))

    return section


def _nwb_check(entry: dict[str, Any]) -> Section | None:
    found = entry.get("nwb_check")
    if found is None:
        return None
    section = Section(title="NWB Inspector", anchor="nwb-inspector")
    if "skipped" in found:
        section.text.append(f"{found['skipped']}.")
    elif not found["messages"]:
        section.text.append("NWB Inspector has nothing to say.")
    for m in found.get("messages", ()):
        word, grade = IMPORTANCE.get(m["importance"], (m["importance"].capitalize(), "note"))
        objects = ", ".join(m["objects"]) + (
            f" and others, {m['count']:,} in all" if m["count"] > len(m["objects"]) else ""
        )
        section.findings.append(Graded(grade=grade, where=objects, message=f"{m['message']} [{m['check']}]", word=word))

    return section


def _settings(config: IngestConfig) -> Section:
    import yaml

    settings = _lists(asdict(config))
    if config.arrays == ArraysConfig():
        del settings["arrays"]
    section = Section(title="Settings and versions", anchor="settings", tables=[versions(PACKAGES)])
    section.sources["How the file was read"] = yaml.safe_dump(settings, sort_keys=False).strip()

    return section


def _lists(value: Any) -> Any:
    """Returns the same with lists for tuples, which YAML does not know."""
    if isinstance(value, dict):
        return {name: _lists(inner) for name, inner in value.items()}

    return list(value) if isinstance(value, tuple) else value

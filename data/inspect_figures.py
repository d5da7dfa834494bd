"""The figures of a recording's page: a session is turned into the arrays that `ndt.plots_recording` draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt import plots, plots_recording
from ndt.data.inspect import sampled
from ndt.data.presence import spikes_by_unit, unit_pieces
from ndt.data.quality import Quality
from ndt.intervals import Intervals
from ndt.page import Section, percent
from ndt.plots import Drawing
from ndt.plots_recording import Trace
from ndt.plots_timeline import Lane, timeline
from ndt.session import Covariate, Session

__all__ = [
    "View",
    "activity",
    "close_look",
    "intervals",
    "isi_counts",
    "label_counts",
    "time_line",
    "trials",
    "view_of",
]

SECONDS = 20.0  # of the raster and the covariates
FAR = 1e5  # seconds: axes of a clock that is further from zero than this begin with the recording
MOST_COVARIATES, MOST_TABLES, MOST_LABELS, MOST_CLASSES, MOST_GROUPS, MOST_DURATIONS = 8, 6, 6, 20, 16, 3
ISI_EDGES = np.linspace(0.0, 0.02, 41)
FEW_SPIKES = 100
RATE_BLOCKS = 240
FEW_ROWS = 5  # of a table, of which a distribution says nothing


@dataclass(frozen=True, kw_only=True)
class View:
    """What all figures of a page look at.

    Arguments:
        session: The recording.
        quality: What is known of its units.
        entry: Its summary.
        origin: Second of the file's clock at which axes have zero.
        window: Seconds that are shown closely, in the file's clock.
        groups: Region of each unit, or its probe where regions do not tell units apart.
    """

    session: Session
    quality: Quality
    entry: dict[str, Any]
    origin: float
    window: tuple[float, float]
    groups: Sequence[str]

    def shift(self, times: Intervals) -> Intervals:
        """Returns times of the file's clock on the axes' clock."""
        return Intervals(times.start - self.origin, times.end - self.origin)

    @property
    def close(self) -> Intervals:
        """What is shown closely, on the axes' clock."""
        return self.shift(Intervals([self.window[0]], [self.window[1]]))

    @property
    def unseen(self) -> Intervals:
        """When no unit was observed, from long before the first piece until long after the last; on the axes' clock."""
        observed = self.session.observed.coalesce()
        if len(observed) == 0:
            return Intervals.empty()
        beyond = 10 * (observed.end[-1] - observed.start[0]) + 1e3

        return self.shift(Intervals([observed.start[0] - beyond], [observed.end[-1] + beyond]) - observed)


def view_of(session: Session, quality: Quality, entry: dict[str, Any]) -> View:
    """Returns what all figures look at: where zero is, and which seconds are shown closely."""
    start = float(session.observed.start.min()) if len(session.observed) else 0.0
    origin = float(np.floor(start)) if abs(start) > FAR else 0.0

    return View(
        session=session, quality=quality, entry=entry, origin=origin, window=_window(session), groups=_groups(session)
    )


def _window(session: Session) -> tuple[float, float]:
    """Returns the middle of the longest piece with spikes and covariates, or where all are short of several."""
    labelled = Intervals.empty()
    for covariate in session.covariates.values():
        labelled = labelled | sampled(covariate)
    both = session.observed & labelled
    pieces = both if len(both) else session.observed.coalesce()
    if len(pieces) == 0:
        return 0.0, SECONDS
    length = pieces.end - pieces.start
    longest = int(np.argmax(length))
    if length[longest] >= SECONDS:
        start = float(pieces.start[longest] + (length[longest] - SECONDS) / 2)
    else:
        last = max(float(pieces.end[-1]) - SECONDS, float(pieces.start[0]))
        start = min(float(pieces.start[len(pieces) // 2]), last)

    return start, start + SECONDS


def _groups(session: Session) -> list[str]:
    columns = session.units.columns
    for name in ("location", "group"):
        if name in columns and len(set(map(str, columns[name]))) > 1:
            return [str(value) for value in columns[name]]

    return [str(value) for value in columns.get("location", np.full(session.num_units, ""))]


def time_line(view: View) -> Drawing:
    """Draws on one axis what there is when: rates, observed time, tables, blocks, covariates."""
    session, split = view.session, view.entry["split"]
    lanes = [_observed(view)]
    if len(view.quality.silences):
        number, seconds = len(view.quality.silences), view.quality.silences.duration
        lanes.append(
            _lane(view, "no spike", view.quality.silences, "silent", f"{_many(number, 'stretch')}, {seconds:,.0f} s")
        )
    names = [name for name, rows in session.intervals.items() if len(rows) and name != "split"]
    names.sort(key=lambda name: (name != "trials", name))
    for name in names[:MOST_TABLES]:
        rows = session.intervals[name]
        lanes.append(_lane(view, name, rows, "rows", _many(len(rows), "row"), stagger=len(rows) > 1))
    for block, name in (("train", "train"), ("valid", "validation"), ("test", "test")):
        if block in split:
            start, end = np.reshape(split[block]["intervals"], (-1, 2)).T
            times = Intervals(start, end)
            lanes.append(_lane(view, name, times, block, f"{split[block]['seconds']:,.0f} s"))
    covariates = _covariates(view)
    lanes += covariates[:MOST_COVARIATES]
    lanes.append(Lane(name="shown closely", bars=view.close, kind="shown"))

    more = [
        _many(len(rest), what)
        for rest, what in ((names[MOST_TABLES:], "table"), (covariates[MOST_COVARIATES:], "covariate"))
    ]
    more = [text for text in more if not text.startswith("0")]
    caption = f"{' and '.join(more)} more are not shown." if more else ""

    return timeline(lanes, _extent(view, lanes), view.unseen, _rate(view), caption)


def _many(number: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("ch") else f"{what}s"

    return f"{number:,} {what if number == 1 else plural}"


def _lane(view: View, name: str, times: Intervals, kind: str, note: str = "", **more: Any) -> Lane:
    return Lane(name=name, bars=view.shift(times), kind=kind, note=note, **more)


def _observed(view: View) -> Lane:
    """Returns when units were observed, as high as the share of units that were."""
    session, own = view.session, view.session.units.observed
    note = f"{session.observed.duration:,.0f} s"
    if own is None:
        return _lane(view, "observed", session.observed, "observed", note)
    edges, num_units = _active(view)
    share = np.round(num_units / max(session.num_units, 1), 2)
    some = share > 0
    times = Intervals(edges[:-1][some], edges[1:][some])

    return _lane(view, "units observed", times, "observed", f"{note}, by share", height=share[some])


def _active(view: View) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns K + 1 edges on the file's clock, and between them how many units were observed, shape (K,)."""
    session, own = view.session, view.session.units.observed
    start, end, each = (
        (session.observed.start, session.observed.end, session.num_units) if own is None else (own.start, own.end, 1)
    )
    edges = np.unique(np.r_[start, end])
    change = np.zeros(len(edges))
    np.add.at(change, np.searchsorted(edges, start), each)
    np.add.at(change, np.searchsorted(edges, end), -each)

    return edges, np.cumsum(change)[:-1]


def _rate(view: View) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns edges of blocks on the axes' clock, and the mean rate of the units observed in each; NaN without any."""
    clock, num_units = _active(view)
    if len(clock) < 2:
        return np.zeros(1), np.zeros(0)
    edges = np.linspace(clock[0], clock[-1], RATE_BLOCKS + 1)
    before = np.interp(edges, clock, np.r_[0.0, np.cumsum(num_units * np.diff(clock))])  # seconds, units summed
    seconds = np.diff(before)
    counts = np.diff(np.searchsorted(view.session.spikes.timestamps, edges))
    rate = np.where(seconds > 0, counts / np.where(seconds > 0, seconds, 1.0), np.nan)

    return edges - view.origin, rate


def _covariates(view: View) -> list[Lane]:
    """Returns when covariates were sampled, pale where samples hold no value; those alike in this share a lane."""
    alike: dict[tuple[bytes, ...], list[Covariate]] = {}
    times: dict[tuple[bytes, ...], tuple[Intervals, Intervals]] = {}
    for _, covariate in sorted(view.session.covariates.items()):
        lost = np.asarray(~np.isfinite(covariate.values).all(axis=1))
        spans, missing = sampled(covariate), sampled(covariate, lost)
        key = tuple(x.tobytes() for x in (spans.start, spans.end, missing.start, missing.end))
        alike.setdefault(key, []).append(covariate)
        times[key] = spans, missing
    entries = {c["name"]: c for c in view.entry["covariates"]}
    lanes = []
    for key, group in alike.items():
        entry = entries[group[0].name]
        note = f"{percent(entry['coverage'])} covered"
        note += f", {percent(entry['missing'])} missing" if entry["missing"] else ""
        name = ", ".join(c.name for c in group) if len(group) < 3 else f"{len(group)} covariates alike"
        spans, missing = times[key]
        lanes.append(_lane(view, name, spans, "covariate", note, pale=view.shift(missing)))

    return lanes


def _extent(view: View, lanes: Sequence[Lane]) -> tuple[float, float]:
    """Returns what the time line shows: all of it, but no more than a quarter beyond observed time on either side."""
    observed = view.shift(view.session.observed)
    if len(observed) == 0:
        return 0.0, 1.0
    low, high = float(observed.start.min()), float(observed.end.max())
    spare = (high - low) / 4
    points = np.concatenate([x for lane in lanes if lane.kind != "shown" for x in (lane.bars.start, lane.bars.end)])

    return max(low - spare, min(low, float(points.min()))), min(high + spare, max(high, float(points.max())))


def _edges(view: View) -> NDArray[np.float64]:
    """Returns the edges of the blocks of presence on the axes' clock, shape (M + 1,)."""
    start = np.asarray(view.quality.presence_time, np.float64)
    end = float(view.session.observed.end.max()) if len(view.session.observed) else 0.0
    step = float(np.median(np.diff(start))) if len(start) > 1 else 0.0
    last = [max(start[-1] + step, start[-1] + 1e-6, end if len(start) == 1 else -np.inf)] if len(start) else [end]

    return np.r_[start, last] - view.origin


def activity(view: View) -> list[Drawing]:
    """Draws a raster, the units' rates by region, and their rates over time."""
    groups, hz = np.array(view.groups, np.str_), np.nan_to_num(view.quality.units["rate_hz"])
    names = [*dict.fromkeys(sorted(view.groups))]
    by_group = {f"{_named(name)} ({np.sum(groups == name):,})": hz[groups == name] for name in names[:MOST_GROUPS]}
    rates = plots.rates(by_group)
    if len(names) > MOST_GROUPS:
        rates = Drawing(rates.svg, f"{rates.caption} {len(names) - MOST_GROUPS} more regions are not shown.")
    drawings = [_raster(view), rates]
    if len(view.quality.presence_hz):
        order = np.lexsort((-hz, groups))
        blocks, shown = view.quality.presence_hz[:, order], [_named(name) for name in groups[order]]
        drawings.append(plots_recording.presence(_edges(view), blocks, shown))

    return drawings


def _named(group: str) -> str:
    name = " ".join(group.split())

    return (name if len(name) <= 24 else f"{name[:23]}…") or "region not named"


def _raster(view: View) -> Drawing:
    spikes, (start, end) = view.session.spikes, view.window
    a, b = np.searchsorted(spikes.timestamps, [start, end], side="left")
    times, unit = np.asarray(spikes.timestamps[a:b]) - view.origin, np.asarray(spikes.unit_index[a:b])
    pieces = view.shift(view.session.observed & Intervals([start], [end]))
    observed = list(zip(pieces.start.tolist(), pieces.end.tolist(), strict=True))

    return plots.raster(times, unit, view.session.num_units, (start - view.origin, end - view.origin), observed)


def isi_counts(session: Session, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns how many inter-spike intervals last how long, all units summed; none spans unobserved time.

    Arguments:
        session: The recording.
        edges: K + 1 ascending seconds between which to count.
    """
    counts = np.zeros(len(edges) - 1, np.int64)
    spikes = spikes_by_unit(session.spikes.timestamps, session.spikes.unit_index, session.num_units)
    for own, pieces in zip(spikes, unit_pieces(session), strict=True):
        piece = np.searchsorted(pieces.start, own, side="right")
        counts += np.histogram(np.diff(own)[piece[1:] == piece[:-1]], edges)[0]

    return counts


def intervals(view: View) -> Section | None:
    """Returns the section of inter-spike intervals, or in it why there are none."""
    units = view.quality.units
    if view.session.num_units == 0:
        return None
    section = Section(title="Inter-spike intervals", anchor="isi")
    if np.isfinite(units["isi_under_2ms"]).any():
        rate, few = np.nan_to_num(units["rate_hz"]), units["num_spikes"] < FEW_SPIKES
        counts = isi_counts(view.session, ISI_EDGES)
        section.drawings.append(plots_recording.isi(counts, ISI_EDGES, rate, units["isi_under_2ms"], few))
    else:
        section.text.append("They mean nothing here: spike times are too coarse, or no unit has two spikes.")

    return section


def close_look(view: View) -> Section | None:
    """Returns the section of covariates in the seconds of the raster; parts of one that is shown whole are left out."""
    covariates = [view.session.covariates[name] for name in sorted(view.session.covariates)]
    paths = {c.path for c in covariates}
    whole = [c for c in covariates if c.path.rpartition("/")[0] not in paths]
    if not whole:
        return None
    window = (view.window[0] - view.origin, view.window[1] - view.origin)
    caption = f"Covariates in the same {SECONDS:g} s as the raster. Lines break where samples or values are missing."
    caption += " Parts of a covariate that is shown whole are left out." if len(whole) < len(covariates) else ""
    more = len(whole) - MOST_COVARIATES
    caption += f" {_many(more, 'covariate')} more are in the table above." if more > 0 else ""
    shown = [_trace(view, covariate) for covariate in whole[:MOST_COVARIATES]]
    drawing = plots_recording.traces(shown, window, view.unseen & view.close, caption)

    return Section(title="Covariates", anchor="covariates", drawings=[drawing])


def _trace(view: View, c: Covariate) -> Trace:
    a, b = np.searchsorted(c.timestamps, view.window)
    time, values = np.asarray(c.timestamps[a:b]) - view.origin, np.asarray(c.values[a:b])

    return Trace(
        name=c.name, unit=c.unit, dims=c.dims, time=time, values=values, interval=c.interval, angular=c.angular
    )  # fmt: skip


def trials(view: View) -> Section | None:
    """Returns the section of how long rows of tables last, and how many have which label."""
    tables = {name: rows for name, rows in view.session.intervals.items() if len(rows)}
    names = sorted(tables, key=lambda name: (name != "trials", -len(tables[name]), name))
    lasting = [
        name for name in names if len(tables[name]) >= FEW_ROWS and np.any(tables[name].end > tables[name].start)
    ]
    section = Section(title="Trials and events", anchor="trials")
    if lasting:
        seconds = {name: tables[name].end - tables[name].start for name in lasting[:MOST_DURATIONS]}
        section.drawings.append(plots_recording.durations(seconds))
    counts = label_counts({name: tables[name] for name in names if len(tables[name]) >= FEW_ROWS})
    if counts:
        more = len(counts) - MOST_LABELS
        caption = f"Columns of 2 to {MOST_CLASSES} values{f'; {more} more have as few' if more > 0 else ''}."
        section.drawings.append(plots_recording.labels(dict(list(counts.items())[:MOST_LABELS]), caption))

    return section if section.drawings else None


def label_counts(tables: dict[str, Intervals]) -> dict[str, dict[str, int]]:
    """Returns how many rows have each value, for each column of 2 to 20 values, by ``table/column``."""
    found: dict[str, dict[str, int]] = {}
    for name, rows in tables.items():
        for column, values in sorted(rows.columns.items()):
            if values.ndim > 1:
                continue
            distinct, counts = np.unique(values.astype(str) if values.dtype.kind == "O" else values, return_counts=True)
            if 2 <= len(distinct) <= MOST_CLASSES:
                of_value: dict[str, int] = {}
                for value, count in zip(distinct.tolist(), counts.tolist(), strict=True):
                    of_value[_word(value)] = of_value.get(_word(value), 0) + count
                found[f"{name}/{column}"] = of_value

    return found


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "missing" if np.isnan(value) else f"{value:g}"

    return str(value) or "(empty)"

"""Figures of a recording's page: prepares arrays of a session for `ndt.reports.plots_recording`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.data.inspection.presence import firing, sampled, spikes_by_unit, unit_segments
from ndt.data.inspection.quality import Quality
from ndt.intervals import Intervals
from ndt.reports import plots, plots_recording
from ndt.reports.page import Drawing, many, percent
from ndt.reports.plots_recording_timeline import Lane, timeline
from ndt.session import Covariate, Session

__all__ = ["View", "activity", "close_look", "intervals", "isi_counts", "time_line", "view_of"]

SECONDS = 20.0  # of the raster and of traces of covariates
FAR = 1e5  # seconds: if the clock starts later, axes have their zero at the start of the recording
MOST_COVARIATES, MOST_TABLES, MOST_GROUPS = 8, 6, 16
ISI_EDGES = np.linspace(0.0, 0.02, 41)
FEW_SPIKES = 100
RATE_BLOCKS = 240


@dataclass(frozen=True, kw_only=True)
class View:
    """A recording, and the axis of time and the grouping of units that all figures share.

    Arguments:
        session: Recording.
        quality: Its quality.
        entry: Its summary.
        origin: Second of the file's clock at which axes have their zero.
        window: Seconds of the raster and of traces of covariates, on the file's clock.
        groups: Region of each unit, or its probe if all regions are the same.
    """

    session: Session
    quality: Quality
    entry: dict[str, Any]
    origin: float
    window: tuple[float, float]
    groups: Sequence[str]

    def shift(self, times: Intervals) -> Intervals:
        """Returns times on the axes' clock."""
        return Intervals(times.start - self.origin, times.end - self.origin)

    @property
    def close(self) -> Intervals:
        """Time of the raster and of traces, on the axes' clock."""
        return self.shift(Intervals([self.window[0]], [self.window[1]]))

    @property
    def unseen(self) -> Intervals:
        """Time in which no unit was observed, also long before and after the recording, on the axes' clock."""
        observed = self.session.observed.coalesce()
        if len(observed) == 0:
            return Intervals.empty()
        beyond = 10 * (observed.end[-1] - observed.start[0]) + 1e3

        return self.shift(Intervals([observed.start[0] - beyond], [observed.end[-1] + beyond]) - observed)


def view_of(session: Session, quality: Quality, entry: dict[str, Any]) -> View:
    """Returns the view of a recording."""
    start = float(session.observed.start.min()) if len(session.observed) else 0.0
    origin = float(np.floor(start)) if abs(start) > FAR else 0.0
    columns = session.units.columns
    named = [name for name in ("location", "group") if name in columns and len(set(map(str, columns[name]))) > 1]
    groups = list(map(str, columns.get(named[0] if named else "location", np.full(session.num_units, ""))))

    return View(session=session, quality=quality, entry=entry, origin=origin, window=_window(session), groups=groups)


def _window(session: Session) -> tuple[float, float]:
    """Returns the middle of the longest segment with spikes and covariates, or several segments if all are short."""
    labelled = Intervals.empty()
    for covariate in session.covariates.values():
        labelled = labelled | sampled(covariate)
    both = session.observed & labelled
    segments = both if len(both) else session.observed.coalesce()
    if len(segments) == 0:
        return 0.0, SECONDS
    length = segments.end - segments.start
    longest = int(np.argmax(length))
    if length[longest] >= SECONDS:
        start = float(segments.start[longest] + (length[longest] - SECONDS) / 2)
    else:
        last = max(float(segments.end[-1]) - SECONDS, float(segments.start[0]))
        start = min(float(segments.start[len(segments) // 2]), last)

    return start, start + SECONDS


def time_line(view: View) -> Drawing:
    """Draws rates, observed time, tables, splits and covariates on one axis of time."""
    session, split, silences = view.session, view.entry["split"], view.quality.silences
    own = "" if session.units.observed is None else ", not all units throughout"
    lanes = [_lane(view, "observed", session.observed, "observed", f"{session.observed.duration:,.0f} s{own}")]
    if len(silences):
        note = f"{many(len(silences), 'segment')}, {silences.duration:,.0f} s"
        lanes.append(_lane(view, "no spike", silences, "silent", note))
    names = [name for name, rows in session.intervals.items() if len(rows) and name != "split"]
    names.sort(key=lambda name: (name != "trials", name))
    for name in names[:MOST_TABLES]:
        rows = session.intervals[name]
        lanes.append(_lane(view, name, rows, "rows", many(len(rows), "row"), stagger=len(rows) > 1))
    for key, name in (("train", "train"), ("valid", "validation"), ("test", "test")):
        if key in split:
            times = Intervals(*np.reshape(split[key]["intervals"], (-1, 2)).T)
            lanes.append(_lane(view, name, times, key, f"{split[key]['seconds']:,.0f} s"))
    covariates = _covariates(view)
    lanes += [*covariates[:MOST_COVARIATES], Lane(name="raster and traces", bars=view.close, kind="shown")]

    rest = {"table": len(names) - MOST_TABLES, "lane of covariates": len(covariates) - MOST_COVARIATES}
    more = " and ".join(many(number, f"more {what}") for what, number in rest.items() if number > 0)
    caption = f"Not shown: {more}." if more else ""

    return timeline(lanes, _extent(view, lanes), view.unseen, _rate(view), caption)


def _lane(view: View, name: str, times: Intervals, kind: str, note: str, **more: Any) -> Lane:
    return Lane(name=name, bars=view.shift(times), kind=kind, note=note, **more)


def _rate(view: View) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns edges of blocks on the axes' clock, and the mean rate of the units observed in each, NaN if none was."""
    session, observed = view.session, view.session.observed
    if len(observed) == 0:
        return np.zeros(1), np.zeros(0)
    edges = np.linspace(observed.start.min(), observed.end.max(), RATE_BLOCKS + 1)
    spikes = spikes_by_unit(session.spikes.timestamps, session.spikes.unit_index, session.num_units)
    counts, seconds = (values.sum(1) for values in firing(spikes, unit_segments(session), edges))

    return edges - view.origin, np.where(seconds > 0, counts / np.where(seconds > 0, seconds, 1.0), np.nan)


def _covariates(view: View) -> list[Lane]:
    """Returns lanes of sampled time, pale where values are missing; covariates with the same samples share a lane."""
    lanes_of: dict[tuple[bytes, ...], tuple[list[str], Intervals, Intervals]] = {}
    for name, covariate in sorted(view.session.covariates.items()):
        spans = sampled(covariate)
        missing = sampled(covariate, np.asarray(~np.isfinite(covariate.values).all(axis=1)))
        key = tuple(x.tobytes() for x in (spans.start, spans.end, missing.start, missing.end))
        lanes_of.setdefault(key, ([], spans, missing))[0].append(name)
    entries = {c["name"]: c for c in view.entry["covariates"]}
    lanes = []
    for names, spans, missing in lanes_of.values():
        entry = entries[names[0]]
        note = f"{percent(entry['coverage'])} covered"
        note += f", {percent(entry['missing'])} missing" if entry["missing"] else ""
        name = ", ".join(names) if len(names) < 3 else f"{len(names)} covariates"
        lanes.append(_lane(view, name, spans, "covariate", note, pale=view.shift(missing)))

    return lanes


def _extent(view: View, lanes: Sequence[Lane]) -> tuple[float, float]:
    """Returns the extent of the time line: all bars, but at most a quarter of observed time before and after it."""
    observed = view.shift(view.session.observed)
    if len(observed) == 0:
        return 0.0, 1.0
    low, high = float(observed.start.min()), float(observed.end.max())
    spare = (high - low) / 4
    points = np.concatenate([x for lane in lanes if lane.kind != "shown" for x in (lane.bars.start, lane.bars.end)])

    return max(low - spare, min(low, float(points.min()))), min(high + spare, max(high, float(points.max())))


def activity(view: View) -> list[Drawing]:
    """Draws a raster, the units' rates by region, and their rates over time."""
    groups, hz = np.array(view.groups, np.str_), np.nan_to_num(view.quality.units["rate_hz"])
    names = sorted(set(view.groups))
    by_group = {f"{_named(name)} ({np.sum(groups == name):,})": hz[groups == name] for name in names[:MOST_GROUPS]}
    rates = plots.rates(by_group)
    if len(names) > MOST_GROUPS:
        rates = Drawing(rates.svg, f"{rates.caption} {len(names) - MOST_GROUPS} more regions are not shown.")
    drawings = [plots.raster(view.session, view.window, view.origin), rates]
    if len(view.quality.presence_hz):
        order = np.lexsort((-hz, groups))
        blocks, shown = view.quality.presence_hz[:, order], [_named(name) for name in groups[order]]
        drawings.append(plots_recording.presence(view.quality.presence_edges - view.origin, blocks, shown))

    return drawings


def _named(group: str) -> str:
    return plots_recording.shorten(group, 24) or "region not named"


def isi_counts(session: Session, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns a histogram, shape (K,), of all units' inter-spike intervals within segments of observed time.

    Arguments:
        session: Recording.
        edges: Ascending edges in seconds, shape (K + 1,).
    """
    counts = np.zeros(len(edges) - 1, np.int64)
    spikes = spikes_by_unit(session.spikes.timestamps, session.spikes.unit_index, session.num_units)
    for own, segments in zip(spikes, unit_segments(session), strict=True):
        segment = np.searchsorted(segments.start, own, side="right")
        counts += np.histogram(np.diff(own)[segment[1:] == segment[:-1]], edges)[0]

    return counts


def intervals(view: View) -> list[Drawing]:
    """Draws inter-spike intervals; returns none if spike times are too coarse, or no unit has two spikes."""
    units = view.quality.units
    if not np.isfinite(units["isi_under_2ms"]).any():
        return []
    rate, few = np.nan_to_num(units["rate_hz"]), units["num_spikes"] < FEW_SPIKES
    counts = isi_counts(view.session, ISI_EDGES)

    return [plots_recording.isi(counts, ISI_EDGES, rate, units["isi_under_2ms"], few)]


def close_look(view: View) -> list[Drawing]:
    """Draws covariates in the seconds of the raster, without the parts of a covariate that is drawn whole."""
    covariates = [view.session.covariates[name] for name in sorted(view.session.covariates)]
    paths = {c.path for c in covariates}
    whole = [c for c in covariates if c.path.rpartition("/")[0] not in paths]
    if not whole:
        return []
    caption = f"Covariates in the same {SECONDS:g} s as the raster. Lines break where samples or values are missing."
    caption += " Parts of a covariate that is drawn whole are left out." if len(whole) < len(covariates) else ""
    more = len(whole) - MOST_COVARIATES
    caption += f" {many(more, 'more covariate')} in the table above." if more > 0 else ""
    shown = [_within(view, covariate) for covariate in whole[:MOST_COVARIATES]]
    window = float(view.close.start[0]), float(view.close.end[0])

    return [plots_recording.traces(shown, window, view.unseen & view.close, caption)]


def _within(view: View, c: Covariate) -> Covariate:
    rows = slice(*np.searchsorted(c.timestamps, view.window))

    return replace(c, timestamps=np.asarray(c.timestamps[rows]) - view.origin, values=np.asarray(c.values[rows]))

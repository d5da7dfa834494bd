"""Quality of a recording: measures of its units and of observed time, and findings."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.data.inspection.findings import Finding, find
from ndt.data.inspection.presence import (
    SLIVER,
    block_edges,
    borders,
    firing,
    seconds_before,
    spikes_by_unit,
    unit_segments,
)  # fmt: skip
from ndt.data.inspection.synchrony import Pair, groups, measure_synchrony, time_grid
from ndt.intervals import Intervals
from ndt.session import Session

__all__ = ["Quality", "assess", "unit_measures"]

SHORT = 0.002  # seconds
COARSE = 0.001 + SLIVER  # seconds: on a coarser grid of times, intervals under 2 ms are lost
SILENCE = 1.0  # seconds
FALSE_ALARMS = 1e-6  # expected number of silences by chance in a recording
QUIET = 10  # percentile of blocks

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Quality of a recording of N units in M blocks of time.

    Arguments:
        units: Columns of `unit_measures`, and `duplicate_group`: the number of the group of units connected by
            duplicates or cross-talk, -1 for other units. Each of shape (N,).
        presence_edges: Edges of the blocks in seconds, shape (M + 1,); see `block_edges`.
        presence_hz: Rate of each unit in each block, shape (M, N); NaN if the unit was not observed there.
        pairs: Duplicates and cross-talk.
        gaps: Gaps between segments of observed time.
        silences: Observed time without a spike of any unit, longer than chance explains.
        findings: Findings, errors first.
    """

    units: dict[str, NDArray[Any]]
    presence_edges: Array
    presence_hz: Array
    pairs: tuple[Pair, ...]
    gaps: Intervals
    silences: Intervals
    findings: tuple[Finding, ...]


def unit_measures(session: Session) -> dict[str, NDArray[Any]]:
    """Returns measures of N units, each of shape (N,).

    Returns:
        ``num_spikes``; ``observed_seconds``; ``rate_hz``, spikes per observed second; ``isi_under_2ms``, the share
        of inter-spike intervals shorter than 2 ms, among those within one segment of the unit's observed time, NaN if
        spike times are coarser than 1 ms; ``presence``, the share of blocks with a spike, among those in which the
        unit was observed. Ratios are NaN if their denominator is 0.
    """
    return _measure(session)[0]


def assess(session: Session) -> Quality:
    """Returns the quality of a session; takes about two seconds for 5 million spikes."""
    units, edges, seconds, hz = _measure(session)
    observed = session.observed.coalesce()
    gaps = Intervals(observed.end[:-1], observed.start[1:])
    silences = _silences(session, edges, units["rate_hz"])
    together = measure_synchrony(session)
    even = _ratio(-np.expm1(-np.nan_to_num(units["rate_hz"]) * seconds).sum(axis=0), np.sum(seconds > 0, axis=0))

    return Quality(
        units=units | {"duplicate_group": groups(together.pairs, session.num_units)},
        presence_edges=edges,
        presence_hz=hz,
        pairs=together.pairs,
        gaps=gaps,
        silences=silences,
        findings=tuple(find(session, units | {"even_presence": even}, gaps, silences, together)),
    )


def _measure(session: Session) -> tuple[dict[str, NDArray[Any]], Array, Array, Array]:
    """Returns measures of units, edges of M blocks, and observed seconds and rate of each unit in each, (M, N)."""
    N, edges, segments = session.num_units, block_edges(session.observed), unit_segments(session)
    spikes = spikes_by_unit(session.spikes.timestamps, session.spikes.unit_index, N)
    counts, seconds = firing(spikes, segments, edges)
    num_spikes = np.array([len(s) for s in spikes], np.int64)
    observed = np.array([p.duration for p in segments], np.float64)
    exact = session.count_bin == 0 and time_grid(session) <= COARSE
    isi = [_short_intervals(s, p) if exact else np.nan for s, p in zip(spikes, segments, strict=True)]
    units: dict[str, NDArray[Any]] = {
        "num_spikes": num_spikes,
        "observed_seconds": observed,
        "rate_hz": _ratio(num_spikes, observed),
        "isi_under_2ms": np.array(isi, np.float64),
        "presence": _ratio(np.sum((counts > 0) & (seconds > 0), axis=0), np.sum(seconds > 0, axis=0)),
    }

    return units, edges, seconds, _ratio(counts, seconds)


def _ratio(a: NDArray[Any], b: NDArray[Any]) -> Array:
    """Returns a / b, NaN where b is 0."""
    return np.where(b > 0, a / np.where(b > 0, b, 1), np.nan)


def _short_intervals(spikes: Array, segments: Intervals) -> float:
    """Returns the share of inter-spike intervals within one segment that are shorter than 2 ms."""
    isi = np.diff(spikes)
    after = np.searchsorted(spikes, segments.start)  # the first spike of each segment ends no interval
    isi[after[(after > 0) & (after < len(spikes))] - 1] = np.nan
    known = int(np.sum(~np.isnan(isi)))

    return float(np.sum(isi < SHORT - SLIVER)) / known if known else np.nan


def _silences(session: Session, edges: Array, rate_hz: Array) -> Intervals:
    r"""Returns segments of observed time without a spike that are longer than chance explains.

    A Poisson population of rate R, observed for T seconds, has on average :math:`R T e^{-R L}` segments longer than L
    without a spike: one in a million such recordings has one longer than :math:`L = \log(10^6 R T) / R`. Real
    populations become silent together, in sleep and between bursts. R is therefore the rate in the quietest tenth of
    the blocks with a spike, and L at least one second, and two bins of counted spikes. In a segment in which only some
    units were observed, R is the rate of those units.
    """
    times, observed = np.asarray(session.spikes.timestamps), session.observed.coalesce()
    seconds = np.diff(seconds_before(observed, edges))
    rates = np.diff(np.searchsorted(times, edges)) / np.where(seconds > SLIVER, seconds, np.inf)
    if not np.any(rates > 0):
        return Intervals.empty()
    points = np.insert(times, np.searchsorted(times, edges := borders(observed)), edges)
    long = np.flatnonzero(np.diff(points) >= max(SILENCE, 2 * session.count_bin))
    long = long[observed.contains(points[long])]
    start, end = points[long], points[long + 1]

    quiet = float(np.percentile(rates[rates > 0], QUIET)) * observed.duration / len(times)  # relative to the mean rate
    expected = np.zeros(len(start))
    for segments, rate in zip(unit_segments(session), np.nan_to_num(rate_hz), strict=True):
        expected += quiet * rate * (seconds_before(segments, end) - seconds_before(segments, start))
    silent = expected >= np.log(len(times) / FALSE_ALARMS)

    return Intervals(start[silent], end[silent])

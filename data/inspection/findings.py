"""Findings about a recording: graded sentences with numbers.

``error``: no model can be trained on it. ``warning``: a likely fault, or an unexpected property. ``note``: a property.
"""

import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ndt.data.inspection.presence import BRIDGED, sampled, seconds_before
from ndt.data.inspection.synchrony import WINDOW, Pair, Synchrony
from ndt.data.splits import split
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Covariate, Session

__all__ = ["GRADES", "Finding", "find"]

GRADES = ("error", "warning", "note")
FEW_UNITS = 10
SLOWEST_HZ, FASTEST_HZ, LONGEST = 0.02, 1000.0, 86_400.0  # rates in Hz; seconds of observed time
SHORT_ISI, ENOUGH_SPIKES = 0.01, 100
HALF = 0.5
FILLED = 0.9  # expected share of blocks with a spike above which empty blocks are a finding
MISSING, LONG_STEPS = 0.05, 0.01
UNVERIFIED = "content not compared with the archive's SHA-256: the file was read in parts, or has none"
OUTSIDE = 0.01
MANY_TIMES_CHANCE = 3.0
GUARD = 1.0  # seconds: a usual context window
SLACK = 1e-5  # seconds: sums of clock times near 1e9 s have errors of 2e-6 s
NAMED = 3

Array = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]
Grade = Literal["error", "warning", "note"]


class Finding(NamedTuple):
    """A finding.

    Arguments:
        grade: Severity.
        where: Subject: ``units``, ``observed time``, ``covariates``, ``trials`` or ``file``.
        message: One sentence with numbers.
    """

    grade: Grade
    where: str
    message: str


def find(session: Session, units: Columns, gaps: Intervals, silences: Intervals, together: Synchrony) -> list[Finding]:
    """Returns all findings, errors first.

    Arguments:
        session: Recording.
        units: Measures of `ndt.data.inspection.quality.unit_measures`, and ``even_presence``: the expected share of
            blocks with a spike of a Poisson unit of the same rate.
        gaps: Gaps between segments of observed time.
        silences: Silences of the whole population in observed time.
        together: Units that share spikes.
    """
    found = [
        *_population(session, units),
        *_rates(session, units),
        *_unit_findings(session, units),
        *_pairs(session, together),
        *_time(session, gaps, silences),
        *_covariates(session),
        *_trials(session),
        *_reader(session),
    ]

    return sorted(found, key=lambda f: GRADES.index(f.grade))


def _population(session: Session, units: Columns) -> Iterator[Finding]:
    spikes, N = units["num_spikes"], session.num_units
    silent = np.flatnonzero(spikes == 0)
    if len(silent) == N:
        yield Finding("error", "units", f"none of {N} units fires at all: no model can be trained")
    elif len(silent):
        message = f"{len(silent)} of {N} units have no spike ({_names(session, silent)})"
        yield Finding("note", "units", message)
    if 0 < N - len(silent) < FEW_UNITS:
        message = f"{_number(N - len(silent), 'unit')} fire: expect weak decoding and little gain from pretraining"
        yield Finding("note", "units", message)
    if session.observed.duration == 0:
        yield Finding("error", "observed time", "no observed time: no rates and no windows")
    if session.count_bin > 0:
        message = (
            f"spikes were counted in bins of {1000 * session.count_bin:g} ms: model bins must be multiples of that, "
            "and intervals between spikes, duplicates and cross-talk are not assessed"
        )
        yield Finding("note", "units", message)


def _rates(session: Session, units: Columns) -> Iterator[Finding]:
    """Yields findings on implausible rates, which suggest wrong times or wrong observed time."""
    rate, seconds = units["rate_hz"], session.observed.duration
    usual = float(np.median(rate[rate > 0])) if np.any(rate > 0) else np.nan
    if usual < SLOWEST_HZ and seconds > LONGEST:
        message = (
            f"the median unit fires {usual:.2g} times a second over {seconds / 3600:.0f} h: are times in milliseconds "
            "or samples instead of seconds?"
        )
        yield Finding("warning", "units", message)
    fast = np.flatnonzero(rate > FASTEST_HZ)
    if len(fast):
        message = (
            f"{len(fast)} of {session.num_units} units fire more than {FASTEST_HZ:g} times a second, up to "
            f"{rate[fast].max():.4g}: are times in seconds, and is observed time really {seconds:.4g} s?"
        )
        yield Finding("warning", "units", message)


def _unit_findings(session: Session, units: Columns) -> Iterator[Finding]:
    N, spikes, isi, presence = (session.num_units, *(units[k] for k in ("num_spikes", "isi_under_2ms", "presence")))
    short = np.flatnonzero((np.nan_to_num(isi) > SHORT_ISI) & (spikes >= ENOUGH_SPIKES))
    if len(short):
        worst = short[np.argsort(-isi[short], kind="stable")]
        message = (
            f"{len(short)} of {N} units have more than 1 % of their intervals under 2 ms (worst: "
            f"{_names(session, worst, isi)}), which is rare in single neurons: several neurons in one unit, noise, or "
            "times made from counts"
        )
        yield Finding("warning", "units", message)

    even = np.nan_to_num(units["even_presence"])
    rare = np.flatnonzero((np.nan_to_num(presence, nan=1.0) < HALF) & (even > FILLED) & (spikes > 0))
    if len(rare):
        worst = rare[np.argsort(presence[rare], kind="stable")]
        message = (
            f"{len(rare)} of {N} units fire in less than half of the blocks in which they were observed, although "
            f"their rate predicts spikes in all (least: {_names(session, worst, presence)}): lost, drifting, or active "
            "in one state only"
        )
        yield Finding("warning", "units", message)


def _pairs(session: Session, together: Synchrony) -> Iterator[Finding]:
    near = f"within {1000 * WINDOW:g} ms"
    reasons = {
        "duplicate": "a unit twice makes co-smoothing and masked prediction trivial; drop or group them",
        "cross-talk": "spikes of one unit in the other leak masked counts; group them",
    }
    for kind, reason in reasons.items():
        what = kind + "s" * (kind == "duplicate")
        pairs = sorted((p for p in together.pairs if p.kind == kind), key=lambda p: -p.shared)
        named = ", ".join(_pair(session, p) for p in pairs[:NAMED])
        message = f"{_number(len(pairs), 'pair')} of units share spikes {near} like {what} (worst: {named}): {reason}"
        if pairs:
            yield Finding("warning", "units", message)
    if together.typical > MANY_TIMES_CHANCE:
        message = (
            f"the typical pair of units shares {together.typical:.1f} times as many spikes {near} as chance gives: "
            "artefacts on all channels, or synchronous volleys of the population; pairs are judged relative to that"
        )
        yield Finding("warning", "units", message)
    if together.unassessed and session.count_bin == 0:
        yield Finding("note", "units", f"{together.unassessed}: duplicates and cross-talk are not assessed")


def _time(session: Session, gaps: Intervals, silences: Intervals) -> Iterator[Finding]:
    if len(gaps):
        span = session.observed.coalesce()
        length = float(span.end[-1] - span.start[0])
        message = (
            f"{_number(len(gaps), 'gap')} of {gaps.duration:.1f} s in all, {_percent(gaps.duration / length)} of the "
            f"{length:.1f} s from first to last observed time; windows do not cross gaps"
        )
        yield Finding("note", "observed time", message)
    if len(silences):
        lengths = silences.end - silences.start
        k = int(np.argmax(lengths))
        more = f", the longest of {len(silences)} such segments of {silences.duration:.1f} s in all"
        message = (
            f"{lengths[k]:.1f} s without a spike of {_number(session.num_units, 'unit')} at {silences.start[k]:.1f} s"
            f"{more if len(silences) > 1 else ''}: probably not recorded; correct obs_intervals, or set cut_silence"
        )
        yield Finding("warning", "observed time", message)
    if session.observed.duration > 0:
        try:
            split(session, GUARD)
        except InputError as error:
            message = f"too short to be split into training, validation and test: {error.found}"
            yield Finding("note", "observed time", message)


def _covariates(session: Session) -> Iterator[Finding]:
    """Yields findings about covariates; covariates with the same finding share it."""
    if not session.covariates:
        yield Finding("note", "covariates", "no covariates: decoding is not possible")
    names: dict[tuple[Grade, str], list[str]] = {}
    for name in sorted(session.covariates):
        for grade, message in _of_covariate(session.covariates[name], session.observed.coalesce()):
            names.setdefault((grade, message), []).append(name)
    for (grade, message), of in names.items():
        named = ", ".join(of[:NAMED]) + (f" and {len(of) - NAMED} more" if len(of) > NAMED else "")
        yield Finding(grade, "covariates", f"{named}: {message}")


def _of_covariate(covariate: Covariate, observed: Intervals) -> Iterator[tuple[Grade, str]]:
    times = np.asarray(covariate.timestamps, np.float64)
    steps, usual = np.diff(times), float(np.nan_to_num(covariate.interval))
    if len(times) and observed.duration > 0:
        if (share := (sampled(covariate) & observed).duration / observed.duration) < HALF:
            yield "warning", f"{_percent(share)} of observed time is covered by samples"

    segment = np.searchsorted(observed.start, times, side="right")
    seen = observed.contains(times)
    within = steps[(segment[1:] == segment[:-1]) & seen[1:] & seen[:-1]]
    if len(steps) and usual == 0:
        yield "warning", "more than half of the timestamps repeat the previous one: a broken clock"
    elif len(within) and (long := int(np.sum(within > BRIDGED * usual))):
        grade: Grade = "warning" if long / len(within) > LONG_STEPS else "note"
        yield (
            grade,
            f"{_number(long, 'interval')} between timestamps ({_percent(long / len(within))}) last more than 1.5 times "
            f"the usual {usual:.4g} s, up to {within.max():.4g} s; samples were dropped, or the clock is irregular",
        )
    yield from _values(covariate, seen)


def _values(covariate: Covariate, seen: NDArray[np.bool_]) -> Iterator[tuple[Grade, str]]:
    values = np.asarray(covariate.values)[seen]  # (M, C)
    finite = np.isfinite(values)
    if len(values) and (missing := float(1 - finite.all(axis=1).mean())) > MISSING:
        yield "warning", f"{_percent(missing)} of samples in observed time lack a value; they are masked, not filled"
    low = np.where(finite, values, np.inf).min(axis=0, initial=np.inf)
    high = np.where(finite, values, -np.inf).max(axis=0, initial=-np.inf)
    constant = np.flatnonzero(low == high)
    if len(constant) == values.shape[1] and len(constant):
        yield "warning", "constant in observed time"
    elif len(constant):
        dims = ", ".join(covariate.dims[c] for c in constant)
        yield "note", f"{len(constant)} of {values.shape[1]} dimensions ({dims}) constant in observed time"


def _trials(session: Session) -> Iterator[Finding]:
    trials = session.intervals.get("trials", Intervals.empty())
    if not len(trials):
        yield Finding("note", "trials", "no table of trials")
        return
    order = np.argsort(trials.start, kind="stable")
    start, end = trials.start[order], np.maximum.accumulate(trials.end[order])
    if overlaps := int(np.sum(start[1:] < end[:-1] - SLACK)):
        message = f"{overlaps} of {len(trials)} trials begin before an earlier one has ended; they are kept"
        yield Finding("note", "trials", message)

    length, observed = trials.end - trials.start, session.observed.coalesce()
    seen = seconds_before(observed, trials.end) - seconds_before(observed, trials.start)
    partly = seen < length - SLACK
    if partly.any():
        wholly = int(np.sum(partly & (seen < SLACK)))
        message = (
            f"{partly.sum()} of {len(trials)} trials lie outside observed time in part, {wholly} wholly; unobserved "
            "time is not used"
        )
        yield Finding("note", "trials", message)


def _reader(session: Session) -> Iterator[Finding]:
    """Yields the reader's warnings, its sentences about dropped data, and that content was not verified."""
    if not session.source.get("verified", True):
        yield Finding("note", "file", UNVERIFIED)
    for sentence in session.warnings:
        yield Finding("warning", "file", sentence)
    for sentence in session.dropped:
        lost = re.search(r"(\d+) of (\d+) spikes lie outside observed time", sentence)
        many = lost is not None and int(lost[1]) > OUTSIDE * int(lost[2])
        yield Finding("warning" if many else "note", "file", sentence)


def _names(session: Session, rows: NDArray[np.integer], share: Array | None = None) -> str:
    """Returns the identities of the first units, with a share of each."""
    shares = ["" if share is None else f" {_percent(float(share[n]))}" for n in rows[:NAMED]]
    named = [f"{session.units.id[n]}{text}" for n, text in zip(rows, shares, strict=False)]

    return ", ".join(named) + (", …" if len(rows) > NAMED else "")


def _pair(session: Session, pair: Pair) -> str:
    a, b = session.units.id[[pair.first, pair.second]]
    return f"{a} and {b} {_percent(pair.shared)}, by chance {_percent(pair.expected)}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"

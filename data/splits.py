"""Train, validation and test splits of a session.

Splits are contiguous in time and the same in pretraining, fine-tuning and evaluation: no training, selection or
normalisation sees the test split. Only guards depend on the model's window; they are cut from the split before, so that
the test split is the same for all models.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ndt.data.covariates import Column, known_columns, matching_columns
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Session

__all__ = ["BLOCKS", "Split", "assign_splits", "split"]

FRACTIONS = (0.7, 0.1, 0.2)
CUT = 10  # smallest number of segments for splits of whole segments
SHORTEST = 1.0  # seconds; shortest split
BLOCKS = "split"  # name of the table of intervals with the assigned split of each row, in its column `block`
NAMES = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}
VALID_SHARE = 1 / 8  # of training time, if a recording's own splits lack validation


@dataclass(frozen=True)
class Split:
    """Intervals of the three splits, in seconds; observed time between them is guard.

    A session that is only trained on may have no validation and test time (`assign_splits`, rule ``all``).
    """

    train: Intervals
    valid: Intervals
    test: Intervals

    @property
    def blocks(self) -> tuple[Intervals, Intervals, Intervals]:
        """Train, validation and test, in this order."""
        return self.train, self.valid, self.test


def _labelled(session: Session) -> Intervals:
    """Returns observed time that a covariate covers; all observed time if there is no covariate."""
    spans = Intervals.empty()
    for c in session.covariates.values():
        if len(c.timestamps) == 0:
            continue
        half = np.nan_to_num(c.interval) / 2
        spans = spans | Intervals([c.timestamps[0] - half], [c.timestamps[-1] + half])

    return session.observed & spans if len(spans) else session.observed.coalesce()


def _time_at(segments: Intervals, seconds: float) -> float:
    """Returns the time at which `seconds` of the segments have passed."""
    run = np.r_[0.0, np.cumsum(segments.end - segments.start)]
    i = int(np.clip(np.searchsorted(run, seconds, side="right") - 1, 0, len(segments) - 1))

    return float(min(segments.start[i] + seconds - run[i], segments.end[i]))


def _segment_start(segments: Intervals, time: float) -> float:
    """Returns the start of the segment that contains `time`, or of the last one before."""
    return float(segments.start[max(int(np.searchsorted(segments.start, time, side="right")) - 1, 0)])


def _between_segments(segments: Intervals, shortest: float) -> bool:
    """Whether splits, the shortest of this many seconds, hold whole segments: in a recording of many segments (trials).

    One segment longer than half the shortest split may be cut.
    """
    return len(segments) >= CUT and float(np.max(segments.end - segments.start)) <= shortest / 2


def split(session: Session, guard: float, fractions: Sequence[float] = FRACTIONS) -> Split:
    """Splits the labelled time of a session: first train, then validation, then test.

    Assigned splits (`assign_splits`) are kept.

    Observed time without labels before the validation split or after the test split belongs to the train split. A
    recording of many segments is split between segments, and its guards are whole segments, since the gaps of a file
    may be artificial.

    Arguments:
        session: The session.
        guard: Smallest observed time between splits, in seconds: the context window of the model.
        fractions: Fractions of labelled time for train, validation and test.

    Raises:
        InputError: if a split would be shorter than a second.
    """
    if BLOCKS in session.intervals:
        if set(session.intervals[BLOCKS].columns["block"].tolist()) == {"train"}:
            return Split(session.observed.coalesce(), Intervals.empty(), Intervals.empty())
        return _long_enough(session, _assigned(session, guard), guard)
    segments = _labelled(session)
    total = segments.duration
    where = session.source.get("path", session.session_id)
    if not total:
        raise InputError(where, "observed time", "some that a covariate covers", "none")
    longest = float(np.max(segments.end - segments.start))
    cut = _between_segments(segments, min(fractions) / sum(fractions) * total)
    snap = (lambda t: _segment_start(segments, t)) if cut else (lambda t: t)
    guard = min(guard, longest) if cut else guard

    def boundary(share: float) -> tuple[float, float]:
        """Returns the start of a split, and the start of its guard."""
        begin = snap(_time_at(segments, share * total))
        run = (segments & Intervals([segments.start[0]], [begin])).duration

        return begin, snap(_time_at(segments, max(run - guard, 0.0)))

    valid_start, train_end = boundary(fractions[0] / sum(fractions))
    test_start, valid_end = boundary((fractions[0] + fractions[1]) / sum(fractions))
    observed = session.observed.coalesce()
    before = observed & Intervals([min(observed.start[0], train_end)], [train_end])
    after_start = segments.end[-1] + guard
    after = observed & Intervals([after_start], [max(observed.end[-1], after_start)])
    result = Split(
        before | after,
        segments & Intervals([valid_start], [max(valid_end, valid_start)]),
        segments & Intervals([test_start], [segments.end[-1]]),
    )
    return _long_enough(session, result, guard)


def _long_enough(session: Session, result: Split, guard: float) -> Split:
    if min(b.duration for b in result.blocks) >= SHORTEST:
        return result
    found = " / ".join(f"{b.duration:.1f}" for b in result.blocks)

    raise InputError(
        session.source.get("path", session.session_id),
        "observed time",
        f"train, validation and test splits of at least {SHORTEST:g} s with guards of {guard:g} s",
        f"splits of {found} s out of {session.observed.duration:.1f} s",
    )


def assign_splits(session: Session, rule: str) -> Session:
    """Returns a session with a table of its splits, which `split` then uses.

    Arguments:
        session: The session.
        rule: ``TABLE/COLUMN``: a column of a table of intervals names the split of each row (train, val or valid, test;
            rows with other names belong to none). Without test rows, the validation rows are the test split, and the
            last eighth of training rows is the validation split. ``first:SECONDS``: this much observed time before the
            test split, its last eighth for validation. ``fold:K/N``: the K-th of N equal parts of labelled time, from
            1, is the test split, and an eighth of the rest before it (for the first part: at the end) the validation
            split; over all N folds each moment is tested once. Folds of a recording of many segments (trials) hold
            whole segments, and each is tested once. ``all``: all time is training time, for a recording that is only
            trained on.

    Raises:
        InputError: if the rule has another form, or leaves a split empty.
    """
    if rule == "all":
        return replace(session, intervals={**session.intervals, BLOCKS: _all(session)})
    if (first := re.fullmatch(r"first:(\d+(?:\.\d*)?)", rule)) is not None:
        table = _first(session, float(first[1]))
    elif (fold := re.fullmatch(r"fold:(\d+)/(\d+)", rule)) is not None and 1 <= int(fold[1]) <= int(fold[2]) > 1:
        table = _fold(session, int(fold[1]), int(fold[2]))
    else:
        table = _of_column(_column(session, rule))
    kinds = set(table.columns["block"].tolist())
    if kinds != {"train", "valid", "test"}:
        where = session.source.get("path", session.session_id)
        found = ", ".join(sorted(kinds)) or "none"
        raise InputError(where, "split", f"training and test time by {rule!r}", f"splits: {found}")

    return replace(session, intervals={**session.intervals, BLOCKS: table})


def _all(session: Session) -> Intervals:
    segments = session.observed.coalesce()

    return _blocks(segments, (0.0, segments.duration), ("train",))


def _first(session: Session, seconds: float) -> Intervals:
    segments = session.observed.coalesce()
    marks = (0.0, (1 - VALID_SHARE) * seconds, seconds, segments.duration)

    return _blocks(segments, marks, ("train", "valid", "test"))


def _fold(session: Session, number: int, num_folds: int) -> Intervals:
    segments = _labelled(session)
    total = segments.duration
    begin, end = ((number - i) / num_folds * total for i in (1, 0))
    valid_end = begin or total
    valid_begin = valid_end - VALID_SHARE * (total - (end - begin))
    marks = sorted({0.0, valid_begin, valid_end, begin, end, total})
    names = ("test" if begin <= m < end else "valid" if valid_begin <= m < valid_end else "train" for m in marks[:-1])
    whole = _between_segments(segments, min(valid_end - valid_begin, end - begin))

    return _blocks(segments, marks, tuple(names), whole)


def _blocks(segments: Intervals, marks: Sequence[float], names: Sequence[str], whole: bool = False) -> Intervals:
    """Returns a table of the splits between marks, in seconds of time inside the segments.

    With `whole`, a mark inside a segment is moved to its start, other than the last, which is the end of all segments.
    """
    time = np.array([_time_at(segments, mark) for mark in marks])
    if whole:
        time[:-1] = [_segment_start(segments, t) for t in time[:-1]]
    start, end = time[:-1], time[1:]

    return Intervals(start, end, {"block": np.array(names, np.str_)}).select(end > start)


def _column(session: Session, rule: str) -> Column:
    found = matching_columns(session, rule)
    if len(found) != 1:
        known = ", ".join(sorted(known_columns(session))) or "no column"
        where = session.source.get("path", session.session_id)
        raise InputError(where, "split", f"all, first:SECONDS, fold:K/N, or one of {known}", repr(rule))

    return found[0]


def _of_column(column: Column) -> Intervals:
    table = column.rows
    block = np.array([NAMES.get(str(v).strip().lower(), "") for v in column.values], np.str_)
    if "test" not in block:
        block[block == "valid"] = "test"
    if "valid" not in block:
        rows = np.flatnonzero(block == "train")
        rows = rows[np.argsort(table.start[rows], kind="stable")]
        block[rows[len(rows) - round(VALID_SHARE * len(rows)) :]] = "valid"
    chosen = block != ""

    return Intervals(table.start[chosen], table.end[chosen], {"block": block[chosen]})


def _assigned(session: Session, guard: float) -> Split:
    """Returns the splits of a session's own table, with guards if each split is one interval or two.

    Splits of many alternating rows (trials) have no guard, since their windows end with their rows. Windows also end
    with a segment: in a recording of many segments, the guard is the one segment beside a split.
    """
    table = session.intervals[BLOCKS]
    of = {name: table.select(table.columns["block"] == name).coalesce() for name in ("train", "valid", "test")}
    if all(len(rows) <= 2 for rows in of.values()):
        segments = session.observed.coalesce()
        whole = _between_segments(segments, min((rows & segments).duration for rows in of.values()))
        around = {name: _around(of[name], guard, segments if whole else None) for name in ("valid", "test")}
        of["train"] = of["train"] - around["valid"] - around["test"]
        of["valid"] = of["valid"] - around["test"]
    test = of["test"] & session.observed
    valid = (of["valid"] & session.observed) - test  # rows may overlap

    return Split((of["train"] & session.observed) - test - valid, valid, test)


def _around(rows: Intervals, guard: float, segments: Intervals | None) -> Intervals:
    """Returns rows with a guard on both sides: of these seconds, or to the far end of the segment beside them."""
    if segments is None or guard == 0:
        return Intervals(rows.start - guard, rows.end + guard)
    before = np.searchsorted(segments.start, rows.start) - 1  # the last to start before the row; it may reach into it
    after = np.searchsorted(segments.end, rows.end, side="right")  # the first to end after it
    start = np.where(before >= 0, segments.start[before], rows.start)
    end = np.where(after < len(segments), segments.end[after.clip(max=len(segments) - 1)], rows.end)

    return Intervals(start, end)


def within(starts: NDArray[np.float64], ends: NDArray[np.float64], block: Intervals, slack: float) -> NDArray[np.bool_]:
    """Returns which of the bins ``[starts, ends)`` lie wholly in one interval of `block`, up to `slack` seconds."""
    if len(block) == 0:
        return np.zeros(len(starts), bool)
    row = np.maximum(np.searchsorted(block.start, starts + slack, side="right") - 1, 0)

    return (starts >= block.start[row] - slack) & (ends <= block.end[row] + slack)

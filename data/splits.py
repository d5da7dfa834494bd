"""Train, validation and test splits of a session.

Blocks are contiguous in time and the same for everyone who reads the session, pretraining included: nothing learned,
chosen or normalised sees the validation or test split. Only guards depend on the model's window, and they are cut from
the block before, so that the test split never moves.
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
CUT = 10  # from this many segments on, blocks are made of whole segments
SHORTEST = 1.0  # seconds that a block must have
BLOCKS = "split"  # name of the table of intervals that says which block is where, in its column `block`
NAMES = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}
VALID_SHARE = 1 / 8  # of training time, where a recording's own blocks leave out validation


@dataclass(frozen=True)
class Split:
    """Three sets of time, in seconds; what lies between them is guard."""

    train: Intervals
    valid: Intervals
    test: Intervals

    @property
    def blocks(self) -> tuple[Intervals, Intervals, Intervals]:
        """Train, validation and test, in this order."""
        return self.train, self.valid, self.test


def _labelled(session: Session) -> Intervals:
    """Observed time that some covariate covers; all observed time where there is no covariate."""
    spans = Intervals.empty()
    for c in session.covariates.values():
        if len(c.timestamps) == 0:
            continue
        half = np.nan_to_num(c.interval) / 2
        spans = spans | Intervals([c.timestamps[0] - half], [c.timestamps[-1] + half])

    return session.observed & spans if len(spans) else session.observed.coalesce()


def _time_at(segments: Intervals, seconds: float) -> float:
    """Returns when the clock that runs only within `segments` has run for `seconds`."""
    run = np.r_[0.0, np.cumsum(segments.end - segments.start)]
    i = int(np.clip(np.searchsorted(run, seconds, side="right") - 1, 0, len(segments) - 1))

    return float(min(segments.start[i] + seconds - run[i], segments.end[i]))


def _segment_start(segments: Intervals, time: float) -> float:
    """Returns the start of the segment that holds `time`, or of the last one before."""
    return float(segments.start[max(int(np.searchsorted(segments.start, time, side="right")) - 1, 0)])


def split(session: Session, guard: float, fractions: Sequence[float] = FRACTIONS) -> Split:
    """Splits a session into blocks of labelled time: first train, then validation, then test.

    A session whose blocks were assigned (`assign_splits`) keeps those.

    Observed time without labels belongs to train where it lies before the validation split or after the test split. A
    recording cut into many segments is split between segments, and its guards are whole segments, since the gaps that a file
    shows may be artificial.

    Arguments:
        session: The session.
        guard: Least observed time between blocks, in seconds; the context window of whoever reads.
        fractions: Shares of labelled time for train, validation and test.

    Raises:
        InputError: if a block would be shorter than a second.
    """
    if BLOCKS in session.intervals:
        return _long_enough(session, _assigned(session, guard), guard)
    segments = _labelled(session)
    total = segments.duration
    where = session.source.get("path", session.session_id)
    if not total:
        raise InputError(where, "observed time", "some that a covariate covers, to be split", "none")
    longest = float(np.max(segments.end - segments.start))
    cut = len(segments) >= CUT and longest <= min(fractions) / sum(fractions) * total / 2  # no block inside one segment
    snap = (lambda t: _segment_start(segments, t)) if cut else (lambda t: t)
    guard = min(guard, longest) if cut else guard

    def boundary(share: float) -> tuple[float, float]:
        """Where a block begins, and where its guard does."""
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
        f"blocks of {found} s out of {session.observed.duration:.1f} s",
    )


def assign_splits(session: Session, rule: str) -> Session:
    """Returns a session with a table of its blocks, which `split` then follows.

    Arguments:
        session: The session.
        rule: ``TABLE/COLUMN``: each row of a table of intervals is of the block that its column names (train, val or
            valid, test; rows of other names belong to none). Without test rows the validation rows are the test split;
            validation is then the last eighth of training rows. ``first:SECONDS``: so much observed time before the
            test split, its last eighth for validation. ``fold:K/N``: the K-th of N equal shares of labelled time, from
            1, is the test split, and the eighth of the rest that comes before it (behind the last share: at the end)
            the validation split; with all N, each moment is tested once.

    Raises:
        InputError: if the rule is neither, or leaves no training or no test split.
    """
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
        raise InputError(where, "split", f"training and test time by {rule!r}", f"blocks: {found}")

    return replace(session, intervals={**session.intervals, BLOCKS: table})


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

    return _blocks(segments, marks, tuple(names))


def _blocks(segments: Intervals, marks: Sequence[float], names: Sequence[str]) -> Intervals:
    """Returns a table of the blocks between marks, in seconds of the clock that runs only within `segments`."""
    start, end = (np.array([_time_at(segments, mark) for mark in side]) for side in (marks[:-1], marks[1:]))

    return Intervals(start, end, {"block": np.array(names, np.str_)}).select(end > start)


def _column(session: Session, rule: str) -> Column:
    found = matching_columns(session, rule)
    if len(found) != 1:
        known = ", ".join(sorted(known_columns(session))) or "no column"
        where = session.source.get("path", session.session_id)
        raise InputError(where, "split", f"first:SECONDS, fold:K/N, or one of {known}", repr(rule))

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
    """Returns the blocks of a session's own table, with guards where each is one interval or two.

    Blocks made of many rows that alternate (trials) have no guard: their windows end with their rows.
    """
    table = session.intervals[BLOCKS]
    of = {name: table.select(table.columns["block"] == name).coalesce() for name in ("train", "valid", "test")}
    if all(len(block) <= 2 for block in of.values()):  # blocks of time; trials would be many
        around = {name: Intervals(of[name].start - guard, of[name].end + guard) for name in ("valid", "test")}
        of["train"] = of["train"] - around["valid"] - around["test"]
        of["valid"] = of["valid"] - around["test"]
    test = of["test"] & session.observed
    valid = (of["valid"] & session.observed) - test  # rows may overlap: nothing of test is seen before

    return Split((of["train"] & session.observed) - test - valid, valid, test)


def within(starts: NDArray[np.float64], ends: NDArray[np.float64], block: Intervals, slack: float) -> NDArray[np.bool_]:
    """Returns which of the bins ``[starts, ends)`` lie wholly in one interval of a block."""
    if len(block) == 0:
        return np.zeros(len(starts), bool)
    row = np.maximum(np.searchsorted(block.start, starts + slack, side="right") - 1, 0)

    return (starts >= block.start[row] - slack) & (ends <= block.end[row] + slack)

"""Train, validation and test blocks of a session.

Blocks are contiguous in time and the same for everyone who reads the session, pretraining included: nothing learned,
chosen or normalised sees the validation or test block. Only guards depend on the model's window, and they are cut from
the block before, so that the test block never moves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Session

__all__ = ["Split", "split"]

FRACTIONS = (0.7, 0.1, 0.2)
CUT = 10  # from this many pieces on, blocks are made of whole pieces
SHORTEST = 1.0  # seconds that a block must have


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
        half = np.nan_to_num(c.interval) / 2
        spans = spans | Intervals([c.timestamps[0] - half], [c.timestamps[-1] + half])

    return session.observed & spans if len(spans) else session.observed.coalesce()


def _time_at(pieces: Intervals, seconds: float) -> float:
    """Returns when the clock that runs only within `pieces` has run for `seconds`."""
    run = np.r_[0.0, np.cumsum(pieces.end - pieces.start)]
    i = int(np.clip(np.searchsorted(run, seconds, side="right") - 1, 0, len(pieces) - 1))

    return float(min(pieces.start[i] + seconds - run[i], pieces.end[i]))


def _piece_start(pieces: Intervals, time: float) -> float:
    """Returns the start of the piece that holds `time`, or of the last one before."""
    return float(pieces.start[max(int(np.searchsorted(pieces.start, time, side="right")) - 1, 0)])


def split(session: Session, guard: float, fractions: Sequence[float] = FRACTIONS) -> Split:
    """Splits a session into blocks of labelled time: first train, then validation, then test.

    Observed time without labels belongs to train where it lies before the validation block or after the test block. A
    recording cut into many pieces is split between pieces, and its guards are whole pieces, since the gaps that a file
    shows may be artificial.

    Arguments:
        session: The session.
        guard: Least observed time between blocks, in seconds; the context window of whoever reads.
        fractions: Shares of labelled time for train, validation and test.

    Raises:
        InputError: if a block would be shorter than a second.
    """
    pieces = _labelled(session)
    total = pieces.duration
    where = session.source.get("path", session.session_id)
    if not total:
        raise InputError(where, "observed time", "some that a covariate covers, to be split", "none")
    longest = float(np.max(pieces.end - pieces.start))
    cut = len(pieces) >= CUT and longest <= min(fractions) / sum(fractions) * total / 2  # no block inside one piece
    snap = (lambda t: _piece_start(pieces, t)) if cut else (lambda t: t)
    guard = min(guard, longest) if cut else guard

    def boundary(share: float) -> tuple[float, float]:
        """Where a block begins, and where its guard does."""
        begin = snap(_time_at(pieces, share * total))
        run = (pieces & Intervals([pieces.start[0]], [begin])).duration

        return begin, snap(_time_at(pieces, max(run - guard, 0.0)))

    valid_start, train_end = boundary(fractions[0] / sum(fractions))
    test_start, valid_end = boundary((fractions[0] + fractions[1]) / sum(fractions))
    observed = session.observed.coalesce()
    before = observed & Intervals([min(observed.start[0], train_end)], [train_end])
    after_start = pieces.end[-1] + guard
    after = observed & Intervals([after_start], [max(observed.end[-1], after_start)])
    result = Split(
        before | after,
        pieces & Intervals([valid_start], [max(valid_end, valid_start)]),
        pieces & Intervals([test_start], [pieces.end[-1]]),
    )
    shortest = min(b.duration for b in result.blocks)
    if shortest < SHORTEST:
        found = " / ".join(f"{b.duration:.1f}" for b in result.blocks)
        raise InputError(
            where,
            "observed time",
            f"train, validation and test blocks of at least {SHORTEST:g} s with guards of {guard:g} s",
            f"blocks of {found} s out of {total:.1f} s",
        )

    return result


def within(starts: NDArray[np.float64], ends: NDArray[np.float64], block: Intervals, slack: float) -> NDArray[np.bool_]:
    """Returns which of the bins ``[starts, ends)`` lie wholly in one interval of a block."""
    if len(block) == 0:
        return np.zeros(len(starts), bool)
    row = np.maximum(np.searchsorted(block.start, starts + slack, side="right") - 1, 0)

    return (starts >= block.start[row] - slack) & (ends <= block.end[row] + slack)

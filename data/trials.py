"""Trials in time: which trial holds a bin, and how long it has lasted. The only place that answers it."""

import numpy as np
from numpy.typing import NDArray

from ndt.intervals import Intervals
from ndt.session import Session

__all__ = ["bins_in_trials", "lasting", "response_trials", "rows_at"]

FEWEST = 10  # trials; fewer have no mean response
TABLE = "trials"

# R = bins


def rows_at(rows: Intervals, times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the row that contains each of ascending times, of several the one that starts last; -1 for none."""
    found, order = np.full(len(times), -1), np.argsort(rows.start, kind="stable")
    first, last = (np.searchsorted(times, edge[order]) for edge in (rows.start, rows.end))
    for row, a, b in zip(order, first, last, strict=True):
        found[a:b] = row

    return found


def lasting(session: Session, rows: Intervals) -> Intervals:
    """Returns rows with the time that each row labels: its own, or from an event to the next one."""
    if np.any(rows.end > rows.start) or len(rows) == 0:
        return rows
    order = np.argsort(rows.start, kind="stable")
    end = np.empty(len(rows))
    end[order] = np.r_[rows.start[order][1:], max(float(session.observed.end.max(initial=0.0)), rows.start.max())]

    return Intervals(rows.start, end)


def bins_in_trials(
    trials: Intervals, centre: NDArray[np.float64], bin_size: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the trial (row) that holds each bin's centre, and the bins since the one with the trial's start, (R,).

    Both are -1 outside trials.

    Arguments:
        trials: The trials.
        centre: Centres of bins in seconds, ascending, (R,).
        bin_size: Their width in seconds.
    """
    row = rows_at(trials, centre)
    inside = row >= 0
    since = np.full(len(row), -1)
    since[inside] = np.floor((centre[inside] - trials.start[row[inside]]) / bin_size + 1e-6)  # tolerates rounding

    return row, since


def response_trials(session: Session) -> Intervals:
    """Returns the trials of a mean response: the table ``trials``, else the observed segments; none if under ten."""
    trials = session.intervals.get(TABLE)
    if trials is None or len(trials) < FEWEST or not np.any(trials.end > trials.start):
        trials = session.observed.coalesce()

    return trials if len(trials) >= FEWEST else Intervals.empty()

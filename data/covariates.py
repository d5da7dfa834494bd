"""The covariates of a session and the columns of its tables: which is meant by a name; rates of change."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Covariate, Session

__all__ = [
    "Column",
    "default_covariate",
    "derivative",
    "find_covariate",
    "known_columns",
    "matching_columns",
    "matching_covariates",
]

PREFERRED = (
    "hand_vel",
    "cursor_vel",
    "finger_vel",
    "vel",
    "CompassDirection",
    "head_direction",
    "emg",
    "hand_pos",
    "pos",
)


def default_covariate(session: Session) -> str:
    """Returns the covariate that one would decode first: a velocity, else a heading, else whatever there is.

    Among angles the one that turns most is taken: a head turns about one axis of three.
    """
    names = list(session.covariates)
    if not names:
        raise InputError(session.source.get("path", session.session_id), "covariates", "at least one series", "none")
    for hint in PREFERRED:
        found = [n for n in names if hint.lower() in n.lower()]
        if found:
            return max(found, key=lambda n: _turning(session.covariates[n]))

    return names[0]


def _turning(covariate: Covariate) -> float:
    """Circular variance of an angle, 0 for anything else."""
    if not covariate.angular:
        return 0.0

    return float(1 - np.abs(np.nanmean(np.exp(1j * np.asarray(covariate.values, np.float64)))))


def find_covariate(session: Session, name: str | None) -> Covariate:
    """Returns a covariate by name, path or unambiguous end of its path; by default the one decoded first."""
    if name is None:
        return session.covariates[default_covariate(session)]
    found = matching_covariates(session, name)
    if len(found) != 1:
        listed = ", ".join(session.covariates) or "none"
        raise InputError(session.session_id, "covariate", f"one of: {listed}", repr(name))

    return found[0]


def matching_covariates(session: Session, name: str) -> list[Covariate]:
    """Returns the covariate of this name; where there is none, all whose path ends so."""
    if name in session.covariates:
        return [session.covariates[name]]

    return [c for c in session.covariates.values() if f"/{c.path}".endswith(f"/{name}")]


@dataclass(frozen=True)
class Column:
    """A column of a table of intervals.

    Arguments:
        table: Name of the table.
        name: Name of the column.
        rows: The table, M rows.
        values: The column's values, (M,) or (M, C).
    """

    table: str
    name: str
    rows: Intervals
    values: NDArray[np.generic]

    @property
    def path(self) -> str:
        """``TABLE/COLUMN``."""
        return f"{self.table}/{self.name}"


def known_columns(session: Session) -> dict[str, Column]:
    """Returns all columns of all tables of intervals, by path."""
    found = [Column(t, c, rows, values) for t, rows in session.intervals.items() for c, values in rows.columns.items()]

    return {column.path: column for column in found}


def matching_columns(session: Session, name: str) -> list[Column]:
    """Returns the column of this path; where there is none, all whose path ends so."""
    known = known_columns(session)
    if name in known:
        return [known[name]]

    return [column for path, column in known.items() if f"/{path}".endswith(f"/{name}")]


def derivative(timestamps: NDArray[np.float64], values: NDArray[np.floating]) -> NDArray[np.floating]:
    r"""Returns the rate of change of samples, by central differences, (M, C) a second.

    .. math:: \dot x_i = \frac{x_{i+1} - x_{i-1}}{t_{i+1} - t_{i-1}}

    At the ends, and beside gaps of more than two and a half sample intervals, the sample itself takes the place of the
    neighbour that it lacks. NaN stays NaN and spreads to its neighbours; a sample without neighbours is NaN.

    Arguments:
        timestamps: Seconds, not descending, (M,).
        values: Samples, (M, C).
    """
    M = len(timestamps)
    if M < 2:
        return np.full(values.shape, np.nan)
    step = np.diff(timestamps)
    gap = step > 2.5 * np.median(step)
    before = np.arange(M) - np.r_[False, ~gap]
    after = np.arange(M) + np.r_[~gap, False]
    span = timestamps[after] - timestamps[before]
    slope = (values[after] - values[before]) / np.where(span > 0, span, np.nan)[:, None]

    return np.where(np.isnan(values), np.nan, slope)

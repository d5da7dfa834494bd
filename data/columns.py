"""Which column of a session's tables of intervals is meant."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt.intervals import Intervals
from ndt.session import Session

__all__ = ["Column", "known_columns", "matching_columns"]


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

"""Columns of tables of intervals as targets: one label a trial, or a state that lasts until the next event."""

import numpy as np
from numpy.typing import NDArray

from ndt.data.columns import Column
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Session
from ndt.target import Part, natural

__all__ = ["MOST_CLASSES", "class_codes", "column_labels", "one_hot", "rows_at", "to_radians"]

MOST_CLASSES = 64  # distinct values of what is taken for classes without being told so
MISSING = frozenset({"", "nan", "none", "null", "n/a"})  # in lower case
DEGREES = frozenset({"degree", "degrees", "deg", "°"})
RADIANS = frozenset({"radian", "radians", "rad"})
MOST_RADIANS = 4 * np.pi  # two turns: more in a number without a unit is taken for degrees, and refused

Found = tuple[Part, NDArray[np.float64], NDArray[np.int64]]


def column_labels(session: Session, column: Column, kind: str, times: NDArray[np.float64]) -> Found:
    """Returns a column as a part, its values at these times, (R, C), and the row that holds at each, (R,).

    A label holds through its row's time, ``[start, end)``. Of rows that overlap, that counts which starts last: tables
    overlap by rounding where one trial ends and the next begins, and by nesting, and both times the later start is the
    one meant. Where no row lasts, they are events, and a class holds from its event to the next, the last to the end of
    what was observed. A row whose value is missing (NaN, empty, "nan", "none", "null", "n/a") labels nothing.

    Text, truth values, and integers with at most 64 distinct values are classes, which are sorted by name with numbers
    as numbers; other numbers are continuous.

    Arguments:
        session: The session.
        column: The column.
        kind: ``continuous``, ``angle``, ``class``, or empty to go by the values.
        times: Ascending times in seconds, (R,).

    Raises:
        InputError: if the values cannot be taken for this kind, or are events and no classes.
    """
    kind = kind or _kind(session, column)
    if kind == "class":
        names, values = _classes(session, column)
        part = Part(name=column.path, kind=kind, dims=names, per=column.table)
    else:
        values = _numbers(session, column, kind)
        dims = (column.name,) if values.shape[1] == 1 else tuple(f"{column.name}_{c}" for c in range(values.shape[1]))
        part = Part(name=column.path, kind=kind, dims=dims, per=column.table)
        if kind == "angle":
            values = to_radians(values, column.name.rpartition("_")[2], session.session_id, column.path)
            values = np.stack([np.cos(values), np.sin(values)], -1).reshape(len(values), -1)
    row = rows_at(_lasting(session, column, kind), times)
    values = np.concatenate([values, np.full((1, values.shape[1]), np.nan)])  # row -1

    return part, values[row], row


def rows_at(rows: Intervals, times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the row that holds each of ascending times, that which starts last where several do, else -1."""
    found, order = np.full(len(times), -1), np.argsort(rows.start, kind="stable")
    first, last = (np.searchsorted(times, edge[order]) for edge in (rows.start, rows.end))
    for row, a, b in zip(order, first, last, strict=True):
        found[a:b] = row

    return found


def class_codes(values: NDArray[np.generic]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Returns the names of the K classes, sorted, and each value's class, -1 where it is missing."""
    if values.dtype.kind == "f":
        names = [f"{v:.12g}" if np.isfinite(v) else "" for v in values.astype(np.float64).tolist()]
    else:
        names = [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values.tolist()]
    names = [name.strip() for name in names]
    known = sorted({name for name in names if name.lower() not in MISSING}, key=natural)
    code = {name: k for k, name in enumerate(known)}

    return tuple(known), np.array([code.get(name, -1) for name in names], np.int64)


def one_hot(codes: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Returns (R, K): 1 in the column of the class, NaN throughout where there is none (-1)."""
    found = np.zeros((len(codes), num_classes))
    found[np.flatnonzero(codes >= 0), codes[codes >= 0]] = 1.0
    found[codes < 0] = np.nan

    return found


def to_radians(values: NDArray[np.float64], unit: str, where: str, name: str) -> NDArray[np.float64]:
    """Returns angles in radians.

    Raises:
        InputError: if the unit is neither degrees nor radians, and some angle is more than two turns of radians.
    """
    word = unit.strip().lower()
    if word in DEGREES:
        return np.deg2rad(values)
    most = float(np.nanmax(np.abs(values), initial=0.0))
    if word not in RADIANS and most > MOST_RADIANS:
        expected = "angles in radians, or a unit (of a column: an end of its name) that says deg or rad"
        raise InputError(where, f"angle {name}", expected, f"values up to {most:g}")

    return values


def _kind(session: Session, column: Column) -> str:
    """What the values look like."""
    kind = column.values.dtype.kind
    if kind == "f" or (kind in "iu" and column.values.ndim == 2):
        return "continuous"
    many = len(np.unique(column.values.astype(np.str_) if kind == "O" else column.values)) > MOST_CLASSES
    if many and kind not in "iu":
        expected = (
            f"at most {MOST_CLASSES} distinct values, or class:{column.path} to take them for classes all the same"
        )
        raise InputError(session.session_id, column.path, expected, "more")

    return "continuous" if many else "class"


def _classes(session: Session, column: Column) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    if column.values.ndim != 1 or column.values.dtype.kind not in "biufUSO":
        expected = "one value a row, to be taken for classes"
        raise InputError(session.session_id, column.path, expected, f"{column.values.dtype} {column.values.shape}")
    names, codes = class_codes(column.values)

    return names, one_hot(codes, len(names))


def _numbers(session: Session, column: Column, kind: str) -> NDArray[np.float64]:
    """Values as numbers, (M, C); rows with a value that is missing are NaN throughout."""
    if column.values.dtype.kind not in "biuf" or column.values.ndim > 2:
        found = "text" if column.values.dtype.kind in "USO" else f"{column.values.dtype} {column.values.shape}"
        raise InputError(session.session_id, column.path, f"numbers, to be taken for {kind}", found)
    values = column.values.reshape(len(column.values), -1).astype(np.float64)
    values[~np.isfinite(values).all(1)] = np.nan

    return values


def _lasting(session: Session, column: Column, kind: str) -> Intervals:
    """Rows with the time that each one's label holds."""
    rows = column.rows
    if np.any(rows.end > rows.start) or len(rows) == 0:
        return rows
    if kind != "class":
        expected = f"rows that last, or a state to be taken for classes (class:{column.path})"
        raise InputError(session.session_id, column.path, expected, "events without a length")
    order = np.argsort(rows.start, kind="stable")
    end = np.empty(len(rows))
    end[order] = np.r_[rows.start[order][1:], max(float(session.observed.end.max(initial=0.0)), rows.start.max())]

    return Intervals(rows.start, end)

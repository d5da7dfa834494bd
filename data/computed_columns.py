"""Columns computed from a table of intervals: the value of an expression over its columns in each row."""

import numpy as np
from numpy.typing import NDArray

from ndt.data.covariates import Column, known_columns
from ndt.data.expressions import Expression
from ndt.data.splits import BLOCKS
from ndt.errors import InputError
from ndt.session import Session

__all__ = ["MISSING", "computed_column", "has_columns", "parsed", "texts"]

TABLE = "trials"  # preferred among several tables with the same columns
MISSING = frozenset({"", "nan", "none", "null", "n/a"})  # in lower case


def parsed(expression: str, where: object) -> Expression:
    """Returns an expression over columns of a table.

    Raises:
        InputError: if it is malformed.
    """
    return Expression.parse(expression, "columns of a table of intervals, without commas", where, "target")


def has_columns(session: Session, expression: Expression) -> bool:
    """Whether `computed_column` finds a table with the columns of an expression."""
    return _table(_tables(session), expression) is not None


def computed_column(session: Session, name: str, expression: Expression) -> tuple[Column, NDArray[np.bool_]]:
    """Returns an expression's value in each row of a table as a column, and the rows in which it is missing, (M,).

    The table is ``trials`` if it has all columns of the expression, else the only table that has them. The value is
    missing in rows that lack a value of a column (NaN, empty, "nan", "none", "null", "n/a"), other than of columns that
    occur only in ``isnan()``, and where it is not finite.

    Arguments:
        session: The session.
        name: Name of the new column.
        expression: The expression.

    Raises:
        InputError: if no table has its columns, or several have but not ``trials``, or it cannot be evaluated.
    """
    tables = _tables(session)
    table = _table(tables, expression)
    if table is None:
        listed = "; ".join(f"{t} ({', '.join(columns) or 'no columns'})" for t, columns in tables.items())
        expected = f"an expression over columns of one table of intervals: {listed or 'none'}"
        raise InputError(session.session_id, "target", expected, repr(f"{name}={expression}"))
    values = expression.values(tables[table])
    missing = _missing(values)
    for column in expression.required:
        missing |= _missing(tables[table][column])

    return Column(table, name, session.intervals[table], values), missing


def texts(values: NDArray[np.generic]) -> list[str]:
    """Returns values as text without surrounding space; numbers that are not finite are empty."""
    if values.dtype.kind == "f":
        return [f"{v:.12g}" if np.isfinite(v) else "" for v in values.astype(np.float64).tolist()]

    return [(v.decode(errors="replace") if isinstance(v, bytes) else str(v)).strip() for v in values.tolist()]


def _tables(session: Session) -> dict[str, dict[str, NDArray[np.generic]]]:
    """Returns the columns that an expression may use, by table: those with one number, truth value or text a row."""
    found: dict[str, dict[str, NDArray[np.generic]]] = {table: {} for table in session.intervals if table != BLOCKS}
    for column in known_columns(session).values():
        if column.table != BLOCKS and column.values.ndim == 1 and column.values.dtype.kind in "biufUSO":
            text = column.values.dtype.kind in "USO"
            found[column.table][column.name] = np.array(texts(column.values), np.str_) if text else column.values

    return found


def _table(tables: dict[str, dict[str, NDArray[np.generic]]], expression: Expression) -> str | None:
    found = [table for table, columns in tables.items() if expression.names and expression.names <= set(columns)]
    if TABLE in found:
        return TABLE

    return found[0] if len(found) == 1 else None


def _missing(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    if values.dtype.kind == "U":
        return np.array([v.lower() in MISSING for v in values.tolist()], bool)

    return ~np.isfinite(values)

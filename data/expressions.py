"""Evaluates expressions that select units by their columns: ``quality == 'good' and rate_hz > 0.5``.

Allowed are only names of columns, numbers and strings, ``and or not``, comparisons (also chained), ``in`` a list,
``+ - * /`` and ``isnan(x)``: an expression may come from an untrusted file, and no other code is evaluated.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError

__all__ = ["chosen_units"]

Columns = Mapping[str, NDArray[np.generic]]

COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: np.isin(a, b),
    ast.NotIn: lambda a, b: ~np.isin(a, b),
}
ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def chosen_units(expression: str, columns: Columns, where: object) -> NDArray[np.bool_]:
    """Returns whether the expression is true of each unit, (N,). A comparison with NaN is false.

    Arguments:
        expression: The expression.
        columns: Values by name, each (N,).
        where: Name of the session in errors.

    Raises:
        InputError: if the expression is malformed, names an unknown column, compares text with numbers, or does not
            give one truth value per unit.

    Example:
        >>> chosen_units("rate_hz > 1 and area in ['M1', 'S1']", {"rate_hz": np.array([2.0, 0.5]),
        ...     "area": np.array(["M1", "M1"])}, "example")
        array([ True, False])
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise InputError(where, "select", "an expression over columns of units", repr(expression)) from error
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.asarray(_Evaluation(columns, where).value(tree))
    N = len(next(iter(columns.values()), ()))
    if found.dtype.kind != "b":
        raise InputError(where, "select", "an expression that is true or false of a unit", repr(expression))

    return np.broadcast_to(found, (N,)).copy()


class _Evaluation:
    def __init__(self, columns: Columns, where: object) -> None:
        self.columns, self.where = columns, where

    def wrong(self, expected: str, node: ast.AST) -> InputError:
        return InputError(self.where, "select", expected, repr(ast.unparse(node)))

    def value(self, node: ast.AST) -> Any:
        match node:
            case ast.BoolOp(op=op, values=values):
                join = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return join.reduce(np.broadcast_arrays(*(self.truth(v) for v in values)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.truth(operand)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.number(operand)
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self.comparison([left, *others], ops)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
                return ARITHMETIC[type(op)](self.number(left), self.number(right))
            case ast.Call(func=ast.Name(id="isnan"), args=[of], keywords=[]):
                return np.isnan(self.number(of))
            case ast.Name(id=name):
                return self.column(name)
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return np.asarray(value)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return np.array([self.value(item).item() for item in items if isinstance(item, ast.Constant)])
        raise self.wrong("columns, numbers, texts, and or not, comparisons, in, + - * /, isnan()", node)

    def column(self, name: str) -> NDArray[np.generic]:
        if name not in self.columns:
            known = ", ".join(sorted(self.columns))
            raise InputError(self.where, "select", f"one of the columns {known}", repr(name))
        return np.asarray(self.columns[name])

    def truth(self, node: ast.AST) -> NDArray[np.bool_]:
        found = np.asarray(self.value(node))
        if found.dtype.kind == "b":
            return found
        if found.dtype.kind in "iu" and np.isin(found, (0, 1)).all():
            return found.astype(bool)  # tables may store truth values as numbers
        raise self.wrong("a truth value", node)

    def number(self, node: ast.AST) -> Any:
        found = np.asarray(self.value(node))
        if found.dtype.kind not in "biuf":
            raise self.wrong("a number", node)
        return found

    def comparison(self, sides: list[ast.expr], ops: list[ast.cmpop]) -> NDArray[np.bool_]:
        values = [np.asarray(self.value(side)) for side in sides]
        holds: Any = True
        for a, b, op, node in zip(values, values[1:], ops, sides[1:], strict=False):
            if type(op) not in COMPARE:
                raise self.wrong("a comparison by == != < <= > >= in", node)
            if b.size and (a.dtype.kind == "U") != (b.dtype.kind == "U"):
                raise self.wrong("text compared with text, and numbers with numbers", node)
            holds = np.logical_and(holds, COMPARE[type(op)](a, b))

        return np.asarray(holds)

"""Evaluates expressions over columns: ``quality == 'good' and rate_hz > 0.5``, ``sign(contrast_left-contrast_right)``.

Allowed are only names of columns, numbers and strings, ``and or not``, comparisons (also chained), ``in`` a list,
``+ - * /``, ``abs(x)``, ``isnan(x)`` and ``sign(x)``, which is -1, 0 or 1, and 0 for NaN. No other code is evaluated,
since an expression may come from an untrusted file.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError

__all__ = ["Expression", "chosen_units"]

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
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "abs": np.abs,
    "isnan": np.isnan,
    "sign": lambda x: np.nan_to_num(np.sign(x)).astype(np.int64),
}


@dataclass(frozen=True)
class Expression:
    """An expression over columns.

    Arguments:
        tree: Its syntax tree.
        where: Name of the session in errors.
        field: Name of the setting in errors.

    Example:
        >>> side = Expression.parse("sign(left-right)", "columns of a table", "example", "target")
        >>> side.values({"left": np.array([1.0, 0.0, 0.5]), "right": np.array([0.0, 0.0, 1.0])})
        array([ 1,  0, -1])
    """

    tree: ast.expr
    where: object
    field: str

    @classmethod
    def parse(cls, text: str, over: str, where: object, field: str) -> "Expression":
        """Reads an expression over, say, ``columns of units``.

        Raises:
            InputError: if the text is no Python expression.
        """
        try:
            return cls(ast.parse(text.strip(), mode="eval").body, where, field)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(where, field, f"an expression over {over}", repr(text)) from error

    def __str__(self) -> str:
        return ast.unparse(self.tree)

    @property
    def names(self) -> frozenset[str]:
        """Names of all columns in it."""
        return _names(self.tree)

    @property
    def required(self) -> frozenset[str]:
        """Names of the columns without whose values it has none: those that occur outside ``isnan()``."""
        return _names(self.tree, skip=("isnan",))

    def values(self, columns: Columns) -> NDArray[np.generic]:
        """Returns its truth value, number or text in each row, (N,). A comparison with NaN is false.

        Arguments:
            columns: Values by name, each (N,).

        Raises:
            InputError: if it contains anything but what this module allows, names an unknown column, or compares text
                with numbers.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.asarray(_Evaluation(columns, self.where, self.field).value(self.tree))
        if found.shape not in ((), (N := len(next(iter(columns.values()), ())),)):
            raise InputError(self.where, self.field, "one value per row", repr(str(self)))

        return np.broadcast_to(found, (N,)).copy()


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
    found = Expression.parse(expression, "columns of units", where, "select").values(columns)
    if found.dtype.kind != "b":
        raise InputError(where, "select", "an expression that is true or false of a unit", repr(expression))

    return np.asarray(found, np.bool_)


def _names(tree: ast.AST, skip: tuple[str, ...] = ()) -> frozenset[str]:
    """Returns the names of columns in a tree, except in calls of the functions to skip."""
    match tree:
        case ast.Name(id=name):
            return frozenset({name})
        case ast.Call(func=ast.Name(id=function), args=args):
            return frozenset().union(*(_names(a, skip) for a in args)) if function not in skip else frozenset()

    return frozenset().union(*(_names(child, skip) for child in ast.iter_child_nodes(tree)))


class _Evaluation:
    def __init__(self, columns: Columns, where: object, field: str) -> None:
        self.columns, self.where, self.field = columns, where, field

    def wrong(self, expected: str, node: ast.AST) -> InputError:
        return InputError(self.where, self.field, expected, repr(ast.unparse(node)))

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
            case ast.Call(func=ast.Name(id=name), args=[of], keywords=[]) if name in FUNCTIONS:
                return FUNCTIONS[name](self.number(of))
            case ast.Name(id=name):
                return self.column(name)
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return np.asarray(value)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return np.array([self.value(item).item() for item in items if isinstance(item, ast.Constant)])
        raise self.wrong("columns, numbers, texts, and or not, comparisons, in, + - * /, abs(), isnan(), sign()", node)

    def column(self, name: str) -> NDArray[np.generic]:
        if name not in self.columns:
            known = ", ".join(sorted(self.columns))
            raise InputError(self.where, self.field, f"one of the columns {known}", repr(name))
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
        return found.astype(np.float64 if found.dtype.kind == "f" else np.int64)  # uint8 1 - 2 is 255, bool no number

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

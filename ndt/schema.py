"""Checks what JSON and YAML gave against type hints: the schema of a file is a `TypedDict` or a dataclass.

A float may be an integer in the file and is finite; an integer lies within ±2^53, which every reader of JSON keeps; a
Boolean is no number. `Within` narrows a number further: ``Annotated[int, Within(1, 10)]``.
"""

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from ndt.errors import InputError

__all__ = ["Count", "Positive", "Share", "Within", "typed"]

EXACT = 1 << 53  # beyond it, a float does not hold every integer
SHOWN = 80  # characters of a value in an error message


@dataclass(frozen=True)
class Within:
    """Closed range of a number."""

    low: float = -math.inf
    high: float = math.inf


Count = Annotated[int, Within(0)]
Positive = Annotated[float, Within(math.ulp(0.0))]
Share = Annotated[float, Within(0, 1)]


def typed(kind: Any, found: Any, where: object, field: str = "content") -> Any:
    """Returns a value of the kind: lists as tuples where it says so, and mappings as dataclasses.

    A `TypedDict` may have further keys, which are kept unchecked; a dataclass may not.

    Arguments:
        kind: A type hint.
        found: The value: a mapping, list, text, number, Boolean or None.
        where: File, for error messages.
        field: Place of the value in the file.

    Raises:
        InputError: if the value is not of the kind.

    Example:
        >>> typed(dict[str, tuple[float, ...]], {"a": [1, 2.5]}, "x.json")
        {'a': (1.0, 2.5)}
    """
    if kind is Any:
        return found
    origin = get_origin(kind)
    if origin is Annotated:
        return _ranged(kind, found, where, field)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(kind), found, where, field)
    if origin is Literal:
        if not isinstance(found, str | int) or found not in get_args(kind):
            raise _wrong(where, field, " or ".join(map(str, get_args(kind))), found)
        return found
    if origin in (list, tuple, dict):
        return _NESTED[origin](get_args(kind), found, where, field)
    if is_typeddict(kind):
        return _mapping(kind, found, where, field)
    if is_dataclass(kind):
        return _dataclass(kind, found, where, field)

    return _plain(kind, found, where, field)


def _wrong(where: object, field: str, expected: str, found: Any) -> InputError:
    text = repr(found)

    return InputError(where, field, expected, text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def _plain(kind: Any, found: Any, where: object, field: str) -> Any:
    words = {bool: "true or false", int: "an integer", float: "a finite number", str: "text", type(None): "null"}
    if kind is float and isinstance(found, int | float) and not isinstance(found, bool):
        if abs(found) <= EXACT or (isinstance(found, float) and math.isfinite(found)):
            return float(found)
    elif kind is int and isinstance(found, int) and not isinstance(found, bool) and abs(found) <= EXACT:
        return found
    elif kind not in (int, float) and isinstance(found, kind):
        return found
    raise _wrong(where, field, words.get(kind, getattr(kind, "__name__", str(kind))), found)


def _ranged(kind: Any, found: Any, where: object, field: str) -> Any:
    inner, within = get_args(kind)
    value = typed(inner, found, where, field)
    if not within.low <= value <= within.high:
        if within.high == math.inf:
            expected = "a number above 0" if within.low == math.ulp(0.0) else f"at least {within.low:g}"
        else:
            expected = f"{within.low:g} to {within.high:g}"
        raise _wrong(where, field, expected, found)

    return value


def _one_of(kinds: tuple[Any, ...], found: Any, where: object, field: str) -> Any:
    """Returns the value as the first kind that it fits; an error is that of the last, which is not null."""
    known = sorted(kinds, key=lambda k: k is not type(None))
    for kind in known[:-1]:
        try:
            return typed(kind, found, where, field)
        except InputError:
            continue

    return typed(known[-1], found, where, field)


def _list(inner: tuple[Any, ...], found: Any, where: object, field: str) -> list[Any]:
    if not isinstance(found, list | tuple):
        raise _wrong(where, field, "a list", found)

    return [typed(inner[0], value, where, f"{field}[{i}]") for i, value in enumerate(found)]


def _tuple(inner: tuple[Any, ...], found: Any, where: object, field: str) -> tuple[Any, ...]:
    if inner[-1] is ...:
        return tuple(_list(inner, found, where, field))
    if not isinstance(found, list | tuple) or len(found) != len(inner):
        raise _wrong(where, field, f"a list of {len(inner)}", found)

    return tuple(typed(k, value, where, f"{field}[{i}]") for i, (k, value) in enumerate(zip(inner, found, strict=True)))


def _dict(inner: tuple[Any, ...], found: Any, where: object, field: str) -> dict[Any, Any]:
    _check_mapping(found, where, field)

    return {key: typed(inner[1], value, where, _below(field, key)) for key, value in found.items()}


_NESTED: dict[Any, Callable[[tuple[Any, ...], Any, object, str], Any]] = {list: _list, tuple: _tuple, dict: _dict}


def _check_mapping(found: Any, where: object, field: str) -> None:
    if not isinstance(found, Mapping):
        raise _wrong(where, field, "keys and their values", found)
    for key in found:
        if not isinstance(key, str):
            raise _wrong(where, field, "keys of text", key)


def _below(field: str, key: str) -> str:
    return key if field == "content" else f"{field}.{key}"


def _mapping(kind: Any, found: Any, where: object, field: str) -> dict[str, Any]:
    _check_mapping(found, where, field)
    values = dict(found)
    for key, hint in get_type_hints(kind, include_extras=True).items():
        if key in found:
            values[key] = typed(_bare(hint), found[key], where, _below(field, key))
        elif key in kind.__required_keys__:
            raise InputError(where, _below(field, key), "an entry of that name", "none")

    return values


def _bare(hint: Any) -> Any:
    """Returns a hint without `NotRequired`."""
    return get_args(hint)[0] if getattr(get_origin(hint), "_name", "") in ("NotRequired", "Required") else hint


def _dataclass(kind: Any, found: Any, where: object, field: str) -> Any:
    _check_mapping(found, where, field)
    hints, known = get_type_hints(kind, include_extras=True), {f.name: f for f in fields(kind)}
    for key in found:
        if key not in known:
            raise InputError(where, _below(field, key), f"one of {', '.join(known)}", "an unknown entry")
    for name, own in known.items():
        if name not in found and own.default is MISSING and own.default_factory is MISSING:
            raise InputError(where, _below(field, name), "an entry of that name", "none")

    values = {key: typed(hints[key], value, where, _below(field, key)) for key, value in found.items()}
    try:
        return kind(**values)
    except InputError as error:
        if error.where == "settings":  # out of range: that check does not know the file
            raise InputError(where, _below(field, error.field), error.expected, error.found) from error
        raise
    except (ValueError, AssertionError) as error:
        raise InputError(where, field, "entries that fit together", error) from error

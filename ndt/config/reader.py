"""Reads settings from YAML and checks them; the other modules of `ndt.config` define them."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ndt.errors import InputError
from ndt.parsing import read_yaml

__all__ = ["INF", "MOST_SEED", "MOST_STEPS", "as_config", "choose", "fill_config", "load_config", "require"]

Config = TypeVar("Config")
INF = float("inf")
MOST_STEPS = 1_000_000_000
MOST_SEED = 2**31 - 1


def require(config: object, ranges: Mapping[str, tuple[float, float]], section: str = "") -> None:
    """Raises if a setting lies outside its closed range."""
    for name, (low, high) in ranges.items():
        if not low <= (value := getattr(config, name)) <= high or value == INF:
            expected = f"at least {low:g}" if high == INF else f"{low:g} to {high:g}"
            raise InputError("settings", section + name, expected, value)


def choose(config: object, section: str, **choices: tuple[str, ...]) -> None:
    """Raises if a setting is not one of its choices."""
    for name, known in choices.items():
        if (value := getattr(config, name)) not in known:
            raise InputError("settings", f"{section}.{name}".lstrip("."), " or ".join(known), value)


def load_config(kind: type[Config], path: str | Path) -> Config:
    """Reads settings from a YAML file that states only departures from the defaults.

    Raises:
        InputError: if the file is missing or not YAML, or a setting is unknown or of another type.
    """
    return _filled(kind, read_yaml(path, "settings") or {}, path, "settings")


def as_config(kind: type[Config], config: "Config | str | Path | None") -> Config:
    """Returns the given settings, those of a YAML file, or the defaults."""
    return load_config(kind, config) if isinstance(config, str | Path) else config or kind()


def fill_config(kind: type[Config], found: Any, where: str | Path, name: str = "settings") -> Config:
    """Returns settings from nested mappings that state departures from the defaults.

    Arguments:
        kind: Class of the settings.
        found: The mappings, as YAML gives them.
        where: File or other origin, for error messages.
        name: Prefix of settings in error messages.

    Raises:
        InputError: if a setting is unknown, of another type or out of range.
    """
    try:
        return _filled(kind, found, where, name)
    except InputError as error:
        if error.where == "settings":  # out of range: that check does not know the file
            raise InputError(where, f"{name}.{error.field}", error.expected, error.found) from error
        raise


def _filled(kind: Any, found: Any, where: str | Path, name: str) -> Any:
    hints = get_type_hints(kind)
    if not isinstance(found, Mapping):
        raise InputError(where, name, f"settings: {', '.join(hints)}", repr(found))
    values = {}
    for key, value in found.items():
        if key not in hints:
            known = ", ".join(f.name for f in fields(kind))
            raise InputError(where, f"{name}.{key}", f"one of: {known}", "an unknown setting")
        if is_dataclass(hints[key]):
            values[key] = _filled(hints[key], value, where, f"{name}.{key}")
        elif get_origin(hints[key]) is tuple:
            values[key] = _listed(get_args(hints[key])[0], value, where, f"{name}.{key}")
        elif hints[key] is float and isinstance(value, int | float) and not isinstance(value, bool):
            values[key] = float(value)
        elif isinstance(value, hints[key]) and not (hints[key] is int and isinstance(value, bool)):
            values[key] = value
        else:
            raise InputError(where, f"{name}.{key}", hints[key].__name__, repr(value))

    return kind(**values)


def _listed(kind: type, value: Any, where: str | Path, name: str) -> tuple[Any, ...]:
    """Returns a list of words or of numbers as a tuple."""
    fits = str if kind is str else (int, float)
    if not isinstance(value, list) or not all(isinstance(v, fits) and not isinstance(v, bool) for v in value):
        raise InputError(where, name, f"a list of {'words' if kind is str else 'numbers'}", repr(value))

    return tuple(map(kind, value))

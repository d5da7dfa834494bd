"""Targets of decoding at the bins of a session: continuous values, angles and classes.

The name of a target is that of a covariate, of a column of a table of intervals (``trials/target_id``), or an
unambiguous end of either's path. Its kind follows from its values, unless a prefix sets it: ``class:stage``,
``angle:trials/direction_deg``, ``continuous:trials/difficulty``.

``NAME=EXPRESSION`` is a label computed from columns of one table of intervals (`ndt.data.computed_columns`), which rows
lack whose value is missing or 0: ``side=sign(contrast_left-contrast_right)``, ``class:fast=reaction_time<0.3``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ndt.data.computed_columns import MISSING, computed_column, has_columns, parsed, texts
from ndt.data.covariates import (
    GAP,
    Column,
    default_covariate,
    known_columns,
    matching_columns,
    matching_covariates,
    resample,
)
from ndt.data.expressions import Expression
from ndt.data.splits import BLOCKS
from ndt.data.trials import lasting, rows_at
from ndt.errors import InputError
from ndt.session import Covariate, Session
from ndt.target import KINDS, Part, Target, natural, side_by_side

__all__ = [
    "Source",
    "build_targets",
    "class_codes",
    "column_labels",
    "find_sources",
    "offers",
    "one_hot",
    "requests",
]

Names = Sequence[str] | str | None
LONGEST_TRIAL = 10.0  # seconds; longer rows, such as stages of sleep, label each of their bins
MOST_CLASSES = 64  # largest number of distinct values that are classes by default
NAMED = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*=(?!=)(?P<expression>.*)", re.DOTALL)
DEGREES = frozenset({"degree", "degrees", "deg", "°"})
RADIANS = frozenset({"radian", "radians", "rad"})
MOST_RADIANS = 4 * np.pi  # two turns: larger values without a unit may be degrees, and are an error
Labels = tuple[Part, NDArray[np.float64], NDArray[np.int64]]


@dataclass(frozen=True)
class Source:
    """The source of labels: a covariate, or a column of a table of intervals, stored or computed.

    Arguments:
        of: The covariate or the column.
        kind: The kind of target; empty to infer it from the values.
        expression: The expression that gave the column; empty if the table holds it.
    """

    of: Covariate | Column
    kind: str
    expression: str = ""

    @property
    def name(self) -> str:
        """Name of the part."""
        return self.of.path if isinstance(self.of, Column) and not self.expression else self.of.name

    def labels(self, session: Session, start: NDArray[np.float64], bin_size: float) -> Labels:
        """Returns the part, its values at bins, (R, C), and the trial of each bin's label, (R,)."""
        if isinstance(self.of, Column):
            part, values, row = column_labels(session, self.of, self.kind, start + bin_size / 2)
            return replace(part, name=self.name, expression=self.expression), values, row
        found, none = self.of, np.full(len(start), -1)
        kind = self.kind or ("angle" if found.angular else "continuous")
        if kind == "class":
            return (*_series_classes(session, found, start + bin_size / 2, bin_size), none)
        if kind == "angle" and not found.angular:
            values = to_radians(np.asarray(found.values, np.float64), found.unit, session.session_id, found.name)
            found = replace(found, values=values)
        part = Part(name=found.name, kind=kind, dims=found.dims, unit=found.unit if kind == "continuous" else "")
        binned = resample(replace(found, angular=kind == "angle"), start, bin_size)

        return part, binned.astype(np.float64), none


def build_targets(
    session: Session,
    names: Names,
    start: NDArray[np.float64],
    bin_size: float,
    *,
    lag: float = 0.0,
    split: NDArray[np.integer] | None = None,
) -> Target:
    """Returns the targets at bins.

    `resample` averages covariates over bins, angles as cosine and sine; a series of classes has the value of the
    nearest sample. A row of a table labels the bins in its time; see `column_labels`. Missing labels are NaN.

    Arguments:
        session: The session.
        names: Names, in order, or one string with commas between them; None for the default covariate. A name may be
            ``NAME=EXPRESSION`` over columns of a table of intervals.
        start: Starts of the bins in seconds, ascending, (R,).
        bin_size: Their width in seconds.
        lag: Seconds by which the target follows the spikes: a bin's label is that at its time + lag. With a negative
            lag the estimate is late.
        split: Split of each bin (`BinnedSession.split`), (R,). Labels measured in another split, or partly outside all
            bins, are then missing: a lag moves no label of the test split into training.

    Raises:
        InputError: if a name fits nothing or several sources, occurs twice, or its values do not fit its kind.
    """
    elsewhere = np.zeros(len(start), bool) if split is None else _carried(start, bin_size, lag, split)
    found = []
    for source in find_sources(session, names):
        part, values, trial = source.labels(session, start + lag, bin_size)
        missing = elsewhere | np.isnan(values).any(1)
        values[missing] = np.nan
        trial = np.where(missing, -1, trial)
        found.append(Target(parts=(part,), values=values.astype(np.float32), trial=(trial,), lag=float(lag)))

    return side_by_side(found)


def find_sources(session: Session, names: Names) -> list[Source]:
    """Returns the sources of the named targets, in order.

    Raises:
        InputError: if a name fits nothing or several sources, or occurs twice.
    """
    if not names:
        names = [default_covariate(session)]
    if isinstance(names, str):
        names = [names] if names in session.covariates else [name.strip() for name in names.split(",")]
    found = [_source(session, name) for name in names]
    twice = [s.name for i, s in enumerate(found) if s.name in {other.name for other in found[:i]}]
    if twice:
        raise InputError(session.session_id, "target", "each once", f"{twice[0]} twice")

    return found


def offers(session: Session, name: str) -> bool:
    """Whether a session has a source of this name, or a table with the columns of this expression."""
    name = _kind_and_name(name)[1]
    if named := NAMED.fullmatch(name):
        return has_columns(session, parsed(named["expression"], session.session_id))

    return bool(matching_covariates(session, name) or _columns(session, name))


def requests(name: str, part: Part) -> bool:
    """Whether this name requests a part: its own name, an end of its path, or the same expression."""
    kind, wanted = _kind_and_name(name.strip())
    if kind not in ("", part.kind):
        return False
    if named := NAMED.fullmatch(wanted):
        return (named["name"], str(parsed(named["expression"], name))) == (part.name, part.expression)

    return f"/{part.name}".endswith(f"/{wanted}")


def _source(session: Session, name: str) -> Source:
    kind, wanted = _kind_and_name(name)
    if named := NAMED.fullmatch(wanted):
        return _computed(session, named["name"], parsed(named["expression"], session.session_id), kind)
    found: list[Covariate] | list[Column] = matching_covariates(session, wanted) or _columns(session, wanted)
    if len(found) != 1:
        known = [*session.covariates, *(p for p, c in known_columns(session).items() if c.table != BLOCKS)]
        raise InputError(session.session_id, "target", f"one of: {', '.join(known) or 'none'}", repr(name))

    return Source(found[0], kind)


def _computed(session: Session, name: str, expression: Expression, kind: str) -> Source:
    """Returns labels that an expression gives to the rows of a table.

    A row has no label if the value is missing, or is the number 0, as of ``sign(left-right)`` with equal sides; for an
    angle, 0 is a label. The truth values of a comparison are two classes, False and True.
    """
    column, missing = computed_column(session, name, expression)
    values = column.values
    if values.dtype.kind in "iuf" and kind != "angle":
        missing |= values == 0
    kind = kind or _kind(session, replace(column, values=values[~missing]))
    if values.dtype.kind == "f" or (values.dtype.kind in "biu" and kind != "class"):
        values = np.where(missing, np.nan, values)
    else:
        values = np.where(missing, "", values.astype(np.str_))

    return Source(replace(column, values=values), kind, str(expression))


def _columns(session: Session, name: str) -> list[Column]:
    return [c for c in matching_columns(session, name) if c.table != BLOCKS]


def _kind_and_name(name: str) -> tuple[str, str]:
    kind, colon, rest = name.partition(":")

    return (kind, rest.strip()) if colon and kind in KINDS else ("", name)


def _series_classes(
    session: Session, series: Covariate, times: NDArray[np.float64], bin_size: float
) -> tuple[Part, NDArray[np.float64]]:
    """Returns a series of class numbers as a part, and its one-hot values at these times, (R, K)."""
    if series.values.shape[1] != 1:
        found = f"{series.values.shape[1]} dimensions"
        raise InputError(session.session_id, f"class:{series.name}", "a series of one dimension", found)
    some = np.unique(series.values[np.isfinite(series.values)])
    if len(some) > MOST_CLASSES:
        expected = f"at most {MOST_CLASSES} distinct values"
        raise InputError(session.session_id, f"class:{series.name}", expected, len(some))
    names, codes = class_codes(series.values[:, 0])
    nearest = _nearest(series, times, bin_size)

    return Part(name=series.name, kind="class", dims=names), one_hot(np.r_[codes, -1][nearest], len(names))


def _nearest(series: Covariate, times: NDArray[np.float64], bin_size: float) -> NDArray[np.int64]:
    """Returns the sample nearest to each time; -1 in gaps in which `resample` returns NaN."""
    stamps, interval = np.asarray(series.timestamps, np.float64), series.interval
    if len(stamps) == 0:
        return np.full(len(times), -1)
    after = np.searchsorted(stamps, times).clip(0, len(stamps) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(times - stamps[before] <= stamps[after] - times, before, after)
    between = (stamps[before] <= times) & (times <= stamps[after])
    between &= stamps[after] - stamps[before] <= np.fmax(GAP * interval, bin_size) * (1 + 1e-6)
    reach = (interval / 2 if np.isfinite(interval) else bin_size / 2) * (1 + 1e-6)

    return np.where(between | (np.abs(stamps[nearest] - times) <= reach), nearest, -1)


def _carried(start: NDArray[np.float64], bin_size: float, lag: float, split: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Returns the bins whose labels were not measured wholly in bins of the same split, (R,)."""

    def split_at(times: NDArray[np.float64]) -> NDArray[np.integer]:
        row = np.maximum(np.searchsorted(start, times, side="right") - 1, 0)
        inside = (times >= start[row]) & (times < start[row] + bin_size)

        return np.where(inside, split[row].astype(np.int64), -1)

    edge = 1e-6 * bin_size  # of rounding
    first, last = split_at(start + lag + edge), split_at(start + lag + bin_size - edge)

    return np.asarray((first != split) | (last != split))


def column_labels(session: Session, column: Column, kind: str, times: NDArray[np.float64]) -> Labels:
    """Returns a column as a part, its values at these times, (R, C), and the row at each time, (R,).

    A row labels its time ``[start, end)``. Of overlapping rows the one that starts last counts: rows overlap by
    rounding at the end of a trial, or by nesting, and in both cases the later start is meant. If all rows have zero
    length they are events, and a class holds from its event to the next one, or to the end of observed time. A row with
    a missing value (NaN, empty, "nan", "none", "null", "n/a") labels nothing.

    Text, truth values, and integers with at most 64 distinct values are classes, sorted by name and numerically; other
    numbers are continuous.

    Arguments:
        session: The session.
        column: The column.
        kind: ``continuous``, ``angle``, ``class``, or empty to infer it from the values.
        times: Ascending times in seconds, (R,).

    Raises:
        InputError: if the values do not fit this kind, or are events without classes.
    """
    kind = kind or _kind(session, column)
    if kind == "class":
        names, values = _classes(session, column)
        part = Part(name=column.path, kind=kind, dims=names, per=_per(session, column))
    else:
        values = _numbers(session, column, kind)
        dims = (column.name,) if values.shape[1] == 1 else tuple(f"{column.name}_{c}" for c in range(values.shape[1]))
        part = Part(name=column.path, kind=kind, dims=dims, per=_per(session, column))
        if kind == "angle":
            values = to_radians(values, column.name.rpartition("_")[2], session.session_id, column.path)
            values = np.stack([np.cos(values), np.sin(values)], -1).reshape(len(values), -1)
    if kind != "class" and len(column.rows) and not np.any(column.rows.end > column.rows.start):
        expected = f"rows longer than 0 s, or classes (class:{column.path})"
        raise InputError(session.session_id, column.path, expected, "events of zero length")
    row = rows_at(lasting(session, column.rows), times)
    values = np.concatenate([values, np.full((1, values.shape[1]), np.nan)])  # row -1

    return part, values[row], row


def _per(session: Session, column: Column) -> str:
    """Returns the table if its rows are trials with one label each, empty if they are long, as stages of sleep."""
    rows = lasting(session, column.rows)
    length = rows.end - rows.start

    return column.table if len(length) and np.median(length) <= LONGEST_TRIAL else ""


def class_codes(values: NDArray[np.generic]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Returns the names of the K classes, sorted, and the class of each value; -1 for missing values."""
    names = texts(values)
    known = sorted({name for name in names if name.lower() not in MISSING}, key=natural)
    code = {name: k for k, name in enumerate(known)}

    return tuple(known), np.array([code.get(name, -1) for name in names], np.int64)


def one_hot(codes: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Returns one-hot rows, (R, K); NaN for a missing class (-1)."""
    found = np.zeros((len(codes), num_classes))
    found[np.flatnonzero(codes >= 0), codes[codes >= 0]] = 1.0
    found[codes < 0] = np.nan

    return found


def to_radians(values: NDArray[np.float64], unit: str, where: str, name: str) -> NDArray[np.float64]:
    """Returns angles in radians.

    Raises:
        InputError: if the unit is neither degrees nor radians, and an angle exceeds two turns in radians.
    """
    word = unit.strip().lower()
    if word in DEGREES:
        return np.deg2rad(values)
    most = float(np.nanmax(np.abs(values), initial=0.0))
    if word not in RADIANS and most > MOST_RADIANS:
        expected = "angles in radians, or the unit deg or rad (of a column: at the end of its name)"
        raise InputError(where, f"angle {name}", expected, f"values up to {most:g}")

    return values


def _kind(session: Session, column: Column) -> str:
    """Returns the kind of target that the values suggest."""
    kind = column.values.dtype.kind
    if kind == "f" or (kind in "iu" and column.values.ndim == 2):
        return "continuous"
    many = len(np.unique(column.values.astype(np.str_) if kind == "O" else column.values)) > MOST_CLASSES
    if many and kind not in "iu":
        expected = f"at most {MOST_CLASSES} distinct values, or the name class:{column.path}"
        raise InputError(session.session_id, column.path, expected, "more")

    return "continuous" if many else "class"


def _classes(session: Session, column: Column) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    if column.values.ndim != 1 or column.values.dtype.kind not in "biufUSO":
        expected = "one value per row for classes"
        raise InputError(session.session_id, column.path, expected, f"{column.values.dtype} {column.values.shape}")
    names, codes = class_codes(column.values)

    return names, one_hot(codes, len(names))


def _numbers(session: Session, column: Column, kind: str) -> NDArray[np.float64]:
    """Returns the values as numbers, (M, C); rows with a missing value are NaN."""
    if column.values.dtype.kind not in "biuf" or column.values.ndim > 2:
        found = "text" if column.values.dtype.kind in "USO" else f"{column.values.dtype} {column.values.shape}"
        raise InputError(session.session_id, column.path, f"numbers for {kind}", found)
    values = column.values.reshape(len(column.values), -1).astype(np.float64)
    values[~np.isfinite(values).all(1)] = np.nan

    return values

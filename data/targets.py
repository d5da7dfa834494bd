"""What is to be decoded of a session, of every kind, at bins.

A name is that of a covariate, or of a column of a table of intervals (``trials/target_id``), or an unambiguous end of
either's path. What kind of target it makes goes by its values, unless the name says so: ``class:stage``,
``angle:trials/direction_deg``, ``continuous:trials/difficulty``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ndt.data.columns import Column, known_columns, matching_columns
from ndt.data.covariates import default_covariate, matching_covariates
from ndt.data.labels import MOST_CLASSES, Found, class_codes, column_labels, one_hot, to_radians
from ndt.data.resample import GAP, resample
from ndt.data.splits import BLOCKS
from ndt.errors import InputError
from ndt.session import Covariate, Session
from ndt.target import KINDS, Part, Target, side_by_side

__all__ = ["Source", "build_targets", "find_sources", "offers"]

Names = Sequence[str] | str | None


@dataclass(frozen=True)
class Source:
    """Where labels come from: a covariate, or a column of a table of intervals.

    Arguments:
        of: The covariate or the column.
        kind: The kind of target that was asked for; empty to go by the values.
    """

    of: Covariate | Column
    kind: str

    @property
    def name(self) -> str:
        """Name of the part."""
        return self.of.name if isinstance(self.of, Covariate) else self.of.path

    def labels(self, session: Session, start: NDArray[np.float64], bin_size: float) -> Found:
        """Returns the part, its values at bins, (R, C), and the trial that each bin's label is of, (R,)."""
        if isinstance(self.of, Column):
            return column_labels(session, self.of, self.kind, start + bin_size / 2)
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
    block: NDArray[np.integer] | None = None,
) -> Target:
    """Returns what is to be decoded, at bins.

    Covariates are averaged over bins as `resample` does, angles as cosine and sine; a series of classes has the value
    of the nearest sample. A column of a table has one label for each row's time; see `column_labels`. Where there is
    nothing to say, a part is NaN.

    Arguments:
        session: The session.
        names: Names, in order, or one text with commas between them; None for the covariate decoded first.
        start: Starts of the bins in seconds, ascending, (R,).
        bin_size: Their width in seconds.
        lag: Seconds by which what is decoded follows the spikes: a bin's label is that of its time + lag. Negative: the
            estimate comes late.
        block: Block of each bin (`Grid.block`), (R,). A bin whose label was measured in another block, or even partly
            in no bin, then has none: a lag carries no label of the test block into training.

    Raises:
        InputError: if a name fits nothing or several things, occurs twice, or cannot be taken for what it should.
    """
    elsewhere = np.zeros(len(start), bool) if block is None else _carried(start, bin_size, lag, block)
    found = []
    for source in find_sources(session, names):
        part, values, trial = source.labels(session, start + lag, bin_size)
        missing = elsewhere | np.isnan(values).any(1)
        values[missing] = np.nan
        trial = np.where(missing, -1, trial)
        found.append(Target(parts=(part,), values=values.astype(np.float32), trial=(trial,), lag=float(lag)))

    return side_by_side(found)


def find_sources(session: Session, names: Names) -> list[Source]:
    """Returns where the labels of these names come from, in order.

    Raises:
        InputError: if a name fits nothing or several things, or occurs twice.
    """
    if not names:
        names = [default_covariate(session)]
    if isinstance(names, str):
        names = [names] if names in session.covariates else [name.strip() for name in names.split(",")]
    found = [_source(session, name) for name in names]
    twice = [s.name for i, s in enumerate(found) if s.name in {other.name for other in found[:i]}]
    if twice:
        raise InputError(session.session_id, "covariate", "each once", f"{twice[0]} twice")

    return found


def offers(session: Session, name: str) -> bool:
    """Whether something in a session fits a name."""
    name = _kind_and_name(name)[1]

    return bool(matching_covariates(session, name) or _columns(session, name))


def _source(session: Session, name: str) -> Source:
    kind, wanted = _kind_and_name(name)
    found: list[Covariate] | list[Column] = matching_covariates(session, wanted) or _columns(session, wanted)
    if len(found) != 1:
        known = [*session.covariates, *(p for p, c in known_columns(session).items() if c.table != BLOCKS)]
        raise InputError(session.session_id, "covariate", f"one of: {', '.join(known) or 'none'}", repr(name))

    return Source(found[0], kind)


def _columns(session: Session, name: str) -> list[Column]:
    return [c for c in matching_columns(session, name) if c.table != BLOCKS]


def _kind_and_name(name: str) -> tuple[str, str]:
    kind, colon, rest = name.partition(":")

    return (kind, rest.strip()) if colon and kind in KINDS else ("", name)


def _series_classes(
    session: Session, series: Covariate, times: NDArray[np.float64], bin_size: float
) -> tuple[Part, NDArray[np.float64]]:
    """A series of class numbers as a part, and its value at these times."""
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
    """Returns the sample nearest to each time, -1 where `resample` would say nothing for want of samples."""
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


def _carried(start: NDArray[np.float64], bin_size: float, lag: float, block: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Returns which bins' labels were not wholly measured in bins of the same block, (R,)."""

    def block_at(times: NDArray[np.float64]) -> NDArray[np.integer]:
        row = np.maximum(np.searchsorted(start, times, side="right") - 1, 0)
        inside = (times >= start[row]) & (times < start[row] + bin_size)

        return np.where(inside, block[row].astype(np.int64), -1)

    edge = 1e-6 * bin_size  # of rounding
    first, last = block_at(start + lag + edge), block_at(start + lag + bin_size - edge)

    return np.asarray((first != block) | (last != block))

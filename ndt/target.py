"""`Target`: the quantities, directions and classes to decode from a session, as columns of numbers at its bins."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError

__all__ = [
    "KINDS", "Part", "Target", "labelled", "natural", "part_columns", "scored_bins", "side_by_side", "stacked",
    "united",
]  # fmt: skip

KINDS = ("continuous", "angle", "class")

# R = bins, C = columns of all parts together, K = classes


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a target: a quantity, a direction, or a class of K.

    The columns of a ``continuous`` part are its dimensions; those of an ``angle`` cosine and sine of each angle; a
    ``class`` has one column a class, which holds 1 for the true class, and probabilities in predictions.

    Arguments:
        name: Name of the covariate, ``TABLE/COLUMN`` of a table of intervals, or the name given to an expression.
        kind: ``continuous``, ``angle`` or ``class``.
        dims: Names of dimensions, of angles, or of classes.
        unit: Physical unit of the columns; empty for angles and classes.
        per: Name of the table of intervals (trials, say) with one label a row; empty if each bin has its own label.
        expression: Expression over columns of that table that gives the labels; empty if a column does.

    Example:
        >>> Part(name="heading", kind="angle", dims=("yaw",), unit="").columns
        ('cos(yaw)', 'sin(yaw)')
    """

    name: str
    kind: str
    dims: tuple[str, ...]
    unit: str = ""
    per: str = ""
    expression: str = ""

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind

    @property
    def num_columns(self) -> int:
        """Number of columns."""
        return len(self.dims) * (2 if self.kind == "angle" else 1)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(f"{f}({d})" for d in self.dims for f in ("cos", "sin")) if self.kind == "angle" else self.dims

    @property
    def request(self) -> str:
        """Unambiguous request for this part: ``KIND:NAME`` or ``KIND:NAME=EXPRESSION``."""
        return f"{self.kind}:{self.name}" + (f"={self.expression}" if self.expression else "")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target at R bins.

    Arguments:
        parts: The parts, in the order of their columns.
        values: Continuous parts in their unit, cosines and sines, and 1 or 0 for each class; NaN in all columns of an
            unlabelled part, shape (R, C), float32.
        trial: For each part, the row of its table of intervals that labels a bin, -1 for none or labels per bin, each
            (R,), int64.
        lag: Seconds by which the labels follow the bins.
    """

    parts: tuple[Part, ...]
    values: NDArray[np.float32]
    trial: tuple[NDArray[np.int64], ...]
    lag: float = 0.0

    def __post_init__(self) -> None:
        shape = (len(self.values), sum(part.num_columns for part in self.parts))
        assert self.values.shape == shape, f"values {self.values.shape} of parts that take {shape}"
        assert len(self.trial) == len(self.parts), "a trial for each part"

    @classmethod
    def unlabelled(cls, parts: Sequence[Part], num_bins: int, lag: float = 0.0) -> "Target":
        """Returns a target without any label."""
        values = np.full((num_bins, sum(part.num_columns for part in parts)), np.nan, np.float32)

        return cls(parts=tuple(parts), values=values, trial=(np.full(num_bins, -1),) * len(parts), lag=lag)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def name(self) -> str:
        """Names of the parts, separated by commas."""
        return ",".join(part.name for part in self.parts)

    def columns(self, i: int) -> slice:
        """Returns the columns of part `i`."""
        return part_columns(self.parts)[i]

    def expanded(self, parts: Sequence[Part]) -> "Target":
        """Returns the target with the classes of `parts`, a superset of its own, in their order (see `united`)."""
        values = np.full((len(self), sum(part.num_columns for part in parts)), np.nan, np.float32)
        for i, (own, part, columns) in enumerate(zip(self.parts, parts, part_columns(parts), strict=True)):
            known = self.values[:, self.columns(i)]
            wide = np.zeros((len(self), part.num_columns), np.float32)
            wide[:, [part.columns.index(c) for c in own.columns]] = known
            wide[np.isnan(known).any(1)] = np.nan
            values[:, columns] = wide

        return replace(self, parts=tuple(parts), values=values)


def part_columns(parts: Sequence[Part]) -> list[slice]:
    """Returns the columns of each part."""
    ends = np.cumsum([0, *(part.num_columns for part in parts)]).tolist()

    return [slice(a, b) for a, b in pairwise(ends)]


def side_by_side(targets: Sequence[Target]) -> Target:
    """Returns one target with the parts of all targets, which have the same bins and lag."""
    assert len({(len(t), t.lag) for t in targets}) == 1, "the same bins and lag"

    return Target(
        parts=tuple(part for t in targets for part in t.parts),
        values=np.concatenate([t.values for t in targets], 1),
        trial=tuple(rows for t in targets for rows in t.trial),
        lag=targets[0].lag,
    )


def stacked(targets: Sequence[Target]) -> Target:
    """Returns one target with the bins of all targets, which have the same parts and lag; trials are renumbered."""
    assert len({(t.parts, t.lag) for t in targets}) == 1, "the same parts and lag"
    trial = []
    for of_part in zip(*(t.trial for t in targets), strict=True):
        first = np.cumsum([0, *(rows.max(initial=-1) + 1 for rows in of_part)])
        trial.append(
            np.concatenate([np.where(rows < 0, -1, rows + a) for a, rows in zip(first[:-1], of_part, strict=True)])
        )

    return replace(targets[0], values=np.concatenate([t.values for t in targets]), trial=tuple(trial))


def labelled(target: Target, part: int | None = None) -> NDArray[np.bool_]:
    """Returns which bins have a label of a part, or, with None, of any part, (R,)."""
    found = np.zeros(len(target), bool)
    for i in range(len(target.parts)) if part is None else (part,):
        found |= ~np.isnan(target.values[:, target.columns(i)]).any(1)

    return found


def scored_bins(target: Target, i: int, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns the bins at which part `i` is trained on and scored, (R,).

    With a label per bin these are all chosen bins that have one. With a label per row of a table of intervals it is the
    last chosen bin of each row, where a decoder has seen most of the trial: each trial counts once, however long.

    Arguments:
        target: The target at R bins in order of time.
        i: Number of the part.
        chosen: Bins to choose from, (R,).

    Example:
        >>> go = Part(name="trials/go", kind="class", dims=("left", "right"), per="trials")
        >>> trial = np.array([-1, 0, 0, 0, 1])
        >>> target = Target(parts=(go,), values=np.eye(2, dtype=np.float32)[[0, 0, 0, 0, 1]], trial=(trial,))
        >>> scored_bins(target, 0, np.array([True, True, True, False, True]))
        array([False, False,  True, False,  True])
    """
    rows = chosen & labelled(target, i)
    if not target.parts[i].per:
        return rows
    bins = np.flatnonzero(rows & (target.trial[i] >= 0))[::-1]  # the last bin first
    last = np.zeros(len(target), bool)
    last[bins[np.unique(target.trial[i][bins], return_index=True)[1]]] = True

    return last


def united(found: Sequence[tuple[str, Part]]) -> Part:
    """Returns the part shared by all sessions, with the classes of any of them.

    Arguments:
        found: Session id and part of each session, at least one.

    Raises:
        InputError: if two differ in kind, dimensions or unit.
    """
    first = found[0][1]
    classes = first.kind == "class"
    for session, part in found:
        same = part.kind == first.kind and part.unit == first.unit and (classes or part.dims == first.dims)
        if not same:
            expected = f"{_described(first)}, as in other sessions"
            raise InputError(session, f"target {first.name}", expected, _described(part))
    if classes:
        first = replace(first, dims=tuple(sorted({c for _, part in found for c in part.dims}, key=natural)))

    return first


def _described(part: Part) -> str:
    kind = {"continuous": "", "angle": "angles ", "class": "classes "}[part.kind]

    return f"{kind}{', '.join(part.dims)}" + (f" in {part.unit or 'no unit'}" if part.kind == "continuous" else "")


def natural(name: str) -> tuple[tuple[tuple[int, float, str], ...], str]:
    """Returns a sort key that puts ``t2`` before ``t10`` and orders numbers by value."""
    words = re.split(r"((?<![\d.])-?\d+(?:\.\d+)?)", name)

    return tuple((0, float(w), "") if i % 2 else (1, 0.0, w) for i, w in enumerate(words) if i % 2 or w), name

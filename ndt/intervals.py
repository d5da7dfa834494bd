"""Half-open intervals of time and their set algebra.

An interval ``[start, end)`` contains its start but not its end, so adjacent intervals neither overlap nor leave a gap.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Intervals"]


@dataclass(frozen=True)
class Intervals:
    """M half-open intervals ``[start, end)`` in seconds, with optional columns (for example of a trials table).

    The set operations `|`, `&` and `-` coalesce (sort and join overlapping or adjacent intervals) and drop columns. The
    constructor accepts overlapping or unsorted rows.

    Arguments:
        start: Starts in seconds, shape (M,).
        end: Ends in seconds, shape (M,); each at least its start.
        columns: Further values per interval, each of length M.

    Example:
        >>> Intervals([0.0, 2.0], [1.0, 4.0]) - Intervals([0.5], [3.0])
        Intervals([0, 0.5) [3, 4))
    """

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    columns: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    def __init__(self, start: ArrayLike, end: ArrayLike, columns: dict[str, NDArray[np.generic]] | None = None) -> None:
        object.__setattr__(self, "start", np.atleast_1d(np.asarray(start, np.float64)))
        object.__setattr__(self, "end", np.atleast_1d(np.asarray(end, np.float64)))
        object.__setattr__(self, "columns", dict(columns or {}))

        if self.start.shape != self.end.shape or self.start.ndim != 1:
            raise ValueError(f"start and end must be (M,), got {self.start.shape} and {self.end.shape}")
        if not np.all(self.end >= self.start):
            raise ValueError("each interval must end at or after its start, and neither may be NaN")
        for name, values in self.columns.items():
            if len(values) != len(self):
                raise ValueError(f"column {name} must have M={len(self)} values, got {len(values)}")

    @classmethod
    def empty(cls) -> "Intervals":
        """Returns no interval."""
        return cls(np.zeros(0), np.zeros(0))

    def __len__(self) -> int:
        return len(self.start)

    def __repr__(self) -> str:
        shown = " ".join(f"[{a:g}, {b:g})" for a, b in zip(self.start[:4], self.end[:4], strict=True))
        return f"Intervals({shown}{' …' if len(self) > 4 else ''})"

    @property
    def duration(self) -> float:
        """Sum of lengths in seconds, overlaps included."""
        return float(np.sum(self.end - self.start))

    def select(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Intervals":
        """Returns selected rows (index or Boolean array) with their columns."""
        return Intervals(self.start[rows], self.end[rows], {k: v[rows] for k, v in self.columns.items()})

    def coalesce(self) -> "Intervals":
        """Returns the same set of times as sorted, disjoint, non-adjacent, non-empty intervals."""
        keep = self.end > self.start
        start, end = self.start[keep], self.end[keep]
        order = np.argsort(start, kind="stable")
        start, end = start[order], np.maximum.accumulate(end[order]) if len(end) else end
        first = np.r_[True, start[1:] > end[:-1]] if len(start) else np.zeros(0, bool)
        last = np.r_[first[1:], True] if len(start) else first

        return Intervals(start[first], end[last])

    def contains(self, times: ArrayLike) -> NDArray[np.bool_]:
        """Returns whether each time lies in the set; shape of `times`."""
        merged = self.coalesce()
        times = np.asarray(times, np.float64)
        if len(merged) == 0:
            return np.zeros(times.shape, bool)
        row = np.searchsorted(merged.start, times, side="right") - 1

        return (row >= 0) & (times < merged.end[np.maximum(row, 0)])

    def __and__(self, other: "Intervals") -> "Intervals":
        return self._between_edges(other, lambda a, b: a & b)

    def __or__(self, other: "Intervals") -> "Intervals":
        return Intervals(np.r_[self.start, other.start], np.r_[self.end, other.end]).coalesce()

    def __sub__(self, other: "Intervals") -> "Intervals":
        return self._between_edges(other, lambda a, b: a & ~b)

    def _between_edges(
        self, other: "Intervals", keep: Callable[[NDArray[np.bool_], NDArray[np.bool_]], NDArray[np.bool_]]
    ) -> "Intervals":
        """Returns the intervals between edges of either set that `keep` selects from their membership in both."""
        edges = np.unique(np.concatenate([self.start, self.end, other.start, other.end]))
        inside = keep(self.contains(edges[:-1]), other.contains(edges[:-1]))

        return Intervals(edges[:-1][inside], edges[1:][inside]).coalesce()

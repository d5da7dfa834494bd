"""Bins of a session, windows of them, and the sampler that draws training windows.

No window crosses time that was not observed.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt.config import FinetuneConfig, PretrainConfig
from ndt.data.splits import split, within
from ndt.data.targets import find_sources
from ndt.data.trials import lasting, rows_at
from ndt.errors import InputError
from ndt.model.checkpoint import MOST_BINS
from ndt.model.tokens import Window
from ndt.model.vocabulary import Rows
from ndt.session import Covariate, Session
from ndt.spikes import bin_spikes, num_bins, unit_valid

__all__ = [
    "MIN_BINS", "TEST", "TRAIN", "VALID", "BinnedSession", "Sampler", "TrainingData", "default_bin_size",
    "longest_window",
]  # fmt: skip

TRAIN, VALID, TEST = 1, 2, 3  # values of BinnedSession.split; 0 is guard
MIN_BINS = 3  # shorter windows are left out
BIN_RANGE = (0.02, 0.1)  # bin widths in seconds that a covariate's own interval may set


def default_bin_size(sessions: Iterable[Session], covariate: Sequence[str] | str | None = None) -> float:
    """Returns the bin width in seconds that sessions trained together share: the coarsest of their defaults.

    A session's default is the sample interval of its covariate (the longest, of several) if that is 20 to 100 ms, else
    20 ms. If spikes were counted in bins, it is rounded up to a multiple of their width.
    """
    widths = [BIN_RANGE[0]]
    for session in sessions:
        series = [s.of for s in find_sources(session, covariate)] if covariate or session.covariates else []
        intervals = [round(s.interval, 6) for s in series if isinstance(s, Covariate)]
        width = max([BIN_RANGE[0], *(i for i in intervals if BIN_RANGE[0] <= i <= BIN_RANGE[1])])
        if session.count_bin:
            width = round(np.ceil(round(width / session.count_bin, 3)) * session.count_bin, 9)
        widths.append(width)

    return max(widths)


def longest_window(config: PretrainConfig | FinetuneConfig, bin_size: float, where: object) -> int:
    """Returns the number of bins of the longest window of a new model.

    Arguments:
        config: Settings; uses `window`.
        bin_size: Bin width in seconds.
        where: Name of the session in errors.

    Raises:
        InputError: if it has fewer bins than the shortest window, or more than a model may have.
    """
    bins = round(config.window / bin_size)
    if not MIN_BINS <= bins <= MOST_BINS:
        expected = f"{MIN_BINS} to {MOST_BINS:,} bins of {bin_size * 1e3:g} ms"
        raise InputError(where, "window", expected, f"{bins} bins ({config.window:g} s)")

    return bins


class BinnedSession:
    """The R bins of a session's observed time at one bin width, and the split of each bin.

    The first bin of each observed segment starts with the segment; a remainder shorter than a bin is not used.

    Arguments:
        session: The session.
        bin_size: Bin width in seconds.
        guard: Guard between splits in seconds: the context window.

    Raises:
        InputError: if spikes were counted in bins and `bin_size` is not a multiple of their width.

    Attributes:
        start: Start of each bin in seconds, (R,).
        segment: Segment of each bin, ascending, (R,).
        place: Index of each bin within its segment, (R,).
        split: 0 guard, `TRAIN`, `VALID` or `TEST`, (R,).
    """

    def __init__(self, session: Session, bin_size: float, guard: float) -> None:
        self.session, self.bin_size = session, bin_size
        counted = session.count_bin
        if counted and (round(bin_size / counted) < 1 or abs(bin_size / counted - round(bin_size / counted)) > 1e-3):
            expected = f"a multiple of {counted * 1e3:g} ms, in which spikes were counted"
            raise InputError(session.session_id, "bin_size", expected, f"{bin_size * 1e3:g} ms")
        segments = session.observed.coalesce()
        lengths = np.array([num_bins(seconds, bin_size) for seconds in segments.end - segments.start], np.int64)
        self.segment = np.repeat(np.arange(len(segments)), lengths)
        self.place = np.arange(len(self.segment)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        self.segment_start = segments.start
        self.start = segments.start[self.segment] + self.place * bin_size
        self.split = np.zeros(len(self.start), np.uint8)
        self._trials: dict[str, NDArray[np.int64]] = {}
        self.splits = split(session, guard)
        for code, intervals in zip((TRAIN, VALID, TEST), self.splits.blocks, strict=True):
            self.split[within(self.start, self.start + bin_size, intervals, 1e-6 * bin_size)] = code

    def __len__(self) -> int:
        return len(self.start)

    def counts(self, first: int, last: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Returns counts of bins ``first … last - 1`` of one segment, and whether units were observed, both (T, N)."""
        assert self.segment[first] == self.segment[last - 1], "a window may not cross a gap"
        where = (float(self.segment_start[self.segment[first]]), self.bin_size, last - first, int(self.place[first]))

        return bin_spikes(self.session, *where), unit_valid(self.session, *where)

    def all_counts(self) -> NDArray[np.float32]:
        """Returns the counts of all bins, (R, N); NaN where a unit was not observed."""
        found = np.full((len(self), self.session.num_units), np.nan, np.float32)
        for first, last in self.runs(np.ones(len(self), bool)):
            counts, observed = self.counts(first, last)
            found[first:last] = np.where(observed, counts, np.nan)

        return found

    def runs(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Returns (M, 2): first and last + 1 of each uninterrupted run of chosen bins."""
        rows = np.flatnonzero(chosen)
        if len(rows) == 0:
            return np.zeros((0, 2), np.int64)
        new = (np.diff(rows) > 1) | (np.diff(self.segment[rows]) != 0)

        return np.stack([rows[np.r_[True, new]], rows[np.r_[new, True]] + 1], 1)

    def window(self, first: int, last: int, rows: Rows, activity: NDArray[np.float32] | None = None) -> Window:
        """Returns the window of bins ``first … last - 1``, its units in the order of their identities.

        Arguments:
            first: Its first bin.
            last: The bin after it.
            rows: Rows of the session's units and contexts.
            activity: Measures of each unit's activity (`ndt.data.activity`), (N, A); None if the model holds them.
        """
        counts, valid = self.counts(first, last)
        index, session = (int(first), int(last)), self.session.session_id
        trial = np.stack([self.trial(t)[first:last] for t in rows.tables], 1) if any(rows.tables) else None

        return rows.window(counts, valid, activity=activity, trial=trial, index=index, session=session)

    def trial(self, table: str) -> NDArray[np.int64]:
        """Returns the row of a table of intervals that holds each bin's centre, -1 for none or no such table, (R,)."""
        if table not in self._trials:
            rows = self.session.intervals.get(table)
            times = self.start + self.bin_size / 2
            known = None if rows is None else rows_at(lasting(self.session, rows), times)
            self._trials[table] = np.full(len(self), -1) if known is None else known

        return self._trials[table]

    def cover(self, chosen: NDArray[np.bool_], window_bins: int, rows: Rows) -> Iterator[tuple[Window, int]]:
        """Yields overlapping windows, each with the first of its bins to keep; these cover the chosen bins once.

        At most the second half of a window is kept, so that each bin has half a window of history if its segment does.
        History may lie outside the chosen bins, but never in another segment.
        """
        step = max(window_bins // 2, 1)
        for begin, end in self.runs(chosen):
            for keep in range(begin, end, step):
                last = min(keep + step, end)
                yield self.window(max(last - window_bins, int(keep - self.place[keep])), last, rows), keep


@dataclass(frozen=True)
class TrainingData:
    """What a model trains on in one session.

    Arguments:
        binned: The session's bins.
        chosen: Bins to draw windows from, (R,). No window holds any other bin.
        rows: Table rows of the session's units and contexts.
        activity: Measures of its units' activity, in the session's order of units, (N, A).
        labels: Standardised labels of the target and auxiliary targets at its bins, NaN where missing, (R, V); None
            without a target.
    """

    binned: BinnedSession
    chosen: NDArray[np.bool_]
    rows: Rows
    activity: NDArray[np.float32]
    labels: NDArray[np.float32] | None = None


class Sampler:
    """Draws random windows from chosen bins of sessions; each chosen bin is about equally likely to be in one.

    A window is a function of (seed, step, index in the batch), so that any process can draw any of them.

    Arguments:
        sessions: Training data of each session.
        window_bins: Longest window.
        min_bins: Shorter uninterrupted runs are left out.
        seed: Seed.

    Raises:
        InputError: if no run is long enough.
    """

    def __init__(
        self, sessions: Sequence[TrainingData], *, window_bins: int, min_bins: int = MIN_BINS, seed: int
    ) -> None:
        if len(widths := sorted({s.binned.bin_size for s in sessions})) > 1:
            raise InputError("sampler", "bin width", "the same in all sessions", f"{widths} s")
        self.sessions, self.window_bins, self.seed = sessions, window_bins, seed
        runs = [np.insert(s.binned.runs(s.chosen), 0, i, axis=1) for i, s in enumerate(sessions)]
        self.runs = np.concatenate(runs)  # (M, 3): session, first bin, last + 1
        self.runs = self.runs[self.runs[:, 2] - self.runs[:, 1] >= min_bins]
        if len(self.runs) == 0:
            expected = f"an unbroken run of {min_bins} bins"
            raise InputError(sessions[0].binned.session.session_id, "training split", expected, "none")
        self.ends = np.cumsum(self.runs[:, 2] - self.runs[:, 1])

    def generator(self, step: int, index: int) -> np.random.Generator:
        """Returns the random generator of one window of one step."""
        return np.random.default_rng([self.seed, step, index])

    def draw(self, rng: np.random.Generator) -> tuple[int, Window]:
        """Returns the index of a session, and a random window of it."""
        at = int(rng.integers(self.ends[-1]))
        run = int(np.searchsorted(self.ends, at, side="right"))
        g, first, last = map(int, self.runs[run])
        T = min(self.window_bins, last - first)
        pivot = last - (int(self.ends[run]) - at)  # a bin that the window holds, at a random position in it
        begin = min(max(pivot - int(rng.integers(T)), first), last - T)

        data = self.sessions[g]

        return g, data.binned.window(begin, begin + T, data.rows, data.activity)

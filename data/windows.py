"""The bins of a session, and windows cut from them. No window crosses time that was not observed."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ndt.config import FinetuneConfig, PretrainConfig
from ndt.data.splits import split, within
from ndt.data.targets import find_sources
from ndt.errors import InputError
from ndt.model.tokens import Window
from ndt.model.vocabulary import Rows
from ndt.session import Covariate, Session
from ndt.spikes import bin_spikes, num_bins, unit_valid

__all__ = ["MIN_BINS", "TEST", "TRAIN", "VALID", "BinnedSession", "default_bin_size", "longest_window"]

TRAIN, VALID, TEST = 1, 2, 3  # values of BinnedSession.split; 0 is guard
MIN_BINS = 3  # shorter windows are left out
BIN_RANGE = (0.02, 0.1)  # bin widths in seconds that a covariate's own interval may set


def default_bin_size(sessions: Iterable[Session], covariate: Sequence[str] | str | None = None) -> float:
    """Returns the bin width in seconds that sessions trained together share: the coarsest of their own.

    A session's own is the interval of its covariate (the coarsest, of several) where that is 20 to 100 ms, else 20 ms;
    where spikes were counted in bins, the next multiple of those.
    """
    widths = [BIN_RANGE[0]]
    for session in sessions:
        series = [s.of for s in find_sources(session, covariate)] if covariate or session.covariates else []
        intervals = [round(s.interval, 6) for s in series if isinstance(s, Covariate)]
        width = max([BIN_RANGE[0], *(i for i in intervals if BIN_RANGE[0] <= i <= BIN_RANGE[1])])
        if session.count_bin:  # whole bins of what was counted
            width = round(np.ceil(round(width / session.count_bin, 3)) * session.count_bin, 9)
        widths.append(width)

    return max(widths)


def longest_window(config: PretrainConfig | FinetuneConfig, bin_size: float, where: object) -> int:
    """Returns the bins of the longest window of a new model.

    Arguments:
        config: Settings; uses `window`.
        bin_size: Bin width in seconds.
        where: What an error names.

    Raises:
        InputError: if it has fewer bins than the shortest window.
    """
    bins = round(config.window / bin_size)
    if bins < MIN_BINS:
        expected = f"at least {MIN_BINS} bins of {bin_size * 1e3:g} ms"
        raise InputError(where, "window", expected, f"{bins} bins ({config.window:g} s)")

    return bins


class BinnedSession:
    """All R bins of a session's observed time at one bin width, with the block that each belongs to.

    Bins are laid from the start of each observed segment; what is left over at its end is not used.

    Arguments:
        session: The session.
        bin_size: Bin width in seconds.
        guard: Guard between blocks in seconds: the context window.

    Raises:
        InputError: if spikes were counted in bins of which `bin_size` is no multiple.

    Attributes:
        start: Start of each bin in seconds, (R,).
        segment: Segment of each bin, ascending, (R,).
        place: Index of each bin within its segment, (R,).
        block: 0 guard, `TRAIN`, `VALID` or `TEST`, (R,).
    """

    def __init__(self, session: Session, bin_size: float, guard: float) -> None:
        self.session, self.bin_size = session, bin_size
        counted = session.count_bin
        if counted and (round(bin_size / counted) < 1 or abs(bin_size / counted - round(bin_size / counted)) > 1e-3):
            expected = f"a multiple of {counted * 1e3:g} ms, in which spikes were counted"
            raise InputError(session.session_id, "bin_size", expected, f"{bin_size * 1e3:g} ms")
        segments = session.observed.coalesce()
        lengths = np.array(
            [num_bins(b - a, bin_size) for a, b in zip(segments.start, segments.end, strict=True)], np.int64
        )
        self.segment = np.repeat(np.arange(len(segments)), lengths)
        self.place = np.arange(len(self.segment)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        self.segment_start = segments.start
        self.start = segments.start[self.segment] + self.place * bin_size
        self.split = np.zeros(len(self.start), np.uint8)
        self.splits = split(session, guard)
        for code, block in zip((TRAIN, VALID, TEST), self.splits.blocks, strict=True):
            self.split[within(self.start, self.start + bin_size, block, 1e-6 * bin_size)] = code

    def __len__(self) -> int:
        return len(self.start)

    def counts(self, first: int, last: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Returns counts and whether each unit was observed, both (T, N), of bins ``first … last - 1`` of one segment."""
        assert self.segment[first] == self.segment[last - 1], "a window may not cross a gap"
        where = (float(self.segment_start[self.segment[first]]), self.bin_size, last - first, int(self.place[first]))

        return bin_spikes(self.session, *where), unit_valid(self.session, *where)

    def all_counts(self) -> NDArray[np.float32]:
        """Returns the counts of all bins, NaN where a unit was not observed, (R, N)."""
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

    def mean_counts(self, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Returns each unit's mean count per bin over those chosen bins in which it was observed, (N,)."""
        total, seen = np.zeros((2, self.session.num_units))
        for first, last in self.runs(chosen):
            counts, valid = self.counts(first, last)
            total += np.where(valid, counts, 0).sum(0)
            seen += valid.sum(0)

        return total / np.maximum(seen, 1)

    def window(self, first: int, last: int, rows: Rows, mean_counts: NDArray[np.float64] | None = None) -> Window:
        """Returns the window of bins ``first … last - 1``, its units in the order of their identities.

        Arguments:
            first: Its first bin.
            last: The bin after it.
            rows: Rows of the session's units and contexts.
            mean_counts: As the method of that name returns them, (N,); None where the model knows them.
        """
        counts, valid = self.counts(first, last)
        index, session = (int(first), int(last)), self.session.session_id

        return rows.window(counts, valid, mean_counts=mean_counts, index=index, session=session)

    def cover(self, chosen: NDArray[np.bool_], window_bins: int, rows: Rows) -> Iterator[tuple[Window, int]]:
        """Covers the chosen bins once with overlapping windows; yields each with the first bin to keep of it.

        A window keeps at most its second half, so that a kept bin has half a window of history wherever its segment has;
        history may lie outside the chosen bins, but never in another segment.
        """
        step = max(window_bins // 2, 1)
        for begin, end in self.runs(chosen):
            for keep in range(begin, end, step):
                last = min(keep + step, end)
                yield self.window(max(last - window_bins, int(keep - self.place[keep])), last, rows), keep

"""Draws training windows as a function of (seed, step, place in the batch): any process can draw any of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ndt.data.windows import MIN_BINS, BinnedSession
from ndt.errors import InputError
from ndt.model.tokens import Window
from ndt.model.vocabulary import Vocabulary

__all__ = ["Sampler"]


class Sampler:
    """Random windows from chosen bins of sessions; each chosen bin is about equally likely to be in one.

    Arguments:
        binned_sessions: Binned sessions.
        chosen: Bins to draw from, (R,) for each grid. No window holds any other bin.
        vocabulary: Rows of the sessions' units and contexts.
        window_bins: Longest window.
        min_bins: Shorter uninterrupted runs are left out.
        seed: Seed.

    Raises:
        InputError: if no run is long enough.
    """

    def __init__(
        self,
        binned_sessions: Sequence[BinnedSession],
        chosen: Sequence[NDArray[np.bool_]],
        vocabulary: Vocabulary,
        *,
        window_bins: int,
        min_bins: int = MIN_BINS,
        seed: int,
    ) -> None:
        if len(widths := sorted({g.bin_size for g in binned_sessions})) > 1:
            raise InputError("sampler", "bin width", "the same in all sessions", f"{widths} s")
        self.binned_sessions, self.window_bins, self.seed = binned_sessions, window_bins, seed
        self.rows = [vocabulary.rows(g.session) for g in binned_sessions]
        self.means = [g.mean_counts(c) for g, c in zip(binned_sessions, chosen, strict=True)]
        runs = [
            np.insert(g.runs(c), 0, i, axis=1) for i, (g, c) in enumerate(zip(binned_sessions, chosen, strict=True))
        ]
        self.runs = np.concatenate(runs)  # (M, 3): grid, first bin, last + 1
        self.runs = self.runs[self.runs[:, 2] - self.runs[:, 1] >= min_bins]
        if len(self.runs) == 0:
            expected = f"an unbroken run of {min_bins} bins"
            raise InputError(binned_sessions[0].session.session_id, "training split", expected, "none")
        self.ends = np.cumsum(self.runs[:, 2] - self.runs[:, 1])

    def generator(self, step: int, place: int) -> np.random.Generator:
        """Returns the source of all chance in one window of one step."""
        return np.random.default_rng([self.seed, step, place])

    def draw(self, rng: np.random.Generator) -> tuple[int, Window]:
        """Returns a random window, and which of the grids it was cut from."""
        at = int(rng.integers(self.ends[-1]))
        run = int(np.searchsorted(self.ends, at, side="right"))
        g, first, last = map(int, self.runs[run])
        T = min(self.window_bins, last - first)
        pivot = last - (int(self.ends[run]) - at)  # the window is laid at random around this bin
        begin = min(max(pivot - int(rng.integers(T)), first), last - T)

        return g, self.binned_sessions[g].window(begin, begin + T, self.rows[g], self.means[g])

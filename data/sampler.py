"""Draws training windows as a function of (seed, step, place in the batch): any process can draw any of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ndt.data.windows import Grid
from ndt.errors import InputError
from ndt.tokens import Window
from ndt.vocabulary import Vocabulary

__all__ = ["Sampler"]


class Sampler:
    """Random windows from chosen bins of sessions; each chosen bin is about equally likely to be in one.

    Arguments:
        grids: Binned sessions.
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
        grids: Sequence[Grid],
        chosen: Sequence[NDArray[np.bool_]],
        vocabulary: Vocabulary,
        *,
        window_bins: int,
        min_bins: int,
        seed: int,
    ) -> None:
        if len(widths := sorted({g.bin_size for g in grids})) > 1:
            raise InputError("sampler", "bin width", "the same in all sessions", f"{widths} s")
        self.grids, self.window_bins, self.seed = grids, window_bins, seed
        self.rows = [vocabulary.rows(g.session) for g in grids]
        self.means = [g.mean_counts(c) for g, c in zip(grids, chosen, strict=True)]
        runs = [np.insert(g.runs(c), 0, i, axis=1) for i, (g, c) in enumerate(zip(grids, chosen, strict=True))]
        self.runs = np.concatenate(runs)  # (M, 3): grid, first bin, last + 1
        self.runs = self.runs[self.runs[:, 2] - self.runs[:, 1] >= min_bins]
        if len(self.runs) == 0:
            expected = f"an unbroken run of {min_bins} bins"
            raise InputError(grids[0].session.session_id, "training block", expected, "none")
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

        return g, self.grids[g].window(begin, begin + T, self.rows[g], self.means[g])

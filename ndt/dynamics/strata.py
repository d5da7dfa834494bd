"""Draws of samples that are spread over a population as evenly as it is itself.

Samples are put in an order in which neighbours are close: halves by the widest dimension, halves of those by theirs,
and so on (a k-d tree). One draw from each of n equal parts of that order is unbiased, as n independent draws are, and
has less variance, the lower the dimension the less: a function that hardly changes within a part hardly differs between
draws.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Strata"]

LEVELS = 10  # of halves; more parts than are ever drawn from

# N = samples, d = dimensions


class Strata:
    """Samples in order.

    Arguments:
        x: Samples, shape (N, d).
        weight: Of samples, summing to 1, shape (N,).

    Example:
        >>> x = np.random.default_rng(0).permutation(8)[:, None]
        >>> np.sort(x[Strata(x, np.full(8, 1 / 8)).draw(8, np.random.default_rng(1)), 0])
        array([0, 1, 2, 3, 4, 5, 6, 7])
    """

    def __init__(self, x: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        N = len(x)
        order, part = np.arange(N), np.zeros(N, np.int64)
        for level in range(1, min(LEVELS, int(np.log2(N))) + 1):
            first = np.searchsorted(part, np.arange(part[-1] + 1))
            low, high = np.minimum.reduceat(x[order], first), np.maximum.reduceat(x[order], first)
            widest = (high - low).argmax(1)
            order = order[np.lexsort((x[order, widest[part]], part))]
            part = (np.arange(N) << level) // N
        self.order = order
        self.edges = np.cumsum(weight[order])

    def draw(self, num: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Returns rows of samples, one of each of `num` parts of equal weight, shape (num,)."""
        at = (np.arange(num) + rng.random(num)) / max(num, 1) * self.edges[-1]

        return self.order[np.minimum(np.searchsorted(self.edges, at, side="right"), len(self.order) - 1)]

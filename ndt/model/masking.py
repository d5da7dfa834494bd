"""Which entries (a unit in a bin) of a window the model does not see and must predict.

Masks are drawn a window at a time, before packing, so that what is hidden costs the encoder nothing. Where whole units
are hidden, so are those that repeat their spikes: a visible twin would tell what is to be predicted.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "draw_mask", "random_mask"]

# T = bins, N = units, P = units of a patch, S = patches of a window

Mask = NDArray[np.bool_]
Labels = NDArray[np.integer]


class Members(NamedTuple):
    """Patch and group of each unit as numbers, each (N,); a group is named by the place of its first unit."""

    patch: Labels
    group: Labels


def random_mask(shape: tuple[int, int], ratio: float, rng: np.random.Generator) -> Mask:
    """Hides cells at random: exactly ``round(ratio * T * S)`` of them.

    Arguments:
        shape: Bins T and patches S.
        ratio: Share to hide, 0 to 1.
        rng: Source of chance.

    Example:
        >>> int(random_mask((4, 5), 0.5, np.random.default_rng(0)).sum())
        10
    """
    hidden = np.zeros(shape[0] * shape[1], bool)
    hidden[rng.permutation(len(hidden))[: round(ratio * len(hidden))]] = True

    return hidden.reshape(shape)


def _random(T: int, units: Members, ratio: float, rng: np.random.Generator) -> Mask:
    """Tokens (a patch in a bin) at random, as in NDT2."""
    return random_mask((T, int(units.patch[-1]) + 1), ratio, rng)[:, units.patch]


def _span(T: int, units: Members, ratio: float, rng: np.random.Generator) -> Mask:
    """Runs of bins of each patch: what lies one bin away no longer tells; tokens at random in the shortest windows."""
    S = int(units.patch[-1]) + 1
    hidden = np.zeros((T, S), bool)
    length = int(rng.integers(2, max(T // 4, 2) + 1))
    for s in range(S):
        edges = np.unique(np.clip(np.arange(-int(rng.integers(length)), T + length, length), 0, T))
        chosen = rng.permutation(len(edges) - 1)[: round(ratio * (len(edges) - 1))]
        for i in chosen:
            hidden[edges[i] : edges[i + 1], s] = True
    if hidden.all() or not hidden.any():  # too few runs for the ratio
        return _random(T, units, ratio, rng)

    return hidden[:, units.patch]


def _unit(T: int, units: Members, ratio: float, rng: np.random.Generator) -> Mask:
    """Whole units (co-smoothing): up to `ratio` of them, the share drawn anew each time; twins count once."""
    groups = np.unique(units.group)
    number = int(np.clip(round(ratio * rng.random() * len(groups)), 1, max(len(groups) - 1, 1)))

    return np.broadcast_to(np.isin(units.group, rng.permutation(groups)[:number]), (T, len(units.group)))


def _forward(T: int, units: Members, ratio: float, rng: np.random.Generator) -> Mask:
    """The last bins (prediction): up to `ratio` of them, the share drawn anew each time."""
    hidden = np.arange(T) >= T - np.clip(round(ratio * rng.random() * T), 1, max(T - 1, 1))

    return np.broadcast_to(hidden[:, None], (T, len(units.patch)))


KINDS: dict[str, Callable[[int, Members, float, np.random.Generator], Mask]] = {
    "random": _random,
    "span": _span,
    "unit": _unit,
    "forward": _forward,
}


def draw_mask(
    num_bins: int,
    group: Labels,
    kinds: Sequence[str],
    ratio: float,
    units_per_patch: int,
    rng: np.random.Generator,
) -> Mask:
    """Returns the entries to hide of one window, (T, N).

    Arguments:
        num_bins: Bins T.
        group: Group of each unit as a number from 0, (N,): units of one group repeat each other's spikes, and are
            hidden together where whole units are.
        kinds: Names of `KINDS`, drawn with equal probability.
        ratio: Share to hide, 0 to 1.
        units_per_patch: Units P in one patch; patches are made of the units as they lie.
        rng: Source of chance.
    """
    name = kinds[int(rng.integers(len(kinds)))] if len(kinds) > 1 else kinds[0]
    place = np.arange(len(group))
    first = np.zeros(int(group.max()) + 1, np.int64)
    first[group[::-1]] = place[::-1]  # of several, the last to be written stays: the first unit's
    units = Members(place // units_per_patch, first[group])

    return KINDS[name](num_bins, units, ratio, rng)

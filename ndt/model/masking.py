"""Masks: which entries (a unit in a bin) of a window are hidden from the encoder and must be predicted.

Masks are drawn for each window before packing, so that the encoder does not process hidden tokens. Masks of whole units
hide all units with duplicated spikes together: a visible duplicate would reveal the counts to be predicted.
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
    """Patch and group of each unit, each (N,); the number of a group is the index of its first unit."""

    patch: Labels
    group: Labels


def random_mask(shape: tuple[int, int], ratio: float, rng: np.random.Generator) -> Mask:
    """Hides exactly ``round(ratio * T * S)`` tokens at random.

    Arguments:
        shape: Bins T and patches S.
        ratio: Hidden fraction, 0 to 1.
        rng: Random generator.

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
    """Runs of bins of each patch, so that neighbouring bins do not reveal a token; random tokens in short windows."""
    S = int(units.patch[-1]) + 1
    hidden = np.zeros((T, S), bool)
    length = int(rng.integers(2, max(T // 4, 2) + 1))
    for s in range(S):
        edges = np.unique(np.clip(np.arange(-int(rng.integers(length)), T + length, length), 0, T))
        chosen = rng.permutation(len(edges) - 1)[: round(ratio * (len(edges) - 1))]
        for i in chosen:
            hidden[edges[i] : edges[i + 1], s] = True
    if hidden.all() or not hidden.any():  # too few runs for this ratio
        return _random(T, units, ratio, rng)

    return hidden[:, units.patch]


def _unit(T: int, units: Members, ratio: float, rng: np.random.Generator) -> Mask:
    """Whole units (co-smoothing): a random fraction of the groups, at most `ratio`."""
    groups = np.unique(units.group)
    number = int(np.clip(round(ratio * rng.random() * len(groups)), 1, max(len(groups) - 1, 1)))

    return np.broadcast_to(np.isin(units.group, rng.permutation(groups)[:number]), (T, len(units.group)))


def _forward(T: int, units: Members, ratio: float, rng: np.random.Generator) -> Mask:
    """The last bins (prediction): a random fraction of the bins, at most `ratio`."""
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
        group: Group number of each unit from 0, (N,): units of one group have duplicated spikes, and masks of whole
            units hide them together.
        kinds: Names of `KINDS`, drawn with equal probability.
        ratio: Hidden fraction, 0 to 1.
        units_per_patch: Units P in one patch, consecutive in the given order.
        rng: Random generator.
    """
    name = kinds[int(rng.integers(len(kinds)))] if len(kinds) > 1 else kinds[0]
    index = np.arange(len(group))
    first = np.zeros(int(group.max()) + 1, np.int64)
    first[group[::-1]] = index[::-1]  # written in reverse, so that the first unit of a group stays
    units = Members(index // units_per_patch, first[group])

    return KINDS[name](num_bins, units, ratio, rng)

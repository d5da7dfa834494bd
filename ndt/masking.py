"""Which entries (a unit in a bin) of a window the model does not see and must predict.

Masks are drawn a window at a time, before packing, so that what is hidden costs the encoder nothing. Where whole units
are hidden, so are those that repeat their spikes: a visible twin would tell what is to be predicted.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "draw_mask", "random_mask"]

# T = bins, N = units, P = units of a patch, S = patches of a window

Mask = NDArray[np.bool_]
Labels = NDArray[np.integer]


class Members(NamedTuple):
    """Patch, region and group of each unit as numbers, each (N,); a group is named by the place of its first unit."""

    patch: Labels
    region: Labels
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


def _throughout(T: int, units: Members, label: Labels, number: int, rng: np.random.Generator) -> Mask:
    """Everything of some labels, at least one and not all of them; and all twins of that, wherever they are."""
    labels = np.unique(label)
    number = int(np.clip(number, 1, max(len(labels) - 1, 1)))
    chosen = np.zeros(labels[-1] + 1, bool)
    chosen[rng.permutation(labels)[:number]] = True
    together = np.zeros(len(label), bool)
    together[units.group[chosen[label]]] = True

    return np.broadcast_to(together[units.group], (T, len(label)))


def _unit(T: int, units: Members, ratio: float, rng: np.random.Generator) -> Mask:
    """Whole units (co-smoothing): up to `ratio` of them, the share drawn anew each time; twins count once."""
    number = len(np.unique(units.group))

    return _throughout(T, units, units.group, round(ratio * rng.random() * number), rng)


def _patch(T: int, units: Members, ratio: float, rng: np.random.Generator) -> Mask:
    """Whole patches, throughout; units where there is but one patch."""
    if units.patch[-1] == 0:
        return _unit(T, units, ratio, rng)

    return _throughout(T, units, units.patch, round(ratio * (int(units.patch[-1]) + 1)), rng)


def _region(T: int, units: Members, ratio: float, rng: np.random.Generator) -> Mask:
    """All units of one region; patches where there is but one region."""
    if len(np.unique(units.region)) == 1:
        return _patch(T, units, ratio, rng)

    return _throughout(T, units, units.region, 1, rng)


def _forward(T: int, units: Members, ratio: float, rng: np.random.Generator) -> Mask:
    """The last bins (prediction): up to `ratio` of them, the share drawn anew each time."""
    hidden = np.arange(T) >= T - np.clip(round(ratio * rng.random() * T), 1, max(T - 1, 1))

    return np.broadcast_to(hidden[:, None], (T, len(units.patch)))


KINDS: dict[str, Callable[[int, Members, float, np.random.Generator], Mask]] = {
    "random": _random,
    "span": _span,
    "patch": _patch,
    "unit": _unit,
    "region": _region,
    "forward": _forward,
}


def draw_mask(
    num_bins: int,
    region: Labels,
    weights: Mapping[str, float],
    ratio: float,
    units_per_patch: int,
    rng: np.random.Generator,
    group: Labels | None = None,
) -> Mask:
    """Returns the entries to hide of one window, (T, N).

    Arguments:
        num_bins: Bins T.
        region: Region of each unit as a number from 0, (N,).
        weights: How often each of `KINDS` is drawn, relative to the others; at least one is positive.
        ratio: Share to hide, 0 to 1.
        units_per_patch: Units P in one patch; patches are made of the units as they lie.
        rng: Source of chance.
        group: Group of each unit as a number from 0, (N,): units of one group repeat each other's spikes, and are
            hidden together where whole units are. By default each unit is alone.
    """
    names = [name for name in KINDS if weights.get(name, 0.0) > 0]
    share = np.array([weights[name] for name in names])
    name = names[int(rng.choice(len(names), p=share / share.sum()))] if len(names) > 1 else names[0]
    place = np.arange(len(region))
    group = place if group is None else group
    first = np.zeros(int(group.max()) + 1, np.int64)
    first[group[::-1]] = place[::-1]  # of several, the last to be written stays: the first unit's
    units = Members(place // units_per_patch, region, first[group])

    return KINDS[name](num_bins, units, ratio, rng)

"""Which entries (a unit in a bin) of a window the model does not see and must predict.

Masks are drawn a window at a time, before packing, so that what is hidden costs the encoder nothing.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "draw_mask", "random_mask"]

# T = bins, N = units, P = units of a patch, S = patches of a window

Mask = NDArray[np.bool_]
Labels = NDArray[np.integer]


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


def _random(T: int, patch: Labels, region: Labels, ratio: float, rng: np.random.Generator) -> Mask:
    """Tokens (a patch in a bin) at random, as in NDT2."""
    return random_mask((T, int(patch[-1]) + 1), ratio, rng)[:, patch]


def _span(T: int, patch: Labels, region: Labels, ratio: float, rng: np.random.Generator) -> Mask:
    """Runs of bins of each patch: what lies one bin away no longer tells; tokens at random in the shortest windows."""
    hidden, S = np.zeros((T, int(patch[-1]) + 1), bool), int(patch[-1]) + 1
    length = int(rng.integers(2, max(T // 4, 2) + 1))
    for s in range(S):
        edges = np.unique(np.clip(np.arange(-int(rng.integers(length)), T + length, length), 0, T))
        chosen = rng.permutation(len(edges) - 1)[: round(ratio * (len(edges) - 1))]
        for i in chosen:
            hidden[edges[i] : edges[i + 1], s] = True
    if hidden.all() or not hidden.any():  # too few runs for the ratio
        return _random(T, patch, region, ratio, rng)

    return hidden[:, patch]


def _groups(T: int, label: Labels, number: int, rng: np.random.Generator) -> Mask:
    """Everything of some labels, throughout; at least one is hidden and one left."""
    labels = np.unique(label)
    number = int(np.clip(number, 1, max(len(labels) - 1, 1)))
    hidden = np.isin(label, rng.permutation(labels)[:number])

    return np.broadcast_to(hidden, (T, len(label)))


def _unit(T: int, patch: Labels, region: Labels, ratio: float, rng: np.random.Generator) -> Mask:
    """Whole units (co-smoothing): up to `ratio` of them, the share drawn anew each time."""
    return _groups(T, np.arange(len(patch)), round(ratio * rng.random() * len(patch)), rng)


def _patch(T: int, patch: Labels, region: Labels, ratio: float, rng: np.random.Generator) -> Mask:
    """Whole patches, throughout; units where there is but one patch."""
    if patch[-1] == 0:
        return _unit(T, patch, region, ratio, rng)

    return _groups(T, patch, round(ratio * (int(patch[-1]) + 1)), rng)


def _region(T: int, patch: Labels, region: Labels, ratio: float, rng: np.random.Generator) -> Mask:
    """All units of one region; patches where there is but one region."""
    if len(np.unique(region)) == 1:
        return _patch(T, patch, region, ratio, rng)

    return _groups(T, region, 1, rng)


def _forward(T: int, patch: Labels, region: Labels, ratio: float, rng: np.random.Generator) -> Mask:
    """The last bins (prediction): up to `ratio` of them, the share drawn anew each time."""
    hidden = np.arange(T) >= T - np.clip(round(ratio * rng.random() * T), 1, max(T - 1, 1))

    return np.broadcast_to(hidden[:, None], (T, len(patch)))


KINDS: dict[str, Callable[[int, Labels, Labels, float, np.random.Generator], Mask]] = {
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
) -> Mask:
    """Returns the entries to hide of one window, (T, N).

    Arguments:
        num_bins: Bins T.
        region: Region of each unit as a number, (N,).
        weights: How often each of `KINDS` is drawn, relative to the others; at least one is positive.
        ratio: Share to hide, 0 to 1.
        units_per_patch: Units P in one patch; patches are made of the units as they lie.
        rng: Source of chance.
    """
    names = [name for name in KINDS if weights.get(name, 0.0) > 0]
    share = np.array([weights[name] for name in names])
    name = names[int(rng.choice(len(names), p=share / share.sum()))] if len(names) > 1 else names[0]
    patch = np.arange(len(region)) // units_per_patch

    return KINDS[name](num_bins, patch, region, ratio, rng)

"""Which patches the encoder does not see and the decoder must predict."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["random_mask"]


def random_mask(shape: tuple[int, int], ratio: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Hides patches at random over bins and slots: exactly ``round(ratio * T * S)`` of them.

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

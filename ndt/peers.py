"""The network's peers, as they go into files and come out again: arrays, and nothing that could run."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ndt.pieces import Array, Pieces

__all__ = ["Peer", "load_peer", "peer_arrays"]


class Peer(Protocol):
    """A fitted decoder of one part."""

    def predict(self, counts: Pieces) -> list[Array]:
        """Returns targets, one (T, C) a piece."""
        ...


def peer_arrays(name: str, peer: Any) -> dict[str, NDArray[Any]]:
    """Returns what a peer of this name consists of."""
    return {key: np.asarray(value) for key, value in peer.arrays().items()}


def load_peer(name: str, arrays: Mapping[str, NDArray[Any]]) -> Peer:
    """Returns the peer that `peer_arrays` took apart."""
    from ndt.baselines import Ridge
    from ndt.naive_bayes import NaiveBayes
    from ndt.recurrent import Recurrent

    kinds: dict[str, Any] = {"ridge": Ridge, "recurrent": Recurrent, "naive_bayes": NaiveBayes}
    peer: Peer = kinds[name].from_arrays(arrays)

    return peer

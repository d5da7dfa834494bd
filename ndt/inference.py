"""Runs a model over the bins of a session."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt.model import NDT, Encoded
from ndt.tokens import Batch, Window, pack

__all__ = ["per_bin"]


@torch.no_grad()
def per_bin(
    model: NDT,
    windows: Iterable[tuple[Window, int]],
    read: Callable[[Batch, Encoded], Tensor],
    num_bins: int,
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """Returns what `read` says of each bin, (R, …); NaN for bins that no window keeps.

    Arguments:
        model: The model; it is left in the mode it was in.
        windows: Windows and, for each, the first bin of the grid whose output is kept (the window's last is the last).
        read: Takes a batch and its encoding, returns one row a bin: ``model.decode`` or ``model.latents``.
        num_bins: Bins R of the grid.
        batch_size: Windows at once.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    out, todo = None, list(windows)
    for at in range(0, len(todo), batch_size):
        some = todo[at : at + batch_size]
        batch = pack([w for w, _ in some], model.config.units_per_patch).to(device)
        rows = read(batch, model.encode(batch)).float().cpu().numpy()
        if out is None:
            out = np.full((num_bins, *rows.shape[1:]), np.nan, np.float32)
        for (w, keep), part in zip(some, np.split(rows, np.cumsum([len(w.counts) for w, _ in some])[:-1]), strict=True):
            out[keep : w.index[1]] = part[keep - w.index[0] :]
    model.train(training)

    return np.zeros((num_bins, 0), np.float32) if out is None else out

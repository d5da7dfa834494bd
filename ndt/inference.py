"""Runs a model over the bins of a session."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt.model import NDT
from ndt.tokens import Batch, Window, pack

__all__ = ["per_bin", "per_window"]


@torch.no_grad()
def per_window(
    model: NDT,
    windows: Iterable[tuple[Window, int]],
    read: Callable[[Batch], Tensor],
    batch_size: int = 64,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yields where in the grid the kept bins of each window are, and what `read` says of them, (n, …).

    Arguments:
        model: The model; it is left in the mode it was in.
        windows: Windows and, for each, the first bin of the grid whose output is kept (the window's last is the last).
        read: Takes a batch, returns one row a bin: ``model.decode`` or ``model.latents``.
        batch_size: Windows at once.
    """
    training, device, todo = model.training, next(model.parameters()).device, iter(windows)
    model.eval()
    while some := list(islice(todo, batch_size)):
        batch = pack([w for w, _ in some], model.config.units_per_patch).to(device)
        rows = read(batch).float().cpu().numpy()
        for (w, keep), part in zip(some, np.split(rows, np.cumsum([len(w.counts) for w, _ in some])[:-1]), strict=True):
            yield slice(keep, w.index[1]), part[keep - w.index[0] :]
    model.train(training)


def per_bin(
    model: NDT,
    windows: Iterable[tuple[Window, int]],
    read: Callable[[Batch], Tensor],
    num_bins: int,
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """Returns what `read` says of each bin, (R, …); NaN for bins that no window keeps.

    Arguments as of `per_window`, and the number of bins R of the grid.
    """
    out = None
    for place, rows in per_window(model, windows, read, batch_size):
        if out is None:
            out = np.full((num_bins, *rows.shape[1:]), np.nan, np.float32)
        out[place] = rows

    return np.zeros((num_bins, 0), np.float32) if out is None else out

"""Runs a model over the bins of a session, and exports one latent per bin with what made it."""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt.errors import InputError
from ndt.model.tokens import Batch, Window, pack
from ndt.model.transformer import NDT

__all__ = ["Embeddings", "per_bin", "per_window"]

MODULE = "ndt"  # processing module in the NWB copy


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


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Latents of a session's population.

    Arguments:
        latents: Latent of each bin, shape (R, D).
        time: Centre of each bin in seconds, in the file's own clock, shape (R,).
        segment: Uninterrupted segment of each bin, shape (R,).
        options: What made them: session, model hash, bin width, window, version.
        source: The NWB file of the session, where known.
    """

    latents: NDArray[np.float32]
    time: NDArray[np.float64]
    segment: NDArray[np.int64]
    options: dict[str, Any]
    source: str = ""

    def to_npz(self, path: str | Path) -> Path:
        """Writes ``time``, ``latents``, ``segment`` and ``options`` (JSON) and returns the path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
        options = np.array(json.dumps(self.options))
        np.savez_compressed(temporary, time=self.time, latents=self.latents, segment=self.segment, options=options)
        os.replace(temporary, path)

        return path

    def to_nwb(self, path: str | Path, source: str | Path | None = None) -> Path:
        """Writes a copy of the session's NWB file with the latents in a processing module, and returns its path.

        Arguments:
            path: The copy; the source is never changed.
            source: The NWB file; by default the one that was ingested.

        Raises:
            InputError: if the source is missing, is the copy itself, or already has such a module.
        """
        path, source = Path(path), Path(source or self.source)
        if not source.is_file():
            raise InputError(source, "source", "the NWB file that was ingested", "no such file")
        if path.exists() and path.samefile(source):
            raise InputError(path, "path", "another file than the source", "the source")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        shutil.copyfile(source, temporary)
        try:
            self._append(temporary, source)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

        return path

    def _append(self, copy: Path, source: Path) -> None:
        from pynwb import NWBHDF5IO, TimeSeries

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the source's own quirks; ours are checked by a test
            io: Any = NWBHDF5IO(path=copy, mode="a")
            with io:
                nwb = io.read()
                if MODULE in nwb.processing:
                    raise InputError(source, f"processing/{MODULE}", "no such module yet", "one")
                module = nwb.create_processing_module(MODULE, "population embeddings by ndt")
                told = "latent of the population in each bin; timestamps are bin centres"
                made = {"description": told, "comments": json.dumps(self.options)}
                module.add(TimeSeries("latents", self.latents, unit="a.u.", timestamps=self.time, **made))
                io.write(nwb)

"""Runs a model over the bins of a session, and exports one latent per bin with its provenance."""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
    output: Callable[[Batch], Tensor],
    batch_size: int = 64,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yields for each window the bins of the session whose output is kept, and that output, (n, …).

    Arguments:
        model: The model; its training mode is restored.
        windows: Windows and, for each, the first bin of the session whose output is kept; the rest of the window is.
        output: Function of a batch with one row for each bin: ``model.decode`` or ``model.latents``.
        batch_size: Windows per batch.
    """
    training, device, remaining = model.training, next(model.parameters()).device, iter(windows)
    model.eval()
    while some := list(islice(remaining, batch_size)):
        batch = pack([w for w, _ in some], model.config.units_per_patch).to(device)
        rows = output(batch).float().cpu().numpy()
        for (w, keep), part in zip(some, np.split(rows, np.cumsum([len(w.counts) for w, _ in some])[:-1]), strict=True):
            yield slice(keep, w.index[1]), part[keep - w.index[0] :]
    model.train(training)


def per_bin(
    model: NDT,
    windows: Iterable[tuple[Window, int]],
    output: Callable[[Batch], Tensor],
    num_bins: int,
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """Returns the output at each of the session's R bins, (R, …), NaN without a window. Arguments as `per_window`."""
    out = None
    for bins, rows in per_window(model, windows, output, batch_size):
        if out is None:
            out = np.full((num_bins, *rows.shape[1:]), np.nan, np.float32)
        out[bins] = rows

    return np.zeros((num_bins, 0), np.float32) if out is None else out


@contextmanager
def _readable(source: Path) -> Iterator[None]:
    """Blames an NWB file for what pynwb raises about its content; errors of the system pass."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the exceptions that pynwb and h5py raise for broken files cannot be listed
        if isinstance(error, OSError) and error.errno is not None:
            raise
        found = f"{type(error).__name__} {error}"
        raise InputError(source, "content", "an NWB file that can be extended", found) from error


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Latents of a session's population.

    Arguments:
        latents: Latent of each bin, shape (R, D).
        time: Centre of each bin in seconds, in the file's own clock, shape (R,).
        segment: Segment of each bin, shape (R,).
        options: Provenance: session, model hash, bin width, window, version.
        source: The NWB file of the session, if known.
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
            path: Path of the copy; the source is never changed.
            source: The NWB file; by default the ingested one.

        Raises:
            InputError: if the source is missing, damaged or the copy itself, or already has such a module.
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
            with _readable(source):
                self._append(temporary, source)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

        return path

    def _append(self, copy: Path, source: Path) -> None:
        from pynwb import NWBHDF5IO, TimeSeries

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the source; a test checks what we add
            io: Any = NWBHDF5IO(path=copy, mode="a")
            with io:
                nwb = io.read()
                if MODULE in nwb.processing:
                    raise InputError(source, f"processing/{MODULE}", "no such module yet", "one")
                module = nwb.create_processing_module(MODULE, "population embeddings by ndt")
                text = "latent of the population in each bin; timestamps are bin centres"
                notes = {"description": text, "comments": json.dumps(self.options)}
                module.add(TimeSeries(name="latents", data=self.latents, unit="a.u.", timestamps=self.time, **notes))
                io.write(nwb)

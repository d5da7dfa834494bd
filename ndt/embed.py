"""Embeddings: one latent vector per bin, exported with what made them. The module is also the verb ``ndt.embed(…)``."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError
from ndt.verbs import callable_module

__all__ = ["Embeddings"]

MODULE = "ndt"  # processing module in the NWB copy

callable_module(__name__)


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Latents of a session's population.

    Arguments:
        latents: Latent of each bin, shape (R, D).
        time: Centre of each bin in seconds, in the file's own clock, shape (R,).
        piece: Uninterrupted piece of each bin, shape (R,).
        options: What made them: session, model hash, bin width, window, version.
        source: The NWB file of the session, where known.
    """

    latents: NDArray[np.float32]
    time: NDArray[np.float64]
    piece: NDArray[np.int64]
    options: dict[str, Any]
    source: str = ""

    def to_npz(self, path: str | Path) -> Path:
        """Writes ``time``, ``latents``, ``piece`` and ``options`` (JSON) and returns the path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
        np.savez_compressed(
            temporary,
            time=self.time,
            latents=self.latents,
            piece=self.piece,
            options=np.array(json.dumps(self.options)),
        )
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
        import warnings

        from pynwb import NWBHDF5IO, TimeSeries

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the source's own quirks; ours are checked by a test
            io: Any = NWBHDF5IO(path=copy, mode="a")
            with io:
                nwb = io.read()
                if MODULE in nwb.processing:
                    raise InputError(source, f"processing/{MODULE}", "no such module yet", "one")
                module = nwb.create_processing_module(MODULE, "population embeddings by ndt")
                series = TimeSeries(
                    name="latents",
                    data=self.latents,
                    timestamps=self.time,
                    unit="a.u.",
                    description="latent of the population in each bin; timestamps are bin centres",
                    comments=json.dumps(self.options),
                )
                module.add(series)
                io.write(nwb)

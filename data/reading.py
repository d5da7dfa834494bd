"""Reads a recording of any supported format: NWB (local or on DANDI), brainsets HDF5, ``.mat``, ``.npz``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from ndt.config import IngestConfig
from ndt.config.reader import as_config
from ndt.data.read.file_probe import file_source
from ndt.data.selection import prepare
from ndt.session import Session

if TYPE_CHECKING:
    from ndt.data.read.remote import RemoteFile

__all__ = ["read"]


def read(source: "str | Path | RemoteFile", config: IngestConfig | str | Path | None = None) -> Session:
    """Reads one recording and prepares it for the store: selects covariates and units, names units, assigns splits.

    Arguments:
        source: A file, or a file on DANDI (`ndt.data.read.remote`).
        config: Settings of ingestion.

    Raises:
        InputError: if the file has an error or does not fit the settings.

    Example:
        >>> session = read("sub-m1_ses-stevenson2011_behavior+ecephys.nwb")  # doctest: +SKIP
    """
    config = as_config(IngestConfig, config)

    return prepare(_read(source, config), config)


def _read(source: "str | Path | RemoteFile", config: IngestConfig) -> Session:
    path = Path(source) if isinstance(source, str | Path) else None
    if path is not None and path.suffix in (".mat", ".npz"):
        from ndt.data.read.array_files import read_arrays

        session = read_arrays(path, config.arrays, config.max_gib, config.probe_seconds)
    elif path is not None and _is_brainset(path):
        from ndt.data.store import read_session

        session = read_session(path)
    else:
        from ndt.data.read.nwb import read_nwb

        return read_nwb(source, config)

    return replace(session, task=config.task or session.task, source={**session.source, **file_source(path)})


def _is_brainset(path: Path) -> bool:
    """Whether a file has the layout of brainsets and temporaldata, which is also that of our stores."""
    if path.suffix == ".nwb" or not path.is_file() or not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return file.attrs.get("object") in ("Data", b"Data")

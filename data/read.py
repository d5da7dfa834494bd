"""Any recording to a `Session`, whatever its file: NWB here or on DANDI, brainsets HDF5, ``.mat``, ``.npz``."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import h5py

from ndt.config import IngestConfig
from ndt.data.selection import prepare
from ndt.session import Session
from ndt.settings import as_config

if TYPE_CHECKING:
    from ndt.data.remote import RemoteFile

__all__ = ["read"]


def read(source: "str | Path | RemoteFile", config: IngestConfig | str | Path | None = None) -> Session:
    """Reads one recording and makes of it what is stored.

    Arguments:
        source: A file, or one on DANDI (`ndt.data.remote`).
        config: How files become sessions.

    Raises:
        InputError: for whatever is wrong with the file, or does not fit the settings.

    Example:
        >>> session = read("sub-m1_ses-stevenson2011_behavior+ecephys.nwb")  # doctest: +SKIP
    """
    config = as_config(IngestConfig, config)

    return prepare(_read(source, config), config)


def _read(source: "str | Path | RemoteFile", config: IngestConfig) -> Session:
    if not isinstance(source, str | Path):
        return _read_remote(source, config)
    path = Path(source)
    if path.suffix in (".mat", ".npz"):
        from ndt.data.arrays import read_arrays

        session = read_arrays(path, config.arrays, max_gib=config.max_gib)
    elif _is_brainset(path):
        from ndt.data.store import read_session

        session = read_session(path)
    else:
        from ndt.data.nwb import read_nwb

        return read_nwb(path, config)
    from ndt.data.files import file_source

    return replace(session, task=config.task or session.task, source={**session.source, **file_source(path)})


def _read_remote(source: "RemoteFile", config: IngestConfig) -> Session:
    from ndt.data.files import file_source
    from ndt.data.nwb import read_nwb

    if config.remote == "stream":
        return read_nwb(source, config)
    from ndt.data.remote import download

    with TemporaryDirectory() as folder:
        session = read_nwb(download(source, Path(config.downloads or folder)), config)

    return replace(session, source={**session.source, **file_source(source)})


def _is_brainset(path: Path) -> bool:
    """Whether a file has the layout of brainsets and temporaldata, which is that of our stores."""
    if path.suffix == ".nwb" or not path.is_file() or not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return file.attrs.get("object") in ("Data", b"Data")

"""Recordings: files become a store of sessions, and sessions become splits, windows and targets.

Importing this package loads neither pynwb nor h5py. `ndt` offers `ingest`, `inspect` and `read`, which would hide their
own modules here.

Imports: every room of `ndt` but the front, and its own rooms `read`, `simulate` and `inspection`, which import only
`covariates`, `fingerprint`, `splits`, `store` and `workers` of this package.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndt.data.read.arrays import from_arrays
    from ndt.data.read.file_probe import find_files
    from ndt.data.read.pynapple import from_pynapple, to_pynapple
    from ndt.data.store import Store, read_session, write_session

__all__ = [
    "Store",
    "find_files",
    "from_arrays",
    "from_pynapple",
    "read_session",
    "to_pynapple",
    "write_session",
]

_HOMES = {
    "Store": "store",
    "find_files": "read.file_probe",
    "from_arrays": "read.arrays",
    "from_pynapple": "read.pynapple",
    "read_session": "store",
    "to_pynapple": "read.pynapple",
    "write_session": "store",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"ndt.data.{_HOMES[name]}"), name)
